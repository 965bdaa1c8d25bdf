//! `subPath`: what a container sees of a volume, made as folders where it is not there.
//!
//! Invariant: whoever writes to the volume may swap its folders for links at any moment, and nothing outside of it is
//! found or made for that: the kernel resolves each path below the volume in one step, and a folder is made in what it
//! found. What is mounted in the end is resolved in the same way by the runtime, once more and for good.
//! Upstream: `pkg/volume/util/subpath/subpath_linux.go` (`SafeMakeDir`), `pkg/kubelet/kubelet_pods.go` (`makeMounts`),
//! v1.36, whose answers tell no more of the host either.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use crate::error::Error;

/// A part of a volume that a container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPath {
    /// The volume's name.
    pub volume: String,
    /// Where the volume is on the node.
    pub source: PathBuf,
    /// The path in the volume: relative, and without `..`.
    pub path: String,
}

impl SubPath {
    /// Makes folders where nothing is. What leads out of the volume is refused.
    pub(crate) fn make(&self, container: &str) -> std::result::Result<(), Error> {
        self.try_make().map_err(|(what, errno)| {
            let SubPath { volume, source, path } = self;
            tracing::warn!(container, path, volume = %source.display(), error = %errno, "failed to {what}");
            Error::config(format!("failed to {what} for volumeMount {volume:?} of container {container:?}"))
        })
    }

    fn try_make(&self) -> std::result::Result<(), (&'static str, Errno)> {
        let prepare = |errno| ("prepare subPath", errno);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &self.source, flags, Mode::empty()).map_err(prepare)?;
        match find(&root, Path::new(&self.path), OFlags::empty()) {
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                make_folders(&root, Path::new(&self.path)).map_err(|errno| ("create subPath directory", errno))
            }
            Err(errno) => Err(prepare(errno)),
        }
    }
}

/// Opens what is there, as a place and not for reading; nothing outside of `root` is ever found.
fn find(root: impl AsFd, path: &Path, more: OFlags) -> Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC | more, Mode::empty(), how) {
            Err(Errno::AGAIN) => {} // the kernel saw a rename on the way and asks to try again
            other => return other,
        }
    }
}

/// New folders are as open as the volume itself, so that whoever may write there may write to them.
fn make_folders(root: &OwnedFd, path: &Path) -> Result<()> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(root)?.st_mode & 0o2777);
    let (mut parent, mut so_far) = (root.try_clone().map_err(|_| Errno::MFILE)?, PathBuf::new());
    for part in path.components() {
        so_far.push(part);
        parent = match find(root, &so_far, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => make_folder(&parent, part.as_os_str(), mode)?,
            other => other?,
        };
    }
    Ok(())
}

fn make_folder(parent: &OwnedFd, name: &OsStr, mode: Mode) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, mode) {
        Ok(()) => {}
        // Another container of the pod was faster; a link that leads nowhere fails below.
        Err(Errno::EXIST) => return find(parent, Path::new(name), OFlags::DIRECTORY | OFlags::NOFOLLOW),
        Err(errno) => return Err(errno),
    }
    let made = stint_runtime::open_folder(parent, name)?;
    rustix::fs::fchmod(&made, mode)?; // whatever the umask says
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A volume beside a folder that is nobody's business.
    fn volume() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("inside")).unwrap();
        fs::create_dir(&outside).unwrap();
        (dir, volume, outside)
    }

    fn make(volume: &Path, path: &str) -> std::result::Result<(), String> {
        let part = SubPath { volume: "v".to_owned(), source: volume.to_owned(), path: path.to_owned() };
        part.make("c").map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_missing_is_made_as_open_as_the_volume_and_what_is_there_stays() {
        let (_dir, volume, _) = volume();
        let mode = |path: &str| fs::metadata(volume.join(path)).unwrap().permissions().mode() & 0o7777;
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
        make(&volume, "a/./b").unwrap();
        make(&volume, "a/b").expect("making it again is no error");
        assert_eq!((mode("a"), mode("a/b")), (0o2777, 0o2777));
        fs::write(volume.join("file"), "text").unwrap();
        make(&volume, "file").unwrap();
        assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), "text");
        symlink("inside", volume.join("link")).unwrap();
        make(&volume, "link/new").unwrap();
        assert!(volume.join("inside/new").is_dir(), "a link within the volume is followed");
    }

    #[test]
    fn a_link_out_of_the_volume_is_refused_and_nothing_is_made_behind_it() {
        let (_dir, volume, outside) = volume();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        symlink("../outside/none", volume.join("dangling")).unwrap();
        symlink("/proc/self/cwd", volume.join("magic")).unwrap();
        for path in ["absolute", "relative", "magic", "absolute/new", "relative/new", "dangling/new", "dangling"] {
            let told = make(&volume, path).unwrap_err();
            assert!(told.ends_with(" for volumeMount \"v\" of container \"c\""), "{told}");
            assert!(!told.contains("outside"), "nothing of the host is told: {told}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    /// Whoever writes to a volume could swap a folder for a link between two steps.
    #[test]
    fn a_folder_swapped_for_a_link_while_folders_are_made_never_leads_outside() {
        let (dir, volume, outside) = volume();
        let link = dir.path().join("link");
        symlink(&outside, &link).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let swap = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, &link, CWD, volume.join("inside"), swap).unwrap();
                }
            });
            let (mut made, mut refused) = (0, 0);
            let began = std::time::Instant::now();
            // Until both were seen to happen, which is a matter of chance.
            for n in 0.. {
                if n >= 2000 && (made > 0 && refused > 0 || began.elapsed().as_secs() > 120) {
                    break;
                }
                *if make(&volume, &format!("inside/{n}/deep")).is_ok() { &mut made } else { &mut refused } += 1;
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(made > 0 && refused > 0, "{made} made, {refused} refused: nothing was raced for");
        });
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
