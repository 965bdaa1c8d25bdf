//! What is next for a claim.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use super::matching::{self, is_for, mismatch, reference};
use super::provision;
use super::{
    Action, BIND_COMPLETED, BOUND_BY_CONTROLLER, CLAIM_PROTECTION, DEFAULT_CLASS, PROVISIONER, View, annotation,
    class_of, finalizers, has_finalizer, key, since, step, telling,
};
use crate::plan::{Severity, Step};

/// The next write about a claim, if there is any.
pub fn claim(claim: &PersistentVolumeClaim, view: &View) -> Option<Step<Action>> {
    let (meta, key) = (&claim.metadata, key(claim));
    if meta.deletion_timestamp.is_some() {
        let may_go = has_finalizer(meta, CLAIM_PROTECTION) && !view.is_used(&key);
        let patch = || finalizers(meta, |all| all.retain(|one| one != CLAIM_PROTECTION));
        return may_go.then(|| step(Action::PatchClaim(key.clone(), patch()), "it is to go, and no pod uses it"));
    }
    if !has_finalizer(meta, CLAIM_PROTECTION) {
        let patch = finalizers(meta, |all| all.push(CLAIM_PROTECTION.to_owned()));
        return Some(step(Action::PatchClaim(key, patch), "it is not to go while a pod uses it"));
    }
    if annotation(meta, BIND_COMPLETED).is_some() {
        return bound(claim, view);
    }
    if class_of(claim).is_none()
        && let Some(class) = default_class(view)
    {
        let patch = since(meta, json!({ "spec": { "storageClassName": class.metadata.name } }));
        return Some(step(Action::PatchClaim(key, patch), "it names no class, and there is a default one"));
    }
    match claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty()) {
        None => unbound(claim, view),
        Some(name) => wanting(claim, name, view),
    }
}

/// The class that is meant where none is named: of several, the newest.
fn default_class(view: &View) -> Option<&StorageClass> {
    let is_default = |class: &&StorageClass| annotation(&class.metadata, DEFAULT_CLASS) == Some("true");
    let age = |class: &&StorageClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
    view.classes.values().filter(is_default).max_by_key(age)
}

/// A claim that leaves it to us which volume it gets.
fn unbound(claim: &PersistentVolumeClaim, view: &View) -> Option<Step<Action>> {
    let name = class_of(claim).unwrap_or_default();
    let class = view.classes.get(name).filter(|_| !name.is_empty());
    let waits = class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
        && !view.is_wanted(&key(claim));
    if let Some(volume) = matching::find(claim, view, waits) {
        return bind(claim, volume);
    }
    let pending = pending(claim);
    let tell = |severity, reason, note: String| Some(telling(pending.clone(), severity, reason, note));
    if waits {
        let note = "waiting for first consumer to be created before binding";
        return tell(Severity::Normal, "WaitForFirstConsumer", note.to_owned());
    }
    if name.is_empty() {
        let note = "no persistent volumes available for this claim and no storage class is set";
        return tell(Severity::Normal, "FailedBinding", note.to_owned());
    }
    let Some(class) = class else {
        let note = format!("storageclass.storage.k8s.io {name:?} not found");
        return tell(Severity::Warning, "ProvisioningFailed", note);
    };
    match class.provisioner.as_str() {
        PROVISIONER => {}
        "kubernetes.io/no-provisioner" => {
            let note = "no persistent volumes available for this claim and its class makes none";
            return tell(Severity::Normal, "FailedBinding", note.to_owned());
        }
        other => {
            let note = format!(
                "Waiting for a volume to be created either by the external provisioner '{other}' or manually by the \
                 system administrator. If volume creation is delayed, please verify that the provisioner is running \
                 and correctly registered."
            );
            return tell(Severity::Normal, "ExternalProvisioning", note);
        }
    }
    // It may be there already and not be told of as free: it is bound from the start.
    let made = provision::name(claim);
    if view.volumes.contains_key(&made) {
        return (!is_pending(claim)).then_some(pending);
    }
    match view.provisioner.volume(claim, class) {
        Ok(volume) => {
            let note = format!("Successfully provisioned volume {made} using {PROVISIONER}");
            let create = step(Action::CreateVolume(volume), "no volume suits, and its class makes them");
            Some(telling(create, Severity::Normal, "ProvisioningSucceeded", note))
        }
        Err(why) => {
            let note = format!("failed to provision volume with StorageClass {name:?}: {why}");
            tell(Severity::Warning, "ProvisioningFailed", note)
        }
    }
}

/// A claim that names its volume.
fn wanting(claim: &PersistentVolumeClaim, name: &str, view: &View) -> Option<Step<Action>> {
    let pending = pending(claim);
    let Some(volume) = view.volumes.get(name) else {
        return (!is_pending(claim)).then_some(pending);
    };
    if is_for(volume, claim) {
        return bind(claim, volume);
    }
    if reference(volume).is_some() {
        let note = format!("volume {name:?} already bound to a different claim.");
        return Some(telling(pending, Severity::Warning, "FailedBinding", note));
    }
    match mismatch(claim, volume) {
        None => bind(claim, volume),
        Some(why) => {
            let note = format!("Cannot bind to requested volume {name:?}: {why}");
            Some(telling(pending, Severity::Warning, "VolumeMismatch", note))
        }
    }
}

/// A claim that was bound before.
fn bound(claim: &PersistentVolumeClaim, view: &View) -> Option<Step<Action>> {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    let lost = |reason: &str, note: &str| {
        let is_lost = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost");
        let patch = since(&claim.metadata, json!({ "status": { "phase": "Lost" } }));
        let write = step(Action::PatchClaimStatus(key(claim), patch), "its volume is not what it was bound to");
        (!is_lost).then(|| telling(write, Severity::Warning, reason, note))
    };
    if name.is_empty() {
        return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    match view.volumes.get(name) {
        None => lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        Some(volume) if reference(volume).is_none() || is_for(volume, claim) => bind(claim, volume),
        Some(_) => lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
    }
}

/// The next of the four writes that bind the two; none, if they are bound.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Step<Action>> {
    let (mine, theirs) = (&claim.metadata, &volume.metadata);
    let name = theirs.name.clone().unwrap_or_default();
    let held = reference(volume);
    if held.is_none_or(|held| held.uid != mine.uid) {
        let mut patch = json!({ "spec": { "claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": mine.namespace, "name": mine.name,
            "uid": mine.uid, "resourceVersion": mine.resource_version,
        } } });
        if held.is_none() {
            patch["metadata"] = json!({ "annotations": { BOUND_BY_CONTROLLER: "yes" } });
        }
        return Some(step(Action::PatchVolume(name, since(theirs, patch)), "it suits the claim"));
    }
    if volume.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        let patch = since(theirs, json!({ "status": { "phase": "Bound", "reason": null, "message": null } }));
        return Some(step(Action::PatchVolumeStatus(name, patch), "it has its claim"));
    }
    let spec = claim.spec.clone().unwrap_or_default();
    let had = spec.volume_name.filter(|name| !name.is_empty());
    if had.as_ref() != Some(&name) || annotation(mine, BIND_COMPLETED).is_none() {
        let mut notes = json!({ BIND_COMPLETED: "yes" });
        if had.is_none() {
            notes[BOUND_BY_CONTROLLER] = json!("yes");
        }
        let patch = json!({ "metadata": { "annotations": notes }, "spec": { "volumeName": name } });
        return Some(step(Action::PatchClaim(key(claim), since(mine, patch)), "its volume is bound to it"));
    }
    let status = claim.status.clone().unwrap_or_default();
    let offered = volume.spec.clone().unwrap_or_default();
    if status.phase.as_deref() != Some("Bound")
        || status.access_modes != offered.access_modes
        || status.capacity != offered.capacity
    {
        let patch = json!({ "status": {
            "phase": "Bound", "accessModes": offered.access_modes, "capacity": offered.capacity } });
        return Some(step(Action::PatchClaimStatus(key(claim), since(mine, patch)), "it is bound"));
    }
    None
}

fn is_pending(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending")
}

fn pending(claim: &PersistentVolumeClaim) -> Step<Action> {
    if is_pending(claim) {
        return step(Action::Announce, "it waits");
    }
    let patch = since(&claim.metadata, json!({ "status": { "phase": "Pending" } }));
    step(Action::PatchClaimStatus(key(claim), patch), "it waits")
}
