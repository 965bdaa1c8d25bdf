//! The store's folder: where things lie, who may touch them when, and how they come and go in one step.
//!
//! ```text
//! lock                                     flock: shared to add or lease, exclusive to sweep; held for moments only
//! blobs/<hex>                              manifests and configurations, by their digest
//! layers/<hex of the diff id>/fs           an unpacked layer: a `lowerdir`
//!                            /layer.json   what became of it
//! references/<hex of the repository>/<tag or digest>.json      what a reference means: written last
//! leases/<owner>                           an image that someone uses, across restarts: a link to its manifest
//! locks/<two hex digits>                   flock: one unpacks a layer, others wait for it
//! work/<random>/                           flock: one operation's unfinished things
//!              /keep-<n> → <manifest digest>                   what it is about to refer to
//! ```
//!
//! **Durability.** A layer is unpacked in `work`, the file system is flushed once (`syncfs`: thousands of files for the
//! price of one flush), the layer is renamed and its new folder's entry flushed; then the next. Blobs and records are
//! flushed one by one and renamed. So whatever has its final name is whole, also after a power failure. Leases are not
//! flushed: nothing that they protect runs after a power failure.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::error::Error;
use crate::reference::Reference;
use crate::unpack::FILES;

/// The store's root folder.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

const BLOBS: &str = "blobs";
const LAYERS: &str = "layers";
const REFERENCES: &str = "references";
const LEASES: &str = "leases";
const LOCKS: &str = "locks";
const WORK: &str = "work";
const KEEP: &str = "keep-";

impl Folder {
    /// Creates what is missing, closed to other users, as layers hold setuid files.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let private = |path: &Path| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(Error::io(format!("create folder {}", path.display())))
        };
        private(root)?;
        let root = root.canonicalize().map_err(Error::io(format!("open the image store {}", root.display())))?;
        for name in [BLOBS, LAYERS, REFERENCES, LEASES, LOCKS, WORK] {
            private(&root.join(name))?;
        }
        let folder = Self { root };
        folder.lock_file("lock", FlockOperation::LockShared)?;
        Ok(folder)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join(BLOBS).join(digest.hex())
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join(BLOBS)
    }

    /// The folder of a layer and of what is known about it.
    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join(LAYERS).join(diff_id.hex())
    }

    /// The unpacked files of a layer.
    pub(crate) fn layer_files(&self, diff_id: &Digest) -> PathBuf {
        self.layer(diff_id).join(FILES)
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join(LAYERS)
    }

    pub(crate) fn references(&self) -> PathBuf {
        self.root.join(REFERENCES)
    }

    /// The folder of all records of a reference's repository.
    pub(crate) fn repository(&self, reference: &Reference) -> PathBuf {
        let name = format!("{}/{}", reference.registry(), reference.repository());
        self.references().join(Digest::of(name.as_bytes()).hex())
    }

    /// The record of a reference. A digest decides alone; a tag beside it says nothing more.
    pub(crate) fn record(&self, reference: &Reference) -> PathBuf {
        let name = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.hex(),
            (None, tag) => &format!("tag-{}", tag.unwrap_or_default()),
        };
        self.repository(reference).join(format!("{name}.json"))
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join(LEASES)
    }

    /// The mark that a sweep had to leave something because of a lease.
    pub(crate) fn sweep_wanted(&self) -> PathBuf {
        self.root.join("sweep-wanted")
    }

    /// Held while adding or leasing: nothing is swept meanwhile.
    pub(crate) fn share(&self) -> Result<Lock, Error> {
        self.lock_file("lock", FlockOperation::LockShared)
    }

    /// Held while deciding what to sweep: nothing is added or leased meanwhile.
    pub(crate) fn exclude(&self) -> Result<Lock, Error> {
        self.lock_file("lock", FlockOperation::LockExclusive)
    }

    /// Waits for the right to unpack a layer. Nobody holds two of these, so nobody waits for another in a circle.
    pub(crate) fn lock_layer(&self, diff_id: &Digest) -> Result<Lock, Error> {
        self.lock_file(&layer_lock(diff_id), FlockOperation::LockExclusive)
    }

    /// The same without waiting; `None` while another has it.
    pub(crate) fn try_lock_layer(&self, diff_id: &Digest) -> Result<Option<Lock>, Error> {
        let name = layer_lock(diff_id);
        let file = self.open_lock(&name)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(errno) => Err(Error::os(format!("lock {name}"))(errno)),
        }
    }

    fn lock_file(&self, name: &str, operation: FlockOperation) -> Result<Lock, Error> {
        let file = self.open_lock(name)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation)).map_err(Error::os(format!("lock {name}")))?;
        Ok(Lock { _file: file })
    }

    fn open_lock(&self, name: &str) -> Result<OwnedFd, Error> {
        let path = self.root.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &path, flags, Mode::from_raw_mode(0o600))
            .map_err(Error::os(format!("open {}", path.display())))
    }

    /// A work folder for one operation. It is removed when dropped, or by the next [`Self::remove_leftovers`] after its
    /// process was killed.
    pub(crate) fn work(&self) -> Result<Work, Error> {
        let _adding = self.share()?; // between making the folder and locking it, nobody may take it for a leftover
        let path = self.root.join(WORK).join(unique());
        fs::create_dir(&path).map_err(Error::io(format!("create {}", path.display())))?;
        let lock = open_folder(&path)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(Error::os(format!("lock {}", path.display())))?;
        Ok(Work { path, _lock: lock, next: AtomicU64::new(0) })
    }

    /// Removes what killed processes left behind.
    pub(crate) fn remove_leftovers(&self) -> Result<(), Error> {
        let mut leftovers = Vec::new();
        {
            let _excluding = self.exclude()?;
            for name in names(&self.root.join(WORK))? {
                let path = self.root.join(WORK).join(name);
                let Ok(lock) = open_folder(&path) else { continue };
                if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    leftovers.push((path, lock)); // now it is ours
                }
            }
        }
        for (path, _lock) in leftovers {
            remove_tree(&path).map_err(Error::io(format!("remove {}", path.display())))?;
        }
        Ok(())
    }

    /// The manifests that operations under way are about to refer to.
    pub(crate) fn kept_by_work(&self) -> Result<Vec<String>, Error> {
        let mut kept = Vec::new();
        for name in names(&self.root.join(WORK))? {
            let path = self.root.join(WORK).join(name);
            for name in names(&path).unwrap_or_default() {
                if name.to_string_lossy().starts_with(KEEP)
                    && let Ok(target) = fs::read_link(path.join(name))
                {
                    kept.push(target.to_string_lossy().into_owned());
                }
            }
        }
        Ok(kept)
    }
}

/// A held flock; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: OwnedFd,
}

/// One operation's own folder, on the store's file system.
#[derive(Debug)]
pub(crate) struct Work {
    path: PathBuf,
    _lock: OwnedFd,
    next: AtomicU64,
}

impl Work {
    /// A name in the folder that nothing has yet.
    pub(crate) fn fresh(&self) -> PathBuf {
        self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Protects an image that is being added, from before its parts are looked for until this is dropped.
    pub(crate) fn keep(&self, manifest: &Digest) -> Result<(), Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{KEEP}{number}"));
        symlink(manifest.as_str(), &path).map_err(Error::io(format!("create {}", path.display())))
    }

    /// Writes a file so that it appears whole, and stays.
    pub(crate) fn publish(&self, bytes: &[u8], to: &Path) -> Result<(), Error> {
        let from = self.fresh();
        let attempt = || format!("write {}", to.display());
        let mut file = File::create_new(&from).map_err(Error::io(attempt()))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(attempt()))?;
        fs::rename(&from, to).map_err(Error::io(attempt()))?;
        flush_folder(to.parent().unwrap_or(to))
    }

    /// Moves an unpacked layer, with everything in it on disk, to its final name. False if another was first.
    pub(crate) fn publish_folder(from: &Path, to: &Path) -> Result<bool, Error> {
        let attempt = || format!("flush {}", from.display());
        rustix::fs::syncfs(open_folder(from)?).map_err(Error::os(attempt()))?;
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Ok(false),
            Err(errno) => return Err(Error::os(format!("rename {} to {}", from.display(), to.display()))(errno)),
        }
        flush_folder(to.parent().unwrap_or(to))?;
        Ok(true)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed now is a leftover for the next one who opens the store.
        let _ = remove_tree(&self.path);
    }
}

fn layer_lock(diff_id: &Digest) -> String {
    format!("{LOCKS}/{}", &diff_id.hex()[..2])
}

/// A name that no other process, thread or time uses; only its uniqueness matters.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}-{}", std::process::id(), now.as_nanos(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(Error::os(format!("open {}", path.display())))
}

fn flush_folder(path: &Path) -> Result<(), Error> {
    rustix::fs::fsync(open_folder(path)?).map_err(Error::os(format!("flush {}", path.display())))
}

/// The names in a folder of ours.
pub(crate) fn names(path: &Path) -> Result<Vec<OsString>, Error> {
    let attempt = || format!("list {}", path.display());
    let entries = fs::read_dir(path).map_err(Error::io(attempt()))?;
    entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(Error::io(attempt()))).collect()
}

/// Removes a folder and all in it, however deep, in constant memory for depth: a folder that is not empty is first moved
/// up to the top. Links are removed, not followed. A folder that is gone already is no error.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    let top = match rustix::fs::openat(CWD, path, FOLDER, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut moved: u64 = 0;
    let mut waiting = vec![None];
    while let Some(name) = waiting.pop() {
        let folder = match &name {
            None => rustix::fs::openat(&top, ".", FOLDER, Mode::empty())?,
            Some(name) => rustix::fs::openat(&top, name, FOLDER, Mode::empty())?,
        };
        let entries: Vec<_> = Dir::read_from(&folder)?.collect::<Result<_, _>>()?;
        for entry in entries {
            let inside = entry.file_name().to_bytes();
            if matches!(inside, b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&folder, inside, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            if kind != FileType::Directory {
                ignore_missing(rustix::fs::unlinkat(&folder, inside, AtFlags::empty()))?;
            } else if name.is_none() {
                waiting.push(Some(OsString::from_vec(inside.to_vec())));
            } else if let Err(errno) = rustix::fs::unlinkat(&folder, inside, AtFlags::REMOVEDIR) {
                if !matches!(errno, Errno::NOTEMPTY | Errno::EXIST) {
                    ignore_missing(Err(errno))?;
                    continue;
                }
                // The names at the top are the store's own, and none of them begins with a dot.
                let up = format!(".{moved}");
                moved += 1;
                rustix::fs::renameat_with(&folder, inside, &top, &up, RenameFlags::NOREPLACE)?;
                waiting.push(Some(up.into()));
            }
        }
        if let Some(name) = &name {
            ignore_missing(rustix::fs::unlinkat(&top, name, AtFlags::REMOVEDIR))?;
        }
    }
    ignore_missing(rustix::fs::rmdir(path))?;
    Ok(())
}

fn ignore_missing(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_a_path_may_be_is_removed() {
        let parent = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = parent.path().join("tree");
        fs::create_dir(&path).unwrap();
        fs::write(parent.path().join("outside"), "stays").unwrap();
        symlink(parent.path(), path.join("link")).unwrap();
        let mut fd = open_folder(&path).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&fd, "d", Mode::from_raw_mode(0o700)).unwrap();
            rustix::fs::symlinkat("/", &fd, "link2").unwrap();
            fd = rustix::fs::openat(&fd, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        drop(fd);
        remove_tree(&path).unwrap();
        assert!(!path.exists());
        assert!(parent.path().join("outside").exists(), "a link is removed, not followed");
        remove_tree(&path).unwrap();
    }

    #[test]
    fn a_killed_operations_folder_is_removed_and_a_live_ones_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        let live = folder.work().unwrap();
        fs::create_dir_all(parent.path().join("work/dead/1/fs")).unwrap();
        folder.remove_leftovers().unwrap();
        assert_eq!(names(&parent.path().join("work")).unwrap().len(), 1);
        drop(live);
        assert_eq!(names(&parent.path().join("work")).unwrap().len(), 0);
    }
}
