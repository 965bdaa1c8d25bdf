//! `stint explain` as a user meets it: the real program against a real daemon.

mod support;

use serde_json::{Value, json};
use support::{Daemon, text, until};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn job(name: &str, spec: &Value, resources: &Value) -> Value {
    let container = json!({ "name": "c", "image": "none", "resources": resources });
    let mut job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name }, "spec": {
        "template": { "spec": { "restartPolicy": "Never", "containers": [container] } },
    }});
    job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    job
}

fn explained(daemon: &Daemon, args: &[&str]) -> String {
    let output = daemon.command(&[&["explain"], args].concat()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

fn object(daemon: &Daemon, job: &str) -> Value {
    let told = explained(daemon, &[&format!("job/{job}"), "-o", "json"]);
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

#[test]
fn a_failed_attempt_is_told_with_its_code_and_when_the_next_one_comes() {
    // Which is not while this test looks.
    let daemon = Daemon::start(&["--no-agent", "--job-backoff-base", "1h", "--job-backoff-max", "2h"]);
    daemon.create(JOBS, &job("j", &json!({ "backoffLimit": 3 }), &json!({})));
    let pods = || daemon.get(PODS)["items"].as_array().unwrap().clone();
    until("there is a pod", || !pods().is_empty());
    let mut pod = pods().remove(0);
    let now = jiff::Timestamp::now().to_string();
    pod["status"] = json!({ "phase": "Failed", "containerStatuses": [{
        "name": "c", "image": "none", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": { "exitCode": 7, "reason": "Error", "startedAt": now, "finishedAt": now } },
    }]});
    let path = format!("{PODS}/{}/status", pod["metadata"]["name"].as_str().unwrap());
    let (code, body) = daemon.ask("PUT", &path, &pod.to_string());
    assert_eq!(code, 200, "{body}");
    until("the failure is counted", || object(&daemon, "j")["counted"]["failed"] == 1);

    let told = object(&daemon, "j");
    assert_eq!(told["attempts"][0]["runs"][0]["exitCode"], 7, "{told:#}");
    assert_eq!(told["state"], "Waiting: no pod is active");
    assert_eq!(told["counted"], json!({ "succeeded": 0, "failed": 1, "backoffLimit": 3 }));
    let (next, at) = (&told["next"], &told["nextAt"]);
    assert!(next[0].as_str().unwrap().starts_with("create 1 pod"), "{told:#}");
    assert_eq!(told["waits"][0]["until"], *at, "{told:#}");
    let words = explained(&daemon, &["job/j", "-n", "default"]);
    for part in ["c ended with 7 (Error)", "1 failed (backoffLimit 3)", "1 pod waits until", "Next, at "] {
        assert!(words.contains(part), "{part}: {words}");
    }
}

#[test]
fn the_daemons_delay_is_the_one_that_it_is_given() {
    let daemon = Daemon::start(&["--no-agent", "--job-backoff-base", "1s", "--job-backoff-max", "1s"]);
    daemon.create(JOBS, &job("j", &json!({ "backoffLimit": 3 }), &json!({})));
    let pods = || daemon.get(PODS)["items"].as_array().unwrap().clone();
    let failed = std::time::Instant::now();
    for number in 1..=4 {
        until("there is another pod", || pods().len() == number);
        let mut pod = pods().into_iter().find(|pod| pod["status"]["phase"] != "Failed").unwrap();
        pod["status"] = json!({ "phase": "Failed" });
        pod["metadata"]["resourceVersion"] = Value::Null;
        let path = format!("{PODS}/{}/status", pod["metadata"]["name"].as_str().unwrap());
        assert_eq!(daemon.ask("PUT", &path, &pod.to_string()).0, 200);
    }
    // By default the three would wait for 10 s, 20 s and 40 s.
    assert!(failed.elapsed() < std::time::Duration::from_secs(69), "{:?}", failed.elapsed());
}

/// By its kubeconfig over TLS, too. It was taken to have the usual delays, unless `explain` was given the same flags.
#[test]
fn a_daemon_tells_its_delays_whichever_way_it_is_asked() {
    let daemon = Daemon::start(&["--no-agent", "--job-backoff-base", "1h", "--job-backoff-max", "2h"]);
    daemon.create(JOBS, &job("j", &json!({ "backoffLimit": 3 }), &json!({})));
    let pods = || daemon.get(PODS)["items"].as_array().unwrap().clone();
    until("there is a pod", || !pods().is_empty());
    let mut pod = pods().remove(0);
    let before = jiff::Timestamp::now();
    pod["status"] = json!({ "phase": "Failed" });
    let path = format!("{PODS}/{}/status", pod["metadata"]["name"].as_str().unwrap());
    assert_eq!(daemon.ask("PUT", &path, &pod.to_string()).0, 200);
    until("the failure is counted", || object(&daemon, "j")["counted"]["failed"] == 1);
    let told = object(&daemon, "j");
    let until: jiff::Timestamp = told["waits"][0]["until"].as_str().unwrap().parse().unwrap();
    assert!((3500..3700).contains(&until.duration_since(before).as_secs()), "{told:#}");

    let kubeconfig = daemon.kubeconfig();
    let remote = explained(&daemon, &["job/j", "-o", "json", "--kubeconfig", kubeconfig.to_str().unwrap()]);
    assert_eq!(serde_json::from_str::<Value>(&remote).unwrap(), told);
    let output = daemon.command(&["explain", "job/j", "--kubeconfig", "/nowhere"]).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("can't read the kubeconfig /nowhere"));
}

#[test]
fn a_suspended_job_a_full_quota_and_what_is_no_job_are_told() {
    let daemon = Daemon::start(&["--no-agent"]);
    daemon.create(JOBS, &job("paused", &json!({ "suspend": true }), &json!({})));
    assert_eq!(object(&daemon, "paused")["state"], "Suspended");

    let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "0" } } });
    daemon.create("/api/v1/namespaces/default/resourcequotas", &quota);
    daemon.create(JOBS, &job("refused", &json!({}), &json!({})));
    let waits = || object(&daemon, "refused")["waits"].to_string();
    until("the refusal is told", || waits().contains("exceeded quota: q"));

    for (args, part) in [(["explain", "job/none"], "can't read job/none"), (["explain", "none"], "give job/NAME")] {
        let output = daemon.command(&args).output().unwrap();
        assert!(!output.status.success() && text(&output).contains(part), "{}", text(&output));
    }
}

#[test]
fn a_pod_that_does_not_fit_is_told_with_the_schedulers_reason() {
    let Some(daemon) = Daemon::with_agent() else { return };
    daemon.create(JOBS, &job("big", &json!({}), &json!({ "requests": { "cpu": "4000" } })));
    let waits = || object(&daemon, "big")["waits"].to_string();
    until("it is told", || waits().contains("Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. "));
}
