//! Logs of containers that write much: what is kept of them, what clients see of it, and whom it holds up.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};
use support::{Daemon, until};

const PODS: &str = "/api/v1/namespaces/default/pods";
/// How much a file of a log may have, and how many there are.
const FILE: u64 = 200_000;
const FILES: u64 = 4;

/// A daemon that rotates soon.
fn daemon() -> Option<Daemon> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: containers need root");
        return None;
    }
    let (size, files) = (FILE.to_string(), FILES.to_string());
    let rotates = ["--container-log-max-size", &size, "--container-log-max-files", &files];
    Some(Daemon::start(&[&["--allow-host-rootfs"][..], &rotates].concat()))
}

fn create(daemon: &Daemon, name: &str, restart: &str, scripts: &[(&str, &str)]) {
    let container =
        |(name, script): &(&str, &str)| json!({ "name": name, "image": "host", "command": ["bash", "-c", script] });
    let containers: Vec<Value> = scripts.iter().map(container).collect();
    let spec = json!({ "restartPolicy": restart, "terminationGracePeriodSeconds": 0, "containers": containers });
    let metadata = json!({ "name": name, "annotations": { "stint.dev/rootfs": "host" } });
    daemon.create(PODS, &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }));
}

fn ends(daemon: &Daemon, name: &str) {
    until(&format!("{name} has ended"), || daemon.get(&format!("{PODS}/{name}"))["status"]["phase"] == "Succeeded");
}

fn log(daemon: &Daemon, name: &str, options: &str) -> String {
    let (code, log) = daemon.ask("GET", &format!("{PODS}/{name}/log?{options}"), "");
    assert_eq!(code, 200, "{log}");
    log
}

/// All that is kept of logs on disk, in bytes, and in how many files.
fn kept(folder: &Path) -> (u64, usize) {
    let mut sum = (0, 0);
    // It may be put aside or removed at this moment.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let more = if meta.is_dir() { kept(&entry.path()) } else { (meta.len(), 1) };
        sum = (sum.0 + more.0, sum.1 + more.1);
    }
    sum
}

#[test]
fn what_is_kept_of_a_rotated_log_is_shown_as_one() {
    let Some(daemon) = daemon() else { return };
    create(&daemon, "a", "Never", &[("c", "seq 1 100000; echo over >&2"), ("other", "echo another")]);
    ends(&daemon, "a");
    let all = log(&daemon, "a", "container=c");
    let lines: Vec<&str> = all.lines().collect();
    // Which of both comes first at the very end is open.
    let mut numbers: Vec<u32> = lines.iter().filter_map(|line| line.parse().ok()).collect();
    assert_eq!((numbers.len() + 1, numbers.pop()), (lines.len(), Some(100_000)), "and `over`");
    assert!(numbers[0] > 1 && numbers.is_sorted_by(|one, next| one + 1 == *next), "the newest, whole and in order");
    // Three full files and some of the fourth, with 40 bytes and more for each line.
    assert!(numbers.len() as u64 > 3 * FILE / 50, "{}", numbers.len());
    let tail = log(&daemon, "a", "container=c&tailLines=9000");
    assert!(tail.starts_with("91002\n") && tail.lines().count() == 9000, "{}", &tail[..20]);
    assert_eq!(log(&daemon, "a", "container=c&tailLines=9000&limitBytes=8"), "91002\n91");
    assert_eq!(log(&daemon, "a", "container=c&stream=Stderr"), "over\n");
    let stamped = log(&daemon, "a", "container=c&timestamps=true");
    let (middle, _) = stamped.lines().nth(numbers.len() / 2).unwrap().split_once(' ').unwrap();
    let since = log(&daemon, "a", &format!("container=c&sinceTime={middle}&timestamps=true"));
    assert!(stamped.ends_with(&since) && since.len() < stamped.len() && since.starts_with(&middle[..19]), "{middle}");
    assert_eq!(log(&daemon, "a", "container=other"), "another\n");
    until("no more is kept than there may be", || {
        let (size, files) = kept(&daemon.data.path().join("logs"));
        size <= FILES * FILE + 100 && files == 5
    });

    let (code, answer) = daemon.ask("DELETE", &format!("{PODS}/a"), "");
    assert_eq!(code, 200, "{answer}");
    until("all files are gone with the pod", || kept(&daemon.data.path().join("logs")) == (0, 0));
}

#[test]
fn a_log_is_followed_across_rotation_and_to_the_end_of_its_run_alone() {
    let Some(daemon) = daemon() else { return };
    // It goes on when it is followed, and so slowly that who follows keeps up; the second run says something else.
    let script = "[ -e /cache/ran ] && { echo again; sleep 1000; }; touch /cache/ran
        echo begun; until [ -e /signs/go ]; do sleep 0.05; done
        for round in {1..40}; do for n in {1..250}; do echo line $round $n; done; sleep 0.02; done; exit 1";
    let container = json!({ "name": "c", "image": "host", "command": ["bash", "-c", script],
        "volumeMounts": [{ "name": "cache", "mountPath": "/cache" }, { "name": "signs", "mountPath": "/signs" }] });
    let signs = daemon.data.path().join("signs");
    fs::create_dir(&signs).unwrap();
    let spec = json!({ "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 0, "containers": [container],
        "volumes": [{ "name": "cache", "emptyDir": {} }, { "name": "signs", "hostPath": { "path": signs } }] });
    let metadata = json!({ "name": "f", "annotations": { "stint.dev/rootfs": "host" } });
    daemon.create(PODS, &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }));
    until("it runs", || daemon.get(&format!("{PODS}/f"))["status"]["phase"] == "Running");
    let go = || fs::write(signs.join("go"), "").unwrap();
    let (code, followed) = daemon.follow(&format!("{PODS}/f/log?follow=true"), "begun\n", go);
    assert_eq!(code, 200, "{followed}");
    let lines = (1..=40).flat_map(|round| (1..=250).map(move |n| format!("line {round} {n}\n")));
    let expected = "begun\n".to_owned() + &lines.collect::<String>();
    assert!(followed == expected, "every line, once and in order: {} of {} bytes", followed.len(), expected.len());
    let (_, files) = kept(&daemon.data.path().join("logs"));
    assert!(files >= 3, "it was rotated");
    until("it runs again", || {
        let status = daemon.get(&format!("{PODS}/f"))["status"]["containerStatuses"][0].clone();
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    assert_eq!(log(&daemon, "f", "previous=true&tailLines=1"), "line 40 250\n");
    until("the second run has said something", || log(&daemon, "f", "") == "again\n");
}

#[test]
fn a_flood_of_logs_fills_no_disk_takes_no_memory_and_waits_for_nobody() {
    let Some(daemon) = daemon() else { return };
    create(&daemon, "flood", "Never", &[("c", "head -c 30M /dev/zero | tr '\\0' x | fold -w 200; echo; echo end")]);
    until("it runs", || daemon.get(&format!("{PODS}/flood"))["status"]["phase"] != "Pending");
    // Somebody asks for all of it, and reads nothing.
    let mut deaf = UnixStream::connect(daemon.data.path().join("stint.sock")).unwrap();
    write!(deaf, "GET {PODS}/flood/log?follow=true HTTP/1.1\r\nHost: stint\r\n\r\n").unwrap();
    let mut most = 0;
    until("it has ended", || {
        most = most.max(kept(&daemon.data.path().join("logs")).0);
        daemon.get(&format!("{PODS}/flood"))["status"]["phase"] == "Succeeded"
    });
    // While a file is put aside there may be one more, and who looks meanwhile may see it under both of its names.
    assert!(most <= (FILES + 2) * FILE, "{most} bytes");
    assert!(log(&daemon, "flood", "").ends_with("x\nend\n"));
    assert!(daemon.memory() < 200, "{} MiB", daemon.memory());
}
