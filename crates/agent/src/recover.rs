//! What earlier agents left on disk: pods to go on with, and pods that nobody wants any more.
//!
//! Invariant: nothing is decided about a pod before everything that its folder tells was read.

use std::collections::HashMap;

use stint_core::pod::{Exit, Found, FoundAttempt};
use stint_network::Network;
use stint_runtime::{ContainerState, Runtime};

use crate::error::{Error, chain};
use crate::folder::{Folders, PodFolder};
use crate::network::{self, Joined};
use crate::volumes;
use crate::worker::{container_id, timestamp};

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
    network: Option<&Network>,
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
