//! Rules of the Job controller that no recording shows, told as stories before the same place: section 5 of the API.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use stint_controllers::{Config, Metrics};
use stint_server::Admission;
use tokio::time::sleep;

use crate::stage::Stage;
use crate::trace::{Entry, TRACKING, has_finalizer, owners};

/// Where Jobs are.
pub const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
/// Where pods are.
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// The place, and what a user does there.
pub struct Scene(pub Stage);

/// Plays a scene in the namespace `default` of an API that admits as a cluster does.
pub fn play(scene: impl AsyncFnOnce(Scene)) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime without I/O needs nothing");
    runtime.block_on(async {
        let begin = Timestamp::from_second(1_800_000_000).expect("it is a time");
        let stage = Stage::open_with(begin, Admission::Cluster, Config::default());
        pass(1).await; // until the namespace has its account
        scene(Scene(stage)).await;
    });
}

/// Records a scene that is played before controllers that let events gather, as the recorded ones did.
pub fn record(scene: impl AsyncFnOnce(&Scene)) -> Vec<Entry> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime without I/O needs nothing");
    runtime.block_on(async {
        let begin = Timestamp::from_second(1_800_000_000).expect("it is a time");
        let stage = Scene(Stage::open(begin, Metrics::default()));
        scene(&stage).await;
        stage.0.close()
    })
}

/// Lets time pass.
pub async fn pass(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

impl Scene {
    /// Creates the Job `j` with these members of its spec.
    pub async fn job(&self, spec: &Value) {
        self.job_with(spec, &json!({ "terminationGracePeriodSeconds": 0 })).await;
    }

    async fn job_with(&self, spec: &Value, pod: &Value) {
        let mut job = json!({ "metadata": { "name": "j" }, "spec": { "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "c", "image": "x" }],
        }}}});
        merge(&mut job["spec"], spec);
        merge(&mut job["spec"]["template"]["spec"], pod);
        self.0.send("POST", JOBS, &job).await;
        sleep(Duration::from_millis(20)).await;
    }

    /// Changes the spec of `j`.
    pub async fn change(&self, spec: &Value) {
        self.0.send("PATCH", &format!("{JOBS}/j"), &json!({ "spec": spec })).await;
        sleep(Duration::from_millis(20)).await;
    }

    /// Ends a pod with an exit code.
    pub async fn end(&self, pod: &str, code: i32, seconds: i64) {
        let at = Timestamp::from_second(1_800_000_000 + seconds).expect("it is a time").to_string();
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let status = json!({ "status": { "phase": phase, "containerStatuses": [{
            "name": "c", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": code, "finishedAt": at } },
        }]}});
        self.0.send("PATCH", &format!("{PODS}/{pod}/status"), &status).await;
        sleep(Duration::from_millis(20)).await;
    }

    async fn ready(&self, pod: &str) {
        let status = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
        self.0.send("PATCH", &format!("{PODS}/{pod}/status"), &status).await;
        sleep(Duration::from_millis(20)).await;
    }

    /// Deletes what is at this path.
    pub async fn delete(&self, path: &str, options: &Value) {
        self.0.send("DELETE", path, options).await;
        sleep(Duration::from_millis(20)).await;
    }

    /// What is there.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        self.0.send("GET", path, &Value::Null).await["items"].as_array().expect("a list has items").clone()
    }

    /// The status of `j`, without times and without the gauges that are 0.
    pub async fn status(&self) -> Value {
        let mut status = self.0.send("GET", &format!("{JOBS}/j"), &Value::Null).await["status"].clone();
        let members = status.as_object_mut().expect("a status is a map");
        let conditions: Vec<String> = members
            .remove("conditions")
            .iter()
            .flat_map(|list| list.as_array().expect("conditions are a list"))
            .map(|c| format!("{}={} {}", text(&c["type"]), text(&c["status"]), text(&c["reason"])))
            .collect();
        members.retain(|_, value| *value != 0 && *value != json!({}));
        for field in ["startTime", "completionTime"] {
            members.entry(field).and_modify(|time| *time = json!("<TIME>"));
        }
        if !conditions.is_empty() {
            status["conditions"] = json!(conditions);
        }
        status
    }

    /// Names of the pods that are not finished.
    pub async fn active(&self) -> Vec<String> {
        let pods = self.list(PODS).await;
        let active = |pod: &&Value| {
            pod["status"]["phase"] != "Failed"
                && pod["status"]["phase"] != "Succeeded"
                && pod["metadata"]["deletionTimestamp"].is_null()
        };
        pods.iter().filter(active).map(|pod| text(&pod["metadata"]["name"])).collect()
    }

    /// Type, reason, message and count of the Events, by name.
    pub async fn events(&self) -> Vec<(String, String, String, i64)> {
        let mut events = self.list("/api/v1/namespaces/default/events").await;
        events.sort_by_key(|event| text(&event["metadata"]["name"]));
        let tell =
            |e: &Value| (text(&e["type"]), text(&e["reason"]), text(&e["message"]), e["count"].as_i64().unwrap_or(0));
        events.iter().map(tell).collect()
    }

    /// The reasons of the Events, in order, those in a row once.
    pub async fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self.events().await.into_iter().map(|event| event.1).collect();
        reasons.dedup();
        reasons
    }
}

/// The text of a value.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().expect("a map") {
        into[key] = value.clone();
    }
}

#[test]
fn a_pod_that_nobody_controls_is_not_held_by_the_tracking_finalizer() {
    play(async |scene| {
        let pod = json!({ "metadata": { "name": "p", "finalizers": [TRACKING, "example.com/mine"] },
            "spec": { "containers": [{ "name": "c", "image": "x" }] } });
        scene.0.send("POST", PODS, &pod).await;
        pass(1).await;
        assert_eq!(scene.list(PODS).await[0]["metadata"]["finalizers"], json!(["example.com/mine"]));
    });
}

#[test]
fn a_deleted_job_takes_its_pods_along_or_leaves_them_free() {
    for (policy, left) in [("Background", 0), ("Foreground", 0), ("Orphan", 2)] {
        play(async |scene| {
            scene.job(&json!({ "parallelism": 2, "completions": 2 })).await;
            scene.delete(&format!("{JOBS}/j"), &json!({ "propagationPolicy": policy })).await;
            pass(5).await;
            assert!(scene.list(JOBS).await.is_empty(), "{policy}");
            let pods = scene.list(PODS).await;
            assert_eq!(pods.len(), left, "{policy}");
            for pod in pods {
                let is_free = owners(&pod).is_empty() && !has_finalizer(&pod, TRACKING);
                assert!(is_free && pod["metadata"]["deletionTimestamp"].is_null(), "{policy}: {pod}");
            }
        });
    }
}

#[test]
fn a_job_whose_pods_a_quota_refuses_has_started_and_says_why_it_waits() {
    play(async |scene| {
        let quota = |pods: &str| json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": pods } } });
        let quotas = "/api/v1/namespaces/default/resourcequotas";
        scene.0.send("POST", quotas, &quota("0")).await;
        scene.job(&json!({ "parallelism": 3, "completions": 3 })).await;
        pass(1).await;
        assert_eq!(scene.status().await, json!({ "startTime": "<TIME>" }));
        pass(10).await;
        let events = scene.events().await;
        assert!(events.len() > 2, "it is tried again: {events:?}");
        for (kind, reason, message, _) in events {
            assert_eq!((kind.as_str(), reason.as_str()), ("Warning", "FailedCreate"));
            assert!(message.starts_with("Error creating: pods \"j-"), "{message}");
            assert!(message.contains("is forbidden: exceeded quota: q"), "{message}");
        }
        scene.0.send("PATCH", &format!("{quotas}/q"), &quota("2")).await;
        pass(60).await;
        assert_eq!(scene.status().await, json!({ "startTime": "<TIME>", "active": 2 }), "two have room");
    });
}

#[test]
fn a_job_of_many_pods_tells_25_events_and_combines_those_from_the_tenth_on() {
    play(async |scene| {
        scene.job(&json!({ "parallelism": 40, "completions": 40 })).await;
        pass(2).await;
        let events = scene.events().await;
        let (combined, single): (Vec<_>, Vec<_>) = events.iter().partition(|event| event.2.starts_with("(combined"));
        assert_eq!((single.len(), combined.len()), (9, 1));
        assert_eq!(combined[0].3, 16, "25 Events were told; the others were not");
    });
}

#[test]
fn a_change_of_the_time_to_live_counts_at_once() {
    play(async |scene| {
        scene.job(&json!({ "completions": 0 })).await;
        pass(3600).await;
        assert_eq!(scene.list(JOBS).await.len(), 1);
        scene.change(&json!({ "ttlSecondsAfterFinished": 3605 })).await;
        pass(4).await;
        assert_eq!(scene.list(JOBS).await.len(), 1);
        pass(2).await;
        assert_eq!(scene.list(JOBS).await.len(), 0);
    });
}

#[test]
fn a_job_of_no_completions_completes_also_while_it_is_suspended() {
    play(async |scene| {
        scene.job(&json!({ "completions": 0, "suspend": true })).await;
        pass(1).await;
        let conditions = json!(["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"]);
        assert_eq!(scene.status().await, json!({ "completionTime": "<TIME>", "conditions": conditions }));
        assert_eq!(scene.reasons().await, ["Completed"]);
    });
}

#[test]
fn a_job_that_another_controller_manages_is_not_touched() {
    play(async |scene| {
        scene.job(&json!({ "managedBy": "example.com/other" })).await;
        pass(60).await;
        assert_eq!((scene.status().await, scene.list(PODS).await.len()), (json!({}), 0));
    });
}

#[test]
fn a_job_past_its_deadline_ends_its_pods_counted_as_failed() {
    play(async |scene| {
        scene.job(&json!({ "parallelism": 2, "completions": 4, "activeDeadlineSeconds": 10 })).await;
        let first = scene.active().await[0].clone();
        pass(3).await;
        scene.end(&first, 0, 4).await;
        pass(6).await;
        assert_eq!(scene.status().await, json!({ "startTime": "<TIME>", "active": 2, "succeeded": 1 }));
        pass(2).await;
        let conditions = json!(["FailureTarget=True DeadlineExceeded", "Failed=True DeadlineExceeded"]);
        let expected = json!({ "startTime": "<TIME>", "succeeded": 1, "failed": 2, "conditions": conditions });
        assert_eq!(scene.status().await, expected);
        assert_eq!(scene.reasons().await, ["SuccessfulCreate", "SuccessfulDelete", "DeadlineExceeded"]);
    });
}

#[test]
fn a_later_deadline_gives_a_running_job_more_time_and_an_earlier_one_ends_it() {
    play(async |scene| {
        scene.job(&json!({ "activeDeadlineSeconds": 10 })).await;
        pass(5).await;
        scene.change(&json!({ "activeDeadlineSeconds": 100 })).await;
        pass(50).await;
        assert_eq!(scene.status().await["active"], 1);
        scene.change(&json!({ "activeDeadlineSeconds": 20 })).await;
        pass(1).await;
        assert_eq!(scene.status().await["failed"], 1);
    });
}

#[test]
fn a_pod_that_leaves_is_replaced_at_once_or_only_when_it_has_failed() {
    for (policy, meanwhile) in [("TerminatingOrFailed", Some(1)), ("Failed", None)] {
        play(async |scene| {
            scene.job_with(&json!({ "podReplacementPolicy": policy }), &json!({})).await;
            let pod = scene.active().await[0].clone();
            let node = json!({ "target": { "kind": "Node", "name": "n" }, "metadata": { "name": pod } });
            scene.0.send("POST", &format!("{PODS}/{pod}/binding"), &node).await;
            scene.ready(&pod).await;
            scene.delete(&format!("{PODS}/{pod}"), &json!({})).await;
            pass(11).await;
            let status = scene.status().await;
            let now = (status["active"].as_i64(), status["terminating"].as_i64(), status["failed"].as_i64());
            assert_eq!(now, (meanwhile, Some(1), meanwhile), "{policy}");
            scene.end(&pod, 137, 12).await;
            scene.delete(&format!("{PODS}/{pod}"), &json!({ "gracePeriodSeconds": 0 })).await;
            pass(11).await;
            let status = scene.status().await;
            assert_eq!((&status["active"], &status["failed"]), (&json!(1), &json!(1)), "{policy}");
            assert_eq!(status["terminating"], Value::Null, "{policy}");
        });
    }
}

#[test]
fn an_ignored_failure_is_replaced_after_its_delay_and_a_fatal_one_ends_the_job() {
    play(async |scene| {
        let codes = |code: i32| json!({ "operator": "In", "values": [code] });
        let rules = json!([
            { "action": "Ignore", "onExitCodes": codes(7) },
            { "action": "FailJob", "onExitCodes": codes(42) },
        ]);
        let policy = json!({ "rules": rules });
        scene.job(&json!({ "parallelism": 2, "completions": 4, "backoffLimit": 0, "podFailurePolicy": policy })).await;
        let pods = scene.active().await;
        scene.end(&pods[0], 7, 1).await;
        pass(5).await;
        assert_eq!((scene.active().await.len(), scene.status().await["failed"].clone()), (1, Value::Null));
        pass(6).await;
        assert_eq!(scene.status().await, json!({ "startTime": "<TIME>", "active": 2 }));
        scene.end(&pods[1], 42, 12).await;
        pass(1).await;
        let conditions = json!(["FailureTarget=True PodFailurePolicy", "Failed=True PodFailurePolicy"]);
        assert_eq!(scene.status().await, json!({ "startTime": "<TIME>", "failed": 2, "conditions": conditions }));
        let (kind, _, message, _) = scene.events().await.pop().expect("there are Events");
        let pod = &pods[1];
        let why =
            format!("Container c for pod default/{pod} failed with exit code 42 matching FailJob rule at index 1");
        assert_eq!((kind.as_str(), message), ("Warning", why));
    });
}

#[test]
fn an_elastic_job_grows_shrinks_and_may_be_complete_by_that() {
    play(async |scene| {
        scene.job(&json!({ "parallelism": 2, "completions": 2, "completionMode": "Indexed" })).await;
        let first = scene.active().await[0].clone();
        scene.end(&first, 0, 1).await;
        scene.change(&json!({ "parallelism": 4, "completions": 4 })).await;
        let expected = json!({ "startTime": "<TIME>", "active": 3, "succeeded": 1, "completedIndexes": "0" });
        assert_eq!(scene.status().await, expected);
        scene.change(&json!({ "parallelism": 1, "completions": 1 })).await;
        pass(1).await;
        let conditions = json!(["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"]);
        let expected = json!({ "startTime": "<TIME>", "completionTime": "<TIME>", "succeeded": 1, "completedIndexes": "0",
            "conditions": conditions });
        assert_eq!(scene.status().await, expected);
        assert!(scene.active().await.is_empty());
    });
}
