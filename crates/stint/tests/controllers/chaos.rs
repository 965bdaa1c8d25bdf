//! Both sides killed, and a way between them on which things go wrong: every pod is counted once all the same.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::attached::{Attached, JOBS, PODS, api, finish_pods, job, succeeded};
use crate::proxy::Proxy;
use crate::support::{Daemon, until};

const OURS: Option<&str> = Some("stint.dev/job-controller");

/// A Job of several pods.
fn many(name: &str, completions: u32, mode: &str) -> Value {
    let mut job = job(name, OURS);
    let spec = &mut job["spec"];
    (spec["completions"], spec["parallelism"], spec["completionMode"]) = (json!(completions), json!(2), json!(mode));
    job
}

/// Creates Jobs of both sorts, and returns their names.
fn jobs(daemon: &Daemon, begin: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (number, mode) in ["NonIndexed", "Indexed", "NonIndexed", "Indexed"].iter().enumerate() {
        let name = format!("{begin}-{number}");
        daemon.create(JOBS, &many(&name, 4, mode));
        names.push(name);
    }
    names
}

/// Plays the node until all are complete, and asserts that each pod was counted once, and none is held.
fn all_end_well(daemon: &Daemon, names: &[String]) {
    until("all are complete", || {
        finish_pods(daemon);
        names.iter().all(|name| succeeded(daemon, name))
    });
    for name in names {
        let pods = daemon.get(&format!("{PODS}?labelSelector=batch.kubernetes.io/job-name={name}"));
        let pods = pods["items"].as_array().unwrap();
        let done = pods.iter().filter(|pod| pod["status"]["phase"] == "Succeeded").count();
        let status = daemon.get(&format!("{JOBS}/{name}"))["status"].clone();
        assert_eq!(status["succeeded"], 4, "{name}: {status:#}");
        assert_eq!(done, 4, "{name}: one pod too many was created");
        assert!(pods.iter().all(|pod| pod["metadata"]["finalizers"].is_null()), "{name}: {pods:#?}");
    }
}

#[test]
fn either_side_may_be_killed_at_any_time() {
    let mut daemon = api();
    let args = ["--lease-duration", "3s"];
    let attached = Attached::start(&daemon, &args);
    let mut names = jobs(&daemon, "a");
    until("work has begun", || daemon.get(PODS)["items"] != json!([]));
    attached.kill();
    finish_pods(&daemon);
    let attached = Attached::start(&daemon, &args);
    names.extend(jobs(&daemon, "b"));
    attached.says("leads lease");
    finish_pods(&daemon);
    daemon.kill();
    // At another port: the kubeconfig says which, and is read again.
    daemon.start_again(&["--no-agent", "--controllers", "housekeeping"]);
    names.extend(jobs(&daemon, "c"));
    all_end_well(&daemon, &names);
    attached.stop();
    daemon.stop();
}

#[test]
fn a_way_that_delays_cuts_repeats_and_refuses_loses_nothing() {
    let daemon = api();
    let proxy = Proxy::before(daemon.data.path());
    let attached = Attached::with(&daemon, &proxy.kubeconfig, &["--lease-duration", "6s"]);
    let mut names = jobs(&daemon, "a");
    attached.says("leads lease");
    names.extend(jobs(&daemon, "b"));
    all_end_well(&daemon, &names);
    let troubles = proxy.troubles.load(Ordering::Relaxed);
    assert!(troubles > 20, "things went wrong {troubles} times only");
    proxy.trouble.store(false, Ordering::Relaxed);
    attached.stop();
}
