//! What a pod has written to the node's disk, measured at an interval while it sets limits.
//!
//! Invariants: a pod without limits is never measured; nothing outside of a folder is counted, whatever links are in it; a
//! tree that is deeper than anybody needs counts as more than any limit, so that nothing can be hidden in it.
//! Upstream: the kubelet measures every 10 s (`pkg/kubelet/eviction/eviction_manager.go`, `monitoringInterval`), v1.36.

use std::collections::HashSet;
use std::ffi::CString;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::fs::{AtFlags, CWD, Dir, FileType};
use rustix::io::{Errno, Result};
use stint_core::pod::Used;

use crate::folder::PodFolder;

/// How deep a tree may be. Each level is an open descriptor while it is measured.
const DEEPEST: usize = 256;

/// Measures a pod. What can't be read counts as nothing.
pub(crate) fn of(pod: &Pod, folder: &PodFolder) -> Used {
    with_inodes(pod, folder).0
}

/// The same, and how many inodes the pod has.
pub(crate) fn with_inodes(pod: &Pod, folder: &PodFolder) -> (Used, u64) {
    let (mut used, mut inodes) = (Used::default(), 0);
    let Some(spec) = &pod.spec else { return (used, inodes) };
    let mut folder_size = |path: &Path| {
        let size = folder_size(path);
        inodes += size.inodes;
        size.bytes
    };
    for volume in spec.volumes.iter().flatten() {
        if volume.empty_dir.as_ref().is_some_and(|empty| empty.medium.as_deref() != Some("Memory")) {
            used.volumes.insert(volume.name.clone(), folder_size(&folder.volume(&volume.name)));
        }
    }
    let attempts = folder.attempts();
    for Container { name, .. } in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let runs = attempts.iter().filter(|(container, _)| container == name);
        let size = runs.map(|(_, attempt)| {
            let log = folder.log(name, *attempt);
            let current = std::fs::symlink_metadata(&log).map_or(0, |log| log.len());
            let older = folder_size(&stint_runtime::older_logs(&log));
            current.saturating_add(older).saturating_add(folder_size(&folder.writable(name, *attempt)))
        });
        used.containers.insert(name.clone(), size.fold(0, u64::saturating_add));
    }
    (used, inodes)
}

/// How much of a disk something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    bytes: u64,
    inodes: u64,
}

/// How much of the disk a folder and everything in it takes; nothing, if it is not there.
fn folder_size(path: &Path) -> Size {
    match measure(path) {
        Ok(size) => size,
        Err(Errno::NOENT) => Size::default(),
        Err(errno) => {
            tracing::warn!(folder = %path.display(), error = %errno, "what a pod has written could not be measured");
            Size::default()
        }
    }
}

fn measure(path: &Path) -> Result<Size> {
    let mut levels = vec![open(CWD, path)?];
    let device = levels[0].stat()?.st_dev;
    let mut size = Size { bytes: blocks(levels[0].stat()?.st_blocks), inodes: 1 };
    let mut linked = HashSet::new();
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.next() else {
            levels.pop();
            continue;
        };
        let name: CString = entry?.file_name().to_owned();
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        let at = level.fd()?;
        let found = match rustix::fs::statat(at, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        // A file with several names is there once; what is mounted in the folder is somewhere else.
        if found.st_dev != device || found.st_nlink > 1 && !linked.insert(found.st_ino) {
            continue;
        }
        size.bytes = size.bytes.saturating_add(blocks(found.st_blocks));
        size.inodes += 1;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            match open(at, &name) {
                Ok(_) if levels.len() >= DEEPEST => return Ok(Size { bytes: u64::MAX, ..size }),
                Ok(inner) => levels.push(inner),
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {} // it was swapped meanwhile
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(size)
}

fn blocks(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0).saturating_mul(512)
}

fn open(at: impl rustix::fd::AsFd, path: impl rustix::path::Arg) -> Result<Dir> {
    Dir::new(stint_runtime::open_folder(at, path)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_in_a_folder_is_counted_once_and_nothing_outside_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, outside) = (dir.path().join("folder"), dir.path().join("outside"));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("large"), vec![1; 4 << 20]).unwrap();
        let Size { bytes: empty, inodes } = folder_size(&folder);
        assert_eq!(inodes, 3);
        assert!(empty < 1 << 20, "{empty}");
        fs::write(folder.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(folder.join("a/b/file"), folder.join("same")).unwrap();
        symlink(&outside, folder.join("link")).unwrap();
        symlink(outside.join("large"), folder.join("a/link")).unwrap();
        let Size { bytes: full, inodes } = folder_size(&folder);
        assert_eq!(inodes, 6, "a file with two names is one");
        assert!((1 << 20..2 << 20).contains(&full), "{full}");
        assert_eq!(folder_size(&dir.path().join("none")), Size::default());
        assert_eq!(folder_size(&folder.join("link")), Size::default(), "a link in place of the folder");
    }

    #[test]
    fn nothing_can_be_hidden_deeper_than_is_looked() {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let deep: std::path::PathBuf = std::iter::repeat_n("d", DEEPEST + 1).collect();
        fs::create_dir_all(dir.path().join(deep)).unwrap();
        assert_eq!(folder_size(dir.path()).bytes, u64::MAX);
    }
}
