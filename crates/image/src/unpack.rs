//! Unpacking one layer into one folder, as an overlay's lower layer, whatever the layer says.
//!
//! **Invariant: nothing outside the folder is written, linked to or opened.** A member's name never reaches the kernel as
//! a path to follow freely: its parent is opened by `openat2` with `RESOLVE_IN_ROOT` (a link inside the layer, absolute
//! or with `..`, leads to a place inside the layer, as it would in the container), `RESOLVE_NO_MAGICLINKS` and
//! `RESOLVE_NO_XDEV`; its last component is only ever created anew (`O_EXCL`, `O_NOFOLLOW`), after what was there has
//! been moved away. `..` in a member's own name is refused.
//!
//! What a layer may bring, and what becomes of it:
//!
//! | member | result |
//! |---|---|
//! | file, folder, symbolic link, fifo | created, with owner, mode (setuid and setgid too), time and allowed attributes |
//! | hard link | to a member of this layer, its last component not followed; elsewhere: refused |
//! | `.wh.name` | the overlay's whiteout, a character device 0:0 |
//! | `.wh..wh..opq` | the overlay's opaque mark on the folder |
//! | null, zero, full, random, urandom, tty | created: every container has them, and images for chroots bring them |
//! | any other device | left out, with a note: a layer lies on the machine's own disk, where the node would be live |
//! | anything of an owner or group that this user namespace does not have | left to its root, with a note, and without the setuid or setgid that would then mean another |
//! | a device, in a user namespace | left out, with a note: none can be made there |
//! | `user.*`, `security.capability`, POSIX ACLs | kept |
//! | any other attribute, above all `*.overlay.*` | left out, with a note: an image must not forge the overlay's marks |
//!
//! The layer is unpacked by itself, not upon its parents: a path that leads through a link of a *lower* layer makes a
//! folder here. The folder's own parents must be closed to other users, since a layer holds setuid files.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::folder;
use crate::member::{Fault, Kind, Member, Members, show};

/// How much one layer may unpack to: a bound against archives made to fill the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the files of one layer, the holes of sparse files included, and of the archive around them.
    pub bytes: u64,
    /// Members of one layer.
    pub entries: u64,
}

impl Default for Limits {
    /// 64 GiB and two million members: several times the largest layers in use.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 2_000_000 }
    }
}

/// What became of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Bytes of its files.
    pub bytes: u64,
    /// Members that it had.
    pub entries: u64,
    /// What was left out, at most the first hundred.
    pub notes: Vec<Note>,
}

/// Something of a layer that was left out on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The member's name.
    pub member: String,
    /// What was left out and why.
    pub text: String,
}

const MOST_NOTES: usize = 100;

/// Why a layer was not unpacked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UnpackError {
    /// A member asks for something that no image may, or that makes no sense.
    #[error("refused member {member:?}: {why}")]
    Refused {
        /// The member's name.
        member: String,
        /// What it tried.
        why: String,
    },
    /// More than the [`Limits`] allow.
    #[error("refused: it unpacks to more than {limit} {what}, which is the configured limit")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// `bytes` or `entries`.
        what: &'static str,
    },
    /// The archive is not a readable tar archive.
    #[error("malformed archive: {0}")]
    Malformed(String),
    /// The stream of bytes failed: a broken download, or damaged compression.
    #[error("reading it failed: {0}")]
    Read(Arc<io::Error>),
    /// The operating system refused to create something.
    #[error("{attempt} {member:?}: {error}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On which member.
        member: String,
        /// The answer.
        error: Arc<io::Error>,
    },
}

impl UnpackError {
    /// Whether the layer itself is at fault, so that the same bytes would fail again.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Read(_) | Self::Io { .. })
    }
}

impl From<Fault> for UnpackError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Format(text) => Self::Malformed(text),
            Fault::Read(error) => Self::Read(Arc::new(error)),
        }
    }
}

/// The name of the layer's own folder inside the one that [`unpack`] is given.
pub(crate) const FILES: &str = "fs";
const REPLACED: &str = "replaced";

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks a plain tar stream into a new folder `fs` inside `folder`, and reads the stream to its end.
///
/// `folder` must be private to the caller until this returns: only then is it what its layer made it.
pub fn unpack(stream: impl Read, folder: &Path, limits: Limits) -> Result<Unpacked, UnpackError> {
    let place = folder.to_string_lossy().into_owned();
    let failed = |attempt| io_error(attempt, place.as_bytes());
    fs::create_dir(folder.join(FILES)).map_err(|error| failed("create the layer's folder in")(errno(&error)))?;
    fs::create_dir(folder.join(REPLACED)).map_err(|error| failed("create a folder in")(errno(&error)))?;
    let open = |name| rustix::fs::openat(CWD, folder.join(name), FOLDER, Mode::empty());
    let root = Rc::new(open(FILES).map_err(failed("open the layer's folder in"))?);
    rustix::fs::fchmod(&*root, Mode::from_raw_mode(0o755)).map_err(failed("set the mode of"))?;
    let mut unpacker = Unpacker {
        root,
        replaced: open(REPLACED).map_err(failed("open a folder in"))?,
        replacements: 0,
        parent: None,
        folder_times: Vec::new(),
        limits,
        done: Unpacked::default(),
        buffer: vec![0; 256 << 10],
    };

    let mut members = Members::new(stream);
    while let Some(member) = members.next()? {
        unpacker.done.entries += 1;
        if unpacker.done.entries > limits.entries {
            return Err(UnpackError::TooLarge { limit: limits.entries, what: "entries" });
        }
        unpacker.count(member.size)?;
        unpacker.place(&member, &mut members)?;
    }
    // What follows the archive's end belongs to the digest, so it is read; it unpacks to nothing.
    let mut rest = members.into_inner();
    let drained = io::copy(&mut (&mut rest).take(limits.bytes), &mut io::sink());
    if drained.map_err(|error| UnpackError::Read(Arc::new(error)))? == limits.bytes {
        return Err(UnpackError::TooLarge { limit: limits.bytes, what: "bytes" });
    }
    unpacker.set_folder_times()?;
    let done = unpacker.done;
    folder::remove_tree(&folder.join(REPLACED)).map_err(|error| failed("remove replaced files in")(errno(&error)))?;
    Ok(done)
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Unpacker {
    root: Rc<OwnedFd>,
    /// Where replaced members go: one rename, however deep they are.
    replaced: OwnedFd,
    replacements: u64,
    /// The folder of the last member: most members share it with the one before. Forgotten when anything is replaced.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Times of folders, set last because every member inside changes them.
    folder_times: Vec<(Vec<u8>, Timestamps)>,
    limits: Limits,
    done: Unpacked,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn count(&mut self, bytes: u64) -> Result<(), UnpackError> {
        let total = self.done.bytes.checked_add(bytes).filter(|total| *total <= self.limits.bytes);
        self.done.bytes = total.ok_or(UnpackError::TooLarge { limit: self.limits.bytes, what: "bytes" })?;
        Ok(())
    }

    fn note(&mut self, member: &[u8], text: impl Into<String>) {
        if self.done.notes.len() < MOST_NOTES {
            self.done.notes.push(Note { member: show(member), text: text.into() });
        }
    }

    fn place(&mut self, member: &Member, content: &mut impl Read) -> Result<(), UnpackError> {
        let path = clean(&member.path, &member.path)?;
        let Some(name) = path.last().copied() else {
            if member.kind != Kind::Directory {
                return Err(refused(&member.path, "it would replace the root folder"));
            }
            let root = Rc::clone(&self.root);
            self.set_folder(&root, &[], member)?;
            return Ok(());
        };
        let parent_path = path[..path.len() - 1].join(&b'/');
        if path[..path.len() - 1].iter().any(|part| part.starts_with(WHITEOUT_META)) {
            return Ok(()); // the insides of aufs' own folders
        }
        if path[..path.len() - 1].iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(refused(&member.path, "a whiteout is no folder"));
        }
        if name.starts_with(WHITEOUT) {
            return self.white_out(member, name, &parent_path);
        }
        let parent = self.folder(&parent_path, member)?;
        match member.kind {
            Kind::Directory => self.make_folder(&parent, name, &path.join(&b'/'), member),
            Kind::File => self.make_file(&parent, name, member, content),
            Kind::Symlink => self.make_symlink(&parent, name, member),
            Kind::HardLink => self.make_hard_link(&parent, name, member),
            Kind::Fifo => self.make_node(&parent, name, member, FileType::Fifo),
            Kind::CharDevice if is_harmless(member.device) => {
                self.make_node(&parent, name, member, FileType::CharacterDevice)
            }
            Kind::CharDevice | Kind::BlockDevice => {
                let (major, minor) = member.device;
                self.note(&member.path, format!("device {major}:{minor} left out"));
                Ok(())
            }
            Kind::Other(flag) => Err(refused(&member.path, format!("its type {:?} is unknown", char::from(flag)))),
        }
    }

    /// Opens the folder that a member lies in, and creates what is missing of it.
    fn folder(&mut self, path: &[u8], member: &Member) -> Result<Rc<OwnedFd>, UnpackError> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((cached, parent)) = &self.parent
            && cached == path
        {
            return Ok(Rc::clone(parent));
        }
        let parent = match open_in_root(&self.root, path) {
            Ok(parent) => Rc::new(parent),
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(path, member)?,
            Err(errno) => return Err(parent_error(member, errno)),
        };
        self.parent = Some((path.to_vec(), Rc::clone(&parent)));
        Ok(parent)
    }

    fn make_parents(&mut self, path: &[u8], member: &Member) -> Result<Rc<OwnedFd>, UnpackError> {
        let mut above = Rc::clone(&self.root);
        let mut end = 0;
        for name in path.split(|b| *b == b'/') {
            end += name.len() + usize::from(end > 0);
            let prefix = &path[..end];
            let opened = match open_in_root(&self.root, prefix) {
                Err(Errno::NOENT) => {
                    // Something without a target is there: a link that leads nowhere.
                    Self::make_plain_folder(&above, name, member)?;
                    open_in_root(&self.root, prefix)
                }
                Err(Errno::NOTDIR) if is_whiteout(&above, name) => {
                    self.clear(&above, name, member)?;
                    Self::make_plain_folder(&above, name, member)?;
                    let folder = open_in_root(&self.root, prefix);
                    if let Ok(folder) = &folder {
                        mark_opaque(folder, member)?;
                    }
                    folder
                }
                other => other,
            };
            above = Rc::new(opened.map_err(|errno| parent_error(member, errno))?);
        }
        Ok(above)
    }

    fn make_plain_folder(parent: &OwnedFd, name: &[u8], member: &Member) -> Result<(), UnpackError> {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).map_err(|errno| match errno {
            Errno::EXIST => refused(&member.path, "its folder is a link that leads nowhere"),
            errno => io_error("create the folder of", &member.path)(errno),
        })?;
        // The process's umask shall not show.
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())
            .map_err(io_error("set the mode of the folder of", &member.path))
    }

    fn make_folder(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8], member: &Member) -> Result<(), UnpackError> {
        let mut opaque = false;
        let made = loop {
            match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => break rustix::fs::openat(parent, name, FOLDER, Mode::empty()),
                Err(Errno::EXIST) => match rustix::fs::openat(parent, name, FOLDER, Mode::empty()) {
                    Ok(there) => break Ok(there),
                    Err(Errno::NOTDIR | Errno::LOOP) => {
                        // A folder after a whiteout of its name hides what lies below.
                        opaque |= is_whiteout(parent, name);
                        self.clear(parent, name, member)?;
                    }
                    Err(errno) => break Err(errno),
                },
                Err(errno) => return Err(io_error("create folder", &member.path)(errno)),
            }
        };
        let made = made.map_err(io_error("open folder", &member.path))?;
        if opaque {
            mark_opaque(&made, member)?;
        }
        self.set_folder(&made, path, member)
    }

    fn set_folder(&mut self, folder: &OwnedFd, path: &[u8], member: &Member) -> Result<(), UnpackError> {
        self.set_owner_mode_attributes(folder, member)?;
        self.folder_times.push((path.to_vec(), times(member)));
        Ok(())
    }

    fn make_file(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        member: &Member,
        content: &mut impl Read,
    ) -> Result<(), UnpackError> {
        const NEW: OFlags =
            OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
        let create = |_: &mut Self| rustix::fs::openat(parent, name, NEW, Mode::from_raw_mode(0o600));
        let file = self.create(parent, name, member, "create file", create)?;
        match &member.sparse {
            None => self.write(&file, member, content, 0, member.size)?,
            Some(map) => {
                for (offset, length) in map {
                    self.write(&file, member, content, *offset, *length)?;
                }
                rustix::fs::ftruncate(&file, member.size).map_err(io_error("set the size of", &member.path))?;
            }
        }
        self.set_owner_mode_attributes(&file, member)?;
        rustix::fs::futimens(&file, &times(member)).map_err(io_error("set the time of", &member.path))
    }

    fn write(
        &mut self,
        file: &OwnedFd,
        member: &Member,
        content: &mut impl Read,
        offset: u64,
        length: u64,
    ) -> Result<(), UnpackError> {
        let (mut place, end) = (offset, offset + length);
        while place < end {
            let most = usize::try_from(end - place).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = content.read(&mut self.buffer[..most]);
            let read = match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|error| UnpackError::Read(Arc::new(error)))?,
            };
            if read == 0 {
                return Err(UnpackError::Malformed("a file's content is shorter than its map".to_owned()));
            }
            let mut written = 0;
            while written < read {
                written += rustix::io::retry_on_intr(|| {
                    rustix::io::pwrite(file, &self.buffer[written..read], place + written as u64)
                })
                .map_err(io_error("write file", &member.path))?;
            }
            place += read as u64;
        }
        Ok(())
    }

    fn make_symlink(&mut self, parent: &OwnedFd, name: &[u8], member: &Member) -> Result<(), UnpackError> {
        if member.link.is_empty() || member.link.contains(&0) {
            return Err(refused(&member.path, "a symbolic link needs a target, without a NUL"));
        }
        let create = |_: &mut Self| rustix::fs::symlinkat(member.link.as_slice(), parent, name);
        self.create(parent, name, member, "create symbolic link", create)?;
        self.set_owner_and_time(parent, name, member).map(drop)
    }

    fn make_node(&mut self, parent: &OwnedFd, name: &[u8], member: &Member, kind: FileType) -> Result<(), UnpackError> {
        let (major, minor) = if kind == FileType::Fifo { (0, 0) } else { member.device };
        let device = rustix::fs::makedev(major, minor);
        let create = |_: &mut Self| match rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device) {
            Err(Errno::PERM) if kind == FileType::CharacterDevice => Ok(Made::MayNot),
            other => other.map(|()| Made::Node),
        };
        if self.create(parent, name, member, "create special file", create)? == Made::MayNot {
            self.note(&member.path, format!("device {major}:{minor} left out: this user may make none"));
            return Ok(());
        }
        let mode = self.set_owner_and_time(parent, name, member)?;
        // Follows no link: the node was made just now, and nobody else writes here.
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(io_error("set the mode of", &member.path))
    }

    fn make_hard_link(&mut self, parent: &OwnedFd, name: &[u8], member: &Member) -> Result<(), UnpackError> {
        let target = clean(&member.link, &member.path)?;
        let Some(target_name) = target.last().copied() else {
            return Err(refused(&member.path, "a hard link to the root folder"));
        };
        if target.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(refused(&member.path, "a hard link to a whiteout"));
        }
        let missing =
            || refused(&member.path, format!("a hard link to {:?}, which this layer lacks", show(&member.link)));
        let target_parent = match &target[..target.len() - 1] {
            [] => Rc::clone(&self.root),
            parts => Rc::new(open_in_root(&self.root, &parts.join(&b'/')).map_err(|_| missing())?),
        };
        let answer = |errno| match errno {
            Errno::NOENT => missing(),
            Errno::PERM => refused(&member.path, "a hard link to a folder"),
            errno => io_error("create hard link", &member.path)(errno),
        };
        // Without AT_SYMLINK_FOLLOW the link is to a symbolic link itself, wherever that leads.
        match rustix::fs::linkat(&*target_parent, target_name, parent, name, AtFlags::empty()) {
            Err(Errno::EXIST) => {}
            other => return other.map_err(answer),
        }
        // The target may be the very thing in the way, so it is linked aside before that is moved.
        let aside = self.next_replacement();
        rustix::fs::linkat(&*target_parent, target_name, &self.replaced, &aside, AtFlags::empty()).map_err(answer)?;
        self.clear(parent, name, member)?;
        rustix::fs::renameat(&self.replaced, &aside, parent, name).map_err(answer)
    }

    fn white_out(&mut self, member: &Member, name: &[u8], parent_path: &[u8]) -> Result<(), UnpackError> {
        if name == OPAQUE {
            let parent = self.folder(parent_path, member)?;
            return mark_opaque(&parent, member);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(()); // aufs' own files: no part of the image
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(&member.path, "a whiteout of no file"));
        }
        let parent = self.folder(parent_path, member)?;
        let device = rustix::fs::makedev(0, 0);
        match rustix::fs::mknodat(&*parent, hidden, FileType::CharacterDevice, Mode::empty(), device) {
            Ok(()) => Ok(()),
            // What this layer itself brings stays; if it is a folder, what lies below it does not shine through.
            Err(Errno::EXIST) => match rustix::fs::openat(&*parent, hidden, FOLDER, Mode::empty()) {
                Ok(there) => mark_opaque(&there, member),
                Err(_) => Ok(()),
            },
            Err(errno) => Err(io_error("create whiteout", &member.path)(errno)),
        }
    }

    /// Creates something that must be new, after moving away what has its name.
    fn create<T>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        member: &Member,
        attempt: &'static str,
        create: impl Fn(&mut Self) -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        match create(self) {
            Err(Errno::EXIST) => {
                self.clear(parent, name, member)?;
                create(self)
            }
            other => other,
        }
        .map_err(|errno| match errno {
            Errno::NAMETOOLONG => refused(&member.path, "its name or target is too long"),
            errno => io_error(attempt, &member.path)(errno),
        })
    }

    fn clear(&mut self, parent: &OwnedFd, name: &[u8], member: &Member) -> Result<(), UnpackError> {
        self.parent = None;
        let aside = self.next_replacement();
        match rustix::fs::renameat_with(parent, name, &self.replaced, &aside, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(io_error("replace", &member.path)(errno)),
        }
    }

    fn next_replacement(&mut self) -> String {
        self.replacements += 1;
        self.replacements.to_string()
    }

    fn set_owner_mode_attributes(&mut self, fd: &OwnedFd, member: &Member) -> Result<(), UnpackError> {
        let mode = self.set_owner(member, |uid, gid| rustix::fs::fchown(fd, uid, gid))?;
        // After the owner: a change of owner takes setuid and capabilities away.
        rustix::fs::fchmod(fd, mode).map_err(io_error("set the mode of", &member.path))?;
        for (key, value) in &member.xattrs {
            if !is_allowed_attribute(key) {
                self.note(&member.path, format!("attribute {:?} left out", show(key)));
                continue;
            }
            match rustix::fs::fsetxattr(fd, key.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // A file system without attributes, or one that this user may not set: as everywhere in the container
                // world no reason to refuse the image. The plain mode still stands.
                Err(Errno::OPNOTSUPP | Errno::PERM) => {
                    self.note(&member.path, format!("attribute {:?} not supported here", show(key)));
                }
                Err(errno) => return Err(io_error("set an attribute of", &member.path)(errno)),
            }
        }
        Ok(())
    }

    /// Gives the member to its owner and group, and returns the mode that it may then have.
    ///
    /// A user namespace may lack them. What is left to its root must not run as that because it was to run as another.
    fn set_owner(
        &mut self,
        member: &Member,
        change: impl Fn(Option<Uid>, Option<Gid>) -> Result<(), Errno>,
    ) -> Result<Mode, UnpackError> {
        let (uid, gid) = owner(member)?;
        let failed = |errno| io_error("set the owner of", &member.path)(errno);
        let mode = Mode::from_raw_mode(member.mode);
        match change(Some(uid), Some(gid)) {
            Err(Errno::INVAL) => {}
            other => return other.map(|()| mode).map_err(failed),
        }
        let mut lost = Mode::empty();
        for (done, bit) in [(change(Some(uid), None), Mode::SUID), (change(None, Some(gid)), Mode::SGID)] {
            match done {
                Err(Errno::INVAL) => lost |= bit,
                other => other.map_err(failed)?,
            }
        }
        self.note(&member.path, format!("owner {}:{} is not in this user namespace", member.uid, member.gid));
        Ok(mode - lost)
    }

    fn set_owner_and_time(&mut self, parent: &OwnedFd, name: &[u8], member: &Member) -> Result<Mode, UnpackError> {
        let change = |uid, gid| rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
        let mode = self.set_owner(member, change)?;
        for (key, _) in &member.xattrs {
            self.note(&member.path, format!("attribute {:?} of a special file left out", show(key)));
        }
        rustix::fs::utimensat(parent, name, &times(member), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io_error("set the time of", &member.path))?;
        Ok(mode)
    }

    fn set_folder_times(&mut self) -> Result<(), UnpackError> {
        for (path, times) in &self.folder_times {
            let folder = match split_last(path) {
                None => rustix::fs::openat(&*self.root, ".", FOLDER, Mode::empty()),
                Some((parent, name)) => open_in_root(&self.root, parent)
                    .and_then(|parent| rustix::fs::openat(&parent, name, FOLDER, Mode::empty())),
            };
            // It may have been replaced by a later member: then its time went with it.
            if let Ok(folder) = folder {
                rustix::fs::futimens(&folder, times).map_err(io_error("set the time of", path))?;
            }
        }
        Ok(())
    }
}

/// What came of making a special file.
#[derive(PartialEq, Eq)]
enum Made {
    Node,
    /// This user may not make devices.
    MayNot,
}

/// Opens a folder by a path that the layer chose, inside the layer.
fn open_in_root(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let path = if path.is_empty() { b"." } else { path };
    loop {
        let opened =
            rustix::fs::openat2(root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), how);
        // The kernel could not rule out a rename while it walked `..` in a link: it asks to be asked again.
        if !matches!(opened, Err(Errno::AGAIN | Errno::INTR)) {
            return opened;
        }
    }
}

/// The components of a member's name or of a hard link's target. A leading slash means the layer's root, as for `tar`.
fn clean<'a>(path: &'a [u8], member: &[u8]) -> Result<Vec<&'a [u8]>, UnpackError> {
    if path.is_empty() {
        return Err(refused(member, "an empty name"));
    }
    if path.contains(&0) {
        return Err(refused(member, "a name with a NUL"));
    }
    if path.len() >= 4096 {
        return Err(refused(member, "a name of more than 4095 bytes"));
    }
    let parts: Vec<_> = path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.iter().any(|part| *part == b"..") {
        return Err(refused(member, "a name with '..', which could lead outside"));
    }
    if parts.iter().any(|part| part.len() > 255) {
        return Err(refused(member, "a part of its name is longer than 255 bytes"));
    }
    Ok(parts)
}

fn split_last(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    let slash = path.iter().rposition(|b| *b == b'/');
    Some(slash.map_or((&[][..], path), |slash| (&path[..slash], &path[slash + 1..])))
}

/// Marks a folder so that the overlay hides what lower layers have in it.
fn mark_opaque(folder: &OwnedFd, member: &Member) -> Result<(), UnpackError> {
    // It may have been opened as a place only, which takes no attributes.
    let folder =
        rustix::fs::openat(folder, ".", FOLDER, Mode::empty()).map_err(io_error("open the folder of", &member.path))?;
    // Those who may not write trusted attributes mount their overlays with `userxattr`.
    let marked = match rustix::fs::fsetxattr(&folder, "trusted.overlay.opaque", b"y", XattrFlags::empty()) {
        Err(Errno::PERM) => rustix::fs::fsetxattr(&folder, "user.overlay.opaque", b"y", XattrFlags::empty()),
        other => other,
    };
    marked.map_err(io_error("mark as opaque the folder of", &member.path))
}

fn is_whiteout(parent: impl AsFd, name: &[u8]) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| is_whiteout_stat(&stat))
}

/// Whether this is the overlay's whiteout.
pub(crate) fn is_whiteout_stat(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether the overlay hides what lower layers have in this folder.
pub(crate) fn is_opaque(folder: BorrowedFd<'_>) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|key| {
        let mut value = [0; 8];
        rustix::fs::fgetxattr(folder, *key, &mut value[..]).is_ok_and(|length| value[..length] == *b"y")
    })
}

/// The devices that every container may open anyway: null, zero, full, random, urandom, tty.
fn is_harmless(device: (u32, u32)) -> bool {
    matches!(device, (1, 3 | 5 | 7 | 8 | 9) | (5, 0))
}

fn is_allowed_attribute(key: &[u8]) -> bool {
    (key.starts_with(b"user.") && !key.starts_with(b"user.overlay.") && !key.contains(&0))
        || matches!(key, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}

fn owner(member: &Member) -> Result<(Uid, Gid), UnpackError> {
    // The highest number means "do not change".
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    match (id(member.uid), id(member.gid)) {
        (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
        _ => Err(refused(&member.path, format!("its owner {}:{} is out of range", member.uid, member.gid))),
    }
}

fn times(member: &Member) -> Timestamps {
    let (seconds, nanoseconds) = member.mtime;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn refused(member: &[u8], why: impl Into<String>) -> UnpackError {
    UnpackError::Refused { member: show(member), why: why.into() }
}

fn parent_error(member: &Member, errno: Errno) -> UnpackError {
    match errno {
        Errno::NOTDIR => refused(&member.path, "it lies below something that is no folder"),
        Errno::NOENT => refused(&member.path, "its folder is a link that leads nowhere"),
        Errno::LOOP => refused(&member.path, "its folder leads through too many links"),
        Errno::XDEV => refused(&member.path, "its folder lies on another file system"),
        Errno::NAMETOOLONG => refused(&member.path, "its name is too long"),
        errno => io_error("open the folder of", &member.path)(errno),
    }
}

fn io_error<'a>(attempt: &'static str, member: &'a [u8]) -> impl FnOnce(Errno) -> UnpackError + Copy + 'a {
    move |errno| UnpackError::Io { attempt, member: show(member), error: Arc::new(errno.into()) }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
