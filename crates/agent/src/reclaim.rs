//! Removes what is in volumes that are to go: those that were made on this node, for claims that are gone.
//!
//! ```text
//!  claim is gone ─► volume deleted, held by its finalizer ─► its folder is removed ─► the finalizer ─► it is gone
//! ```
//!
//! Invariants: only a folder of the node's own folder of volumes is ever removed, named by the volume's name and never by a
//! path that the volume gives; nothing is removed while the volume is bound; what was begun before a crash is done after it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt, future};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use stint_core::storage::{DATA_FINALIZER, is_ours};
use tokio::time::sleep;

use crate::error::Error;
use crate::folder::is_plain;
use crate::worker::blocking;

/// How long a volume that could not be removed waits before it is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Works until it is dropped.
pub(crate) async fn run(client: Client, folder: PathBuf) {
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<PersistentVolume>(&()));
    let events = stint_watch::watch_with(api.clone(), watcher::Config::default(), "PersistentVolumes".to_owned());
    let mut volumes = pin!(events.filter_map(|event| {
        future::ready(match event {
            Event::Apply(volume) | Event::InitApply(volume) => Some(volume),
            Event::Init | Event::InitDone | Event::Delete(_) => None,
        })
    }));
    let mut failed: BTreeSet<String> = BTreeSet::new();
    loop {
        let found = tokio::select! {
            Some(volume) = volumes.next() => Some(volume),
            () = sleep(RETRY), if !failed.is_empty() => {
                let name = failed.pop_first().unwrap_or_default();
                let found = api.get_opt(&name).await;
                if found.is_err() {
                    failed.insert(name);
                }
                found.ok().flatten()
            }
        };
        let Some(volume) = found.filter(is_to_go) else { continue };
        if let Err(error) = reclaim(&api, &volume, &folder).await {
            tracing::warn!(volume = volume.name_any(), error = error.chain(), "a volume could not be removed");
            failed.insert(volume.name_any());
        }
    }
}

/// Whether the node's turn has come: everybody else has let go of the volume.
fn is_to_go(volume: &DynamicObject) -> bool {
    let is_bound = volume.data.pointer("/status/phase").and_then(Value::as_str) == Some("Bound");
    is_ours(&volume.metadata)
        && !is_bound
        && volume.metadata.deletion_timestamp.is_some()
        && volume.finalizers() == [DATA_FINALIZER]
}

async fn reclaim(api: &Api<DynamicObject>, volume: &DynamicObject, folder: &Path) -> Result<(), Error> {
    let name = volume.name_any();
    let policy = volume.data.pointer("/spec/persistentVolumeReclaimPolicy").and_then(Value::as_str);
    if policy == Some("Delete") && is_plain(&name) {
        let path = folder.join(&name);
        // However deep containers have nested folders.
        blocking(move || stint_runtime::remove_folder(&path).map_err(Error::io("remove", path))).await?;
    }
    let patch = json!({"metadata": {"resourceVersion": volume.resource_version(), "finalizers": null}});
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        // Gone, or changed: then it is seen again.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(Error::api("let go of the volume", name)(error)),
    }
}

#[cfg(test)]
mod tests {
    use stint_core::storage::PROVISIONER;

    use super::*;

    #[test]
    fn only_a_volume_that_was_made_here_and_that_all_others_let_go_of_is_removed() {
        let volume = |by: &str, finalizers: &[&str], phase: &str, deleted: bool| {
            let gone = deleted.then_some("2026-01-01T00:00:00Z");
            let meta = json!({"name": "v", "annotations": {"pv.kubernetes.io/provisioned-by": by},
                "finalizers": finalizers, "deletionTimestamp": gone});
            let volume = json!({"metadata": meta, "status": {"phase": phase}});
            is_to_go(&serde_json::from_value(volume).unwrap())
        };
        assert!(volume(PROVISIONER, &[DATA_FINALIZER], "Released", true));
        assert!(!volume("other", &[DATA_FINALIZER], "Released", true));
        assert!(!volume(PROVISIONER, &["kubernetes.io/pv-protection", DATA_FINALIZER], "Released", true));
        assert!(!volume(PROVISIONER, &[DATA_FINALIZER], "Bound", true));
        assert!(!volume(PROVISIONER, &[DATA_FINALIZER], "Released", false));
    }
}
