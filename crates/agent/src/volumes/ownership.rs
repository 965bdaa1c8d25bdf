//! `fsGroup`: what a volume holds is given to the pod's group, so that it may be written to by all of the pod's users.
//!
//! Invariant: nothing outside of the volume changes, whatever links are in it: each folder is opened from the one above it,
//! and no link is followed. A tree that is deeper than anybody needs is refused: each level takes a descriptor and a part of
//! the stack, and containers may nest folders without end.
//! Upstream: `pkg/volume/volume_linux.go` (`SetVolumeOwnership`), v1.36.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};
use stint_runtime::open_folder;

use crate::error::Error;

/// What the group may do with a file, and more with a folder, in which what is new is the group's as well.
const FILE: u32 = 0o660;
const FOLDER: u32 = 0o2770;

/// How deep a tree may be.
const DEEPEST: usize = 256;

/// `fsGroupChangePolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Each time.
    Always,
    /// When the volume's own folder is not the group's yet.
    OnRootMismatch,
}

/// Gives everything in the volume to the group.
pub(super) fn give(volume: &Path, group: u32, when: When) -> std::result::Result<(), Error> {
    try_give(volume, group, when).map_err(|errno| Error::io("give to fsGroup", volume)(errno.into()))
}

fn try_give(volume: &Path, group: u32, when: When) -> Result<()> {
    let root = open_folder(CWD, volume)?;
    let found = rustix::fs::fstat(&root)?;
    if when == When::OnRootMismatch && found.st_gid == group && found.st_mode & FOLDER == FOLDER {
        return Ok(());
    }
    // The root last: as long as it is not the group's, all of this is to be done again.
    give_content(&root, group, 1)?;
    give_folder(&root, &found, group)
}

/// Goes through a tree folder by folder; as deep as it is, as many are open.
fn give_content(folder: &OwnedFd, group: u32, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Errno::NAMETOOLONG);
    }
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name: CString = entry.file_name().to_owned();
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        match give_entry(folder, &name, group, depth) {
            Err(Errno::NOENT) => {} // another pod that has the volume removed it
            other => other?,
        }
    }
    Ok(())
}

fn give_entry(folder: &OwnedFd, name: &CString, group: u32, depth: usize) -> Result<()> {
    let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {
            let inner = open_folder(folder, name)?;
            give_content(&inner, group, depth + 1)?;
            give_folder(&inner, &found, group)
        }
        FileType::Symlink => {
            rustix::fs::chownat(folder, name, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
            let found = rustix::fs::fstat(&file)?;
            rustix::fs::fchown(&file, None, Some(Gid::from_raw(group)))?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(found.st_mode & 0o7777 | FILE))
        }
        // Sockets, pipes and devices get the group; opening them could wait, or do something.
        _ => rustix::fs::chownat(folder, name, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW),
    }
}

fn give_folder(folder: &OwnedFd, found: &Stat, group: u32) -> Result<()> {
    rustix::fs::fchown(folder, None, Some(Gid::from_raw(group)))?;
    rustix::fs::fchmod(folder, Mode::from_raw_mode(found.st_mode & 0o7777 | FOLDER))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_volume_nested_without_end_is_refused() {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = |depth| -> std::path::PathBuf { std::iter::repeat_n("d", depth).collect() };
        fs::create_dir_all(dir.path().join(path(DEEPEST))).unwrap();
        let own = rustix::process::getegid().as_raw();
        assert!(give(dir.path(), own, When::Always).is_err());
        fs::remove_dir(dir.path().join(path(DEEPEST))).unwrap();
        give(dir.path(), own, When::Always).unwrap();
    }

    #[test]
    fn a_volume_is_given_to_the_group_and_nothing_that_its_links_lead_to() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root can give files away");
        }
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        for file in [volume.join("a/b/file"), outside.clone()] {
            fs::write(&file, "text").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        symlink(&outside, volume.join("a/link")).unwrap();
        fs::set_permissions(volume.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        give(&volume, 4321, When::Always).unwrap();
        let of = |path: &Path| fs::symlink_metadata(path).map(|meta| (meta.gid(), meta.mode() & 0o7777)).unwrap();
        assert_eq!(of(&volume).0, 4321);
        assert_eq!(of(&volume.join("a")), (4321, 0o2770));
        assert_eq!(of(&volume.join("a/b/file")), (4321, 0o660));
        assert_eq!(of(&volume.join("a/link")).0, 4321);
        assert_eq!(of(&outside), (0, 0o600));
        // What a container wrote since is its own business, or not.
        fs::write(volume.join("a/new"), "text").unwrap();
        std::os::unix::fs::chown(volume.join("a/new"), None, Some(1)).unwrap();
        give(&volume, 4321, When::OnRootMismatch).unwrap();
        assert_eq!(of(&volume.join("a/new")).0, 1);
        give(&volume, 4321, When::Always).unwrap();
        assert_eq!(of(&volume.join("a/new")).0, 4321);
    }
}
