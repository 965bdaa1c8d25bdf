//! Requests that a real Kubernetes 1.36 server answered, sent to our router: code, warnings and the whole body must be
//! alike.
//!
//! The recorded answers lie beside the repository and are no part of it; without them the test says so and passes.

#[path = "../../../core/tests/golden/mod.rs"]
mod golden;

use crate::support::{Answer, api, post, send};
use axum::Router;
use golden::Case;
use serde_json::{Map, Value, json};
use stint_server::router;

/// How many answers match of `validation_create.json`. The others ask for the language of schedules.
const CREATED: usize = 206;
/// How many answers match of `validation_update.json`, likewise.
const UPDATED: usize = 93;

/// Uids, times and revisions as the recordings have them.
fn normalized(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (width, replacement) = match rest.as_bytes() {
            bytes if shape(bytes, b"dddddddd-dddd-dddd-dddd-dddddddddddd") => (36, "<UID>"),
            bytes if shape(bytes, b"dddd-dd-ddTdd:dd:ddZ") => (20, "<TIME>"),
            _ => (c.len_utf8(), ""),
        };
        out.push_str(if replacement.is_empty() { &rest[..width] } else { replacement });
        rest = &rest[width..];
    }
    out
}

/// Whether `text` begins like `shape`, in which `d` stands for any digit, hexadecimal ones included.
fn shape(text: &[u8], shape: &[u8]) -> bool {
    text.len() >= shape.len() && text.iter().zip(shape).all(|(t, s)| t == s || (*s == b'd' && t.is_ascii_hexdigit()))
}

/// A body in a form that can be compared.
fn comparable(mut body: Value) -> Value {
    golden::prune(&mut body);
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.contains_key("resourceVersion")
    {
        metadata.insert("resourceVersion".into(), "<RV>".into());
    }
    body
}

fn answer_of(code: &Value, warnings: &Value, body: Value) -> Value {
    json!({"code": code, "warnings": warnings, "body": comparable(body)})
}

async fn ours(router: &Router, case: &Case) -> Value {
    let field = |name: &str| case.record[name].as_str().unwrap_or_default();
    let path = format!("{}&fieldManager=gold", case.path);
    let Answer { code, warnings, text } =
        send(router, field("method"), &path, field("contentType"), case.body.clone()).await;
    let body = serde_json::from_str(&normalized(&text)).unwrap_or(Value::String(text));
    answer_of(&json!(code), &json!(golden::without_our_own(&warnings)), body)
}

fn theirs(case: &Case) -> Value {
    let text = normalized(&case.record["response"].to_string());
    let body = serde_json::from_str(&text).expect("it was JSON before");
    answer_of(&case.record["status"], &case.record["warnings"], body)
}

async fn ask(router: &Router, path: &str, body: &Value) {
    let answer = post(router, path, body).await;
    assert_eq!(answer.code, 201, "setting up {path}: {}", answer.text);
}

async fn namespace(router: &Router, name: &str) {
    ask(router, "/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
}

/// Makes the object that an update is about. The recordings hold what is particular to it; the rest is known from the
/// answers.
async fn set_up(router: &Router, case: &Case) {
    let path = case.path.split('?').next().unwrap_or_default().trim_end_matches("/status");
    let (collection, name) = path.rsplit_once('/').expect("an object's path");
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}});
    if collection.ends_with("cronjobs") {
        let spec = json!({"schedule": "*/5 * * * *", "suspend": true, "jobTemplate": {"spec": {"template": template}}});
        return ask(
            router,
            &format!("{collection}?fieldManager=gold"),
            &json!({"metadata": {"name": name}, "spec": spec}),
        )
        .await;
    }
    let mut spec = match name {
        "nonidx" => json!({"completions": 3}),
        "idx" => json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1}),
        "sus" | "sus2" => json!({"suspend": true}),
        _ => json!({}),
    };
    spec["managedBy"] = json!("example.com/x");
    spec["template"] = template;
    for (field, value) in case.record["spec"].as_object().unwrap_or(&Map::new()) {
        spec[field] = value.clone();
    }
    ask(router, &format!("{collection}?fieldManager=gold"), &json!({"metadata": {"name": name}, "spec": spec})).await;
    let status = match name {
        "sus2" if case.name.contains("active") => json!({"startTime": "2026-01-01T00:00:00Z", "active": 1}),
        "sus2" => json!({"startTime": "2026-01-01T00:00:00Z"}),
        _ => case.record["setupStatus"].clone(),
    };
    if status.is_object() {
        let patch = json!({"status": status}).to_string();
        let path = format!("{path}/status?fieldManager=gold");
        let answer = send(router, "PATCH", &path, "application/merge-patch+json", patch).await;
        assert_eq!(answer.code, 200, "setting up {}: {}", case.name, answer.text);
    }
}

struct Tally {
    total: usize,
    missed: Vec<String>,
}

impl Tally {
    fn compare(&mut self, case: &Case, ours: &Value) {
        self.total += 1;
        let theirs = theirs(case);
        if !golden::same(&theirs, ours) {
            self.missed.push(format!("{}\n    theirs: {theirs}\n    ours:   {ours}", case.name));
        }
    }

    fn finish(self, what: &str, floor: usize) {
        for missed in &self.missed {
            println!("differs: {missed}");
        }
        let matched = self.total - self.missed.len();
        println!("golden: {matched} of {} match ({what})", self.total);
        assert!(matched >= floor, "{matched} of {} match, {floor} did before", self.total);
    }
}

#[tokio::test]
async fn creations_are_answered_as_kubernetes_answers_them() {
    let Some(cases) = golden::load("validation_create.json") else { return };
    let router = router(api());
    namespace(&router, "gv").await;
    let mut tally = Tally { total: 0, missed: Vec::new() };
    for case in &cases {
        let ours = ours(&router, case).await;
        tally.compare(case, &ours);
    }
    tally.finish("create", CREATED);
}

#[tokio::test]
async fn updates_are_answered_as_kubernetes_answers_them() {
    let Some(cases) = golden::load("validation_update.json") else { return };
    let mut tally = Tally { total: 0, missed: Vec::new() };
    for case in &cases {
        let router = router(api());
        namespace(&router, "gu").await;
        set_up(&router, case).await;
        let ours = ours(&router, case).await;
        tally.compare(case, &ours);
    }
    tally.finish("update", UPDATED);
}
