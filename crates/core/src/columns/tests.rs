//! Tables of what is shown when.

use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

fn cells(group: &str, kind: &str, object: &Value) -> Vec<Value> {
    let layout = layout(group, kind);
    let row = layout.row(object.to_string().as_bytes(), now()).unwrap();
    assert_eq!(row.cells.len(), layout.columns.len());
    row.cells.iter().map(|cell| serde_json::to_value(cell).unwrap()).collect()
}

#[test]
fn durations_are_told_in_two_units_at_most() {
    for (seconds, told) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 61, "3h1m"),
        (8 * 3600, "8h"),
        (48 * 3600 - 1, "47h"),
        (48 * 3600, "2d"),
        (73 * 3600, "3d1h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (731 * 86400, "2y1d"),
        (9 * 365 * 86400, "9y"),
    ] {
        assert_eq!(human_duration(SignedDuration::from_secs(seconds)), told, "{seconds}");
    }
}

#[test]
fn the_first_condition_of_a_job_that_holds_is_its_status() {
    let status = |conditions: &[&str], deleted: bool| {
        let conditions: Vec<Value> = conditions.iter().map(|c| json!({"type": c, "status": "True"})).collect();
        let deletion = deleted.then_some("2026-01-01T00:00:00Z");
        let job =
            json!({"metadata": {"name": "j", "deletionTimestamp": deletion}, "status": {"conditions": conditions}});
        cells("batch", "Job", &job)[1].clone()
    };
    assert_eq!(status(&[], false), "Running");
    assert_eq!(status(&["FailureTarget", "Failed"], true), "Failed");
    assert_eq!(status(&["SuccessCriteriaMet", "Complete"], false), "Complete");
    assert_eq!(status(&["Suspended"], true), "Terminating");
    assert_eq!(status(&["Suspended"], false), "Suspended");
    assert_eq!(status(&["FailureTarget"], false), "FailureTarget");
    assert_eq!(status(&["SuccessCriteriaMet"], false), "SuccessCriteriaMet");
}

#[test]
fn a_job_without_completions_counts_to_one() {
    let completions = |spec: Value| {
        let job = json!({"metadata": {}, "spec": spec, "status": {"succeeded": 2}});
        cells("batch", "Job", &job)[2].clone()
    };
    let template = json!({});
    assert_eq!(completions(json!({"completions": 5, "template": template})), "2/5");
    assert_eq!(completions(json!({"parallelism": 3, "template": template})), "2/1 of 3");
    assert_eq!(completions(json!({"parallelism": 1, "template": template})), "2/1");
}

/// A pod of the containers `c`, `d` and the init containers `i`, `s` (a sidecar).
fn pod(status: &Value, deleted: bool) -> Vec<Value> {
    let deletion = deleted.then_some("2026-01-01T00:00:00Z");
    let pod = json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T23:59:00Z", "deletionTimestamp": deletion},
        "spec": {
            "containers": [{"name": "c"}, {"name": "d"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}],
        },
        "status": status,
    });
    cells("", "Pod", &pod)
}

fn container(name: &str, state: &Value) -> Value {
    json!({"name": name, "ready": state.get("running").is_some(), "started": state.get("running").is_some(),
        "restartCount": 0, "image": "", "imageID": "", "state": state})
}

#[test]
fn the_status_of_a_pod_tells_of_its_containers() {
    let end = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
    let waits = |reason: &str| json!({"waiting": {"reason": reason}});
    let runs = json!({"running": {}});
    let done = |name| container(name, &end(0, "Completed"));
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let cases = [
        (json!({"phase": "Pending"}), "Pending", "0/3"),
        (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted", "0/3"),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            "SchedulingGated",
            "0/3",
        ),
        (json!({"initContainerStatuses": [container("i", &waits("PodInitializing"))]}), "Init:0/2", "0/3"),
        (json!({"initContainerStatuses": [container("i", &waits("ErrImagePull"))]}), "Init:ErrImagePull", "0/3"),
        (json!({"initContainerStatuses": [container("i", &end(3, "Error"))]}), "Init:Error", "0/3"),
        (json!({"initContainerStatuses": [container("i", &end(3, ""))]}), "Init:ExitCode:3", "0/3"),
        (
            json!({"phase": "Running", "initContainerStatuses": [done("i"), container("s", &runs)],
                "containerStatuses": [container("c", &runs), container("d", &runs)]}),
            "Running",
            "3/3",
        ),
        (json!({"containerStatuses": [container("c", &waits("A")), container("d", &waits("B"))]}), "A", "0/3"),
        (json!({"containerStatuses": [container("c", &end(137, "")), container("d", &runs)]}), "ExitCode:137", "1/3"),
        (json!({"containerStatuses": [done("c"), container("d", &runs)]}), "NotReady", "1/3"),
        (json!({"conditions": ready, "containerStatuses": [done("c"), container("d", &runs)]}), "Running", "1/3"),
        (json!({"containerStatuses": [done("c"), container("d", &end(1, "Error"))]}), "Error", "0/3"),
        (json!({"containerStatuses": [done("c"), done("d")]}), "Completed", "0/3"),
    ];
    for (status, word, count) in cases {
        let cells = pod(&status, false);
        assert_eq!((&cells[2], &cells[1]), (&json!(word), &json!(count)), "{status}");
    }
    assert_eq!(pod(&json!({"phase": "Running"}), true)[2], "Terminating");
    assert_eq!(pod(&json!({"phase": "Succeeded"}), true)[2], "Succeeded");
    assert_eq!(pod(&json!({"phase": "Running", "reason": "NodeLost"}), true)[2], "Unknown");
    assert_eq!(pod(&json!({"conditions": [{"type": "y", "status": "True"}]}), false)[8], "1/2");
}

#[test]
fn restarts_tell_when_the_last_one_was() {
    let mut c = container("c", &json!({"running": {}}));
    c["restartCount"] = 2.into();
    c["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T23:58:00Z"}});
    let mut d = c.clone();
    d["lastState"]["terminated"]["finishedAt"] = "2026-01-01T23:59:30Z".into();
    assert_eq!(pod(&json!({"containerStatuses": [c, d]}), false)[3], "4 (30s ago)");
}

#[test]
fn a_pod_that_has_ended_says_so_in_its_row() {
    let pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Failed"}});
    let row = layout("", "Pod").row(pod.to_string().as_bytes(), now()).unwrap();
    let expected = json!({"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."});
    assert_eq!(serde_json::to_value(row.condition).unwrap(), expected);
}

#[test]
fn events_of_both_groups_show_the_same() {
    let old = json!({
        "metadata": {"name": "e"}, "involvedObject": {"kind": "Job", "name": "j", "fieldPath": "f"}, "type": "Normal",
        "reason": "R", "message": " m \n", "source": {"component": "c", "host": "h"}, "count": 3,
        "firstTimestamp": "2026-01-01T23:50:00Z", "lastTimestamp": "2026-01-01T23:59:50Z",
    });
    let expected = json!(["10s", "Normal", "R", "job/j", "f", "c, h", "m", "10m", 3, "e"]);
    assert_eq!(Value::from(cells("", "Event", &old)), expected);
    let new = json!({
        "metadata": {"name": "e"}, "regarding": {"kind": "Job", "name": "j"}, "type": "Normal", "reason": "R", "note": "m",
        "reportingController": "c", "eventTime": "2026-01-01T23:50:00.000001Z",
    });
    let expected = json!(["9m59s", "Normal", "R", "job/j", "", "c", "m", "9m59s", 1, "e"]);
    assert_eq!(Value::from(cells("events.k8s.io", "Event", &new)), expected);
}

#[test]
fn selectors_are_told_by_key() {
    let selector_of = |value: Value| selector(Some(&serde_json::from_value(value).unwrap()));
    let value = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
        {"key": "c", "operator": "NotIn", "values": ["y", "x"]}, {"key": "a", "operator": "Exists"},
        {"key": "d", "operator": "DoesNotExist"}]});
    assert_eq!(selector_of(value), Cell::from("a,b=1,c notin (x,y),!d"));
    assert_eq!(selector_of(json!({})), Cell::from("<none>"));
}
