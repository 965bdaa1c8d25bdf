//! The documents: against that of a real server, and in themselves.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use stint_schema::openapi::{Resource, gnostic_document, v2_document, v3_document};

fn batch() -> Vec<Resource> {
    let of = |kind, plural| Resource {
        group: "batch",
        version: "v1",
        kind,
        plural,
        namespaced: true,
        writable: true,
        status: true,
    };
    vec![of("CronJob", "cronjobs"), of("Job", "jobs")]
}

/// What the recorded document has and ours has not, by decision.
fn without_what_is_left_out(document: &mut Json) {
    match document {
        Json::Object(members) => {
            // The values of enumerations, which descriptions repeat; unions; paths of the old watches; sharded lists,
            // which are an alpha feature.
            if let Some(Json::Array(_)) = members.get("enum") {
                members.remove("enum");
            }
            if let Some(Json::String(text)) = members.get_mut("description")
                && let Some(at) = text.find("\n\nPossible enum values:").or_else(|| text.find("Possible enum values:"))
            {
                text.truncate(at);
            }
            members.retain(|name, _| !name.contains("/watch/") && name != "x-kubernetes-unions");
            members.values_mut().for_each(without_what_is_left_out);
        }
        Json::Array(items) => {
            items.retain(|item| item["name"] != "shardSelector");
            items.iter_mut().for_each(without_what_is_left_out);
        }
        _ => {}
    }
}

fn differences(path: &str, theirs: &Json, ours: &Json, found: &mut Vec<String>) {
    match (theirs, ours) {
        (Json::Object(theirs), Json::Object(ours)) => {
            for name in theirs.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
                let at = format!("{path} {name}");
                match (theirs.get(name), ours.get(name)) {
                    (Some(theirs), Some(ours)) => differences(&at, theirs, ours, found),
                    (Some(theirs), None) => found.push(format!("{at}: theirs is {theirs}")),
                    (_, ours) => found.push(format!("{at}: ours is {}", ours.unwrap_or(&Json::Null))),
                }
            }
        }
        (Json::Array(theirs), Json::Array(ours)) if theirs.len() == ours.len() => {
            for (at, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
                differences(&format!("{path} {at}"), theirs, ours, found);
            }
        }
        // Lines of a list in a description are broken otherwise.
        (Json::String(theirs), Json::String(ours)) if theirs.split_whitespace().eq(ours.split_whitespace()) => {}
        _ if theirs != ours => found.push(format!("{path}:\n  theirs {theirs}\n  ours   {ours}")),
        _ => {}
    }
}

#[test]
fn the_document_of_batch_is_that_of_a_real_server() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/golden/openapi/v3_apis_batch_v1.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: no recorded document at {path}");
        return;
    };
    let mut theirs: Json = serde_json::from_str(&text).expect("the recorded document is JSON");
    without_what_is_left_out(&mut theirs);
    let mut ours = v3_document(&batch(), "1.36");
    // One text describes it and its member, in two places.
    for document in [&mut theirs, &mut ours] {
        let event = &mut document["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent"];
        assert_eq!(event["required"], serde_json::json!(["type", "object"]));
        event.take();
    }
    let mut found = Vec::new();
    differences("", &theirs, &ours, &mut found);
    for difference in &found {
        println!("{}", difference.chars().take(400).collect::<String>());
    }
    assert!(found.is_empty(), "{} differences", found.len());
}

#[test]
fn every_reference_of_version_2_has_a_definition() {
    fn check(part: &Json, definitions: &Json) {
        match part {
            Json::Object(members) => {
                if let Some(name) = members.get("$ref").and_then(|r| r.as_str()?.strip_prefix("#/definitions/")) {
                    assert!(definitions[name].is_object(), "{name} has no definition");
                }
                members.values().for_each(|member| check(member, definitions));
            }
            Json::Array(items) => items.iter().for_each(|item| check(item, definitions)),
            _ => {}
        }
    }
    let document = v2_document(&[v3_document(&batch(), "1.36")], "1.36");
    check(&document, &document["definitions"]);
    assert!(!document.to_string().contains("#/components/"), "a reference is still one of version 3");
    assert_eq!(document["definitions"]["io.k8s.api.batch.v1.JobSpec"]["required"], serde_json::json!(["template"]));
    assert!(gnostic_document(&document).len() > 100_000);
}
