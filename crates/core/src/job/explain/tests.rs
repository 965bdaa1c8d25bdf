//! What is said of Jobs in the states that people ask about.

use serde_json::{Value, json};

use super::*;

const UID: &str = "6d1f0000-0000-4000-8000-000000000001";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn time(seconds: i64) -> Value {
    json!(at(seconds).to_string())
}

fn job(spec: &Value, status: &Value) -> Job {
    let mut whole = json!({ "parallelism": 1, "completions": 1, "backoffLimit": 6, "selector": { "matchLabels": { "j": "j" } },
        "template": { "spec": { "restartPolicy": "Never", "containers": [] } } });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let mut shown = json!({ "startTime": time(0), "ready": 0, "terminating": 0, "uncountedTerminatedPods": {} });
    shown.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    let metadata = json!({ "name": "j", "namespace": "n", "uid": UID });
    serde_json::from_value(json!({ "metadata": metadata, "spec": whole, "status": shown })).unwrap()
}

fn pod(name: &str, status: &Value) -> Pod {
    let owner = json!({ "apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": UID, "controller": true });
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "n", "uid": name, "labels": { "j": "j" }, "ownerReferences": [owner],
            "creationTimestamp": time(0) },
        "status": status,
    }))
    .unwrap()
}

fn failed(name: &str, code: i32, end: i64) -> Pod {
    let ended = json!({ "exitCode": code, "reason": "Error", "startedAt": time(end - 1), "finishedAt": time(end) });
    let container = json!({ "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": ended } });
    pod(name, &json!({ "phase": "Failed", "containerStatuses": [container] }))
}

fn say(job: &Job, pods: &[Pod], events: &[Event], now: i64) -> Explanation {
    explain(job, pods, events, at(now), Tuning::default())
}

#[test]
fn a_retry_is_told_with_its_moment_and_what_comes_then() {
    let job = job(&json!({ "activeDeadlineSeconds": 100 }), &json!({ "failed": 2 }));
    let told = say(&job, &[failed("a", 3, 2), failed("b", 4, 15)], &[], 16);
    assert_eq!(told.state, "Waiting: no pod is active");
    assert_eq!(told.next, ["create 1 pod: 0 pods are active and 1 is wanted"]);
    assert_eq!(told.next_at, Some(Time(at(35))));
    let waits: Vec<_> = told.waits.iter().map(|wait| wait.until.clone().unwrap().0).collect();
    assert_eq!(waits, [at(35), at(100)], "{:?}", told.waits);
    assert!(told.waits[0].what.contains("the delay after 2 failures in a row"), "{:?}", told.waits);
    let runs: Vec<_> = told.attempts.iter().map(|it| (it.pod.as_str(), it.runs[0].exit_code)).collect();
    assert_eq!(runs, [("a", Some(3)), ("b", Some(4))]);
    assert_eq!(told.counted, Counted { succeeded: 0, failed: 2, backoff_limit: 6 });
}

#[test]
fn a_pod_that_cannot_run_is_told_with_the_reason() {
    let job = job(&json!({}), &json!({ "active": 1 }));
    let condition =
        json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room" });
    let waiting = json!({ "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": "ImagePullBackOff", "message": "later" } } });
    for (status, what) in [
        (json!({ "phase": "Pending", "conditions": [condition] }), "pod p: Unschedulable: no room"),
        (
            json!({ "phase": "Pending", "containerStatuses": [waiting] }),
            "pod p: container main: ImagePullBackOff: later",
        ),
    ] {
        let told = say(&job, &[pod("p", &status)], &[], 1);
        assert_eq!(told.waits, [Wait { what: what.to_owned(), until: None }]);
        assert_eq!(told.state, "Running: 1 pod active, 0 of them ready");
    }
}

#[test]
fn a_refusal_is_told_until_a_pod_was_created() {
    let job = job(&json!({}), &json!({}));
    let event = |reason: &str, message: &str, seconds| -> Event {
        let about = json!({ "uid": UID });
        let event = json!({ "metadata": {}, "involvedObject": about, "reason": reason, "message": message, "lastTimestamp": time(seconds) });
        serde_json::from_value(event).unwrap()
    };
    let refused = event("FailedCreate", "Error creating: pods \"x\" is forbidden: exceeded quota: q", 5);
    let told = say(&job, &[], std::slice::from_ref(&refused), 6);
    let what = "the API to take its pods, which it refuses: pods \"x\" is forbidden: exceeded quota: q";
    assert_eq!(told.waits, [Wait { what: what.to_owned(), until: None }]);
    assert_eq!(say(&job, &[], std::slice::from_ref(&refused), 600).waits, []);
    assert_eq!(say(&job, &[], &[refused, event("SuccessfulCreate", "Created pod: a", 6)], 7).waits, []);
}

#[test]
fn suspended_ended_and_foreign_jobs_say_so() {
    let paused = job(&json!({ "suspend": true }), &json!({}));
    let told = say(&paused, &[], &[], 1);
    assert_eq!((told.state.as_str(), told.waits[0].what.contains("spec.suspend")), ("Suspended", true));

    let condition = json!({ "type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often",
        "lastTransitionTime": time(5) });
    let over = job(&json!({ "ttlSecondsAfterFinished": 60 }), &json!({ "conditions": [condition] }));
    let told = say(&over, &[], &[], 10);
    assert_eq!(told.state, format!("Failed since {}: too often (BackoffLimitExceeded)", at(5)));
    assert_eq!(told.next_at, Some(Time(at(65))));
    assert!(told.next[0].starts_with("delete the Job: "), "{:?}", told.next);

    let foreign = job(&json!({ "managedBy": "example.com/other" }), &json!({}));
    let told = say(&foreign, &[], &[], 1);
    assert_eq!((told.state.as_str(), told.next.len()), ("Managed by example.com/other, not by this controller", 0));
}

#[test]
fn a_pod_that_leaves_is_waited_for() {
    let mut leaving = pod("p", &json!({ "phase": "Running" }));
    leaving.metadata.deletion_timestamp = Some(Time(at(30)));
    let condition =
        json!({ "type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded", "message": "too long" });
    let job = job(&json!({}), &json!({ "terminating": 1, "conditions": [condition] }));
    let told = say(&job, &[leaving], &[], 2);
    assert_eq!(told.state, "Failing, until its last pods have ended: too long (DeadlineExceeded)");
    assert!(
        told.waits.contains(&Wait { what: "pod p to end".to_owned(), until: Some(Time(at(30))) }),
        "{:?}",
        told.waits
    );
}
