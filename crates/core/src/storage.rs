//! Claims and volumes: which PersistentVolume a PersistentVolumeClaim gets, when one is made for it, and what becomes of
//! both.
//!
//! ```text
//!  claim   Pending ──a volume that suits, or one made for it──► Bound ──its volume is gone──► Lost
//!  volume  Available ──bound──► Bound ──its claim is gone──► Released ──Delete──► gone
//!                                                               └──Retain──► stays, for whoever looks after it
//!
//!  a binding is four writes, each of which leaves what says the next:
//!    volume.spec.claimRef ──► volume.status ──► claim.spec.volumeName ──► claim.status
//! ```
//!
//! Invariants: one write per decision, so that a crash between any two repeats nothing but the decision; a volume has one
//! claim and a claim one volume; what a pod may use keeps its finalizer.
//! Upstream: `pkg/controller/volume/persistentvolume/pv_controller.go`, `index.go`, `pkg/controller/volume/pvcprotection`,
//! `pkg/controller/volume/pvprotection`, v1.36.
//! Left out: growing a volume, volume attributes classes, snapshots and other data sources.

mod claim;
mod matching;
mod provision;
#[cfg(test)]
mod tests;
mod volume;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

pub use claim::claim;
pub use provision::{CLASS, PROVISIONER, Provisioner, class};
pub use volume::{is_ours, volume};

use crate::plan::{Event, Note, Severity, Step};

/// Keeps a claim while pods use it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume while it is bound.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Keeps a volume until the node has removed what is in it.
pub const DATA_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// A claim's namespace and name.
pub type ClaimKey = (String, String);

/// Everything that a decision looks at.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The claims that there are.
    pub claims: BTreeMap<ClaimKey, PersistentVolumeClaim>,
    /// The volumes, by name.
    pub volumes: BTreeMap<String, PersistentVolume>,
    /// The classes, by name.
    pub classes: BTreeMap<String, StorageClass>,
    /// By pod, as its uid: the claims that it names, and whether it is on a node.
    pub pods: BTreeMap<String, Uses>,
    /// Who makes volumes.
    pub provisioner: Provisioner,
}

/// Which claims a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uses {
    /// The claims.
    pub claims: Vec<ClaimKey>,
    /// Whether the pod is on a node, and so may use them.
    pub is_assigned: bool,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing: there is only something to tell.
    Announce,
    /// Make this volume.
    CreateVolume(Value),
    /// Change the volume, by a merge patch.
    PatchVolume(String, Value),
    /// Change the volume's status.
    PatchVolumeStatus(String, Value),
    /// Delete the volume.
    DeleteVolume(String),
    /// Change the claim.
    PatchClaim(ClaimKey, Value),
    /// Change the claim's status.
    PatchClaimStatus(ClaimKey, Value),
}

impl View {
    /// Whether a pod that is on a node names the claim.
    fn is_used(&self, key: &ClaimKey) -> bool {
        self.pods.values().any(|pod| pod.is_assigned && pod.claims.contains(key))
    }

    /// Whether any pod waits for the claim, or has it.
    fn is_wanted(&self, key: &ClaimKey) -> bool {
        self.pods.values().any(|pod| pod.claims.contains(key))
    }
}

impl Uses {
    /// What `pod` names; nothing, if it names no claim.
    pub fn of(pod: &Pod) -> Option<Uses> {
        let claims = claims_of(pod);
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        (!claims.is_empty()).then_some(Uses { claims, is_assigned: !node.is_empty() })
    }
}

/// The claims that a pod's volumes name, those that are made for it included.
pub fn claims_of(pod: &Pod) -> Vec<ClaimKey> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let named = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(ephemeral_name(pod, &volume.name)),
        (None, None) => None,
    });
    named.map(|name| (namespace.clone(), name)).collect()
}

/// The name of the claim that is made for a pod's ephemeral volume.
pub fn ephemeral_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.metadata.name.as_deref().unwrap_or_default())
}

/// A claim's key.
pub fn key(claim: &PersistentVolumeClaim) -> ClaimKey {
    (claim.metadata.namespace.clone().unwrap_or_default(), claim.metadata.name.clone().unwrap_or_default())
}

/// The name of the class that a claim asks for: `None` if it says nothing, empty if it wants none.
fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let old = annotation(&claim.metadata, OLD_CLASS);
    old.or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

/// A merge patch that fails if the object has changed since.
fn since(meta: &ObjectMeta, mut patch: Value) -> Value {
    if !patch["metadata"].is_object() {
        patch["metadata"] = serde_json::json!({});
    }
    patch["metadata"]["resourceVersion"] = meta.resource_version.clone().into();
    patch["metadata"]["uid"] = meta.uid.clone().into();
    patch
}

/// The patch that adds a finalizer, or takes it away.
fn finalizers(meta: &ObjectMeta, change: impl FnOnce(&mut Vec<String>)) -> Value {
    let mut all = meta.finalizers.clone().unwrap_or_default();
    change(&mut all);
    since(meta, serde_json::json!({ "metadata": { "finalizers": all } }))
}

fn step(action: Action, why: &str) -> Step<Action> {
    Step { action, why: why.to_owned(), events: Vec::new() }
}

fn telling(mut step: Step<Action>, severity: Severity, reason: &str, note: impl Into<String>) -> Step<Action> {
    step.events.push(Event { severity, reason: reason.to_owned(), note: Note::Text(note.into()) });
    step
}
