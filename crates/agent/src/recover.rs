//! What earlier agents left on disk: pods to go on with, and pods that nobody wants any more.
//!
//! A reboot ends every container, and usually empties the memory that the records are in. What is left then are logs: they tell
//! which runs there were, so that they can be read as long as their pod's object is there, and go with it.
//!
//! Invariants: nothing is decided about a pod before everything that its folder tells was read; a record is believed only in
//! the boot that it is of, since processes have the same numbers in the next.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;

use stint_core::pod::{Attempt, Exit, Found, FoundAttempt};
use stint_runtime::{ContainerState, Runtime};

use crate::error::{Error, chain};
use crate::folder::{Folders, PodFolder, is_plain, make_dirs, names};
use crate::network::{self, Joined, PodNetwork};
use crate::worker::{container_id, timestamp};
use crate::{holder, volumes};

/// What was found of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) attempts: Vec<Found>,
    pub(crate) joined: Option<Joined>,
}

/// Takes hold of everything that the pods' folders tell of, by uid.
pub(crate) fn scan(folders: &Folders, runtime: &dyn Runtime) -> HashMap<String, Recovered> {
    let mut all = HashMap::new();
    for uid in folders.pods() {
        if let Ok(folder) = PodFolder::new(folders, &uid) {
            all.insert(uid.clone(), one(&folder, &uid, runtime));
        }
    }
    all
}

/// Removes the records of earlier boots than `boot`, and makes folders for the runs that only their logs tell of.
pub(crate) fn after_reboot(folders: &Folders, boot: &str) -> Result<(), Error> {
    let file = folders.state.join(".boot");
    match fs::read_to_string(&file) {
        Ok(earlier) if earlier == boot => return Ok(()),
        Ok(_) => {
            tracing::info!("the machine was started again: what ran on it has ended");
            // What is not a pod's has an owner who looks after it.
            for uid in names(&folders.state).into_iter().filter(|name| is_plain(name)) {
                let folder = folders.state.join(uid);
                stint_runtime::remove_folder(&folder).map_err(Error::io("remove", folder))?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("read", &file)(error)),
    }
    let known: BTreeSet<String> = names(&folders.state).into_iter().collect();
    for (uid, container, attempt) in names(&folders.logs).iter().filter_map(|name| run_of_log(name)) {
        if !known.contains(uid) {
            PodFolder::new(folders, uid)?.make_container(container, attempt)?;
        }
    }
    // Last: what was begun is begun again.
    make_dirs(&folders.state).map_err(Error::io("make folder", &folders.state))?;
    fs::write(&file, boot).map_err(Error::io("write", file))
}

/// Whose log a file is, by its name.
fn run_of_log(name: &str) -> Option<(&str, &str, Attempt)> {
    let (run, attempt) = name.strip_suffix(".log")?.rsplit_once('_')?;
    let (uid, container) = run.split_once('_')?;
    (is_plain(uid) && is_plain(container)).then_some((uid, container, Attempt(attempt.parse().ok()?)))
}

/// Takes hold of what one pod's folder tells of.
pub(crate) fn one(folder: &PodFolder, uid: &str, runtime: &dyn Runtime) -> Recovered {
    let mut attempts = Vec::new();
    for (container, attempt) in folder.attempts() {
        let Ok(id) = container_id(uid, &container, attempt) else { continue };
        let life = match runtime.recover(&folder.container(&container, attempt)) {
            Ok(None) => continue, // it was never started
            Ok(Some(ContainerState::Running { started, .. })) => FoundAttempt::Running { since: timestamp(started.at) },
            Ok(Some(ContainerState::Exited { exit, .. })) => FoundAttempt::Exited(Exit {
                code: exit.code,
                signal: exit.signal,
                oom_killed: exit.oom_killed,
                lost: exit.lost,
                started_at: timestamp(exit.started_at),
                finished_at: timestamp(exit.finished_at),
                message: None, // its worker knows where to look
            }),
            Err(error) => {
                tracing::warn!(container = %id, error = %chain(&error), "the records of a container can't be read");
                continue;
            }
        };
        attempts.push(Found { container, attempt, id: id.to_string(), life });
    }
    Recovered { attempts, joined: Joined::read(folder) }
}

/// Kills and removes what is left of a pod that nobody wants any more, and its folder.
pub(crate) async fn clean_up(
    folders: &Folders,
    uid: &str,
    runtime: &dyn Runtime,
    network: Option<&PodNetwork>,
) -> Result<(), Error> {
    let folder = PodFolder::new(folders, uid)?;
    if let Some(identity) = folder.identity() {
        tracing::info!(namespace = identity.namespace, name = identity.name, uid, "cleaning up a pod that is gone");
    }
    for (container, attempt) in folder.attempts() {
        let id = container_id(uid, &container, attempt)?;
        let failed = |attempt: &'static str| move |source| Error::Runtime { attempt, source };
        match runtime.recover(&folder.container(&container, attempt)).map_err(failed("recover a container"))? {
            None => continue,
            Some(ContainerState::Running { .. }) => {
                runtime.kill(&id).map_err(failed("kill a container"))?;
                runtime.wait(&id).await.map_err(failed("wait for a killed container"))?;
            }
            Some(ContainerState::Exited { .. }) => {}
        }
        runtime.remove(&id).await.map_err(failed("remove what a container left"))?;
    }
    holder::remove(&folder, uid, runtime).await?;
    network::leave(&folder, network).await?;
    volumes::remove(&folder)?;
    folder.remove()
}

/// Kills and removes every pod in `folders`, those of a run whose process is gone.
///
/// Every pod is tried; the first failure is told.
pub async fn sweep(folders: &Folders, runtime: &dyn Runtime) -> Result<(), Error> {
    let mut first = Ok(());
    for uid in folders.pods() {
        let cleaned = clean_up(folders, &uid, runtime, None).await;
        if let Err(error) = &cleaned {
            tracing::warn!(uid, error = %error.chain(), "failed to clean up a pod of an earlier run");
        }
        first = first.and(cleaned);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_of_one_boot_and_logs_of_all() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::within(dir.path());
        let runs = |uid: &str| PodFolder::new(&folders, uid).unwrap().attempts();
        let run = |container: &str, attempt| (container.to_owned(), Attempt(attempt));
        after_reboot(&folders, "first").unwrap();
        let silent = PodFolder::new(&folders, "silent").unwrap();
        silent.make_container("c", Attempt(0)).unwrap();
        let pod = PodFolder::new(&folders, "pod").unwrap();
        for (container, attempt) in [("c", Attempt(0)), ("c", Attempt(11)), ("other", Attempt(0))] {
            pod.make_container(container, attempt).unwrap();
            fs::write(pod.container(container, attempt).join("state.json"), "{}").unwrap();
            fs::write(pod.log(container, attempt), "").unwrap();
        }
        fs::write(dir.path().join("logs/of-somebody-else.log"), "").unwrap();
        fs::create_dir(folders.network()).unwrap();

        after_reboot(&folders, "first").unwrap();
        assert!(pod.container("c", Attempt(0)).join("state.json").exists(), "the same boot");

        after_reboot(&folders, "second").unwrap();
        assert_eq!(runs("pod"), [run("c", 0), run("c", 11), run("other", 0)]);
        assert!(!pod.container("c", Attempt(0)).join("state.json").exists(), "nothing of it runs");
        assert_eq!(runs("silent"), []);
        assert!(folders.network().exists(), "is another's to look after");

        fs::remove_dir_all(&folders.state).unwrap(); // as memory does
        after_reboot(&folders, "third").unwrap();
        assert_eq!(runs("pod"), [run("c", 0), run("c", 11), run("other", 0)]);
        pod.remove().unwrap();
        assert_eq!(names(&folders.logs), ["of-somebody-else.log"]);
    }
}
