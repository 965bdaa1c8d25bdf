//! The real daemon on a node that is short of something, as its settings have it.

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Daemon, until};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn pods(daemon: &Daemon) -> Vec<Value> {
    daemon.get(PODS)["items"].as_array().unwrap().clone()
}

fn is_in_phase(pod: &Value, phase: &str) -> bool {
    pod["status"]["phase"] == phase
}

#[test]
fn a_job_that_ignores_disruptions_outlives_the_shortage_of_its_node() {
    let Some(mut daemon) = Daemon::with_agent() else { return };
    let folder = daemon.data.path().join("signs");
    fs::create_dir(&folder).unwrap();
    let script = "until test -e /signs/end; do sleep 0.05; done";
    daemon.create(
        JOBS,
        &json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "lasting" },
            "spec": {
                "backoffLimit": 0,
                "podFailurePolicy": { "rules": [
                    { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] }
                ] },
                "template": {
                    "metadata": { "annotations": { "stint.dev/rootfs": "host" } },
                    "spec": {
                        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                        "containers": [{
                            "name": "c", "image": "none", "command": ["/bin/sh", "-c", script],
                            "volumeMounts": [{ "name": "signs", "mountPath": "/signs" }],
                        }],
                        "volumes": [{ "name": "signs", "hostPath": { "path": folder } }],
                    },
                },
            },
        }),
    );
    until("the pod runs", || pods(&daemon).iter().any(|pod| is_in_phase(pod, "Running")));
    daemon.stop();

    // No machine has so much.
    daemon.start_again(&["--allow-host-rootfs", "--eviction-hard", "memory.available<1024Ti"]);
    until("it is evicted, and another one waits", || {
        let pods = pods(&daemon);
        pods.iter().any(|pod| pod["status"]["reason"] == "Evicted")
            && pods.iter().any(|pod| is_in_phase(pod, "Pending"))
    });
    let evicted = pods(&daemon).into_iter().find(|pod| is_in_phase(pod, "Failed")).unwrap();
    let message = evicted["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 1Pi, available: "),
        "{message}"
    );
    assert!(message.contains("Container c was using "), "its processes were measured: {message}");
    until("the waiting pod is told why", || {
        let waits = pods(&daemon).into_iter().find(|pod| is_in_phase(pod, "Pending"));
        waits.is_some_and(|pod| pod["status"].to_string().contains("had untolerated taint"))
    });
    daemon.stop();

    daemon.start_again(&["--allow-host-rootfs"]);
    fs::write(folder.join("end"), "").unwrap();
    let job = || daemon.get(&format!("{JOBS}/lasting"));
    until("the Job is complete", || job()["status"]["succeeded"] == 1);
    assert_eq!(job()["status"].get("failed"), None, "{}", job()["status"]);
}
