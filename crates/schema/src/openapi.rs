//! OpenAPI documents of an API, made from the table: version 3 per group and version, version 2 as a whole.
//!
//! Clients need them to explain and check what users write: descriptions, requirements and types, the merge rules
//! (`x-kubernetes-…`), and for every kind a `patch` operation that has a `fieldValidation` parameter.
//!
//! Invariant: a document refers only to schemas that it has. Left out: the values of enumerations, which the table does
//! not know, and the deprecated `/watch/` paths.

mod gnostic;
mod paths;
mod v2;

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

use crate::types::{Field, ListRule, Presence, Schema, Shape, Type, Value};

pub use gnostic::document as gnostic_document;
pub use v2::document as v2_document;

/// One resource of a group and version.
#[derive(Debug, Clone)]
pub struct Resource {
    /// The group, empty for core.
    pub group: &'static str,
    /// The version in the group.
    pub version: &'static str,
    /// `Job`.
    pub kind: &'static str,
    /// `jobs`.
    pub plural: &'static str,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether objects can be written.
    pub writable: bool,
    /// Whether it has a status of its own.
    pub status: bool,
}

impl Resource {
    fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    fn of(&self) -> Option<&'static Type> {
        Schema::get().kind(&self.api_version(), self.kind)
    }
}

/// What comes before the name of a schema in a reference.
const SCHEMAS: &str = "#/components/schemas/";

/// The document of one group and version, whose resources these are. Resources whose kind the table does not have are
/// left out.
pub fn v3_document(resources: &[Resource], release: &str) -> Json {
    let resources: Vec<&Resource> = resources.iter().filter(|resource| resource.of().is_some()).collect();
    let paths = paths::of(&resources);
    let group = resources.first().map_or("", |resource| resource.group);
    let mut names = BTreeSet::new();
    references(&paths, &mut names);
    // What a watch sends, which no path tells.
    names.insert("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent".to_owned());
    let mut schemas = Map::new();
    while let Some(name) = names.pop_first() {
        if let (false, Some(of)) = (schemas.contains_key(&name), Schema::get().named(&name)) {
            let schema = schema(of, group);
            references(&schema, &mut names);
            schemas.insert(name, schema);
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": release },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header",
            } },
        },
    })
}

/// The names of all schemas that a part of a document refers to.
fn references(part: &Json, names: &mut BTreeSet<String>) {
    match part {
        Json::Object(members) => {
            if let Some(name) = members.get("$ref").and_then(|r| r.as_str()?.strip_prefix(SCHEMAS)) {
                names.insert(name.to_owned());
            }
            members.values().for_each(|member| references(member, names));
        }
        Json::Array(items) => items.iter().for_each(|item| references(item, names)),
        _ => {}
    }
}

fn reference(of: &Type) -> Json {
    json!({ "$ref": format!("{SCHEMAS}{}", of.name) })
}

/// The schema of a type.
fn schema(of: &Type, group: &str) -> Json {
    let mut schema = match of.shape {
        Shape::Struct => {
            let properties: Map<_, _> =
                of.fields().iter().map(|field| (field.name.to_owned(), property(field))).collect();
            let required: Vec<_> = of.fields().iter().filter(|field| field.required).map(|field| field.name).collect();
            let mut schema = json!({ "type": "object" });
            if !properties.is_empty() {
                schema["properties"] = properties.into();
            }
            if !required.is_empty() {
                schema["required"] = required.into();
            }
            schema
        }
        Shape::Quantity => json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
        Shape::IntOrString => {
            json!({ "format": "int-or-string", "oneOf": [{ "type": "integer" }, { "type": "string" }] })
        }
        Shape::Time | Shape::MicroTime => json!({ "type": "string", "format": "date-time" }),
        Shape::FieldsV1 | Shape::RawExtension | Shape::Any => json!({ "type": "object" }),
    };
    if !of.doc().is_empty() {
        schema["description"] = of.doc().into();
    }
    if of.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    if let Some(kinds) = kinds(of, group) {
        schema["x-kubernetes-group-version-kind"] = kinds;
    }
    schema
}

/// The groups, versions and kinds that a type is the form of. Options and events of a watch belong to every group.
fn kinds(of: &Type, group: &str) -> Option<Json> {
    if let Some((version, kind)) = of.kind {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        return Some(json!([{ "group": group, "kind": kind, "version": version }]));
    }
    let kind = of.name.rsplit('.').next().filter(|kind| matches!(*kind, "DeleteOptions" | "WatchEvent"))?;
    let mut kinds = vec![json!({ "group": "", "kind": kind, "version": "v1" })];
    if !group.is_empty() {
        kinds.push(json!({ "group": group, "kind": kind, "version": "v1" }));
    }
    Some(kinds.into())
}

fn property(field: &Field) -> Json {
    let mut property = value(&field.value);
    let fixed = field.default.and_then(|default| serde_json::from_str(default).ok());
    let default = match (&field.value, fixed) {
        (_, Some(fixed)) => Some(fixed),
        (Value::Object(id), None) if field.presence != Presence::Pointer => {
            (Schema::get().at(*id).shape == Shape::Struct).then(|| json!({}))
        }
        (plain, None) if field.presence == Presence::Always => match plain {
            Value::String => Some("".into()),
            Value::Bool => Some(false.into()),
            Value::Int32 | Value::Int64 | Value::Double => Some(0.into()),
            _ => None,
        },
        _ => None,
    };
    let doc = field.doc();
    // Nothing may stand beside a reference.
    if property.get("$ref").is_some() && (default.is_some() || !doc.is_empty()) {
        property = json!({ "allOf": [property] });
    }
    if let Some(default) = default {
        property["default"] = default;
    }
    if !doc.is_empty() {
        property["description"] = doc.into();
    }
    match &field.list {
        Some(ListRule::Atomic) => property["x-kubernetes-list-type"] = "atomic".into(),
        Some(ListRule::Set) => property["x-kubernetes-list-type"] = "set".into(),
        Some(ListRule::Map(keys)) => {
            property["x-kubernetes-list-type"] = "map".into();
            property["x-kubernetes-list-map-keys"] = keys.clone().into();
        }
        None => {}
    }
    if field.atomic {
        property["x-kubernetes-map-type"] = "atomic".into();
    }
    let patch = &field.patch;
    let strategies = [("merge", patch.merge), ("replace", patch.replace), ("retainKeys", patch.retain_keys)];
    let strategies: Vec<_> = strategies.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    if !strategies.is_empty() {
        property["x-kubernetes-patch-strategy"] = strategies.join(",").into();
    }
    if let Some(key) = patch.key {
        property["x-kubernetes-patch-merge-key"] = key.into();
    }
    property
}

fn value(of: &Value) -> Json {
    match of {
        Value::String => json!({ "type": "string" }),
        Value::Bool => json!({ "type": "boolean" }),
        Value::Int32 => json!({ "type": "integer", "format": "int32" }),
        Value::Int64 => json!({ "type": "integer", "format": "int64" }),
        Value::Double => json!({ "type": "number", "format": "double" }),
        Value::Bytes => json!({ "type": "string", "format": "byte" }),
        Value::Object(id) => reference(Schema::get().at(*id)),
        Value::List(item) => json!({ "type": "array", "items": value(item) }),
        Value::Map(item) => json!({ "type": "object", "additionalProperties": value(item) }),
    }
}
