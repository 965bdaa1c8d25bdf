//! Volumes that are images: the merged layers, read-only, mounted among the pod's volumes.
//!
//! Invariant: nothing can be written to an image's layers through it, and [`remove`](super::remove) takes it down.
//! Upstream: KEP-4639; the container runtime does this there.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, mount};

use super::is_mounted;
use crate::error::Error;
use crate::folder::make_dirs;

/// Two containers of a pod may ask for the same volume at once.
static MOUNTING: Mutex<()> = Mutex::new(());

/// Mounts the layers, topmost first, unless they are mounted there.
pub(crate) fn show(layers: &[PathBuf], path: &Path) -> Result<(), Error> {
    let _alone = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    if is_mounted(path) {
        return Ok(());
    }
    make_dirs(path).map_err(Error::io("make volume", path))?;
    let failed = || Error::io("mount an image on", path);
    // overlayfs wants two layers at least: an empty one below changes nothing.
    let empty = path.with_extension("empty");
    make_dirs(&empty).map_err(Error::io("make folder", &empty))?;
    let mut folders: Vec<OwnedFd> = Vec::with_capacity(layers.len() + 1);
    for layer in layers.iter().chain([&empty]) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, layer, flags, Mode::empty());
        folders.push(folder.map_err(|errno| failed()(errno.into()))?);
    }
    // By descriptor, since paths are long and may hold what separates them.
    let lower: Vec<String> = folders.iter().map(|folder| format!("/proc/self/fd/{}", folder.as_raw_fd())).collect();
    // Where an ordinary user has unpacked them, the layers have marks that any user may write.
    let marks = if stint_runtime::rootless::is_confined() { ",userxattr" } else { "" };
    let options = std::ffi::CString::new(format!("lowerdir={}{marks}", lower.join(":"))).expect("digits and words");
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount("stint", path, "overlay", flags, options.as_c_str()).map_err(|errno| failed()(errno.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn layers_are_merged_and_can_not_be_written_to() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root can mount");
        }
        let dir = tempfile::tempdir().unwrap();
        let layer = |name: &str, files: &[(&str, &str)]| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            for (file, text) in files {
                fs::write(path.join(file), text).unwrap();
            }
            path
        };
        let (top, base) = (layer("top", &[("a", "new")]), layer("base", &[("a", "old"), ("b", "base")]));
        for (layers, a) in [(vec![top.clone(), base.clone()], "new"), (vec![base], "old")] {
            let volume = dir.path().join(format!("volumes/{a}"));
            show(&layers, &volume).unwrap();
            show(&layers, &volume).expect("showing it again is no error");
            assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), a);
            assert_eq!(fs::read_to_string(volume.join("b")).unwrap(), "base");
            assert!(fs::write(volume.join("c"), "").is_err());
        }
        super::super::unmount_below(dir.path()).unwrap();
        assert!(!is_mounted(&dir.path().join("volumes/new")));
    }
}
