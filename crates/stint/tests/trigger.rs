//! `stint trigger` as a user meets it: the real program, a real daemon, real containers.

mod support;

use serde_json::{Value, json};
use support::{Daemon, until};

const BATCH: &str = "/apis/batch/v1/namespaces/default";

fn job_spec(command: &str) -> Value {
    json!({ "template": {
        "metadata": { "annotations": { "stint.dev/rootfs": "host" } },
        "spec": { "restartPolicy": "Never", "containers": [
            { "name": "c", "image": "host", "command": ["/bin/sh", "-c", command, "sh"], "args": ["scheduled"] },
        ]},
    }})
}

#[test]
fn a_cron_job_is_started_by_hand_and_only_its_job_is_shown() {
    let Some(daemon) = Daemon::with_agent() else { return };
    let other = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "other" },
        "spec": job_spec("echo something else") });
    daemon.create(&format!("{BATCH}/jobs"), &other);
    until("the other Job is complete", || daemon.get(&format!("{BATCH}/jobs/other"))["status"]["succeeded"] == 1);
    let mut cron_job = json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "c" },
        "spec": { "schedule": "@yearly", "suspend": true, "jobTemplate": { "spec": job_spec("echo $K $1; exit 4") } } });
    cron_job["spec"]["jobTemplate"]["spec"]["backoffLimit"] = json!(0);
    daemon.create(&format!("{BATCH}/cronjobs"), &cron_job);

    let output = daemon.command(&["trigger", "cronjob/c", "--env", "K=by", "--", "hand"]).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "by hand\n", "{words}");
    assert_eq!(output.status.code(), Some(4), "the container's own: {words}");
    assert!(words.contains("job/c-manual-") && !words.contains("other"), "{words}");
    // And by its kubeconfig, where what the container prints comes from the API.
    let kubeconfig = daemon.kubeconfig();
    let args = ["trigger", "cronjob/c", "--kubeconfig", kubeconfig.to_str().unwrap(), "--env", "K=from", "--", "afar"];
    let output = daemon.command(&args).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from afar\n", "{words}");
    assert_eq!(output.status.code(), Some(4), "{words}");
    let jobs = daemon.get(&format!("{BATCH}/jobs"));
    let manual = jobs["items"].as_array().unwrap().iter().find(|job| job["metadata"]["name"] != "other").unwrap();
    assert_eq!(manual["metadata"]["annotations"]["cronjob.kubernetes.io/instantiate"], "manual");
}
