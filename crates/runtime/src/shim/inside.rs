//! Paths inside the container's root: found, and made, without ever leaving it.
//!
//! Invariant: every lookup is one `openat2` with `RESOLVE_IN_ROOT` from the root's descriptor, or `RESOLVE_BENEATH` from a
//! volume's, so that the kernel keeps it inside whatever symlinks and `..` an image or a volume brings. Paths have no
//! leading slash.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, ResolveFlags};
use rustix::io::{Errno, Result};

/// How many dangling symlinks may be followed while making a path.
const MAX_LINKS: u32 = 40;

/// Opens a path for use as a location (`O_PATH`), following symlinks within the root.
pub(crate) fn find(root: impl AsFd, path: &CStr) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH, ResolveFlags::empty())
}

/// Like [`find`], and refuses every symlink on the way.
pub(crate) fn find_plain(root: impl AsFd, path: &CStr) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)
}

/// Like [`find`], and refuses what would lead out, where [`find`] takes the root for `/`.
pub(crate) fn find_below(root: impl AsFd, path: &CStr) -> Result<OwnedFd> {
    resolve(root, path, OFlags::PATH, ResolveFlags::BENEATH)
}

/// Opens a path within the root.
pub(crate) fn open(root: impl AsFd, path: &CStr, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd> {
    resolve(root, path, flags, ResolveFlags::IN_ROOT | more)
}

fn resolve(root: impl AsFd, path: &CStr, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd> {
    let path = if path.is_empty() { c"." } else { path };
    let how = how | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN) => {} // the kernel saw a rename on the way and asks to try again
            other => return other,
        }
    }
}

/// Opens a folder, made with its parents (mode 0755) where missing.
pub(crate) fn make_folder(root: impl AsFd, path: &CStr) -> Result<OwnedFd> {
    let mut links = 0;
    make_folder_at(root.as_fd(), path.to_bytes(), &mut links)
}

fn make_folder_at(root: rustix::fd::BorrowedFd<'_>, path: &[u8], links: &mut u32) -> Result<OwnedFd> {
    let whole = CString::new(path).map_err(|_| Errno::INVAL)?;
    match open(root, &whole, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::empty()) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (parent, name) = split(path).ok_or(Errno::NOENT)?;
    let parent_fd = make_folder_at(root, parent, links)?;
    let name_c = CString::new(name).map_err(|_| Errno::INVAL)?;
    match rustix::fs::mkdirat(&parent_fd, &name_c, Mode::from_raw_mode(0o755)) {
        Ok(()) => open(root, &whole, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::empty()),
        Err(Errno::EXIST) => {
            // It exists and can't be opened: a symlink to nothing, as /var/run -> /run in an image without /run.
            // Make what it points to, within the root.
            *links += 1;
            if *links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&parent_fd, &name_c, Vec::new())?;
            let target = target.as_bytes();
            let full = if let Some(absolute) = target.strip_prefix(b"/") {
                absolute.to_vec()
            } else {
                [parent, b"/", target].concat()
            };
            make_folder_at(root, full.strip_prefix(b"/").unwrap_or(&full), links)
        }
        Err(error) => Err(error),
    }
}

/// Opens a file as a location, made empty with its parents where missing.
pub(crate) fn make_file(root: impl AsFd, path: &CStr) -> Result<OwnedFd> {
    match find(&root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (parent, name) = split(path.to_bytes()).ok_or(Errno::ISDIR)?;
    let parent = CString::new(parent).map_err(|_| Errno::INVAL)?;
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let folder = make_folder(&root, &parent)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(&folder, &name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::openat(&folder, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a device node with exactly this mode and owner, replacing nothing.
pub(crate) fn make_node(root: impl AsFd, path: &CStr, mode: RawMode, rdev: u64, owner: (u32, u32)) -> Result<()> {
    let (parent, name) = split(path.to_bytes()).ok_or(Errno::ISDIR)?;
    let parent = CString::new(parent).map_err(|_| Errno::INVAL)?;
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let folder = make_folder(&root, &parent)?;
    let kind = FileType::from_raw_mode(mode);
    rustix::fs::mknodat(&folder, &name, kind, Mode::from_raw_mode(mode & 0o7777), rdev)?;
    if owner != (0, 0) {
        let uid = rustix::fs::Uid::from_raw(owner.0);
        let gid = rustix::fs::Gid::from_raw(owner.1);
        rustix::fs::chownat(&folder, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Splits off the last name: `a/b/c` into `a/b` and `c`. `None` for the root itself and for names like `..`.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|&b| b != b'/')? + 1;
    let path = &path[..end];
    let (parent, name) = match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    (name != b"." && name != b"..").then_some((parent, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root(dir: &tempfile::TempDir) -> OwnedFd {
        let path = dir.path().join("root");
        fs::create_dir(&path).unwrap();
        crate::record::open_dir(&path).unwrap()
    }

    #[test]
    fn last_name_is_split_off() {
        assert_eq!(split(b"a/b/c"), Some((&b"a/b"[..], &b"c"[..])));
        assert_eq!(split(b"a//"), Some((&b""[..], &b"a"[..])));
        assert_eq!(split(b""), None);
        assert_eq!(split(b"a/.."), None);
    }

    #[test]
    fn symlinks_never_lead_outside() {
        let dir = tempfile::tempdir().unwrap();
        let fd = root(&dir);
        let inside = dir.path().join("root");
        symlink("/absolute/target", inside.join("a")).unwrap();
        symlink("../../../up", inside.join("b")).unwrap();
        make_folder(&fd, c"a/x").unwrap();
        make_folder(&fd, c"b/y").unwrap();
        assert!(inside.join("absolute/target/x").is_dir());
        assert!(inside.join("up/y").is_dir());
        assert!(!dir.path().join("up").exists());
        make_file(&fd, c"a/file").unwrap();
        assert!(inside.join("absolute/target/file").is_file());
    }

    #[test]
    fn a_symlink_loop_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let fd = root(&dir);
        symlink("loop", dir.path().join("root/loop")).unwrap();
        assert!(make_folder(&fd, c"loop/x").is_err());
    }

    #[test]
    fn plain_lookup_refuses_symlinks() {
        let dir = tempfile::tempdir().unwrap();
        let fd = root(&dir);
        symlink("/", dir.path().join("root/proc")).unwrap();
        assert_eq!(find_plain(&fd, c"proc").unwrap_err(), Errno::LOOP);
    }
}
