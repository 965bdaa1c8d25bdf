//! The scheduler's part before the real API: what a user sees of pods that fit, and of those that do not.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use stint_controllers::Config;
use stint_server::Api;
use stint_sim::virtual_time::{CountingIds, VirtualClock};
use stint_store::Store;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// An API with the node `n`, which has one CPU.
struct Place(axum::Router);

impl Place {
    async fn open() -> Place {
        let begin = Timestamp::from_second(1_800_000_000).expect("it is a time");
        let clock = Arc::new(VirtualClock { begin, started: Instant::now() });
        let api = Api::new(Store::in_memory(), clock.clone(), Arc::new(CountingIds::default()));
        let place = Place(stint_server::router(api));
        let allocatable = json!({ "cpu": "1", "memory": "1Gi", "pods": "110" });
        let node = json!({ "metadata": { "name": "n" }, "status": { "allocatable": allocatable } });
        place.send("POST", "/api/v1/nodes", &node).await;
        let config = Config { node: Some("n".to_owned()), ..Config::default() };
        tokio::spawn(stint_controllers::run(kube::Client::new(place.0.clone(), "default"), clock, config));
        sleep(Duration::from_millis(10)).await;
        place
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind);
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = request.body(body).expect("the request is well-formed");
        let answer = self.0.clone().oneshot(request).await.expect("the router does not fail");
        let (status, body) = (answer.status(), axum::body::to_bytes(answer.into_body(), usize::MAX).await);
        let body = body.expect("the answer has an end");
        assert!(status.is_success(), "{method} {path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("the answer is JSON")
    }

    async fn pod(&self, name: &str, cpu: &str, more: &Value) {
        let resources = json!({ "requests": { "cpu": cpu } });
        let mut spec = json!({ "containers": [{ "name": "c", "image": "x", "resources": resources }] });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.send("POST", PODS, &json!({ "metadata": { "name": name }, "spec": spec })).await;
        sleep(Duration::from_millis(10)).await;
    }

    /// The pod's node, and its condition `PodScheduled`: status, reason, message.
    async fn scheduled(&self, name: &str) -> (Value, [Value; 3]) {
        let pod = self.send("GET", &format!("{PODS}/{name}"), &Value::Null).await;
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let condition = conditions.into_iter().find(|it| it["type"] == "PodScheduled").unwrap_or_default();
        (pod["spec"]["nodeName"].clone(), ["status", "reason", "message"].map(|member| condition[member].clone()))
    }

    /// Type, reason, component and message of each Event about a pod.
    async fn events(&self, name: &str) -> Vec<String> {
        let events = self.send("GET", "/api/v1/namespaces/default/events", &Value::Null).await;
        let about = events["items"].as_array().unwrap().iter().filter(|it| it["involvedObject"]["name"] == name);
        let text = |event: &Value| {
            let text = |member: &Value| member.as_str().unwrap_or_default().to_owned();
            let parts = [&event["type"], &event["reason"], &event["source"]["component"], &event["message"]];
            parts.map(text).join(" ")
        };
        about.map(text).collect()
    }
}

const FULL: &str = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: \
                    0/1 nodes are available: 1 No preemption victims found for incoming pod.";

#[tokio::test(start_paused = true)]
async fn a_pod_without_room_says_so_and_is_bound_when_another_ends() {
    let place = Place::open().await;
    place.pod("first", "700m", &json!({})).await;
    place.pod("second", "700m", &json!({})).await;
    place.pod("small", "300m", &json!({})).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(place.scheduled("first").await, (json!("n"), [json!("True"), json!(null), json!(null)]));
    assert_eq!(place.scheduled("small").await.0, "n", "it passes the one that does not fit");
    let unschedulable = [json!("False"), json!("Unschedulable"), json!(FULL)];
    assert_eq!(place.scheduled("second").await, (json!(null), unschedulable));
    assert_eq!(place.events("second").await, [format!("Warning FailedScheduling default-scheduler {FULL}")]);
    assert_eq!(place.events("first").await, [""; 0]);

    place.send("PATCH", &format!("{PODS}/first/status"), &json!({ "status": { "phase": "Succeeded" } })).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(place.scheduled("second").await, (json!("n"), [json!("True"), json!(null), json!(null)]));
    let assigned = "Normal Scheduled default-scheduler Successfully assigned default/second to n";
    assert_eq!(place.events("second").await[1..], [assigned]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_changes_is_looked_at_again() {
    let place = Place::open().await;
    place.send("PATCH", "/api/v1/nodes/n", &json!({ "spec": { "unschedulable": true } })).await;
    place.pod("waits", "0", &json!({ "nodeSelector": { "disk": "ssd" } })).await;
    sleep(Duration::from_secs(1)).await;
    let message = async || place.scheduled("waits").await.1[2].as_str().unwrap_or_default().to_owned();
    let none =
        "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(message().await, format!("0/1 nodes are available: 1 node(s) were unschedulable. {none}"));
    place.send("PATCH", "/api/v1/nodes/n", &json!({ "spec": { "unschedulable": null } })).await;
    sleep(Duration::from_secs(1)).await;
    let selector = "1 node(s) didn't match Pod's node affinity/selector";
    assert_eq!(message().await, format!("0/1 nodes are available: {selector}. {none}"));
    place.send("PATCH", "/api/v1/nodes/n", &json!({ "metadata": { "labels": { "disk": "ssd" } } })).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(place.scheduled("waits").await.0, "n");
}
