//! What is next for a volume.

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::matching::reference;
use super::{
    Action, BOUND_BY_CONTROLLER, PROVISIONED_BY, PROVISIONER, VOLUME_PROTECTION, View, annotation, finalizers,
    has_finalizer, since, step, telling,
};
use crate::plan::{Severity, Step};

/// Whether a volume was made by the provisioner that is built in, by the volume's metadata.
pub fn is_ours(volume: &ObjectMeta) -> bool {
    annotation(volume, PROVISIONED_BY) == Some(PROVISIONER)
}

/// The next write about a volume, if there is any.
///
/// The view must be sure of the volume's claim: that it is not in there is why the data may go.
pub fn volume(volume: &PersistentVolume, view: &View) -> Option<Step<Action>> {
    let meta = &volume.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let set = |new: &str, why| {
        let patch = since(meta, json!({ "status": { "phase": new, "reason": null, "message": null } }));
        (phase != new).then(|| step(Action::PatchVolumeStatus(name.clone(), patch), why))
    };
    if meta.deletion_timestamp.is_some() {
        let patch = || finalizers(meta, |all| all.retain(|one| one != VOLUME_PROTECTION));
        let may_go = has_finalizer(meta, VOLUME_PROTECTION) && phase != "Bound";
        if may_go {
            return Some(step(Action::PatchVolume(name.clone(), patch()), "it is to go, and has no claim"));
        }
    } else if !has_finalizer(meta, VOLUME_PROTECTION) {
        let patch = finalizers(meta, |all| all.push(VOLUME_PROTECTION.to_owned()));
        return Some(step(Action::PatchVolume(name, patch), "it is not to go while it is bound"));
    }
    let Some(held) = reference(volume) else { return set("Available", "nobody has claimed it") };
    let Some(uid) = held.uid.as_deref().filter(|uid| !uid.is_empty()) else {
        return set("Available", "it is set aside, and not claimed yet");
    };
    let key = (held.namespace.clone().unwrap_or_default(), held.name.clone().unwrap_or_default());
    let Some(claim) = view.claims.get(&key).filter(|claim| claim.metadata.uid.as_deref() == Some(uid)) else {
        return released(volume, phase);
    };
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if wanted.is_empty() {
        return None; // the claim's own turn comes, and binds it
    }
    if wanted == name {
        return set("Bound", "its claim names it");
    }
    // The claim was faster with another one.
    if is_ours(meta) && policy(volume) == "Delete" {
        return released(volume, phase);
    }
    let by_us = annotation(meta, BOUND_BY_CONTROLLER).is_some();
    let patch = if by_us {
        json!({ "metadata": { "annotations": { BOUND_BY_CONTROLLER: null } }, "spec": { "claimRef": null } })
    } else {
        json!({ "spec": { "claimRef": { "uid": null, "resourceVersion": null } } })
    };
    Some(step(Action::PatchVolume(name, since(meta, patch)), "its claim has another volume"))
}

fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// A volume whose claim is gone.
fn released(volume: &PersistentVolume, phase: &str) -> Option<Step<Action>> {
    let meta = &volume.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let status = |phase: &str, message: Option<&str>| {
        let status: Value = json!({ "phase": phase, "message": message, "reason": null });
        Action::PatchVolumeStatus(name.clone(), since(meta, json!({ "status": status })))
    };
    if !matches!(phase, "Released" | "Failed") {
        return Some(step(status("Released", None), "its claim is gone"));
    }
    if phase == "Failed" || meta.deletion_timestamp.is_some() {
        return None;
    }
    let fail = |reason: &str, message: &str| {
        let write = step(status("Failed", Some(message)), "nobody here can reclaim it");
        Some(telling(write, Severity::Warning, reason, message))
    };
    match policy(volume) {
        "Retain" => None,
        "Delete" if is_ours(&volume.metadata) => {
            Some(step(Action::DeleteVolume(name.clone()), "its claim is gone, and it was made for it"))
        }
        // Made by somebody else's provisioner, who deletes it.
        "Delete" if annotation(meta, PROVISIONED_BY).is_some() => None,
        "Delete" => {
            let why =
                format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched");
            fail("VolumeFailedDelete", &why)
        }
        "Recycle" => fail("VolumeFailedRecycle", "No recycler plugin found for the volume!"),
        other => fail(
            "VolumeUnknownReclaimPolicy",
            &format!("Volume has unrecognized PersistentVolumeReclaimPolicy {other:?}"),
        ),
    }
}
