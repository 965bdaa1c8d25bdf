//! The data folder: images, and one folder for each run that is going on.
//!
//! ```text
//! DATA/images/…            the image store
//! DATA/runs/<id>/lock      held (flock) by the process that runs there, and free once it is dead
//! DATA/runs/<id>/*.log     the containers' logs
//! DATA/runs/<id>/scratch/  what containers write, and volumes
//! DATA/store/              the objects of `stint serve`
//! DATA/pki/                its authority and certificates
//! DATA/serve.lock          held (flock) by it
//! DATA/kubeconfig          how to reach it
//! DATA/id                  the name of its pods' records and cgroups
//! DATA/{logs,scratch}/     its pods' logs, and what they write
//! DATA/seccomp/            seccomp profiles that pods may name
//! DATA/volumes/            volumes that were made for claims, each by its name
//! MEMORY/<id>/…            the runtime's records; MEMORY is a memory filesystem where there is one
//! MEMORY/holder            of an ordinary user: who keeps its namespaces
//! ```
//!
//! Invariant: a run folder whose lock is free is nobody's. Whoever starts next on this data folder ends and removes what
//! is in it, so that even SIGKILL leaves nothing behind for long.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use stint_agent::Folders;
use stint_runtime::rootless::caller;

/// `TMPFS_MAGIC` of statfs(2).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Where data lies unless it is said otherwise.
pub fn default_data() -> PathBuf {
    if caller() == 0 {
        return PathBuf::from("/var/lib/stint");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home).unwrap_or_else(std::env::temp_dir).join("stint")
}

/// The image store's folder.
pub fn images(data: &Path) -> PathBuf {
    data.join("images")
}

/// Where docker's own configuration is, with the logins that `docker login` made, if this user can have one.
pub fn docker() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A service has no home in its environment.
    let root = || rustix::process::geteuid().is_root().then(|| PathBuf::from("/root"));
    set("DOCKER_CONFIG").or_else(|| Some(set("HOME").or_else(root)?.join(".docker")))
}

/// Where the volumes of claims are. The paths of volumes must be whole ones.
pub fn volumes(data: &Path) -> PathBuf {
    std::path::absolute(data).unwrap_or_else(|_| data.to_owned()).join("volumes")
}

/// Where seccomp profiles are that pods may name (`localhostProfile`).
pub fn seccomp(data: &Path) -> PathBuf {
    data.join("seccomp")
}

/// Where the daemon's agent keeps its things, under the id of the data folder.
pub fn served(data: &Path, id: &str) -> Folders {
    let state = memory().map_or_else(|| data.join("pods"), |memory| memory.join(id));
    Folders { state, logs: data.join("logs"), scratch: data.join("scratch") }
}

/// The daemon's unix socket. That of root's usual data folder is where everybody may look for it, that of another user's in the
/// user's own folder.
pub fn socket(data: &Path) -> PathBuf {
    let usual = (data == default_data()).then(|| match caller() {
        0 => Some(PathBuf::from("/run/stint")),
        _ => runtime_folder().map(|folder| folder.join("stint")),
    });
    usual.flatten().unwrap_or_else(|| data.to_owned()).join("stint.sock")
}

/// Where the network namespace is that an ordinary user's pods are behind: where Debian's AppArmor profile lets `pasta` find it,
/// if there is such a place.
pub fn router(id: &str) -> Option<PathBuf> {
    let session = runtime_folder().filter(|folder| folder.is_dir());
    session.map(|session| session.join("netns").join(format!("stint-{id}")))
}

/// Where the session of an ordinary user has its sockets and the like.
fn runtime_folder() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute())
}

/// A run's own folders, locked. Dropping it removes them.
#[derive(Debug)]
pub struct RunFolder {
    /// The run's id, unique on this data folder; also its cgroup's name.
    pub id: String,
    /// The folder on the data folder.
    pub path: PathBuf,
    /// Where the agent keeps its things.
    pub agent: Folders,
    lock: File,
}

impl RunFolder {
    /// Makes a folder for a new run.
    pub fn create(data: &Path, id: String) -> anyhow::Result<RunFolder> {
        let path = runs(data).join(&id);
        // Containers' secrets and logs lie in here.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| {
            let data = data.display();
            format!("can't make a folder for the run in {data}; choose another data folder with --data")
        })?;
        let lock =
            File::create(path.join("lock")).with_context(|| format!("can't make a lock in {}", path.display()))?;
        lock.lock().with_context(|| format!("can't lock {}", path.display()))?;
        Ok(RunFolder::locked(id, path, lock))
    }
}

impl RunFolder {
    /// The data folder that it is in.
    pub fn data(&self) -> &Path {
        self.path.ancestors().nth(2).unwrap_or(&self.path)
    }

    fn locked(id: String, path: PathBuf, lock: File) -> RunFolder {
        // Ids are unique on the machine, so the folder in memory is found again by the id alone.
        let state = memory().map_or_else(|| path.join("pods"), |memory| memory.join(&id));
        let agent = Folders { state, logs: path.clone(), scratch: path.join("scratch") };
        RunFolder { id, path, agent, lock }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        for folder in [&self.agent.state, &self.path] {
            // What could not be removed is tried again by the next run on this data folder.
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::debug!(%error, folder = %folder.display(), "a folder of the run could not be removed");
                }
                _ => {}
            }
        }
        // Said although the file's end would do it: the lock goes after the folder, not before.
        let _ = self.lock.unlock();
    }
}

/// The folders of runs whose process is dead, locked for whoever cleans them up. Dropping them removes them.
pub fn abandoned(data: &Path) -> Vec<RunFolder> {
    let Ok(entries) = fs::read_dir(runs(data)) else { return Vec::new() };
    let free = entries.flatten().filter_map(|entry| {
        let path = entry.path();
        let Ok(lock) = File::open(path.join("lock")) else {
            // Made this instant, or cleaned up this instant; or killed in between, which leaves an empty folder.
            let _ = fs::remove_dir(&path);
            return None;
        };
        match lock.try_lock() {
            Ok(()) => Some(RunFolder::locked(entry.file_name().to_string_lossy().into_owned(), path, lock)),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => {
                tracing::warn!(%error, folder = %path.display(), "can't tell whether a run folder is in use");
                None
            }
        }
    });
    free.collect()
}

/// A folder of ours on a memory filesystem: records come and go there with each container, which on some disks costs
/// milliseconds. None where there is no such filesystem, or where somebody else got hold of the name.
pub fn memory() -> Option<PathBuf> {
    let in_memory = |folder: &Path| rustix::fs::statfs(folder).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC);
    let named = |parent: &str| Path::new(parent).join(format!("stint-{}", caller()));
    let places = match caller() {
        0 => [Some(named("/run")), Some(named("/dev/shm"))],
        _ => [runtime_folder().map(|folder| folder.join("stint")), Some(named("/dev/shm"))],
    };
    places.into_iter().flatten().filter(|place| place.parent().is_some_and(in_memory)).find(|place| make_ours(place))
}

/// Makes a folder where everybody may make some: it must be ours, a real one, and closed to others.
fn make_ours(folder: &Path) -> bool {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return false,
        _ => {}
    }
    let is_ours =
        |found: fs::Metadata| found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o777 == 0o700;
    fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && is_ours(found))
}

/// Writes a file that only its owner may read, as a whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let failed = || format!("can't write {}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // One that was left by a crash may have other rights.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).with_context(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(failed)?;
    fs::rename(&new, path).with_context(failed)
}

fn runs(data: &Path) -> PathBuf {
    data.join("runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_is_abandoned_exactly_when_its_lock_is_free() {
        let data = tempfile::tempdir().unwrap();
        let run = RunFolder::create(data.path(), "a".to_owned()).unwrap();
        assert!(abandoned(data.path()).is_empty());
        let path = run.path.clone();
        // A killed process runs no destructor, but its lock goes with it.
        run.lock.unlock().unwrap();
        std::mem::forget(run);
        let found = abandoned(data.path());
        assert_eq!(found.iter().map(|f| f.id.as_str()).collect::<Vec<_>>(), ["a"]);
        drop(found);
        assert!(!path.exists());
    }
}
