//! Object metadata: name, namespace, labels, annotations, owners, finalizers, managed fields.
//!
//! Upstream: `apimachinery/pkg/api/validation/objectmeta.go`, `apimachinery/pkg/apis/meta/v1/validation`, v1.36.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use serde::Serialize;

use super::{entries, invalid_for, items, non_negative, text};
use crate::field::{Fault, Path, Value};
use crate::names;

const TOTAL_ANNOTATION_BYTES: usize = 256 * 1024;

/// Which syntax an object's name must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// Jobs, Pods, ConfigMaps and most others.
    DnsSubdomain,
    /// Namespaces.
    DnsLabel,
    /// Services, whose names must begin with a letter.
    Dns1035Label,
    /// Roles and their bindings, and core/v1 Events: whatever can be a segment of a path.
    PathSegment,
}

impl NameRule {
    fn reasons(self, name: &str) -> Vec<String> {
        match self {
            NameRule::DnsSubdomain => names::dns_subdomain(name),
            NameRule::DnsLabel => names::dns_label(name),
            NameRule::Dns1035Label => names::dns_1035_label(name),
            NameRule::PathSegment => names::path_segment(name),
        }
    }
}

/// What is wrong with the metadata of a new namespaced object. An absent namespace is not a fault here: the caller
/// knows it from the request.
pub fn object_meta(meta: &ObjectMeta, rule: NameRule, faults: &mut Vec<Fault>) {
    let root = Path::root();
    let path = root.field("metadata");
    if let Some(base) = meta.generate_name.as_deref().filter(|b| !b.is_empty()) {
        let reasons = rule.reasons(&names::mask_trailing_dash(base));
        invalid_for(reasons, &path.field("generateName"), base, faults);
    }
    match text(meta.name.as_ref()) {
        "" => faults.push(Fault::required(&path.field("name"), "name or generateName is required")),
        name => invalid_for(rule.reasons(name), &path.field("name"), name, faults),
    }
    if let Some(namespace) = meta.namespace.as_deref().filter(|n| !n.is_empty()) {
        invalid_for(names::dns_label(namespace), &path.field("namespace"), namespace, faults);
    }
    common(meta, &path, faults);
}

/// What is wrong with replacing the metadata `old` by `new`: identity may not change.
pub fn object_meta_update(old: &ObjectMeta, new: &ObjectMeta, faults: &mut Vec<Fault>) {
    let root = Path::root();
    let path = root.field("metadata");
    let deleting = old.deletion_timestamp.is_some();
    if deleting {
        let before = items(old.finalizers.as_ref());
        let mut added: Vec<_> = items(new.finalizers.as_ref()).iter().filter(|f| !before.contains(f)).collect();
        added.sort();
        added.dedup();
        if !added.is_empty() {
            let list = added.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ");
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
            );
            faults.push(Fault::forbidden(&path.field("finalizers"), &detail));
        }
    }
    if new.generation < old.generation {
        let value = new.generation.unwrap_or_default();
        faults.push(Fault::invalid(&path.field("generation"), value, "must not be decremented"));
    }
    let immutable = |field: &str, old: &str, new: &str, faults: &mut Vec<Fault>| {
        if old != new {
            faults.push(Fault::invalid(&path.field(field), new, "field is immutable"));
        }
    };
    immutable("name", text(old.name.as_ref()), text(new.name.as_ref()), faults);
    immutable("namespace", text(old.namespace.as_ref()), text(new.namespace.as_ref()), faults);
    immutable("uid", text(old.uid.as_ref()), text(new.uid.as_ref()), faults);
    if old.creation_timestamp != new.creation_timestamp {
        let value = Value::json(&new.creation_timestamp);
        faults.push(Fault::invalid(&path.field("creationTimestamp"), value, "field is immutable"));
    }
    if old.deletion_timestamp != new.deletion_timestamp {
        let value = Value::json(&new.deletion_timestamp);
        faults.push(Fault::invalid(&path.field("deletionTimestamp"), value, "field is immutable"));
    }
    if old.deletion_grace_period_seconds != new.deletion_grace_period_seconds {
        let value = Value::json(&new.deletion_grace_period_seconds);
        let path = path.field("deletionGracePeriodSeconds");
        faults.push(Fault::invalid(&path, value, "field is immutable"));
    }
    common(new, &path, faults);
}

/// What every update is checked for before its kind's own rules, which check most of it again: causes repeat, and clients
/// count them. Upstream: `apiserver/pkg/registry/rest/update.go`, `validateCommonFields`.
pub(super) fn before_update(old: &ObjectMeta, new: &ObjectMeta, faults: &mut Vec<Fault>) {
    let root = Path::root();
    common(new, &root.field("metadata"), faults);
    object_meta_update(old, new, faults);
}

fn common(meta: &ObjectMeta, path: &Path<'_>, faults: &mut Vec<Fault>) {
    non_negative(meta.generation, &path.field("generation"), faults);
    labels(meta.labels.as_ref(), &path.field("labels"), faults);
    annotations(meta.annotations.as_ref(), &path.field("annotations"), faults);
    owner_references(items(meta.owner_references.as_ref()), &path.field("ownerReferences"), faults);
    finalizers(items(meta.finalizers.as_ref()), &path.field("finalizers"), faults);
    let fields = path.field("managedFields");
    for (i, entry) in items(meta.managed_fields.as_ref()).iter().enumerate() {
        managed_fields(entry, &fields.index(i), faults);
    }
    // Only now the rule of unqualified names: upstream runs it in a pass of its own.
    let path = path.field("finalizers");
    for (i, finalizer) in items(meta.finalizers.as_ref()).iter().enumerate() {
        let standard = ["kubernetes", "orphan", "foregroundDeletion"];
        if !finalizer.contains('/') && !standard.contains(&finalizer.as_str()) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            faults.push(Fault::invalid(&path.index(i), finalizer, detail));
        }
    }
}

/// Keys and values of a label map; every fault is told at the map's own path.
pub(super) fn labels(labels: Option<&BTreeMap<String, String>>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    for (key, value) in entries(labels) {
        invalid_for(names::qualified_name(key), path, key, faults);
        invalid_for(names::label_value(value), path, value, faults);
    }
}

/// Keys and total size of annotations.
pub(super) fn annotations(map: Option<&BTreeMap<String, String>>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut bytes = 0;
    for (key, value) in entries(map) {
        invalid_for(names::qualified_name(&key.to_lowercase()), path, key, faults);
        bytes += key.len() + value.len();
    }
    if bytes > TOTAL_ANNOTATION_BYTES {
        faults.push(Fault::too_long(path, TOTAL_ANNOTATION_BYTES));
    }
}

/// How many bytes of owners are shown when more than one of them is the controller.
const SHOWN_OWNERS: usize = 1 << 20;

fn owner_references(owners: &[OwnerReference], path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut controller: Option<String> = None;
    // Each fault below shows all owners: of many there would be gigabytes, so that it is enough to tell some.
    let length =
        |owner: &OwnerReference| owner.name.len() + owner.uid.len() + owner.api_version.len() + owner.kind.len();
    let shown = owners.iter().map(|owner| length(owner) + 64).sum::<usize>();
    let mut tellable = (SHOWN_OWNERS / shown.max(1)).max(1);
    for owner in owners {
        owner_reference(owner, path, faults);
        if owner.controller == Some(true) {
            let this = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                Some(_) if tellable == 0 => {}
                Some(first) => {
                    tellable -= 1;
                    let list: Vec<_> = owners.iter().map(GoOwnerReference::from).collect();
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    faults.push(Fault::invalid(path, Value::json(&list), detail));
                }
                None => controller = Some(this),
            }
        }
    }
}

fn owner_reference(owner: &OwnerReference, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let version = match owner.api_version.split('/').collect::<Vec<_>>()[..] {
        [version] | [_, version] => version,
        _ => "",
    };
    if version.is_empty() {
        faults.push(Fault::invalid(&path.field("apiVersion"), &owner.api_version, "version must not be empty"));
    }
    for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
        if value.is_empty() {
            faults.push(Fault::invalid(&path.field(field), value, "must not be empty"));
        }
    }
    if owner.api_version == "v1" && owner.kind == "Event" {
        let value = Value::json(&GoOwnerReference::from(owner));
        faults.push(Fault::invalid(path, value, "/v1, Kind=Event is disallowed from being an owner"));
    }
}

/// An owner reference with its members in Go's order, as messages print it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GoOwnerReference<'a> {
    api_version: &'a str,
    kind: &'a str,
    name: &'a str,
    uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_owner_deletion: Option<bool>,
}

impl<'a> From<&'a OwnerReference> for GoOwnerReference<'a> {
    fn from(owner: &'a OwnerReference) -> Self {
        GoOwnerReference {
            api_version: &owner.api_version,
            kind: &owner.kind,
            name: &owner.name,
            uid: &owner.uid,
            controller: owner.controller,
            block_owner_deletion: owner.block_owner_deletion,
        }
    }
}

fn finalizers(finalizers: &[String], path: &Path<'_>, faults: &mut Vec<Fault>) {
    for finalizer in finalizers {
        invalid_for(names::qualified_name(finalizer), path, finalizer, faults);
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        faults.push(Fault::invalid(path, Value::json(&finalizers), detail));
    }
}

fn managed_fields(entry: &ManagedFieldsEntry, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let operation = text(entry.operation.as_ref());
    if !matches!(operation, "Apply" | "Update") {
        faults.push(Fault::invalid(&path.field("operation"), operation, "must be `Apply` or `Update`"));
    }
    let kind = text(entry.fields_type.as_ref());
    if !matches!(kind, "" | "FieldsV1") {
        faults.push(Fault::invalid(&path.field("fieldsType"), kind, "must be `FieldsV1`"));
    }
    if text(entry.manager.as_ref()).len() > 128 {
        faults.push(Fault::too_long(&path.field("manager"), 128));
    }
    if text(entry.subresource.as_ref()).len() > 256 {
        faults.push(Fault::too_long(&path.field("subresource"), 256));
    }
}
