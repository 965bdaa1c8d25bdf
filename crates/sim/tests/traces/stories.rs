//! More rules of the Job controller as stories: what suspends and resumes, whose pods are whose, which indexes fail.

use serde_json::{Value, json};

use crate::rules::{JOBS, PODS, Scene, pass, play, text};
use crate::trace::{TRACKING, has_finalizer, owners};

impl Scene {
    /// The pod of this name.
    async fn pod(&self, name: &str) -> Value {
        self.0.send("GET", &format!("{PODS}/{name}"), &Value::Null).await
    }

    /// The active pod of an index.
    async fn at(&self, index: u32) -> String {
        let pods = self.active().await;
        let prefix = format!("j-{index}-");
        pods.into_iter().find(|name| name.starts_with(&prefix)).unwrap_or_else(|| panic!("no pod of index {index}"))
    }
}

#[test]
fn a_resumed_job_starts_anew_with_its_deadline_but_keeps_its_counts() {
    play(async |scene| {
        scene.job(&json!({ "parallelism": 2, "completions": 3, "activeDeadlineSeconds": 30 })).await;
        let pods = scene.active().await;
        scene.end(&pods[0], 0, 2).await;
        scene.end(&pods[1], 1, 2).await;
        pass(3).await;
        scene.change(&json!({ "suspend": true })).await;
        pass(60).await;
        let suspended = json!({ "succeeded": 1, "failed": 1, "conditions": ["Suspended=True JobSuspended"] });
        assert_eq!(scene.status().await, suspended);
        scene.change(&json!({ "suspend": false })).await;
        pass(25).await;
        let resumed = json!({ "startTime": "<TIME>", "active": 2, "succeeded": 1, "failed": 1,
            "conditions": ["Suspended=False JobResumed"] });
        assert_eq!(scene.status().await, resumed);
        pass(6).await;
        let conditions = json!([
            "Suspended=False JobResumed",
            "FailureTarget=True DeadlineExceeded",
            "Failed=True DeadlineExceeded"
        ]);
        let ended = json!({ "startTime": "<TIME>", "succeeded": 1, "failed": 3, "conditions": conditions });
        assert_eq!(scene.status().await, ended);
    });
}

#[test]
fn a_suspended_job_may_get_other_places_for_its_pods() {
    play(async |scene| {
        scene.job(&json!({ "suspend": true })).await;
        scene.change(&json!({ "template": { "spec": { "nodeSelector": { "disk": "fast" } } } })).await;
        scene.change(&json!({ "suspend": false })).await;
        let pod = scene.active().await[0].clone();
        assert_eq!(scene.pod(&pod).await["spec"]["nodeSelector"], json!({ "disk": "fast" }));
    });
}

#[test]
fn no_parallelism_pauses_a_job_without_a_condition() {
    play(async |scene| {
        scene.job(&json!({ "parallelism": 3, "completions": 5 })).await;
        scene.change(&json!({ "parallelism": 0 })).await;
        pass(5).await;
        assert_eq!(scene.status().await, json!({ "startTime": "<TIME>" }), "who was sent away did not fail");
        scene.change(&json!({ "parallelism": 1 })).await;
        assert_eq!(scene.status().await["active"], 1);
    });
}

/// A pod that `selecting_job` selects.
fn loose_pod(name: &str, owner: Option<Value>) -> Value {
    let owners: Vec<Value> = owner.into_iter().collect();
    json!({ "metadata": { "name": name, "labels": { "app": "a" }, "ownerReferences": owners },
        "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "x" }] } })
}

/// A Job that selects by a label of its user.
fn selecting_job(pods: i32) -> Value {
    json!({ "metadata": { "name": "j" }, "spec": {
        "parallelism": pods, "completions": pods, "manualSelector": true,
        "selector": { "matchLabels": { "app": "a" } },
        "template": { "metadata": { "labels": { "app": "a" } }, "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "c", "image": "x" }],
        } },
    }})
}

#[test]
fn pods_that_the_selector_selects_are_adopted_unless_another_controller_has_them() {
    play(async |scene| {
        let maps = "/api/v1/namespaces/default/configmaps";
        let map = scene.0.send("POST", maps, &json!({ "metadata": { "name": "o" } })).await;
        let uid = &map["metadata"]["uid"];
        let other = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": uid, "controller": true });
        scene.0.send("POST", PODS, &loose_pod("mine", None)).await;
        scene.0.send("POST", PODS, &loose_pod("theirs", Some(other))).await;
        scene.0.send("POST", JOBS, &selecting_job(2)).await;
        pass(1).await;
        assert_eq!(scene.status().await, json!({ "startTime": "<TIME>", "active": 2 }));
        assert_eq!(scene.list(PODS).await.len(), 3, "one was there, one was created, one is another's");
        let (mine, theirs) = (scene.pod("mine").await, scene.pod("theirs").await);
        assert!(has_finalizer(&mine, TRACKING) && owners(&mine)[0]["kind"] == "Job");
        assert!(!has_finalizer(&theirs, TRACKING) && owners(&theirs)[0]["kind"] == "ConfigMap");
        // Without the label it is nobody's again, and another takes its place.
        let labels = json!({ "metadata": { "labels": null } });
        scene.0.send("PATCH", &format!("{PODS}/mine"), &labels).await;
        pass(1).await;
        let free = scene.pod("mine").await;
        assert!(!has_finalizer(&free, TRACKING) && owners(&free).is_empty());
        assert_eq!((scene.status().await["active"].clone(), scene.list(PODS).await.len()), (json!(2), 4));
    });
}

#[test]
fn a_job_made_again_under_its_name_waits_for_no_failure_of_the_first() {
    play(async |scene| {
        scene.job(&json!({})).await;
        let pod = scene.active().await[0].clone();
        scene.end(&pod, 1, 1).await;
        assert!(scene.active().await.is_empty(), "the first one waits");
        scene.delete(&format!("{JOBS}/j"), &json!({ "propagationPolicy": "Background" })).await;
        scene.job(&json!({})).await;
        assert_eq!(scene.active().await.len(), 1);
        assert_eq!(scene.status().await, json!({ "startTime": "<TIME>", "active": 1 }));
    });
}

#[test]
fn more_successes_than_completions_are_warned_of() {
    play(async |scene| {
        for name in ["one", "two"] {
            scene.0.send("POST", PODS, &loose_pod(name, None)).await;
            scene.end(name, 0, 1).await;
        }
        scene.0.send("POST", JOBS, &selecting_job(1)).await;
        pass(1).await;
        assert_eq!(scene.status().await["succeeded"], 2);
        assert_eq!(scene.reasons().await, ["TooManySucceededPods", "Completed"]);
        let (kind, _, message, _) = scene.events().await[0].clone();
        let why = "Too many succeeded pods running after completion count reached";
        assert_eq!((kind.as_str(), message.as_str()), ("Warning", why));
    });
}

#[test]
fn an_index_fails_at_once_by_policy_or_after_its_retries_and_too_many_end_the_job() {
    play(async |scene| {
        let rules = json!([{ "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [9] } }]);
        scene
            .job(&json!({
                "parallelism": 4, "completions": 4, "completionMode": "Indexed",
                "backoffLimitPerIndex": 1, "maxFailedIndexes": 1, "podFailurePolicy": { "rules": rules },
            }))
            .await;
        let (first, second) = (scene.at(0).await, scene.at(1).await);
        scene.end(&first, 9, 1).await;
        scene.end(&second, 1, 1).await;
        pass(5).await;
        let status = scene.status().await;
        assert_eq!((&status["failedIndexes"], &status["active"]), (&json!("0"), &json!(2)));
        pass(6).await;
        let again = scene.at(1).await;
        assert_eq!(
            scene.pod(&again).await["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"],
            "1"
        );
        scene.end(&again, 1, 12).await;
        pass(1).await;
        let conditions = json!(["FailureTarget=True MaxFailedIndexesExceeded", "Failed=True MaxFailedIndexesExceeded"]);
        let status = scene.status().await;
        assert_eq!((&status["failedIndexes"], &status["conditions"]), (&json!("0,1"), &conditions));
        assert_eq!(status["failed"], 5, "two of each of the failed, and those that were ended with them");
        let (kind, _, message, _) = scene.events().await.pop().expect("there are Events");
        assert_eq!(kind, "Warning");
        assert_eq!(message, "Job has exceeded the specified maximal number of failed indexes");
    });
}

#[test]
fn enough_indexes_complete_a_job_and_those_that_run_are_neither_counted_nor_left() {
    play(async |scene| {
        let policy = json!({ "rules": [{ "succeededIndexes": "3" }, { "succeededCount": 2 }] });
        scene
            .job(&json!({ "parallelism": 4, "completions": 4, "completionMode": "Indexed", "successPolicy": policy }))
            .await;
        for index in [0, 2] {
            let pod = scene.at(index).await;
            scene.end(&pod, 0, 1).await;
        }
        pass(1).await;
        let conditions = json!(["SuccessCriteriaMet=True SuccessPolicy", "Complete=True SuccessPolicy"]);
        let expected = json!({ "startTime": "<TIME>", "completionTime": "<TIME>", "succeeded": 2, "completedIndexes": "0,2",
            "conditions": conditions });
        assert_eq!(scene.status().await, expected);
        let job = scene.0.send("GET", &format!("{JOBS}/j"), &Value::Null).await;
        assert_eq!(text(&job["status"]["conditions"][0]["message"]), "Matched rules at index 1");
        assert_eq!(scene.list(PODS).await.len(), 2, "the finished ones stay");
    });
}

#[test]
fn pods_of_no_index_of_the_job_go_and_are_not_counted() {
    play(async |scene| {
        scene.job(&json!({ "parallelism": 2, "completions": 2, "completionMode": "Indexed" })).await;
        let pod = scene.at(1).await;
        let wrong = json!({ "metadata": { "annotations": { "batch.kubernetes.io/job-completion-index": "7" } } });
        scene.0.send("PATCH", &format!("{PODS}/{pod}"), &wrong).await;
        pass(1).await;
        assert_eq!(scene.status().await, json!({ "startTime": "<TIME>", "active": 2 }));
        let pods = scene.active().await;
        assert!(!pods.contains(&pod) && pods.iter().any(|name| name.starts_with("j-1-")), "{pods:?}");
    });
}

#[test]
fn a_finished_job_keeps_its_end_whatever_its_pods_and_spec_do() {
    play(async |scene| {
        scene.job(&json!({ "backoffLimit": 0 })).await;
        let pod = scene.active().await[0].clone();
        scene.end(&pod, 1, 1).await;
        pass(1).await;
        let end = scene.status().await;
        assert_eq!(end["conditions"][1], "Failed=True BackoffLimitExceeded");
        scene.change(&json!({ "backoffLimit": 5, "parallelism": 3 })).await;
        scene.delete(&format!("{PODS}/{pod}"), &json!({})).await;
        pass(60).await;
        assert_eq!((scene.status().await, scene.list(PODS).await.len()), (end, 0));
    });
}
