//! Recorded answers of a real server, and how ours are compared with them.

#![allow(dead_code, reason = "each test that includes this module uses a part of it")]

use serde::Serialize;
use serde_json::{Value, json};
use stint_core::field::{Fault, aggregate};
use stint_core::validate::{NEVER_FIRES, unhonoured};

/// The uid of every object; the recordings say `<UID>`.
pub const UID: &str = "2f0c1f9e-5c7b-4f0e-9a39-0c1d2e3f4a5b";

/// One recorded request and its answer.
pub struct Case {
    /// The case's name.
    pub name: String,
    /// The request's path.
    pub path: String,
    /// The request's body.
    pub body: String,
    /// The whole record.
    pub record: Value,
}

impl Case {
    /// The answer to a body that can't be decoded.
    pub fn bad_request(kind: &str, why: &str) -> Value {
        let message = format!("{kind} in version \"v1\" cannot be handled as a {kind}: {why}");
        json!({ "status": 400, "message": message, "causes": [] })
    }

    fn expected(&self) -> Value {
        let response = &self.record["response"];
        if response["kind"] == "Status" {
            let causes = response["details"]["causes"].as_array().cloned().unwrap_or_default();
            return json!({ "status": self.record["status"], "message": response["message"], "causes": causes });
        }
        let warnings = self.record["warnings"].as_array().cloned().unwrap_or_default();
        object(response.clone(), &warnings, &self.record["status"])
    }
}

/// Reads a file of recorded cases; `None`, and a word about it, where there is none.
pub fn load(file: &str) -> Option<Vec<Case>> {
    let path = format!("{}/../../../shared/reference/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no recorded answers at {path}");
        return None;
    };
    let text = text.replace("<UID>", UID);
    let records: Vec<Value> = serde_json::from_str(&text).expect("recorded answers are JSON");
    let field = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
    Some(
        records
            .into_iter()
            .map(|record| Case {
                name: field(&record, "name"),
                path: field(&record, "path"),
                body: match &record["body"] {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                },
                record,
            })
            .collect(),
    )
}

/// Message and causes of a 422 answer.
pub fn invalid(kind: &str, name: &str, faults: &[Fault]) -> (String, Vec<Value>) {
    let causes =
        faults.iter().map(|f| json!({ "reason": f.cause_reason(), "message": f.message, "field": f.field })).collect();
    (format!("{kind}.batch \"{name}\" is invalid: {}", aggregate(faults)), causes)
}

/// The warnings that a cluster gives, too: of schedules that never fire, and of fields that one node does not honour, only
/// we warn.
pub fn without_our_own(warnings: &[String]) -> Vec<&String> {
    let is_ours = |warning: &str| {
        warning.contains(NEVER_FIRES) || unhonoured::fields().any(|(_, instead)| warning.contains(instead))
    };
    warnings.iter().filter(|warning| !is_ours(warning)).collect()
}

/// Our answer when the object is accepted.
pub fn created(created: &impl Serialize, warnings: &[String]) -> Value {
    accepted(created, warnings, 201)
}

/// Our answer when the object is accepted with `status`.
pub fn accepted(accepted: &impl Serialize, warnings: &[String], status: u16) -> Value {
    let escape = |w: &String| json!(format!("299 - \"{}\"", w.replace('\\', "\\\\").replace('"', "\\\"")));
    let warnings: Vec<Value> = without_our_own(warnings).into_iter().map(escape).collect();
    let value = serde_json::to_value(accepted).expect("an object is JSON");
    object(value, &warnings, &json!(status))
}

fn object(mut object: Value, warnings: &[Value], status: &Value) -> Value {
    prune(&mut object);
    let mut metadata = object["metadata"].clone();
    if let Some(metadata) = metadata.as_object_mut() {
        for field in ["uid", "creationTimestamp", "managedFields", "resourceVersion"] {
            metadata.remove(field);
        }
    }
    json!({ "status": status, "warnings": warnings, "metadata": metadata, "spec": object["spec"] })
}

/// Drops nulls and empty lists: an absent list reads as `null` or as nothing, depending on the language.
pub fn prune(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, v| !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty()));
            members.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// How many cases match, and the ones that do not.
#[derive(Default)]
pub struct Verdict {
    matched: usize,
    missed: Vec<String>,
}

impl Verdict {
    /// Compares our answer with the recorded one.
    pub fn compare(&mut self, case: &Case, ours: &Value) {
        let expected = case.expected();
        if same(&expected, ours) {
            self.matched += 1;
        } else {
            self.missed.push(format!("{}\n    theirs: {expected}\n    ours:   {ours}", case.name));
        }
    }

    /// Prints the tally, and fails below the floor.
    pub fn finish(self, what: &str, total: usize, floor: usize) {
        for missed in &self.missed {
            println!("differs: {missed}");
        }
        println!("{what}: {} of {total} recorded answers match", self.matched);
        assert!(self.matched >= floor, "{} of {total} match, {floor} did before", self.matched);
    }
}

/// Equal, but for what messages print of Kubernetes' internal structs, and for recorded times.
pub fn same(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::String(theirs), Value::String(ours)) => theirs == ours || same_text(theirs, ours),
        (Value::Array(theirs), Value::Array(ours)) => {
            theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(t, o)| same(t, o))
        }
        (Value::Object(theirs), Value::Object(ours)) => {
            theirs.len() == ours.len() && theirs.iter().all(|(k, t)| ours.get(k).is_some_and(|o| same(t, o)))
        }
        _ => theirs == ours,
    }
}

fn same_text(theirs: &str, ours: &str) -> bool {
    let frame = |text: &str| {
        let (start, rest) = text.split_once("Invalid value: {").map(|(a, b)| (a.to_owned(), b.to_owned()))?;
        let end = rest.rsplit_once("}: ").map(|(_, end)| end.to_owned())?;
        Some((start, end))
    };
    if let Some((prefix, suffix)) = theirs.split_once("\"<TIME>\"") {
        return ours.starts_with(prefix) && ours.ends_with(suffix);
    }
    // Only a whole pod template or pod spec is too large to print alike.
    let large = theirs.contains("\"Volumes\":null") || theirs.contains("\"Spec\":{");
    large && frame(theirs).is_some() && frame(theirs) == frame(ours)
}
