//! The claims of a pod: where the volume that each is bound to is on this node.
//!
//! Invariant: a pod gets the volume that its claim names, and only while that volume names the claim: somebody who makes a
//! claim that names another's volume gets nothing.
//! Upstream: `pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go` (`createVolumeSpec`),
//! `pkg/volume/local/local.go`, v1.36. Left out: volumes that are reached over a network, and block devices.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use stint_core::storage::{ephemeral_name, is_ours};

use crate::error::Error;
use crate::folder::PodFolder;

/// The volumes of a pod that are claims, by the volume's name in the pod.
pub type Claims = BTreeMap<String, Place>;

/// What a volume is on this node.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A folder that was made for it here, or is to be made.
    Made(PathBuf),
    /// A folder that is there.
    Local(PathBuf),
    /// A path of the host, whose owner is left alone.
    Host(HostPathVolumeSource),
}

/// The name of the claim that a volume of the pod is, if it is one.
fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(ephemeral_name(pod, &volume.name)),
        (None, None) => None,
    }
}

/// Reads what the pod's claims are bound to. One that the pod has already is its own, whatever became of it since.
pub(crate) async fn read(client: &Client, pod: &Pod, folder: &PodFolder) -> Result<Claims, Error> {
    let mut claims = Claims::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(name) = claim_name(pod, volume) else { continue };
        if folder.volume(&volume.name).is_symlink() {
            continue;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let in_claim = |fault: String| Error::config(format!("error processing PVC {namespace}/{name}: {fault}"));
        let owner = volume.ephemeral.as_ref().map(|_| pod.metadata.uid.as_deref().unwrap_or_default());
        let place = read_one(client, namespace, &name, owner).await?.map_err(in_claim)?;
        claims.insert(volume.name.clone(), place);
    }
    Ok(claims)
}

/// `owner` is the pod for which the claim is to have been made, if it is its own.
async fn read_one(
    client: &Client,
    namespace: &str,
    name: &str,
    owner: Option<&str>,
) -> Result<Result<Place, String>, Error> {
    let kind = ApiResource::erase::<PersistentVolumeClaim>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    let found = api.get_opt(name).await.map_err(Error::api("read the claim", format!("{namespace}/{name}")))?;
    let Some(claim) = found else {
        return Ok(Err(format!("failed to fetch PVC from API server: persistentvolumeclaims {name:?} not found")));
    };
    let text = |path: &str| claim.data.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let volume = text("/spec/volumeName");
    let is_owned =
        |uid| claim.owner_references().iter().any(|owner| owner.uid == uid && owner.controller == Some(true));
    if owner.is_some_and(|uid| !is_owned(uid)) {
        return Ok(Err(format!("PVC {name} was not created for the pod (the pod is not owner)")));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Ok(Err("PVC is being deleted".to_owned()));
    }
    if text("/status/phase") != "Bound" || volume.is_empty() {
        return Ok(Err("PVC is not bound".to_owned()));
    }
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<PersistentVolume>(&()));
    let found = api.get_opt(volume).await.map_err(Error::api("read the volume", volume.to_owned()))?;
    let Some(volume) = found else {
        return Ok(Err(format!("failed to fetch PV {volume} from API server: persistentvolumes {volume:?} not found")));
    };
    Ok(place_of(&volume, claim.metadata.uid.as_deref().unwrap_or_default()))
}

/// Where a volume is, if it is bound to the claim of this uid.
fn place_of(volume: &DynamicObject, claim: &str) -> Result<Place, String> {
    let name = volume.name_any();
    let spec = volume.data.get("spec").cloned().unwrap_or_default();
    let text = |path: &str| spec.pointer(path).and_then(Value::as_str);
    match text("/claimRef/uid") {
        Some(uid) if uid == claim => {}
        None => {
            return Err(format!(
                "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
            ));
        }
        Some(uid) => {
            return Err(format!(
                "found PV object {name} but its pv.Spec.ClaimRef.UID {uid} does not point to claim.UID {claim}"
            ));
        }
    }
    if text("/volumeMode") == Some("Block") {
        return Err(format!("the volume {name} is a block device, which is not supported"));
    }
    match (text("/local/path"), text("/hostPath/path")) {
        (Some(path), _) if is_ours(&volume.metadata) => Ok(Place::Made(path.into())),
        (Some(path), _) => Ok(Place::Local(path.into())),
        (None, Some(path)) => {
            let type_ = text("/hostPath/type").map(str::to_owned);
            Ok(Place::Host(HostPathVolumeSource { path: path.to_owned(), type_ }))
        }
        (None, None) => Err(format!("the volume {name} is of a kind that is not supported; use local or hostPath")),
    }
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value)] // `json!` reads best by value
mod tests {
    use serde_json::json;
    use stint_core::storage::PROVISIONER;

    use super::*;

    fn volume(spec: Value, by: &str) -> Result<Place, String> {
        let meta = json!({"name": "v", "annotations": {"pv.kubernetes.io/provisioned-by": by}});
        place_of(&serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap(), "u")
    }

    #[test]
    fn a_volume_is_a_folder_of_this_node_that_is_bound_to_the_claim() {
        let bound = json!({"uid": "u"});
        let local = json!({"claimRef": bound, "local": {"path": "/a"}});
        assert_eq!(volume(local.clone(), PROVISIONER), Ok(Place::Made("/a".into())));
        assert_eq!(volume(local, ""), Ok(Place::Local("/a".into())));
        let host = HostPathVolumeSource { path: "/h".into(), type_: Some("Directory".into()) };
        let spec = json!({"claimRef": bound, "hostPath": {"path": "/h", "type": "Directory"}});
        assert_eq!(volume(spec, ""), Ok(Place::Host(host)));
        for (spec, fault) in [
            (json!({"local": {"path": "/a"}}), "nil pv.Spec.ClaimRef"),
            (json!({"claimRef": {"uid": "other"}, "local": {"path": "/a"}}), "UID other does not point to claim.UID u"),
            (json!({"claimRef": bound, "nfs": {"path": "/a"}}), "not supported"),
            (json!({"claimRef": bound, "local": {"path": "/dev/x"}, "volumeMode": "Block"}), "block device"),
        ] {
            assert!(volume(spec, "").unwrap_err().contains(fault), "{fault}");
        }
    }
}
