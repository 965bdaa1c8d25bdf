//! Where a pod's things are on disk.
//!
//! ```text
//! <state>/<uid>/pod.json                                who it is
//!              /containers/<name>/<attempt>/state.json  the runtime's records
//!                                          /exit.json
//!                                          /termination-log
//!                                          /stop-signal     its image's, if it names one
//!              /etc/{hosts,hostname,resolv.conf}
//!              /network.json                            its network namespace
//!              /ids                                     which users of the host are its own
//!              /holder/state.json, log                  the process that holds its PID namespace
//!              /files/<volume>/                         what came from the API: ConfigMaps, Secrets, tokens
//! <state>/.network/<address>                            the network namespaces
//! <logs>/<uid>_<name>_<attempt>.log                     CRI format
//!                              .log.older/              full files of it, if it is rotated
//! <scratch>/<uid>/rw/<name>/<attempt>/                  what the container wrote to its root filesystem
//!                /volumes/<volume>/
//! ```
//!
//! The three are apart because they ask for different disks: state is small, comes and goes with every container and is
//! worth nothing after a reboot, so memory is best, which also keeps secrets off the disk; logs and what containers write may
//! be large.
//!
//! Invariant: every name in a path is a DNS label, a DNS subdomain, a number, or a uid that passed [`PodFolder::new`].

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stint_core::pod::Attempt;

use crate::error::Error;

/// Where an agent keeps the things of its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// Who the pods are and the runtime's records.
    pub state: PathBuf,
    /// The containers' logs.
    pub logs: PathBuf,
    /// What containers write, and volumes.
    pub scratch: PathBuf,
}

impl Folders {
    /// Everything below one folder.
    pub fn within(data: &Path) -> Folders {
        Folders { state: data.join("pods"), logs: data.join("logs"), scratch: data.join("scratch") }
    }

    /// The uids of pods of which there is something.
    pub(crate) fn pods(&self) -> BTreeSet<String> {
        names(&self.state).into_iter().chain(names(&self.scratch)).filter(|name| is_plain(name)).collect()
    }

    /// Where the network namespaces of pods are.
    pub fn network(&self) -> PathBuf {
        self.state.join(".network")
    }
}

/// The folders of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFolder {
    uid: String,
    path: PathBuf,
    logs: PathBuf,
    scratch: PathBuf,
}

impl PodFolder {
    /// The folders of the pod `uid`. Nothing is made.
    pub fn new(folders: &Folders, uid: &str) -> Result<PodFolder, Error> {
        // A real cluster makes the uid; it must not lead anywhere else.
        if !is_plain(uid) {
            return Err(Error::config(format!("the pod's uid {uid:?} can't name a folder")));
        }
        Ok(PodFolder {
            uid: uid.to_owned(),
            path: folders.state.join(uid),
            logs: folders.logs.clone(),
            scratch: folders.scratch.join(uid),
        })
    }

    /// The log of one run of a container, in CRI format.
    pub fn log(&self, container: &str, attempt: Attempt) -> PathBuf {
        self.logs.join(format!("{}_{container}_{}.log", self.uid, attempt.0))
    }

    /// The runtime's folder of one run of a container.
    pub fn container(&self, container: &str, attempt: Attempt) -> PathBuf {
        self.path.join("containers").join(container).join(attempt.0.to_string())
    }

    /// Where one run of a container writes to its root filesystem.
    pub fn writable(&self, container: &str, attempt: Attempt) -> PathBuf {
        self.scratch.join("rw").join(container).join(attempt.0.to_string())
    }

    /// Where a container may leave its last words.
    pub fn termination_log(&self, container: &str, attempt: Attempt) -> PathBuf {
        self.container(container, attempt).join("termination-log")
    }

    /// Where it is written down by which signal the image wants a run to be stopped.
    pub(crate) fn stop_signal(&self, container: &str, attempt: Attempt) -> PathBuf {
        self.container(container, attempt).join("stop-signal")
    }

    /// A volume that containers write to.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.scratch.join("volumes")
    }

    /// A volume whose files come from the API.
    pub fn files(&self, volume: &str) -> PathBuf {
        self.all_files().join(volume)
    }

    pub(crate) fn all_files(&self) -> PathBuf {
        self.path.join("files")
    }

    /// Where it is written down what the pod has of the network.
    pub(crate) fn network(&self) -> PathBuf {
        self.path.join("network.json")
    }

    /// Where it is written down which users of the host are the pod's.
    pub(crate) fn ids(&self) -> PathBuf {
        self.path.join("ids")
    }

    /// The runtime's folder of what holds the pod's PID namespace.
    pub(crate) fn holder(&self) -> PathBuf {
        self.path.join("holder")
    }

    pub(crate) fn etc(&self) -> PathBuf {
        self.path.join("etc")
    }

    /// Makes what one run of a container needs.
    pub(crate) fn make_container(&self, container: &str, attempt: Attempt) -> Result<(), Error> {
        let dir = self.container(container, attempt);
        make_dirs(&dir).map_err(Error::io("make folder", &dir))?;
        make_dirs(&self.logs).map_err(Error::io("make folder", &self.logs))
    }

    /// Removes everything; what is not there is no error. Nothing may be mounted or running in it any more.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        for (container, attempt) in self.attempts() {
            self.remove_log(&container, attempt)?;
        }
        gone(stint_runtime::remove_folder(&self.scratch), &self.scratch)?;
        // Last, since it tells what the others are.
        gone(fs::remove_dir_all(&self.path), &self.path)
    }

    /// Removes what is kept of a run that nobody can ask for any more: its log, and its folder.
    pub(crate) fn forget(&self, container: &str, attempt: Attempt) -> Result<(), Error> {
        self.remove_log(container, attempt)?;
        let folder = self.container(container, attempt);
        gone(fs::remove_dir_all(&folder), &folder)
    }

    /// Removes the log of a run, with its older files.
    pub(crate) fn remove_log(&self, container: &str, attempt: Attempt) -> Result<(), Error> {
        let log = self.log(container, attempt);
        let older = stint_runtime::older_logs(&log);
        gone(fs::remove_file(&log), &log)?;
        gone(stint_runtime::remove_folder(&older), &older)
    }

    /// Makes the pod's folder and writes down who it is, unless that was done.
    pub(crate) fn make(&self, identity: &Identity) -> Result<(), Error> {
        let file = self.path.join("pod.json");
        if file.exists() {
            return Ok(());
        }
        make_dirs(&self.path).map_err(Error::io("make folder", &self.path))?;
        fs::write(&file, identity.to_json().to_string()).map_err(Error::io("write", &file))
    }

    /// Who the folder belongs to; `None` when that was never written down.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let text = fs::read(self.path.join("pod.json")).ok()?;
        Identity::from_json(&serde_json::from_slice(&text).ok()?)
    }

    /// Every run of a container that left a folder, with its container's name.
    pub(crate) fn attempts(&self) -> Vec<(String, Attempt)> {
        let mut found = Vec::new();
        for container in names(&self.path.join("containers")) {
            for attempt in names(&self.path.join("containers").join(&container)) {
                if let Ok(number) = attempt.parse() {
                    found.push((container.clone(), Attempt(number)));
                }
            }
        }
        found.sort();
        found
    }
}

/// Who a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Identity {
    fn to_json(&self) -> Value {
        json!({ "namespace": self.namespace, "name": self.name, "uid": self.uid })
    }

    fn from_json(value: &Value) -> Option<Identity> {
        let text = |key: &str| value.get(key)?.as_str().map(str::to_owned);
        Some(Identity { namespace: text("namespace")?, name: text("name")?, uid: text("uid")? })
    }
}

/// The log of one run of the container of a pod: what `logs` reads.
pub fn log_path(folders: &Folders, uid: &str, container: &str, attempt: Attempt) -> Result<PathBuf, Error> {
    if !is_plain(container) {
        return Err(Error::config(format!("the container's name {container:?} can't name a folder")));
    }
    Ok(PodFolder::new(folders, uid)?.log(container, attempt))
}

/// The names in a folder; none when it is not there.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// That what was to be removed is not there is fine.
fn gone(removed: io::Result<()>, path: &Path) -> Result<(), Error> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a folder that only its owner may enter, with its parents.
pub(crate) fn make_dirs(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether a name is safe as one component of a path.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_forgotten_with_all_files_of_its_log_and_no_other_run() {
        let dir = tempfile::tempdir().unwrap();
        let folder = PodFolder::new(&Folders::within(dir.path()), "u").unwrap();
        for attempt in [Attempt(1), Attempt(11)] {
            folder.make_container("c", attempt).unwrap();
            let log = folder.log("c", attempt);
            fs::write(&log, "").unwrap();
            fs::create_dir(stint_runtime::older_logs(&log)).unwrap();
            fs::write(stint_runtime::older_logs(&log).join("full"), "").unwrap();
        }
        folder.forget("c", Attempt(1)).unwrap();
        folder.forget("c", Attempt(1)).unwrap();
        assert_eq!(folder.attempts(), [("c".to_owned(), Attempt(11))]);
        let mut left = names(&dir.path().join("logs"));
        left.sort();
        assert_eq!(left, ["u_c_11.log", "u_c_11.log.older"]);
        folder.remove().unwrap();
        assert_eq!(names(&dir.path().join("logs")), Vec::<String>::new());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let data = &Folders::within(Path::new("/data"));
        assert!(PodFolder::new(data, "0a1b-2c").is_ok());
        for uid in ["", ".", "..", "../x", "a/b", "/etc", "a\0"] {
            assert!(PodFolder::new(data, uid).is_err(), "{uid:?}");
        }
        assert_eq!(log_path(data, "u", "c", Attempt(2)).unwrap(), Path::new("/data/logs/u_c_2.log"));
        assert!(log_path(data, "u", "../c", Attempt(0)).is_err());
    }
}
