//! `stint controllers` beside a daemon, and a node that is played: pods end as soon as they are there.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Daemon, PATIENCE};

pub const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
pub const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// A daemon that serves the API, collects garbage, and does nothing about Jobs.
pub fn api() -> Daemon {
    Daemon::start(&["--no-agent", "--controllers", "housekeeping"])
}

/// The controllers as a process. It is ended when this is dropped.
pub struct Attached {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Attached {
    /// Before the daemon's API, over TLS.
    pub fn start(daemon: &Daemon, args: &[&str]) -> Attached {
        Attached::with(daemon, &daemon.kubeconfig(), args)
    }

    /// Before the API of a kubeconfig.
    pub fn with(daemon: &Daemon, kubeconfig: &Path, args: &[&str]) -> Attached {
        let mut command = daemon.command(&["controllers", "--kubeconfig"]);
        let mut child = command.arg(kubeconfig).args(args).stderr(Stdio::piped()).spawn().unwrap();
        let (said, log) = (Arc::new(Mutex::new(String::new())), BufReader::new(child.stderr.take().unwrap()));
        let told = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                *told.lock().unwrap() += &(line + "\n");
            }
        });
        let attached = Attached { child, said };
        attached.says("controllers at work");
        attached
    }

    /// All that it has logged.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has logged this.
    pub fn says(&self, what: &str) {
        self.says_times(what, 1);
    }

    /// Waits until it has logged this so often.
    pub fn says_times(&self, what: &str, times: usize) {
        let began = Instant::now();
        while self.said().matches(what).count() < times {
            assert!(began.elapsed() < PATIENCE, "it does not say {what:?}, but {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.said());
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Job of one pod that names this manager.
pub fn job(name: &str, manager: Option<&str>) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "managedBy": manager, "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "c", "image": "none" }],
        } } },
    })
}

/// A CronJob that is due every hour.
pub fn cron_job(name: &str, suspend: bool, lent: bool) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": { "name": name, "annotations": { "stint.dev/cronjob-controller": lent.to_string() } },
        "spec": { "schedule": "0 * * * *", "suspend": suspend, "jobTemplate": { "spec": job("", None)["spec"] } },
    })
}

/// How many pods a Job has.
pub fn pods_of(daemon: &Daemon, job: &str) -> usize {
    let pods = daemon.get(&format!("{PODS}?labelSelector=batch.kubernetes.io/job-name={job}"));
    pods["items"].as_array().unwrap().len()
}

/// Plays the node: every pod that has not ended succeeds.
pub fn finish_pods(daemon: &Daemon) {
    for mut pod in daemon.get(PODS)["items"].as_array().unwrap().clone() {
        if pod["status"]["phase"] != "Succeeded" && pod["metadata"]["deletionTimestamp"].is_null() {
            pod["status"] = json!({ "phase": "Succeeded" });
            let path = format!("{PODS}/{}/status", pod["metadata"]["name"].as_str().unwrap());
            // Somebody else may have been faster, and then it is looked at again.
            daemon.ask("PUT", &path, &pod.to_string());
        }
    }
}

/// Whether a Job is complete.
pub fn succeeded(daemon: &Daemon, job: &str) -> bool {
    daemon.get(&format!("{JOBS}/{job}"))["status"]["conditions"].to_string().contains("\"Complete\"")
}

/// Says that the CronJob was started long ago, so that there is a time to make up for.
pub fn missed(daemon: &Daemon, name: &str) {
    let path = format!("{CRON_JOBS}/{name}/status");
    let mut cron_job = daemon.get(&format!("{CRON_JOBS}/{name}"));
    cron_job["status"]["lastScheduleTime"] = json!("2026-01-01T00:00:00Z");
    cron_job["metadata"]["resourceVersion"] = Value::Null;
    let (code, body) = daemon.ask("PUT", &path, &cron_job.to_string());
    assert_eq!(code, 200, "{body}");
}
