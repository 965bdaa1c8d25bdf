//! What a decision takes about a Job with many active pods, as the controller remembers them.
//!
//! `cargo bench -p stint-core --bench decide [-- PODS]`; with thousands of pods it is the memory that is slow, not the sums.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use stint_core::job::kept::slim;
use stint_core::job::{Tuning, reconcile_kept};
use stint_core::{admit, defaults};

const TIMES: usize = 51;
const UID: &str = "10000000-0000-4000-8000-000000000000";

fn main() {
    // Cargo passes `--bench`.
    let pods: usize = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(10_000);
    let now = Timestamp::from_second(1_800_000_000).expect("it is a timestamp");
    for (what, spec) in [
        ("not indexed", json!({})),
        ("indexed", json!({ "completionMode": "Indexed" })),
        ("with retries per index", json!({ "completionMode": "Indexed", "backoffLimitPerIndex": 2 })),
    ] {
        let job = job(pods, &spec);
        let pods: Vec<Pod> = (0..pods).map(|number| slim(pod(&job, number * 7919 % pods))).collect();
        let mut took: Vec<Duration> = (0..TIMES)
            .map(|_| {
                let began = Instant::now();
                let plan = reconcile_kept(&job, &pods, None, now, Tuning::default());
                let took = began.elapsed();
                assert!(plan.is_empty(), "{:?}", plan.because);
                took
            })
            .collect();
        took.sort();
        println!(
            "a decision about {} active pods, {what}: {:.2?} p50, {:.2?} best",
            pods.len(),
            took[TIMES / 2],
            took[0]
        );
    }
}

/// A Job all of whose pods are active and ready.
fn job(pods: usize, spec: &Value) -> Job {
    let mut manifest = json!({ "metadata": { "name": "many", "namespace": "default" }, "spec": {
        "completions": pods, "parallelism": pods,
        "template": { "spec": { "restartPolicy": "OnFailure", "containers": [{ "name": "c", "image": "i" }] } },
    } });
    let members = spec.as_object().expect("it is an object").clone();
    manifest["spec"].as_object_mut().expect("it is one, too").extend(members);
    let mut job: Job = serde_json::from_value(manifest).expect("the manifest is a Job");
    defaults::job(&mut job);
    admit::prepare_job(&mut job, UID);
    let status = json!({ "active": pods, "ready": pods, "terminating": 0, "uncountedTerminatedPods": {},
        "startTime": "2026-01-01T00:00:00Z",
        "failedIndexes": spec.get("backoffLimitPerIndex").map(|_| "") });
    job.status = Some(serde_json::from_value(status).expect("the manifest is a status"));
    job
}

/// A pod as a node shows it.
fn pod(job: &Job, index: usize) -> Pod {
    let template = job.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    let mut labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert("batch.kubernetes.io/job-completion-index".to_owned(), index.to_string());
    let since = "2026-01-01T00:00:01Z";
    let holds = |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": since });
    let conditions =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(holds);
    let manifest = json!({
        "metadata": {
            "name": format!("many-{index}-abcde"), "namespace": "default", "labels": labels,
            "uid": format!("20000000-0000-4000-8000-{index:012x}"), "resourceVersion": index.to_string(),
            "annotations": { "batch.kubernetes.io/job-completion-index": index.to_string() },
            "finalizers": ["batch.kubernetes.io/job-tracking"], "creationTimestamp": since,
            "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "many", "uid": UID, "controller": true }],
        },
        "spec": { "nodeName": "node", "containers": [{ "name": "c", "image": "i" }] },
        "status": { "phase": "Running", "startTime": since, "conditions": conditions,
            "containerStatuses": [{ "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "running": { "startedAt": since } } }] },
    });
    serde_json::from_value(manifest).expect("the manifest is a Pod")
}
