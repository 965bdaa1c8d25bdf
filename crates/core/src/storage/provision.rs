//! The provisioner that is built in: a volume is a folder on the node.
//!
//! Invariant: a volume is named for its claim's uid, so that making it twice makes one.
//! Its class is called `standard`, as the default class of many clusters is, so that manifests which name that work.
//! What a claim asks for is what its volume says it holds; nobody stops a pod from filling the disk beyond it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::{DATA_FINALIZER, DEFAULT_CLASS, PROVISIONED_BY, VOLUME_PROTECTION, annotation};

/// The name of the class.
pub const CLASS: &str = "standard";
/// The name of the provisioner.
pub const PROVISIONER: &str = "stint.dev/local";

/// Where volumes are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provisioner {
    /// The node that has them.
    pub node: String,
    /// Its folder for them.
    pub folder: PathBuf,
}

/// The class of volumes that are made here, unless it is among these; the default one, if none of these is.
pub fn class(there: &BTreeMap<String, StorageClass>) -> Option<Value> {
    let is_default = !there.values().any(|class| annotation(&class.metadata, DEFAULT_CLASS) == Some("true"));
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": { "name": CLASS, "annotations": { DEFAULT_CLASS: is_default.to_string() } },
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
    });
    (!there.contains_key(CLASS)).then_some(class)
}

impl Provisioner {
    /// The volume for a claim, bound to it from the start; or why there is none.
    pub(super) fn volume(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<Value, &'static str> {
        let spec = claim.spec.clone().unwrap_or_default();
        if spec.volume_mode.as_deref() == Some("Block") {
            return Err("block volumes are not provided");
        }
        if spec.data_source.is_some() || spec.data_source_ref.is_some() {
            return Err("a volume can't be filled from a data source");
        }
        if spec.selector.is_some() {
            return Err("claim.Spec.Selector is not supported");
        }
        let name = name(claim);
        let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
        let mut finalizers = vec![VOLUME_PROTECTION];
        if policy == "Delete" {
            finalizers.push(DATA_FINALIZER);
        }
        let meta = &claim.metadata;
        let node = json!([{ "key": "kubernetes.io/hostname", "operator": "In", "values": [self.node] }]);
        Ok(json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": { "name": name, "annotations": { PROVISIONED_BY: PROVISIONER }, "finalizers": finalizers },
            "spec": {
                "capacity": spec.resources.and_then(|resources| resources.requests),
                "accessModes": spec.access_modes,
                "persistentVolumeReclaimPolicy": policy,
                "storageClassName": class.metadata.name,
                "volumeMode": "Filesystem",
                "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace,
                              "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version },
                "local": { "path": self.folder.join(&name) },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": node }] } },
            },
        }))
    }
}

/// The name of the volume that is made for a claim.
pub(super) fn name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}
