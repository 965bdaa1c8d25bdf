//! Removes what a container wrote.
//!
//! Invariant: never leaves the folder, whatever symlinks are in it, and needs neither stack nor descriptors in
//! proportion to its depth: a container can nest folders deeper than either would allow.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Removes a folder and all in it; that it is not there is fine, and so is somebody else at the same work.
pub fn remove(path: &Path) -> io::Result<()> {
    loop {
        match empty_and_remove(path) {
            // Either it was not there, or something in it went away under our hands: then there is less to do now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match path.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            },
            done => return done,
        }
    }
}

fn empty_and_remove(path: &Path) -> io::Result<()> {
    let mut current = open(rustix::fs::CWD, path)?;
    let mut depth = 0_u64;
    loop {
        match empty_folder(&current)? {
            // Went over everything and this folder is full still: go down.
            Some(child) => {
                current = child;
                depth += 1;
            }
            None if depth == 0 => break,
            None => {
                current = open(&current, "..")?;
                depth -= 1;
            }
        }
    }
    rustix::fs::rmdir(path)?;
    Ok(())
}

/// Removes what it can, and returns the first folder that is not empty.
fn empty_folder(folder: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name: CString = entry.file_name().to_owned();
        if name.as_bytes() == b"." || name.as_bytes() == b".." {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Unknown => {
                let found = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(found.st_mode) == FileType::Directory
            }
            kind => kind == FileType::Directory,
        };
        let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(folder, &name, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if is_folder => return Ok(Some(open(folder, &name)?)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Opens a folder to read it; a link in its place is an error (`ELOOP` or `ENOTDIR`), links above it are followed.
pub fn open(at: impl rustix::fd::AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_trees_and_links_are_removed_and_nothing_outside() {
        // In memory where possible: some disks take long over thousands of folders.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        std::fs::write(dir.path().join("outside"), "kept").unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink("../outside", top.join("link")).unwrap();
        std::os::unix::fs::symlink("..", top.join("up")).unwrap();
        let mut at = open(rustix::fs::CWD, &top).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
            at = open(&at, "d").unwrap();
        }
        remove(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(std::fs::read_to_string(dir.path().join("outside")).unwrap(), "kept");
        remove(&top).unwrap();
    }

    #[test]
    fn two_at_the_same_work_do_not_get_in_each_others_way() {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        for _ in 0..50 {
            let top = dir.path().join("top");
            for n in 0..20 {
                std::fs::create_dir_all(top.join(format!("{n}/a/b/c"))).unwrap();
            }
            let both = [top.clone(), top.clone()].map(|top| std::thread::spawn(move || remove(&top)));
            for one in both {
                one.join().unwrap().unwrap();
            }
            assert!(!top.exists());
        }
    }
}
