//! `PATCH` of an object or its status.
//!
//! Invariant: a patch is applied to the state that it replaces; when that changed meanwhile, it is applied again.
//! Left out: server-side apply.

use axum::response::Response;
use http::StatusCode;
use json_patch::PatchOperation;
use serde_json::{Map, Value};
use stint_core::field::{Fault, Path};
use stint_store::Entry;

use crate::dispatch::{Call, reply};
use crate::params::{FieldValidation, object_revision};
use crate::status::{Error, Result};
use crate::strategy::Object;
use crate::update::{Part, Replaced, find, load, replace};
use crate::verbs::update::{expect_same_place, expect_same_uid};
use crate::{body, strategic};

/// The most operations of a JSON patch.
const MOST_OPERATIONS: usize = 10_000;

/// A patch that was read.
enum Patch {
    Merge(Value),
    Strategic(Map<String, Value>),
    Json(Vec<PatchOperation>),
}

pub(crate) async fn patch(call: &Call, name: &str, part: Part) -> Result<Response> {
    let Call { api, place, params, .. } = call;
    let patch = Patch::read(call)?;
    let dry_run = params.dry_run("PatchOptions")?;
    let validation = params.field_validation("PatchOptions")?;
    if params.get("force").is_some() {
        let root = Path::root();
        let fault = Fault::forbidden(&root.field("force"), "may not be specified for non-apply patch");
        return Err(Error::options("PatchOptions", vec![fault]));
    }
    loop {
        let entry = find(api, place, name)?;
        let old = load(place, &entry)?;
        let (mut new, warnings) = patched(call, &patch, &entry, validation)?;
        expect_same_place(place, name, new.as_mut())?;
        expect_same_uid(place, name, new.as_ref(), old.as_ref())?;
        let expected = object_revision(new.meta().resource_version.as_deref())?;
        if expected.is_some_and(|expected| expected != entry.revision) {
            return Err(Error::modified(place.kind, name));
        }
        match replace(api, place, &entry, old.as_ref(), new, part, dry_run).await? {
            Replaced::Done(value) => return Ok(reply(StatusCode::OK, place.kind.shown(value), &warnings)),
            Replaced::Lost => {}
        }
    }
}

/// The stored state with the patch applied, defaulted.
fn patched(
    call: &Call,
    patch: &Patch,
    entry: &Entry,
    validation: FieldValidation,
) -> Result<(Box<dyn Object>, Vec<String>)> {
    let mut document: Value = serde_json::from_slice(&call.place.kind.shown(entry.value.clone()))
        .map_err(|error| Error::Internal(format!("cannot read the stored {}: {error}", entry.key)))?;
    patch.apply(&mut document)?;
    let json = document.to_string();
    let refuse = |why: String| {
        let root = Path::root();
        let faults = vec![Fault::invalid(&root.field("patch"), json.as_str(), why)];
        Error::Invalid { kind: "", group: "", name: String::new(), faults }
    };
    match body::decode(call.place.kind, json.as_bytes(), validation) {
        Ok(done) => Ok(done),
        Err(Error::BadRequest(message)) => {
            let why = message.split_once(": ").map_or(message.as_str(), |(_, why)| why);
            Err(refuse(why.to_owned()))
        }
        Err(other) => Err(other),
    }
}

impl Patch {
    fn read(call: &Call) -> Result<Self> {
        let undecodable = |why: &dyn std::fmt::Display| Error::BadRequest(format!("error decoding patch: {why}"));
        let value = |json: &[u8]| {
            serde_json::from_slice::<Value>(json).map_err(|error| {
                if error.is_eof() { undecodable(&"unexpected end of JSON input") } else { undecodable(&error) }
            })
        };
        let object = |json: &[u8]| match value(json)? {
            Value::Object(members) => Ok(members),
            other => Err(undecodable(&format_args!(
                "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                go_word(&other)
            ))),
        };
        match body::media_type(&call.headers).as_deref() {
            Some("application/merge-patch+json") => Ok(Self::Merge(Value::Object(object(&call.body)?))),
            Some("application/strategic-merge-patch+json") => Ok(Self::Strategic(object(&call.body)?)),
            Some("application/json-patch+json") => {
                let Value::Array(operations) = value(&call.body)? else {
                    return Err(undecodable(&"json: cannot unmarshal object into Go value of type jsonpatch.Patch"));
                };
                if operations.len() > MOST_OPERATIONS {
                    let count = operations.len();
                    return Err(Error::TooLarge(format!(
                        "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {count}"
                    )));
                }
                serde_json::from_value(Value::Array(operations)).map(Self::Json).map_err(|error| undecodable(&error))
            }
            _ => Err(Error::UnsupportedPatchType),
        }
    }

    fn apply(&self, document: &mut Value) -> Result<()> {
        match self {
            Self::Merge(patch) => json_patch::merge(document, patch),
            Self::Strategic(patch) => strategic::merge(document, patch)?,
            Self::Json(operations) => {
                let mut copied = 0;
                for operation in operations {
                    if let PatchOperation::Copy(copy) = operation {
                        copied += copy.from.resolve(document).map_or(0, |value| value.to_string().len());
                        if copied > body::LIMIT {
                            return Err(Error::TooLarge("a JSON patch may not copy that much".into()));
                        }
                    }
                    json_patch::patch(document, std::slice::from_ref(operation))
                        .map_err(|_| Error::UnprocessablePatch)?;
                }
            }
        }
        Ok(())
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
