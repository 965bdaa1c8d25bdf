//! The container's filesystem, as init mounts it: root, mounts, devices, masks.
//!
//! Invariant: a mount lands where a descriptor says, never where a path says; the descriptor comes from
//! [`inside`](super::inside). Everything happens in init's own private mount namespace and dies with it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount,
    open_tree, unmount,
};

use super::inside;
use crate::plan::{Bind, Frame, Marks, Mount, Root, Source, Upper};
use crate::sys::{self, attr};

/// Has `open_tree` copy what a descriptor refers to.
const CLONE: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC).union(OpenTreeFlags::AT_EMPTY_PATH);

/// `/dev` entries every container has: name, major, minor.
const DEVICES: [(&CStr, u32, u32); 6] =
    [(c"null", 1, 3), (c"zero", 1, 5), (c"full", 1, 7), (c"random", 1, 8), (c"urandom", 1, 9), (c"tty", 5, 0)];

/// Whom the kernel shows as the owner in place of a user that the namespace does not have (`fs.overflowuid`).
const OVERFLOW_ID: u32 = 65_534;

/// `/dev` links every container has.
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

/// A root filesystem that is put together and not mounted anywhere yet.
pub(crate) struct Filesystem {
    root: OwnedFd,
    /// Further filesystems of the host, by path.
    disks: Vec<(CString, OwnedFd)>,
}

/// Puts the root filesystem together without a mount point: nothing of it is visible to anybody.
///
/// Needs Linux 6.15: overlayfs by descriptors, on top of a tmpfs that is itself not mounted anywhere. With a user namespace
/// the layers show their files with its ids, and what is written belongs to the ids of the host that those are.
pub(crate) fn build_root(root: &Root, users: Option<BorrowedFd<'_>>) -> Result<Filesystem> {
    if root.lower.is_empty() && root.frame.is_empty() {
        return Ok(Filesystem { root: empty_folder()?, disks: Vec::new() });
    }
    let mapped = |folder: OwnedFd| match users {
        None => Ok(folder),
        Some(users) => {
            let tree = clone_tree(&folder, c"")?;
            sys::map_ids(tree.as_fd(), users)?;
            Ok(tree)
        }
    };
    let (store, volatile) = match &root.upper {
        Upper::Directory(path) => (folder(path)?, true),
        Upper::Tmpfs(size) => (new_tmpfs(*size)?, false),
    };
    let mut layers = Vec::with_capacity(root.lower.len());
    for layer in &root.lower {
        layers.push(mapped(folder(layer)?)?);
    }
    let main = if layers.is_empty() {
        framed(root)?
    } else {
        detached_overlay(&layers, &store, (c"upper", c"work"), root.marks, volatile)?
    };
    let mut disks = Vec::with_capacity(root.host_mounts.len());
    for (n, path) in root.host_mounts.iter().enumerate() {
        let Some(source) = piece(path)? else { continue };
        let source = mapped(source)?;
        let (upper, work) = numbered(n)?;
        let tree = match detached_overlay(std::slice::from_ref(&source), &store, (&upper, &work), root.marks, false) {
            Ok(tree) => Some(tree),
            Err(_) => unless_gone(read_only_clone(&source))?,
        };
        disks.extend(tree.map(|tree| (path.clone(), tree)));
    }
    Ok(Filesystem { root: main, disks })
}

/// Enters a copy of the `nursery`, a mount namespace with nothing in it, and makes the filesystem its root.
///
/// This takes the place of `pivot_root` and of unmounting the host's tree, for which the kernel would have every
/// processor pass a quiet moment (an RCU grace period: milliseconds on a busy machine). What is below the new root is an
/// empty read-only tmpfs.
pub(crate) fn enter(nursery: BorrowedFd<'_>, filesystem: Filesystem) -> Result<OwnedFd> {
    let kind = libc::CLONE_NEWNS;
    sys::setns(nursery, kind.cast_unsigned())?;
    sys::unshare(kind)?;
    let Filesystem { root, disks } = filesystem;
    move_mount(&root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(c".")?;
    for (path, tree) in disks {
        attach_disk(&root, &path, &tree)?;
    }
    Ok(root)
}

/// Makes the folder of a path for [`stage`].
pub(crate) fn make_stage(path: &CStr) -> Result<()> {
    let at = path.to_bytes().iter().rposition(|&byte| byte == b'/').ok_or(Errno::INVAL)?;
    make_dir(CWD, &CString::new(&path.to_bytes()[..at]).map_err(|_| Errno::INVAL)?, 0o700)
}

/// Shows something at a path of the host, in this mount namespace, where an empty file or folder is made for it.
pub(crate) fn stage(bind: &Bind, path: &CStr) -> Result<()> {
    let tree = open_source(bind)?;
    if is_folder(&tree)? {
        make_dir(CWD, path, 0o700)?;
    } else {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o600))?;
    }
    attach(&tree, rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes this process's mount namespace an empty one: a read-only tmpfs without room for anything.
pub(crate) fn become_nursery() -> Result<()> {
    sys::unshare(libc::CLONE_NEWNS)?;
    isolate()?;
    let empty = empty_folder()?;
    attach(&empty, folder(c"/proc")?)?; // any folder will do
    pivot(&empty)
}

fn attach_disk(root: &OwnedFd, path: &CStr, tree: &OwnedFd) -> Result<()> {
    let relative = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[1..]).map_err(|_| Errno::INVAL)?;
    match inside::find(root, relative) {
        Ok(target) => attach(tree, &target),
        Err(Errno::NOENT) => Ok(()), // its mount point is itself hidden on the host
        Err(error) => Err(error),
    }
}

fn numbered(n: usize) -> Result<(CString, CString)> {
    let name = |kind: &str| CString::new(format!("{kind}{n}")).map_err(|_| Errno::INVAL);
    Ok((name("upper")?, name("work")?))
}

/// As the source, whose ids stay mapped if they are.
fn read_only_clone(source: &OwnedFd) -> Result<OwnedFd> {
    let tree = clone_tree(source, c"")?;
    sys::mount_setattr(tree.as_fd(), false, attr::RDONLY, 0, 0)?;
    Ok(tree)
}

fn detached_overlay(
    lower: &[OwnedFd],
    store: &OwnedFd,
    (upper, work): (&CStr, &CStr),
    marks: Marks,
    volatile: bool,
) -> Result<OwnedFd> {
    let (upper, work) = writable(&lower[0], store, upper, work, marks)?;
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"source", c"overlay")?;
    for layer in lower {
        fsconfig_set_fd(&context, c"lowerdir+", layer)?;
    }
    fsconfig_set_fd(&context, c"upperdir", &upper)?;
    fsconfig_set_fd(&context, c"workdir", &work)?;
    if volatile {
        fsconfig_set_flag(&context, c"volatile")?; // no sync of a folder that is thrown away
    }
    if marks == Marks::User {
        fsconfig_set_flag(&context, c"userxattr")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Mounts the root filesystem on its mount point and returns a descriptor of it.
///
/// overlayfs takes its folders as `/proc/self/fd/N`: no path length limit, nothing to escape, no second lookup.
/// `mount(2)` is used for it because `fsconfig` cuts strings at 256 bytes and knows no `lowerdir+` before Linux 6.8.
pub(crate) fn mount_root(root: &Root) -> Result<OwnedFd> {
    match rustix::fs::mkdir(&root.mountpoint, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let mountpoint = folder(&root.mountpoint)?;
    if root.lower.is_empty() && root.frame.is_empty() {
        attach(empty_folder()?, &mountpoint)?;
        return folder(&root.mountpoint);
    }
    let (store, target) = match &root.upper {
        Upper::Directory(path) => (folder(path)?, mountpoint),
        Upper::Tmpfs(size) => {
            let tmpfs = new_tmpfs(*size)?;
            attach(&tmpfs, &mountpoint)?;
            rustix::fs::mkdirat(&tmpfs, c"root", Mode::from_raw_mode(0o755))?;
            let target = open_path(&tmpfs, c"root")?;
            (tmpfs, target)
        }
    };
    let mut lower = Vec::with_capacity(root.lower.len());
    for layer in &root.lower {
        lower.push(folder(layer)?);
    }
    if lower.is_empty() {
        attach(framed(root)?, &target)?;
    } else {
        let volatile = matches!(root.upper, Upper::Directory(_));
        overlay(&lower, &store, (c"upper", c"work"), &target, root.marks, volatile)?;
    }
    // The new mount covers `target`: only a fresh lookup finds it.
    let fd = match &root.upper {
        Upper::Directory(_) => folder(&root.mountpoint)?,
        Upper::Tmpfs(_) => open_path(&store, c"root")?,
    };
    for (n, path) in root.host_mounts.iter().enumerate() {
        let Some(source) = piece(path)? else { continue };
        let relative = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[1..]).map_err(|_| Errno::INVAL)?;
        let target = match inside::find(&fd, relative) {
            Ok(target) => target,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        let (upper, work) = numbered(n)?;
        if overlay(std::slice::from_ref(&source), &store, (&upper, &work), &target, root.marks, false).is_err()
            && let Some(tree) = unless_gone(read_only_clone(&source))?
        {
            attach_disk(&fd, path, &tree)?;
        }
    }
    Ok(fd)
}

/// A piece of the machine's own tree, if it is still there.
fn piece(path: &CStr) -> Result<Option<OwnedFd>> {
    unless_gone(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()))
}

/// Of the machine's own tree files and mounts may go between the look at it and their use: those are not shown.
fn unless_gone<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(Errno::NOENT | Errno::STALE) => Ok(None),
        other => other.map(Some),
    }
}

fn overlay(
    lower: &[OwnedFd],
    store: &OwnedFd,
    (upper, work): (&CStr, &CStr),
    target: &OwnedFd,
    marks: Marks,
    volatile: bool,
) -> Result<()> {
    use std::io::Write;
    let (upper, work) = writable(&lower[0], store, upper, work, marks)?;
    let mut data = Vec::with_capacity(64 + 22 * lower.len());
    let _ = write!(data, "lowerdir=");
    for (n, layer) in lower.iter().enumerate() {
        let _ = write!(data, "{}/proc/self/fd/{}", if n == 0 { "" } else { ":" }, layer.as_raw_fd());
    }
    let (upper, work) = (upper.as_raw_fd(), work.as_raw_fd());
    let _ = write!(data, ",upperdir=/proc/self/fd/{upper},workdir=/proc/self/fd/{work}");
    if volatile {
        let _ = write!(data, ",volatile");
    }
    if marks == Marks::User {
        let _ = write!(data, ",userxattr");
    }
    if data.len() >= 4096 {
        return Err(Errno::TOOBIG);
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let target = CString::new(format!("/proc/self/fd/{}", target.as_raw_fd())).map_err(|_| Errno::INVAL)?;
    mount(c"overlay", &target, c"overlay", MountFlags::empty(), Some(&*data))
}

/// Makes the two folders that overlayfs writes to. The merged root shows the upper one's owner and mode: it gets those
/// of the topmost layer, unless that is of a user whom this namespace does not have: then of its root.
fn writable(like: &OwnedFd, store: &OwnedFd, upper: &CStr, work: &CStr, marks: Marks) -> Result<(OwnedFd, OwnedFd)> {
    make_dir(store, upper, 0o755)?;
    make_dir(store, work, 0o700)?;
    let like = rustix::fs::fstat(like)?;
    let is_strange = marks == Marks::User && [like.st_uid, like.st_gid].contains(&OVERFLOW_ID);
    if (like.st_uid, like.st_gid) != (0, 0) && !is_strange {
        let (uid, gid) = (rustix::fs::Uid::from_raw(like.st_uid), rustix::fs::Gid::from_raw(like.st_gid));
        rustix::fs::chownat(store, upper, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let mode = Mode::from_raw_mode(like.st_mode & 0o7777);
    if mode.as_raw_mode() != 0o755 {
        rustix::fs::chmodat(store, upper, mode, AtFlags::empty())?;
    }
    Ok((open_path(store, upper)?, open_path(store, work)?))
}

/// The source of a bind mount, as a tree of its own. Opened before the host's tree goes out of sight.
///
/// What is below it is looked for by the kernel, in one step, and what that finds is what is mounted: no link that somebody
/// puts there meanwhile leads out of the source.
pub(crate) fn open_source(bind: &Bind) -> Result<OwnedFd> {
    let mut source = rustix::fs::openat(CWD, &*bind.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if let Some(below) = &bind.below {
        source = inside::find_below(&source, below)?;
    }
    let mut flags = CLONE;
    flags.set(OpenTreeFlags::AT_RECURSIVE, bind.recursive);
    open_tree(&source, c"", flags)
}

/// Makes one mount of the spec.
pub(crate) fn mount_one(root: &OwnedFd, plan: &Mount, source: Option<OwnedFd>) -> Result<()> {
    // Where devices are mounts of the host's, before Linux 6.15, what they are mounted on must be mounted.
    let is_new_dev = plan.devices && source.is_none();
    let (tree, target) = match &plan.source {
        Source::New(kind, options) => {
            let kernel_view = matches!(kind.to_bytes(), b"proc" | b"sysfs");
            let target = if kernel_view {
                // An image must not say where the kernel's own files appear.
                match inside::find_plain(root, &plan.dest) {
                    Err(Errno::NOENT) => inside::make_folder(root, &plan.dest)?,
                    other => other?,
                }
            } else {
                inside::make_folder(root, &plan.dest)?
            };
            // What is given was made elsewhere, with the devices in it.
            let tree = match source {
                Some(tree) => tree,
                None => new_filesystem(plan, kind, options)?,
            };
            (tree, target)
        }
        Source::Bind(..) => {
            let tree = source.ok_or(Errno::BADF)?;
            let target = if is_folder(&tree)? {
                inside::make_folder(root, &plan.dest)?
            } else {
                inside::make_file(root, &plan.dest)?
            };
            if plan.set != 0 || plan.clear != 0 {
                sys::mount_setattr(tree.as_fd(), false, plan.set, plan.clear, 0)?;
            }
            (tree, target)
        }
    };
    if plan.set_all != 0 {
        sys::mount_setattr(tree.as_fd(), true, plan.set_all, 0, 0)?;
    }
    if let Some((propagation, whole_tree)) = plan.propagation {
        sys::mount_setattr(tree.as_fd(), whole_tree, 0, 0, propagation)?;
    }
    attach(&tree, &target)?;
    if is_new_dev {
        fill_dev(&tree)?;
    }
    Ok(())
}

fn new_filesystem(plan: &Mount, kind: &CStr, options: &[(CString, Option<CString>)]) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, &**key, &**value)?,
            None => fsconfig_set_flag(&context, &**key)?,
        }
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(plan.set).unwrap_or(0));
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes a filesystem of the spec that only the host's root can make, for a user namespace whose root is `owner` on the
/// host. Of `/dev` the folder is given away, the nodes are not.
pub(crate) fn make_for_users(plan: &Mount, owner: (u32, u32)) -> Result<OwnedFd> {
    let Source::New(kind, options) = &plan.source else { return Err(Errno::INVAL) };
    let tree = new_filesystem(plan, kind, options)?;
    if plan.devices {
        fill_dev(&tree)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
        rustix::fs::chownat(&tree, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    Ok(tree)
}

/// Whether only the host's root can make it: views of the kernel, and what has device nodes.
pub(crate) fn is_for_host(plan: &Mount) -> bool {
    match &plan.source {
        Source::New(kind, _) => plan.devices || matches!(kind.to_bytes(), b"proc" | b"sysfs" | b"cgroup2"),
        Source::Bind(_) => false,
    }
}

fn fill_dev(dev: &OwnedFd) -> Result<()> {
    for (name, major, minor) in DEVICES {
        let rdev = rustix::fs::makedev(major, minor);
        match rustix::fs::mknodat(dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), rdev) {
            Err(Errno::PERM) => show_device(dev, name, rdev)?,
            other => other?,
        }
    }
    for (target, name) in LINKS {
        rustix::fs::symlinkat(target, dev, name)?;
    }
    Ok(())
}

/// Shows a device of the host's, where none can be made: in a user namespace.
fn show_device(dev: &OwnedFd, name: &CStr, rdev: u64) -> Result<()> {
    let host = rustix::fs::openat(CWD, c"/dev", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let device = clone_tree(&open_path(&host, name)?, c"")?;
    let found = rustix::fs::fstat(&device)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice || found.st_rdev != rdev {
        return Err(Errno::NODEV);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dev, name, flags, Mode::from_raw_mode(0o644))?;
    attach(device, open_path(dev, name)?)
}

/// The mounts that hide paths: each is made once, and cloned for every further path.
#[derive(Default)]
pub(crate) struct Masks {
    /// The host's null device, and whether it is mounted somewhere already.
    null: Option<(OwnedFd, bool)>,
    folder: Option<OwnedFd>,
}

impl Masks {
    /// Takes hold of the host's null device: what an image or a volume could put at /dev/null is of no interest.
    pub(crate) fn prepare() -> Result<Self> {
        let null = clone_tree(CWD, c"/dev/null")?;
        let found = rustix::fs::fstat(&null)?;
        let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
        if !is_device || found.st_rdev != rustix::fs::makedev(1, 3) {
            return Err(Errno::NODEV);
        }
        Ok(Self { null: Some((null, false)), folder: None })
    }

    /// Hides a path: a folder below an empty read-only one, anything else below the null device.
    pub(crate) fn mask(&mut self, root: &OwnedFd, path: &CStr) -> Result<()> {
        let target = match inside::find_plain(root, path) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()), // nothing to hide
            Err(error) => return Err(error),
        };
        if !is_folder(&target)? {
            let (null, mounted) = self.null.as_mut().ok_or(Errno::BADF)?;
            return if std::mem::replace(mounted, true) {
                attach(&clone_tree(&*null, c"")?, &target)
            } else {
                attach(&*null, &target)
            };
        }
        if let Some(mask) = &self.folder {
            return attach(&clone_tree(mask, c"")?, &target);
        }
        let mask = empty_folder()?;
        attach(&mask, &target)?;
        self.folder = Some(mask);
        Ok(())
    }
}

fn empty_folder() -> Result<OwnedFd> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"nr_inodes", c"1")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// Makes a path and all below it read-only, by binding it onto itself.
pub(crate) fn protect(root: &OwnedFd, path: &CStr) -> Result<()> {
    let target = match inside::find_plain(root, path) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error),
    };
    let flags = CLONE.union(OpenTreeFlags::AT_RECURSIVE);
    let tree = open_tree(&target, c"", flags)?;
    sys::mount_setattr(tree.as_fd(), true, attr::RDONLY, 0, 0)?;
    attach(&tree, &target)
}

/// Makes `root` the root of this mount namespace and detaches the old one.
pub(crate) fn pivot(root: &OwnedFd) -> Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

/// Shows a mount at a host path too, in this mount namespace.
pub(crate) fn show_at(tree: &OwnedFd, path: &CStr) -> Result<()> {
    let flags = CLONE.union(OpenTreeFlags::AT_RECURSIVE);
    attach(open_tree(tree, c"", flags)?, folder(path)?)
}

/// Keeps what is mounted here from spreading out of this mount namespace (the reverse may).
pub(crate) fn isolate() -> Result<()> {
    rustix::mount::mount_change(
        c"/",
        rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC,
    )
}

fn new_tmpfs(size: Option<u64>) -> Result<OwnedFd> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"mode", c"0700")?;
    if let Some(size) = size {
        let size = CString::new(size.to_string()).map_err(|_| Errno::INVAL)?;
        fsconfig_set_string(&context, c"size", &*size)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// A root of folders, links and empty files to mount on.
fn framed(root: &Root) -> Result<OwnedFd> {
    let tmpfs = new_tmpfs(match root.upper {
        Upper::Tmpfs(size) => size,
        Upper::Directory(_) => None,
    })?;
    rustix::fs::chmodat(&tmpfs, c".", Mode::from_raw_mode(0o755), AtFlags::empty())?;
    for part in &root.frame {
        match part {
            Frame::Folder(path, mode) => {
                rustix::fs::mkdirat(&tmpfs, path, Mode::from_raw_mode(0o755))?;
                rustix::fs::chmodat(&tmpfs, path, Mode::from_raw_mode(*mode), AtFlags::empty())?;
            }
            Frame::File(path) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&tmpfs, path, flags, Mode::from_raw_mode(0o644))?;
            }
            Frame::Link(path, target) => rustix::fs::symlinkat(target, &tmpfs, path)?,
        }
    }
    Ok(tmpfs)
}

pub(super) fn clone_tree(at: impl AsFd, path: &CStr) -> Result<OwnedFd> {
    open_tree(at, path, CLONE)
}

fn attach(tree: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

fn folder(path: &CStr) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn open_path(at: &OwnedFd, name: &CStr) -> Result<OwnedFd> {
    rustix::fs::openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn make_dir(at: impl AsFd, name: &CStr, mode: u32) -> Result<()> {
    match rustix::fs::mkdirat(at, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_folder(fd: &OwnedFd) -> Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}
