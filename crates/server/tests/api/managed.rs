//! Who owns which fields after creations, updates and patches.

use crate::support::{Answer, api, send};
use serde_json::{Value, json};
use stint_server::router;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

fn job(name: &str) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"a": "1"}},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "c", "image": "busybox", "env": [{"name": "A", "value": "1"}]}],
        }}},
    })
}

/// The entries of an answer without their times, as `manager operation subresource` and fields.
fn entries(answer: &Answer) -> Vec<(String, Value)> {
    assert!(answer.code < 300, "{}", answer.text);
    let entries = answer.json()["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            assert_eq!((text("apiVersion").is_empty(), text("fieldsType")), (false, "FieldsV1".to_owned()));
            assert!(!text("time").is_empty());
            let owner = format!("{} {} {}", text("manager"), text("operation"), text("subresource"));
            (owner.trim_end().to_owned(), entry["fieldsV1"].clone())
        })
        .collect()
}

fn owners(answer: &Answer) -> Vec<String> {
    entries(answer).into_iter().map(|(owner, _)| owner).collect()
}

#[tokio::test]
async fn the_creator_owns_what_it_sent_and_the_defaults_and_nobody_what_is_generated() {
    let router = router(api());
    let made = send(&router, "POST", &format!("{JOBS}?fieldManager=m"), JSON, job("j").to_string()).await;
    let container = json!({
        ".": {}, "f:env": {".": {}, "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}}, "f:image": {},
        "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {}, "f:terminationMessagePath": {},
        "f:terminationMessagePolicy": {},
    });
    let expected = json!({
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {
            "f:backoffLimit": {}, "f:completionMode": {}, "f:completions": {}, "f:manualSelector": {},
            "f:parallelism": {}, "f:podReplacementPolicy": {}, "f:suspend": {},
            "f:template": {"f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": container},
                "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
                "f:terminationGracePeriodSeconds": {},
            }},
        },
    });
    assert_eq!(entries(&made), [("m Update".to_owned(), expected)]);
    assert_eq!(made.json()["metadata"]["managedFields"][0]["time"], "2026-01-02T03:04:05Z");
}

#[tokio::test]
async fn whoever_changes_a_field_owns_it_alone() {
    let router = router(api());
    send(&router, "POST", &format!("{JOBS}?fieldManager=a"), JSON, job("j").to_string()).await;
    let path = format!("{JOBS}/j?fieldManager=b");
    let patched = send(&router, "PATCH", &path, MERGE, r#"{"spec":{"parallelism":2,"completions":1}}"#).await;
    let found = entries(&patched);
    assert_eq!(found[1], ("b Update".to_owned(), json!({"f:spec": {"f:parallelism": {}}})));
    assert!(found[0].1["f:spec"].get("f:parallelism").is_none(), "the change is taken from its owner");
    assert!(found[0].1["f:spec"].get("f:completions").is_some(), "what keeps its value keeps its owner");
    // Who changes it back takes it back, and an owner of nothing has no entry.
    let back =
        send(&router, "PATCH", &format!("{JOBS}/j?fieldManager=a"), MERGE, r#"{"spec":{"parallelism":1}}"#).await;
    assert_eq!(owners(&back), ["a Update"]);
}

#[tokio::test]
async fn a_status_is_owned_by_who_writes_the_status() {
    let router = router(api());
    send(&router, "POST", &format!("{JOBS}?fieldManager=a"), JSON, job("j").to_string()).await;
    let both = r#"{"spec":{"parallelism":5},"status":{"ready":0},"metadata":{"annotations":{"x":"y"}}}"#;
    let written = send(&router, "PATCH", &format!("{JOBS}/j/status?fieldManager=k"), MERGE, both).await;
    let expected = json!({"f:metadata": {"f:annotations": {".": {}, "f:x": {}}}, "f:status": {"f:ready": {}}});
    assert_eq!(entries(&written)[1], ("k Update status".to_owned(), expected));
    // Through the main resource a status is neither written nor owned.
    let main = send(&router, "PATCH", &format!("{JOBS}/j?fieldManager=c"), MERGE, r#"{"status":{"ready":7}}"#).await;
    assert_eq!(owners(&main), ["a Update", "k Update status"]);
    assert_eq!(main.json()["metadata"]["resourceVersion"], written.json()["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_client_that_names_no_manager_is_called_what_it_calls_itself() {
    let router = router(api());
    let made = send(&router, "POST", JOBS, JSON, job("j").to_string()).await;
    assert_eq!(owners(&made), ["unknown Update"]);
    let long = format!("{JOBS}?fieldManager={}", "x".repeat(129));
    let refused = send(&router, "POST", &long, JSON, job("k").to_string()).await;
    assert_eq!(refused.code, 422);
    let message = "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes";
    assert_eq!(refused.message(), message);
}

#[tokio::test]
async fn the_oldest_of_many_updaters_become_one() {
    let router = router(api());
    send(&router, "POST", &format!("{JOBS}?fieldManager=creator"), JSON, job("j").to_string()).await;
    let mut last = None;
    for at in 0..14 {
        let path = format!("{JOBS}/j?fieldManager=m{at:02}");
        let patch = json!({"metadata": {"annotations": {format!("a{at}"): "x"}}}).to_string();
        last = Some(send(&router, "PATCH", &path, MERGE, patch).await);
    }
    let owners = owners(&last.unwrap());
    assert_eq!(owners.len(), 10, "{owners:?}");
    assert!(owners.contains(&"ancient-changes Update".to_owned()));
}

#[tokio::test]
async fn an_empty_list_of_entries_begins_anew_and_none_changes_nothing() {
    let router = router(api());
    let made = send(&router, "POST", &format!("{JOBS}?fieldManager=a"), JSON, job("j").to_string()).await;
    let mut object = made.json();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    let path = format!("{JOBS}/j?fieldManager=b");
    let same = send(&router, "PUT", &path, JSON, object.to_string()).await;
    assert_eq!(same.json(), made.json(), "who sends no entries does not delete them");
    object["metadata"]["managedFields"] = json!([]);
    let reset = send(&router, "PUT", &path, JSON, object.to_string()).await;
    assert_eq!(owners(&reset), Vec::<String>::new());
    object["metadata"]["resourceVersion"] = json!("");
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object["spec"]["suspend"] = json!(true);
    let after = send(&router, "PUT", &path, JSON, object.to_string()).await;
    assert_eq!(entries(&after), [("b Update".to_owned(), json!({"f:spec": {"f:suspend": {}}}))]);
}

#[tokio::test]
async fn an_untracked_api_keeps_no_entries() {
    let api = stint_server::Api { ownership: stint_server::Ownership::Untracked, ..api() };
    let router = router(api);
    let mut sent = job("j");
    sent["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Update", "apiVersion": "batch/v1"}]);
    let made = send(&router, "POST", JOBS, JSON, sent.to_string()).await;
    assert_eq!(owners(&made), Vec::<String>::new());
}

/// Real answers have entries; ours to the same requests must have the same.
#[tokio::test]
async fn entries_are_those_of_a_real_server() {
    let mut compared = 0;
    for file in ["validation_create.json", "validation_update.json"] {
        let path = format!("{}/../../../shared/reference/golden/{file}", env!("CARGO_MANIFEST_DIR"));
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!("skipped: no recorded answers at {path}");
            continue;
        };
        let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
        for case in cases.iter().filter(|case| case["status"].as_u64().unwrap() < 300) {
            let Some(ours) = replay(case).await else { continue };
            let theirs = &case["response"]["metadata"]["managedFields"];
            assert_eq!(without_times(&ours), without_times(theirs), "{}", case["name"]);
            compared += 1;
        }
        println!("{file}: {compared} objects with the same entries so far");
        assert!(compared > 0);
    }
}

fn without_times(entries: &Value) -> Value {
    let mut entries = entries.clone();
    for entry in entries.as_array_mut().into_iter().flatten() {
        entry.as_object_mut().unwrap().remove("time");
    }
    entries
}

/// Our entries for a recorded request. None: what the object was before is not recorded.
async fn replay(case: &Value) -> Option<Value> {
    let router = router(api());
    let path = case["path"].as_str().unwrap();
    let parts: Vec<&str> = path.split(['?', '/']).collect();
    let namespace = json!({"metadata": {"name": parts[5]}}).to_string();
    send(&router, "POST", "/api/v1/namespaces?fieldManager=gold", JSON, namespace).await;
    let body = match &case["body"] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if case["method"] != "POST" {
        let spec = case["spec"].as_object().filter(|spec| !spec.is_empty())?;
        let collection = format!("/{}?fieldManager=gold", parts[1..7].join("/"));
        let before = json!({"metadata": {"name": parts[7]}, "spec": spec}).to_string();
        let made = send(&router, "POST", &collection, JSON, before).await;
        if made.code != 201 {
            return None;
        }
        if case["setupStatus"].is_object() {
            let status = format!("/{}/status?fieldManager=gold", parts[1..8].join("/"));
            let set = json!({"status": case["setupStatus"]}).to_string();
            assert_eq!(send(&router, "PATCH", &status, MERGE, set).await.code, 200);
        }
    }
    let (method, media) = (case["method"].as_str().unwrap(), case["contentType"].as_str().unwrap());
    let answer = send(&router, method, &format!("{path}&fieldManager=gold"), media, body).await;
    (answer.code < 300).then(|| answer.json()["metadata"]["managedFields"].clone())
}
