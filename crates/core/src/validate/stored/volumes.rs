//! PersistentVolumeClaims and PersistentVolumes.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`ValidatePersistentVolumeClaimSpec`,
//! `ValidatePersistentVolumeClaimUpdate`, `ValidatePersistentVolumeSpec`), v1.36. Left out: the fields of each sort of
//! volume, data sources, node affinity.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;

use crate::field::{Fault, Path, Value};
use crate::names;
use crate::quantity::{self, Quantity};
use crate::validate::{entries, invalid_for, items, selector, text};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
/// The members of a volume's spec that don't say where the data is.
const COMMON_MEMBERS: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// What is wrong with a PersistentVolumeClaim.
pub fn claim(claim: &PersistentVolumeClaim) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    let path = root.field("spec");
    let spec = claim.spec.clone().unwrap_or_default();
    let modes = items(spec.access_modes.as_ref());
    if modes.is_empty() {
        faults.push(Fault::required(&path.field("accessModes"), "at least 1 access mode is required"));
    }
    if let Some(selector) = &spec.selector {
        selector::validate(selector, &path.field("selector"), &mut faults);
    }
    access_modes(modes, &path.field("accessModes"), &mut faults);
    let resources = path.field("resources");
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    match requests.and_then(|requests| requests.get("storage")) {
        None => faults.push(Fault::required(&resources.key("storage"), "")),
        Some(amount) => positive(amount, &resources.key("storage"), &mut faults),
    }
    class_name(spec.storage_class_name.as_ref(), &path, &mut faults);
    volume_mode(spec.volume_mode.as_ref(), &path, &mut faults);
    faults
}

fn access_modes(modes: &[String], path: &Path<'_>, faults: &mut Vec<Fault>) {
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(&mode.as_str())) {
        faults.push(Fault::not_supported(path, mode.as_str(), &ACCESS_MODES));
    }
    let known = || modes.iter().filter(|mode| ACCESS_MODES.contains(&mode.as_str()));
    let alone = |mode: &&String| mode.as_str() == "ReadWriteOncePod";
    if known().any(|mode| alone(&mode)) && known().any(|mode| !alone(&mode)) {
        faults.push(Fault::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
}

fn positive(amount: &Raw, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if let Ok(amount) = quantity::parse(&amount.0)
        && amount <= Quantity::ZERO
    {
        faults.push(Fault::invalid(path, &amount.to_string(), "must be greater than zero"));
    }
}

fn class_name(name: Option<&String>, spec: &Path<'_>, faults: &mut Vec<Fault>) {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        invalid_for(names::dns_subdomain(name), &spec.field("storageClassName"), name, faults);
    }
}

fn volume_mode(mode: Option<&String>, spec: &Path<'_>, faults: &mut Vec<Fault>) {
    if let Some(mode) = mode.filter(|mode| !VOLUME_MODES.contains(&mode.as_str())) {
        faults.push(Fault::not_supported(&spec.field("volumeMode"), mode.as_str(), &VOLUME_MODES));
    }
}

/// What is wrong with changing a PersistentVolumeClaim, besides what is wrong with the new one: it may be bound, and may
/// ask for another amount.
pub fn claim_update(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim) -> Vec<Fault> {
    let (mut before, after) = (old.spec.clone().unwrap_or_default(), new.spec.clone().unwrap_or_default());
    if text(before.volume_name.as_ref()).is_empty() {
        before.volume_name.clone_from(&after.volume_name);
    }
    if before.storage_class_name.is_none() {
        // The default class, which came to be there after the claim (`RetroactiveDefaultStorageClass`).
        before.storage_class_name.clone_from(&after.storage_class_name);
    }
    before.volume_attributes_class_name.clone_from(&after.volume_attributes_class_name);
    let requests = after.resources.as_ref().and_then(|resources| resources.requests.clone());
    if before.resources.is_some() || requests.is_some() {
        before.resources.get_or_insert_default().requests = requests;
    }
    if before == after {
        return Vec::new();
    }
    let detail =
        "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    vec![Fault::forbidden(&Path::root().field("spec"), detail)]
}

/// What is wrong with a PersistentVolume.
pub fn volume(volume: &PersistentVolume) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    let path = root.field("spec");
    let spec = volume.spec.clone().unwrap_or_default();
    let modes = items(spec.access_modes.as_ref());
    if modes.is_empty() {
        faults.push(Fault::required(&path.field("accessModes"), ""));
    }
    access_modes(modes, &path.field("accessModes"), &mut faults);
    let capacity = path.field("capacity");
    let amounts = spec.capacity.as_ref().filter(|amounts| !amounts.is_empty());
    if amounts.is_none() {
        faults.push(Fault::required(&capacity, ""));
    }
    if amounts.is_none_or(|amounts| amounts.len() > 1 || !amounts.contains_key("storage")) {
        faults.push(Fault::not_supported(&capacity, Value::json(&spec.capacity), &["storage"]));
    }
    for (name, amount) in entries(amounts) {
        positive(amount, &capacity.key(name), &mut faults);
    }
    let policies = ["Delete", "Recycle", "Retain"];
    let policy = text(spec.persistent_volume_reclaim_policy.as_ref());
    if !policy.is_empty() && !policies.contains(&policy) {
        faults.push(Fault::not_supported(&path.field("persistentVolumeReclaimPolicy"), policy, &policies));
    }
    let members = members(&spec);
    let mut sources = members.iter().filter(|name| !COMMON_MEMBERS.contains(&name.as_str()));
    match (sources.next(), sources.next()) {
        (None, _) => faults.push(Fault::required(&path, "must specify a volume type")),
        (_, Some(second)) => {
            faults.push(Fault::forbidden(&path.field(second), "may not specify more than 1 volume type"));
        }
        _ => {}
    }
    class_name(spec.storage_class_name.as_ref(), &path, &mut faults);
    volume_mode(spec.volume_mode.as_ref(), &path, &mut faults);
    faults
}

/// The names of what the spec has.
fn members(spec: &PersistentVolumeSpec) -> Vec<String> {
    match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(members)) => members.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::super::tests::{of, told};
    use super::*;

    fn claim_of(spec: &Json) -> PersistentVolumeClaim {
        of(json!({ "spec": spec }))
    }

    #[test]
    fn a_claim_says_how_it_is_used_and_how_much_it_needs() {
        let good = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        assert!(claim(&claim_of(&good)).is_empty());
        assert_eq!(
            told(&claim(&claim_of(&json!({})))),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ]
        );
        assert_eq!(
            told(&claim(&claim_of(&json!({
                "accessModes": ["ReadWriteOncePod", "ReadOnlyMany", "X"], "resources": {"requests": {"storage": "0"}},
                "volumeMode": "Tape", "storageClassName": "A",
            }))))[..3],
            [
                "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
            ]
        );
    }

    #[test]
    fn a_claim_may_be_bound_and_grow_and_nothing_else() {
        let spec = |amount: &str, volume: &str, class: &str| {
            claim_of(&json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": amount}},
                "volumeName": volume, "storageClassName": class}))
        };
        assert!(claim_update(&spec("1Gi", "", "a"), &spec("2Gi", "v", "a")).is_empty());
        for changed in [spec("1Gi", "w", "a"), spec("1Gi", "v", "b")] {
            assert_eq!(
                told(&claim_update(&spec("1Gi", "v", "a"), &changed)),
                [
                    "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
                ]
            );
        }
    }

    #[test]
    fn a_volume_has_one_source_and_a_capacity() {
        let spec = |spec: Json| told(&volume(&of(json!({ "spec": spec }))));
        let nothing: [&str; 0] = [];
        let good =
            json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}});
        assert_eq!(spec(good), nothing);
        assert_eq!(
            spec(json!({"persistentVolumeReclaimPolicy": "Burn", "capacity": {"cpu": "1"}})),
            [
                "spec.accessModes: Required value",
                "spec.capacity: Unsupported value: {\"cpu\":\"1\"}: supported values: \"storage\"",
                "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Burn\": supported values: \"Delete\", \"Recycle\", \"Retain\"",
                "spec: Required value: must specify a volume type",
            ]
        );
        let two = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"},
            "local": {"path": "/y"}});
        assert_eq!(spec(two), ["spec.local: Forbidden: may not specify more than 1 volume type"]);
    }
}
