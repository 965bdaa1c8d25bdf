//! Tables and metadata as a real server answered them, asked of ours over HTTP.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::support::{api, config_map, post};
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use stint_core::columns::NEXT;
use stint_server::kinds::{KINDS, Kind};
use stint_server::{Api, Clock, router};
use stint_store::Mutation;
use tower::ServiceExt;

/// A clock that is set by hand.
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::Relaxed)).unwrap()
    }
}

async fn ask(router: &axum::Router, path: &str, accept: &str) -> (u16, String, Value) {
    let request = Request::builder().uri(path).header("accept", accept).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let media = response.headers()["content-type"].to_str().unwrap().to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, media, serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{path}: {body:?}")))
}

/// The recorded cases, or a word about where they should be.
fn recorded() -> Option<Map<String, Value>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/golden/tables.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: no recorded answers at {path}");
        return None;
    };
    Some(serde_json::from_str(&text).expect("recorded answers are JSON"))
}

/// A table without the column that only we have, which is the last one.
fn without_next(mut table: Value) -> Value {
    let columns = table.get_mut("columnDefinitions").and_then(Value::as_array_mut);
    if columns.and_then(|columns| columns.pop_if(|column| column["name"] == NEXT)).is_none() {
        return table;
    }
    for row in table.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        let next = row.get_mut("cells").and_then(Value::as_array_mut).and_then(Vec::pop);
        assert!(next.is_some_and(|cell| cell.is_string()), "a row has a cell for each column");
    }
    table
}

/// The kind that a recorded path is about, if it is served.
fn kind_of(path: &str) -> Option<&'static Kind> {
    let path = path.split('?').next().unwrap();
    KINDS.iter().find(|kind| {
        let root = if kind.group.is_empty() { "/api/v1/".to_owned() } else { format!("/apis/{}/", kind.api_version) };
        let Some(rest) = path.strip_prefix(&root) else { return false };
        let mut segments: Vec<&str> = rest.split('/').collect();
        if segments.len() > 2 && segments[0] == "namespaces" {
            segments.drain(..2);
        }
        segments[0] == kind.plural
    })
}

/// The rest of an object whose row is known.
fn rest(kind: &str, cells: &[Value]) -> Value {
    let cell = |at: usize| cells[at].as_str().unwrap_or_default();
    let containers = json!([{"name": "c", "image": "busybox"}]);
    match kind {
        "CronJob" => {
            let template = json!({"spec": {"template": {"spec": {"containers": containers}}}});
            json!({"spec": {"schedule": cell(1), "suspend": false, "jobTemplate": template}, "status": {}})
        }
        "Pod" => {
            let running = cell(2) == "Running";
            let node = Some(cell(6)).filter(|node| *node != "<none>");
            let status = json!([{"name": "c", "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": {"running": {}}}]);
            json!({"spec": {"containers": containers, "nodeName": node},
                "status": {"phase": cell(2), "containerStatuses": if running { status } else { json!([]) }}})
        }
        "Namespace" => json!({"status": {"phase": cell(1)}}),
        "Node" => json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        "ConfigMap" => json!({"data": {"k": "v"}}),
        "Lease" => json!({"spec": {"holderIdentity": cell(1)}}),
        "RoleBinding" | "ClusterRoleBinding" => {
            let (role_kind, role) = cell(1).split_once('/').unwrap();
            let mut subjects = Vec::new();
            for (at, kind) in [(3, "User"), (4, "Group"), (5, "ServiceAccount")] {
                for name in cell(at).split(", ").filter(|name| !name.is_empty()) {
                    let (namespace, name) = match name.split_once('/') {
                        Some((namespace, name)) if kind == "ServiceAccount" => (Some(namespace), name),
                        _ => (None, name),
                    };
                    subjects.push(json!({"kind": kind, "name": name, "namespace": namespace}));
                }
            }
            let role = json!({"kind": role_kind, "name": role, "apiGroup": "rbac.authorization.k8s.io"});
            json!({"roleRef": role, "subjects": subjects})
        }
        "PriorityClass" => json!({"value": cells[1], "globalDefault": cells[2], "preemptionPolicy": cell(4)}),
        "Service" => {
            json!({"spec": {"type": cell(1), "clusterIP": cell(2), "ports": [{"port": 443, "protocol": "TCP"}]}})
        }
        _ => json!({}),
    }
}

/// An object's JSON as it is stored: its kind first, then its metadata, the revision at its beginning.
fn stored(kind: &Kind, object: &Value) -> String {
    let mut metadata = object["metadata"].as_object().cloned().unwrap_or_default();
    let version = metadata.remove("resourceVersion").unwrap_or_else(|| "1".into());
    let metadata = Value::from(metadata).to_string();
    let mut text = format!(
        r#"{{"apiVersion":"{}","kind":"{}","metadata":{{"resourceVersion":{version},{}"#,
        kind.api_version,
        kind.kind,
        &metadata[1..]
    );
    for (name, member) in object.as_object().unwrap() {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            let _ = write!(text, ",{}:{member}", json!(name));
        }
    }
    text.push('}');
    text
}

/// Puts into `api` what makes the recorded answer, and nothing that it has not.
async fn fill(api: &Api, kind: &Kind, case: &Value, jobs: &[Value]) {
    let body = &case["body"];
    let mut objects: Vec<Value> = Vec::new();
    if kind.kind == "Job" {
        objects.extend(jobs.iter().cloned());
    } else {
        for row in body["rows"].as_array().unwrap() {
            let mut object = rest(kind.kind, row["cells"].as_array().unwrap());
            object["metadata"] = row["object"]["metadata"].clone();
            objects.push(object);
        }
        for number in 0..body["metadata"]["remainingItemCount"].as_u64().unwrap_or(0) {
            objects.push(json!({"metadata": {"name": format!("zz{number:03}")}}));
        }
    }
    for object in &objects {
        let metadata = &object["metadata"];
        let key = kind.key(metadata["namespace"].as_str(), metadata["name"].as_str().unwrap());
        let text = stored(kind, object);
        let made = match api.store.get(&key) {
            Some(entry) => Mutation::update(key, entry.revision, move |_| text.into()),
            None => Mutation::create(key, move |_| text.into()),
        };
        api.store.write(made).await.unwrap();
    }
    let revision: u64 = body["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(447);
    let listed = if body["kind"] == "Table" { revision.max(api.store.revision().0) } else { revision };
    while api.store.revision().0 < listed {
        let number = api.store.revision().0;
        api.store.write(Mutation::create(format!("filler/{number}"), |_| "{}".into())).await.unwrap();
    }
}

/// Members whose order or absence means nothing: a list's JSON is compared as it is but for these.
fn told(mut value: Value) -> Value {
    if let Some(rows) = value.get_mut("rows").and_then(Value::as_array_mut) {
        rows.sort_by_key(|row| row["cells"][0].to_string());
    }
    value
}

#[tokio::test]
async fn recorded_tables_are_answered_alike() {
    let Some(cases) = recorded() else { return };
    let jobs: Vec<Value> = cases["jobs_includeObject_Object"]["body"]["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["object"].clone())
        .collect();
    let (mut matched, mut absent, mut differ) = (0, Vec::new(), Vec::new());
    for (name, case) in &cases {
        let path = case["path"].as_str().unwrap();
        let Some(kind) = kind_of(path) else {
            absent.push(name.clone());
            continue;
        };
        let clock = Arc::new(SetClock(AtomicI64::new(0)));
        let api = Api { clock: clock.clone(), ..api() };
        let router = router(api.clone());
        // What every server has is there after the first request; it is not part of the recording.
        ask(&router, "/api/v1/namespaces", "application/json").await;
        let default = Kind::at("", "v1", "namespaces").unwrap().key(None, "default");
        if kind.kind != "Namespace" {
            let entry = api.store.get(&default).unwrap();
            api.store.write(Mutation::delete(default, entry.revision, |_| "{}".into())).await.unwrap();
        }
        fill(&api, kind, case, &jobs).await;
        let born = case["body"]["rows"][0]["object"]["metadata"]["creationTimestamp"]
            .as_str()
            .or(jobs[0]["metadata"]["creationTimestamp"].as_str())
            .unwrap();
        let born: Timestamp = born.parse().unwrap();
        let mut last = Value::Null;
        // When the recording was made is not recorded: some second in an hour after the first object was.
        let same = 'same: {
            for second in 0..3600 {
                clock.0.store(born.as_second() + second, Ordering::Relaxed);
                let (code, media, body) = ask(&router, path, case["accept"].as_str().unwrap()).await;
                let expected = (&case["status"], &case["contentType"], told(case["body"].clone()));
                let body = told(without_next(body));
                if expected == (&json!(code), &json!(media), body.clone()) {
                    break 'same true;
                }
                last = body;
                if case["body"]["kind"] != "Table" {
                    break;
                }
            }
            false
        };
        if same {
            matched += 1;
        } else {
            differ.push(format!("{name}:\n ours     {last}\n recorded {}", case["body"]));
        }
    }
    println!("{matched} of {} recorded tables match; of kinds that are not served: {absent:?}", cases.len());
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn what_a_mutation_answers_is_shown_in_the_shape_asked_for() {
    let router = router(api());
    post(&router, MAPS, &serde_json::to_value(config_map("a", "x")).unwrap()).await;
    for (method, body, kind) in
        [("PUT", json!({"metadata": {"name": "a"}}), "Table"), ("DELETE", Value::Null, "Status")]
    {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(format!("{MAPS}/a")).header("accept", TABLE);
        let response = router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["kind"], kind, "{body}");
    }
}

#[tokio::test]
async fn a_list_of_metadata_names_the_kind_of_each_item() {
    let router = router(api());
    post(&router, MAPS, &serde_json::to_value(config_map("a", "x")).unwrap()).await;
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let (_, _, list) = ask(&router, MAPS, accept).await;
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1")));
    let item = &list["items"][0];
    assert_eq!(
        (&item["kind"], &item["metadata"]["name"], item.get("data")),
        (&json!("PartialObjectMetadata"), &json!("a"), None)
    );
    let (code, _, refused) = ask(&router, &format!("{MAPS}/a"), accept).await;
    let message = "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)";
    assert_eq!((code, &refused["message"]), (406, &json!(message)));
}
