//! Network namespaces that last: each is held by a mount of it on a file of its name.
//!
//! Invariant: a name is taken by making its file, so no two sandboxes have the same; the file goes last. What is in the folder
//! after a crash is found again by [`Folder::list`]: the mounts are the record.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// `NSFS_MAGIC` of statfs(2).
const NSFS: u64 = 0x6e73_6673;
/// This thread's network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// The folder of all sandboxes.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder where it is missing.
    pub(crate) fn open(path: &Path) -> io::Result<Folder> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Folder(path.to_path_buf()))
    }

    /// One that is there.
    pub(crate) fn at(path: &Path) -> Folder {
        Folder(path.to_path_buf())
    }

    /// Where the sandbox of this name is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes a name one's own. False: it is somebody's.
    pub(crate) fn claim(&self, name: &str) -> io::Result<bool> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the name is somebody's.
    pub(crate) fn is_claimed(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// The names, and whether there is a namespace behind each: a crash leaves some without, a reboot all.
    pub(crate) fn list(&self) -> io::Result<Vec<(String, bool)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            let is_alive = is_namespace(&self.path(&name));
            all.push((name, is_alive));
        }
        Ok(all)
    }

    /// Makes a namespace in the place of a claimed name, and does `work` in it; afterwards this thread is in `home` again.
    pub(crate) fn make<T>(
        &self,
        name: &str,
        home: &Home,
        work: impl FnOnce(&OwnedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        let made = self.make_and_stay(name).and_then(|()| {
            let namespace = File::open(OWN)?.into();
            work(&namespace)
        });
        home.enter()?;
        if made.is_err() {
            let _ = self.remove(name);
        }
        made
    }

    /// Makes a namespace in the place of a claimed name; afterwards this thread is in it. From there only root of the machine gets
    /// back to the machine's.
    pub(crate) fn make_and_stay(&self, name: &str) -> io::Result<()> {
        stint_runtime::namespace::enter_new_network()?;
        Ok(mount_bind(OWN, self.path(name))?)
    }

    /// Lets go of the namespace, and frees the name. One that is not there is no error.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the folder, if nothing is in it.
    pub(crate) fn leave(&self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Whether a namespace is mounted there.
pub(crate) fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(NSFS))
}

/// The network namespace that a thread belongs into.
#[derive(Debug)]
pub(crate) struct Home(OwnedFd);

impl Home {
    /// This thread's.
    pub(crate) fn here() -> io::Result<Home> {
        Ok(Home(File::open(OWN)?.into()))
    }

    fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}
