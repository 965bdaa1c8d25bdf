//! Which Jobs and CronJobs are worked on, and which are left alone.

use serde_json::{Value, json};

use crate::attached::{Attached, CRON_JOBS, JOBS, PODS, api, cron_job, finish_pods, job, missed, pods_of, succeeded};
use crate::support::{Daemon, text, until};

#[test]
fn beside_a_cluster_only_what_asks_for_stint_is_worked_on() {
    let daemon = api();
    daemon.create(JOBS, &job("theirs", None));
    daemon.create(JOBS, &job("others", Some("a.example/b")));
    daemon.create(JOBS, &job("ours", Some("stint.dev/job-controller")));
    let mut quick = job("quick", Some("stint.dev/job-controller"));
    quick["spec"]["ttlSecondsAfterFinished"] = json!(0);
    daemon.create(JOBS, &quick);
    let attached = Attached::start(&daemon, &[]);
    until("the Job is complete", || {
        finish_pods(&daemon);
        succeeded(&daemon, "ours")
    });
    until("the one without time to live is gone", || {
        finish_pods(&daemon);
        daemon.ask("GET", &format!("{JOBS}/quick"), "").0 == 404
    });
    // Whoever looks at Jobs has seen all of these: they are older than those that are done.
    assert_eq!((pods_of(&daemon, "theirs"), pods_of(&daemon, "others")), (0, 0));
    assert_eq!(daemon.get(&format!("{JOBS}/theirs"))["status"], json!({}));
    attached.stop();
}

#[test]
fn in_the_place_of_a_clusters_controller_all_but_the_jobs_of_others_are_worked_on() {
    let daemon = api();
    let attached = Attached::start(&daemon, &["--take-over", "job,cronjob"]);
    daemon.create(JOBS, &job("others", Some("a.example/b")));
    for (name, manager) in [("nobodys", None), ("ours", Some("stint.dev/job-controller"))] {
        daemon.create(JOBS, &job(name, manager));
    }
    until("both are complete", || {
        finish_pods(&daemon);
        succeeded(&daemon, "nobodys") && succeeded(&daemon, "ours")
    });
    assert_eq!(pods_of(&daemon, "others"), 0);
    daemon.create(CRON_JOBS, &cron_job("plain", false, false));
    missed(&daemon, "plain");
    until("the time that was missed is made up for", || started(&daemon, "plain"));
    attached.stop();
}

fn started(daemon: &Daemon, cron_job: &str) -> bool {
    let jobs = daemon.get(JOBS);
    let owned = |job: &Value| job["metadata"]["ownerReferences"][0]["name"] == cron_job;
    jobs["items"].as_array().unwrap().iter().any(owned)
}

#[test]
fn a_suspended_cron_job_is_lent_by_its_annotation_and_given_back_when_it_is_resumed() {
    let daemon = api();
    for (name, suspend, lent) in [("theirs", false, false), ("asleep", true, false), ("resumed", false, true)] {
        daemon.create(CRON_JOBS, &cron_job(name, suspend, lent));
        missed(&daemon, name);
    }
    daemon.create(CRON_JOBS, &cron_job("lent", true, true));
    missed(&daemon, "lent");
    let attached = Attached::start(&daemon, &[]);
    until("its Job is there", || started(&daemon, "lent"));
    until("it is recorded", || {
        let seen = daemon.get(&format!("{CRON_JOBS}/lent"));
        assert_eq!(seen["spec"]["suspend"], true, "it stays suspended: {seen:#}");
        seen["status"]["lastScheduleTime"] != "2026-01-01T00:00:00Z"
    });
    let kubeconfig = daemon.kubeconfig();
    let told = daemon.command(&["schedule", "cronjob/lent", "--kubeconfig", kubeconfig.to_str().unwrap()]).output();
    let told = text(&told.unwrap());
    assert!(told.starts_with("every hour"), "{told}");
    for other in ["theirs", "asleep", "resumed"] {
        assert!(!started(&daemon, other), "{other}");
    }
    // Its Job has no managedBy, and is the cluster's.
    assert_eq!(daemon.get(PODS)["items"], json!([]));
    attached.stop();
}

#[test]
fn what_cannot_be_used_is_told_at_once() {
    let daemon = Daemon::folder();
    for (kubeconfig, part) in [("/nowhere", "can't read the kubeconfig /nowhere"), ("in-cluster", "is this a pod?")] {
        let output = daemon.command(&["controllers", "--kubeconfig", kubeconfig]).output().unwrap();
        let text = text(&output);
        assert!(output.status.code() == Some(1) && text.contains(part), "{text}");
    }
}
