//! Patches that name nothing but `metadata` and `status`, as nearly all of controllers and agents do: of the stored object
//! only these members are read as JSON, patched and decoded, and put into a copy of what is known of it already.
//!
//! Invariant: what comes of it is what comes of patching the whole object. Where anything is odd, a fault or a member that
//! is dropped, nothing comes of it: then the whole is patched, which finds it again and says so.
//! Left out: kinds whose status is not apart ([`Strategy::take_status`](crate::strategy::Strategy::take_status)).

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use stint_core::decode::Tree;
use stint_schema::strategic;

use crate::body;
use crate::encoding::without_entries;
use crate::kinds::Kind;
use crate::params::FieldValidation;
use crate::strategy::Object;
use crate::verbs::patch::Patch;

const METADATA: &str = "metadata";
const STATUS: &str = "status";
const ENTRIES: &str = "managedFields";

/// `old`, which is stored as `stored`, with the patch applied.
pub(super) fn patched(kind: &Kind, patch: &Patch, old: &dyn Object, stored: &Bytes) -> Option<Box<dyn Object>> {
    let (form, named) = (kind.form()?, patch.members()?);
    let names_entries = named.get(METADATA).is_some_and(|metadata| metadata.get(ENTRIES).is_some());
    let is_of_parts = named.keys().all(|name| [METADATA, STATUS].contains(&name.as_str()));
    if kind.facts.show.is_some() || names_entries || !is_of_parts {
        return None;
    }
    let without_entries = without_entries(stored).map(|(rest, _)| rest);
    let stored = without_entries.as_deref().unwrap_or(stored);
    let parts = Named(named).deserialize(&mut serde_json::Deserializer::from_slice(stored)).ok()?;
    let document = patch.apply(Value::Object(parts), form).ok()?;
    if strategic::unrestorable(form, &document).is_some() {
        return None;
    }
    let (mut part, dropped) = body::decode_tree(kind, &Tree::of(document), FieldValidation::Warn).ok()?;
    let mut new = old.duplicate();
    if !dropped.is_empty() || (named.contains_key(STATUS) && !new.take_status(part.as_mut())) {
        return None;
    }
    if named.contains_key(METADATA) {
        *new.meta_mut() = std::mem::take(part.meta_mut());
    }
    new.default_fields();
    Some(new)
}

/// Reads of an object the members that are named here.
struct Named<'a>(&'a Map<String, Value>);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if self.0.contains_key(&name) {
                found.insert(name, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stint_store::{Entry, Revision};

    use super::*;
    use crate::verbs::patch;

    fn stored(kind: &Kind, object: &Value) -> Entry {
        let (object, _) = body::decode(kind, object.to_string().as_bytes(), FieldValidation::Strict).unwrap();
        Entry { key: "k".into(), revision: Revision(7), value: object.encode().at(Revision(7)) }
    }

    fn objects() -> [(&'static Kind, Value); 3] {
        let kind = |group, plural| Kind::at(group, "v1", plural).unwrap();
        let metadata = json!({ "name": "a", "namespace": "n", "uid": "u", "labels": { "k": "v" },
            "finalizers": ["x", "batch.kubernetes.io/job-tracking"] });
        let containers = json!([{ "name": "c", "image": "i" }]);
        let template = json!({ "metadata": { "labels": { "t": "l" } },
            "spec": { "restartPolicy": "Never", "containers": containers } });
        let pod = json!({ "metadata": metadata, "spec": { "containers": containers },
            "status": { "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "True" }] } });
        let job = json!({ "metadata": metadata, "spec": { "template": template },
            "status": { "active": 1, "startTime": "2026-01-01T00:00:00Z" } });
        let cron_job = json!({ "metadata": metadata,
            "spec": { "schedule": "@daily", "jobTemplate": { "spec": { "template": template } } },
            "status": { "active": [{ "name": "x" }] } });
        [(kind("", "pods"), pod), (kind("batch", "jobs"), job), (kind("batch", "cronjobs"), cron_job)]
    }

    fn patches() -> Vec<Value> {
        vec![
            json!({ "status": { "phase": "Running" } }),
            json!({ "status": { "phase": null, "conditions": [{ "type": "Ready", "status": "False" }] } }),
            json!({ "status": { "active": null, "startTime": null } }),
            json!({ "status": null }),
            json!({ "metadata": { "uid": "u", "$deleteFromPrimitiveList/finalizers": ["x"] } }),
            json!({ "metadata": { "labels": null, "annotations": { "a": "b" } }, "status": {} }),
            json!({ "metadata": { "labels": { "k": null, "l": "m" }, "resourceVersion": "7" } }),
            json!({ "metadata": null }),
            json!({}),
        ]
    }

    #[test]
    fn a_patch_of_parts_is_the_patch_of_the_whole() {
        let mut applied = 0;
        for (kind, object) in objects() {
            let entry = stored(kind, &object);
            let old = (kind.facts.load)(&entry.value).unwrap();
            for patch in patches() {
                let Value::Object(members) = patch.clone() else { panic!("a patch is an object") };
                for patch in [Patch::Merge(patch), Patch::Strategic(members)] {
                    let Some(new) = patched(kind, &patch, old.as_ref(), &entry.value) else { continue };
                    let (whole, _) = patch::patched(kind, &patch, &entry, FieldValidation::Warn).unwrap();
                    assert_eq!(new.to_value(), whole.to_value(), "{}: {patch:?}", kind.kind);
                    applied += 1;
                }
            }
        }
        assert!(applied > 30, "most patches are of parts: {applied}");
    }

    #[test]
    fn what_is_odd_is_left_to_the_whole() {
        let [(kind, pod), ..] = objects();
        let entry = stored(kind, &pod);
        let old = (kind.facts.load)(&entry.value).unwrap();
        for odd in [
            json!({ "spec": { "nodeName": "n" } }),
            json!({ "kind": "Pod", "status": {} }),
            json!({ "status": { "zed": 1 } }),
            json!({ "status": { "phase": 1 } }),
            json!({ "$patch": "delete" }),
        ] {
            assert!(patched(kind, &Patch::Merge(odd.clone()), old.as_ref(), &entry.value).is_none(), "{odd}");
        }
    }
}
