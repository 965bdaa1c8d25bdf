//! `PATCH` of an object or its status: JSON patch, merge patch, strategic merge patch and server-side apply.
//!
//! Invariant: a patch is applied to the state that it replaces; when that changed meanwhile, it is applied again.
//! Upstream: `apiserver/pkg/endpoints/handlers/patch.go`, v1.36.

use ::json_patch::{PatchOperation, merge};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value};
use stint_core::admit::dedup_owner_references;
use stint_core::decode::Tree;
use stint_core::field::{Fault, Path};
use stint_core::manifest::{Limits, first_document};
use stint_schema::strategic::{self, PatchError};
use stint_schema::{form::Form, go};
use stint_store::Entry;

use crate::dispatch::Call;
use crate::kinds::Kind;
use crate::managed::{Entries, apply};
use crate::params::{FieldValidation, object_revision};
use crate::status::{Error, Result};
use crate::strategy::Object;
use crate::update::{Change, Part, Replaced, find, load, replace};
use crate::verbs::update::{expect_same_patched_place, expect_same_place, expect_same_uid};
use crate::verbs::{create, json_patch, parts};
use crate::{auth, body};

/// The most operations of a JSON patch.
const MOST_OPERATIONS: usize = 10_000;
const OPTIONS: &str = "PatchOptions";

/// A patch that was read.
#[derive(Debug)]
pub(super) enum Patch {
    Merge(Value),
    Strategic(Map<String, Value>),
    Json {
        operations: Vec<PatchOperation>,
        /// Members of operations that mean nothing.
        unknown: Vec<String>,
    },
}

pub(crate) async fn patch(call: &Call, name: &str, part: Part) -> Result<Response> {
    if body::media_type(&call.headers).as_deref() == Some("application/apply-patch+yaml") {
        return apply_configuration(call, name, part).await;
    }
    let Call { api, place, params, .. } = call;
    let kind = place.kind;
    let patch = Patch::read(call)?;
    let dry_run = params.dry_run(OPTIONS)?;
    let validation = params.field_validation(OPTIONS)?;
    if params.get("force").is_some() {
        let root = Path::root();
        let fault = Fault::forbidden(&root.field("force"), "may not be specified for non-apply patch");
        return Err(Error::options(OPTIONS, vec![fault]));
    }
    let writer = call.writer(part, OPTIONS)?;
    let entries = writer.as_ref().map_or(Entries::Kept, Entries::TrackedFor);
    loop {
        let entry = find(api, place, name)?;
        let old = load(api, place, &entry)?;
        let (mut new, mut warnings) = match parts::patched(kind, &patch, old.as_ref(), &entry.value) {
            Some(new) => (new, Vec::new()),
            None => patched(kind, &patch, &entry, validation)?,
        };
        expect_same_patched_place(place, name, new.as_mut())?;
        warnings.extend(dedup_owner_references(new.meta_mut()));
        expect_same_uid(place, name, new.as_ref(), old.as_ref())?;
        let expected = object_revision(new.meta().resource_version.as_deref())?;
        if expected.is_some_and(|expected| expected != entry.revision) {
            return Err(Error::modified(place.kind, name));
        }
        match replace(api, place, &entry, &old, new, Change { part, entries, dry_run }).await? {
            Replaced::Done(value, told) => return Ok(told.reply(StatusCode::OK, kind.shown(value), warnings)),
            Replaced::Lost => {}
        }
    }
}

/// Server-side apply: what the client wants to be true of its fields, whatever else the object has.
async fn apply_configuration(call: &Call, name: &str, part: Part) -> Result<Response> {
    let Call { api, place, params, .. } = call;
    let kind = place.kind;
    if params.get("fieldManager").is_none() {
        let root = Path::root();
        let fault = Fault::required(&root.field("fieldManager"), "is required for apply patch");
        return Err(Error::options(OPTIONS, vec![fault]));
    }
    let force = params.flag("force");
    let writer = call.writer(part, OPTIONS)?;
    let dry_run = params.dry_run(OPTIONS)?;
    let validation = params.field_validation(OPTIONS)?;
    let Some(writer) = writer else {
        return Err(Error::Internal("this API keeps no account of field managers, so nothing can be applied".into()));
    };
    let (config, warnings) = configuration(call, validation)?;
    loop {
        let entry = api.store.get(&place.key(name));
        let Some(entry) = entry else {
            if part != Part::Main {
                return Err(Error::NotFound { kind, name: name.to_owned() });
            }
            auth::expect_may_create(api, place, name)?;
            let applied = apply(kind, &writer, None, &config, force)?;
            let (mut object, _) = body::decode(kind, applied.object.to_string().as_bytes(), FieldValidation::Ignore)?;
            if let Some(uid) = object.meta().uid.as_deref().filter(|uid| !uid.is_empty()) {
                let why =
                    format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
                return Err(Error::conflict(kind, name, why));
            }
            expect_same_place(place, name, object.as_mut())?;
            create::place_in(place, object.as_mut())?;
            let entries = applied.entries(kind);
            match create::make(call, object, Entries::Signed(&entries), warnings.clone(), dry_run).await {
                // Somebody else has just made it: then this is an apply to theirs.
                Err(Error::AlreadyExists { .. }) if api.store.get(&place.key(name)).is_some() => continue,
                done => return done,
            }
        };
        let old = load(api, place, &entry)?;
        let applied = apply(kind, &writer, Some(&old), &config, force)?;
        let (mut new, _) = body::decode(kind, applied.object.to_string().as_bytes(), FieldValidation::Ignore)?;
        let entries = applied.entries(kind);
        expect_same_place(place, name, new.as_mut())?;
        expect_same_uid(place, name, new.as_ref(), old.as_ref())?;
        let expected = object_revision(new.meta().resource_version.as_deref())?;
        if expected.is_some_and(|expected| expected != entry.revision) {
            return Err(Error::modified(kind, name));
        }
        let change = Change { part, entries: Entries::Signed(&entries), dry_run };
        match replace(api, place, &entry, &old, new, change).await? {
            Replaced::Done(value, told) => return Ok(told.reply(StatusCode::OK, kind.shown(value), warnings)),
            Replaced::Lost => {}
        }
    }
}

/// The configuration in the body, which is YAML or JSON.
fn configuration(call: &Call, validation: FieldValidation) -> Result<(Value, Vec<String>)> {
    let refuse = |why: &dyn std::fmt::Display| Error::BadRequest(format!("error decoding YAML: {why}"));
    let text = std::str::from_utf8(&call.body).map_err(|_| refuse(&"yaml: invalid leading UTF-8 octet"))?;
    let limits = Limits { bytes: body::LIMIT, ..Limits::default() };
    let (config, repeated) = first_document(text, &limits).map_err(|problem| {
        refuse(&format_args!("error converting YAML to JSON: yaml: line {}: {}", problem.line, problem.message))
    })?;
    let config = match config {
        Value::Null => Value::Object(Map::new()),
        Value::Object(_) => config,
        other => {
            let what = go_word(&other);
            return Err(refuse(&format_args!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"
            )));
        }
    };
    let mut warnings = Vec::new();
    if !repeated.is_empty() && validation != FieldValidation::Ignore {
        let lines: Vec<String> =
            repeated.iter().map(|problem| format!("  line {}: {}", problem.line, problem.message)).collect();
        let why = format!("error converting YAML to JSON: yaml: unmarshal errors:\n{}", lines.join("\n"));
        if validation == FieldValidation::Strict {
            return Err(Error::BadRequest(format!("error strict decoding YAML: {why}")));
        }
        warnings.push(why.replace('\n', " "));
    }
    Ok((config, warnings))
}

/// The stored state with the patch applied, defaulted.
pub(super) fn patched(
    kind: &'static Kind,
    patch: &Patch,
    entry: &Entry,
    validation: FieldValidation,
) -> Result<(Box<dyn Object>, Vec<String>)> {
    let stored: Value = serde_json::from_slice(&kind.shown(entry.value.clone()))
        .map_err(|error| Error::Internal(format!("cannot read the stored {}: {error}", entry.key)))?;
    let form = kind.form().unwrap_or(Form::ANY);
    let document = patch.apply(stored, form)?;
    let unrestorable = match patch {
        Patch::Strategic(_) => strategic::unrestorable(form, &document),
        Patch::Merge(_) | Patch::Json { .. } => None,
    };
    let mut unknown = if let Patch::Json { unknown, .. } = patch { unknown.clone() } else { Vec::new() };
    let tree = Tree::of(document);
    let refuse = |why: &str| {
        // Of a strategic patch the patch itself is shown, of the others what they lead to.
        let shown = match patch {
            Patch::Strategic(patch) => go::print(&Value::Object(patch.clone())),
            Patch::Merge(_) | Patch::Json { .. } => String::from_utf8_lossy(&tree.to_json()).into_owned(),
        };
        let root = Path::root();
        let faults = vec![Fault::invalid(&root.field("patch"), shown.as_str(), why)];
        Error::Invalid { kind: "", group: "", name: String::new(), faults }
    };
    if let Some(why) = unrestorable {
        return Err(refuse(&why));
    }
    match body::decode_tree(kind, &tree, validation) {
        Ok((object, dropped)) => {
            unknown.extend(dropped);
            if validation == FieldValidation::Strict && !unknown.is_empty() {
                return Err(refuse(&format!("strict decoding error: {}", unknown.join(", "))));
            }
            Ok((object, if validation == FieldValidation::Ignore { Vec::new() } else { unknown }))
        }
        Err(Error::BadRequest(message)) => {
            Err(refuse(message.split_once(": ").map_or(message.as_str(), |(_, why)| why)))
        }
        Err(other) => Err(other),
    }
}

impl Patch {
    fn read(call: &Call) -> Result<Self> {
        let media = body::media_type(&call.headers);
        let undecodable = |why: &dyn std::fmt::Display| match media.as_deref() {
            Some("application/strategic-merge-patch+json") => Error::BadRequest(why.to_string()),
            _ => Error::BadRequest(format!("error decoding patch: {why}")),
        };
        let value = |json: &[u8]| {
            serde_json::from_slice::<Value>(json).map_err(|error| {
                if error.is_eof() { undecodable(&"unexpected end of JSON input") } else { undecodable(&error) }
            })
        };
        let object = |json: &[u8]| match value(json)? {
            Value::Object(members) => Ok(members),
            Value::Null => Ok(Map::new()),
            other => Err(undecodable(&format_args!(
                "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                go_word(&other)
            ))),
        };
        match media.as_deref() {
            Some("application/merge-patch+json") => Ok(Self::Merge(Value::Object(object(&call.body)?))),
            Some("application/strategic-merge-patch+json") => Ok(Self::Strategic(object(&call.body)?)),
            Some("application/json-patch+json") => {
                let operations = match value(&call.body)? {
                    Value::Array(operations) => operations,
                    other => {
                        return Err(undecodable(&format_args!(
                            "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                            go_word(&other)
                        )));
                    }
                };
                if operations.len() > MOST_OPERATIONS {
                    let count = operations.len();
                    return Err(Error::TooLarge(format!(
                        "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {count}"
                    )));
                }
                let mut unknown = Vec::new();
                for (at, operation) in operations.iter().enumerate() {
                    let Value::Object(members) = operation else {
                        return Err(undecodable(&format_args!(
                            "json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                            go_word(operation)
                        )));
                    };
                    for (name, value) in members {
                        match name.as_str() {
                            "value" => {}
                            "op" | "path" | "from" if value.is_string() || value.is_null() => {}
                            "op" | "path" | "from" => {
                                return Err(undecodable(&format_args!(
                                    "json: cannot unmarshal {} into Go struct field jsonPatchOp.{name} of type string",
                                    go_word(value)
                                )));
                            }
                            _ => unknown.push(format!("json patch unknown field \"[{at}].{name}\"")),
                        }
                    }
                }
                // What is an operation by its types and still is none: no such `op`, or a pointer that is none.
                let operations =
                    serde_json::from_value(Value::Array(operations)).map_err(|_| Error::UnprocessablePatch)?;
                Ok(Self::Json { operations, unknown })
            }
            _ => Err(Error::UnsupportedPatchType),
        }
    }

    /// The members that it changes, if it says so in its form.
    pub(super) fn members(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::Merge(Value::Object(members)) | Self::Strategic(members) => Some(members),
            Self::Merge(_) | Self::Json { .. } => None,
        }
    }

    /// The patched document.
    pub(super) fn apply(&self, mut document: Value, form: Form) -> Result<Value> {
        match self {
            Self::Merge(patch) => merge(&mut document, patch),
            Self::Strategic(patch) => {
                let Value::Object(members) = document else {
                    return Err(Error::Internal("a stored object is no JSON object".into()));
                };
                return strategic::apply(form, members, patch).map(Value::Object).map_err(|error| unmergeable(&error));
            }
            Self::Json { operations, .. } => json_patch::apply(&mut document, operations)?,
        }
        Ok(document)
    }
}

/// What a client is told about a strategic merge patch that does not fit.
fn unmergeable(error: &PatchError) -> Error {
    match error {
        PatchError::ListOfLists => Error::UnprocessablePatch,
        // Upstream answers 500 where it did not foresee that the patch is at fault.
        other => Error::BadRequest(other.to_string()),
    }
}

fn go_word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
