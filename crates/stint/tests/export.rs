//! `stint export` as a user meets it: from one daemon to another, and back to the same objects.

mod support;

use serde_json::{Value, json};
use support::{Daemon, text, until};

const BATCH: &str = "/apis/batch/v1/namespaces/default";
const CORE: &str = "/api/v1/namespaces/default";

fn pods(command: &str) -> Value {
    json!({ "restartPolicy": "Never", "containers": [{
        "name": "c", "image": "i:1", "command": ["sh", "-c", command],
        "resources": { "requests": { "cpu": "100m" } }, "envFrom": [{ "configMapRef": { "name": "settings" } }],
    }] })
}

/// A daemon in which users and the API itself made all sorts of things.
fn full() -> Daemon {
    let daemon = Daemon::start(&["--no-agent"]);
    for (path, kind, name, rest) in [
        (CORE, "ConfigMap", "settings", json!({ "data": { "colour": "blue", "no": "0777" } })),
        (CORE, "Secret", "password", json!({ "stringData": { "key": "geheim" } })),
        (
            BATCH,
            "Job",
            "index",
            json!({ "spec": { "suspend": true, "completions": 3, "completionMode": "Indexed",
            "template": { "metadata": { "labels": { "app": "x" } }, "spec": pods("true") } } }),
        ),
        (
            BATCH,
            "Job",
            "selects",
            json!({ "spec": { "suspend": true, "manualSelector": true,
            "selector": { "matchLabels": { "own": "label" } },
            "template": { "metadata": { "labels": { "own": "label" } }, "spec": pods("true") } } }),
        ),
        (BATCH, "Job", "over", json!({ "spec": { "completions": 0, "template": { "spec": pods("true") } } })),
        (
            BATCH,
            "CronJob",
            "nightly",
            json!({ "spec": { "schedule": "30 2 29 2 *", "timeZone": "Europe/Berlin",
            "jobTemplate": { "spec": { "template": { "spec": pods("echo $colour") } } } } }),
        ),
    ] {
        let version = if path == CORE { "v1" } else { "batch/v1" };
        let mut object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name } });
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        daemon.create(&format!("{path}/{}s", kind.to_lowercase()), &object);
    }
    let nightly = daemon.get(&format!("{BATCH}/cronjobs/nightly"));
    let owner = json!([{ "apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly",
        "uid": nightly["metadata"]["uid"], "controller": true }]);
    let made = json!({ "metadata": { "name": "nightly-1", "ownerReferences": owner },
        "spec": { "suspend": true, "template": { "spec": pods("true") } } });
    daemon.create(&format!("{BATCH}/jobs"), &made);
    until("the Job without completions has ended", || {
        let conditions = daemon.get(&format!("{BATCH}/jobs/over"))["status"]["conditions"].clone();
        conditions.as_array().is_some_and(|all| all.iter().any(|condition| condition["type"] == "Complete"))
    });
    until("the namespace has its certificate", || {
        daemon.ask("GET", &format!("{CORE}/configmaps/kube-root-ca.crt"), "").0 == 200
    });
    daemon
}

/// What a user decides about an object: its spec or data, without what only this daemon can have made.
fn meant(daemon: &Daemon, path: &str) -> Value {
    let object = daemon.get(path);
    let uid = object["metadata"]["uid"].as_str().unwrap();
    let meant = json!([object["spec"], object["data"], object["type"], object["metadata"]["labels"]]);
    serde_json::from_str(&meant.to_string().replace(uid, "UID")).unwrap()
}

#[test]
fn what_is_exported_makes_the_same_objects_in_another_daemon() {
    let here = full();
    let output = here.command(&["export", "--secrets", "-o", "json"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("1 ConfigMap, 1 Secret, 1 CronJob, 2 Jobs"), "{told}");
    for left_out in ["1 ConfigMap, made by every API", "1 Job, made by their owners", "1 Job, ended; --ended"] {
        assert!(told.contains(&format!("left out: {left_out}")), "{told}");
    }
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let there = Daemon::start(&["--no-agent"]);
    for manifest in list["items"].as_array().unwrap() {
        let (kind, name) = (manifest["kind"].as_str().unwrap(), manifest["metadata"]["name"].as_str().unwrap());
        let base = if manifest["apiVersion"] == "v1" { CORE } else { BATCH };
        let path = format!("{base}/{}s", kind.to_lowercase());
        assert_eq!(manifest.get("status"), None, "{manifest}");
        let members: Vec<&String> = manifest["metadata"].as_object().unwrap().keys().collect();
        assert_eq!(members, ["name", "namespace"], "{manifest}");
        there.create(&path, manifest);
        let path = format!("{path}/{name}");
        assert_eq!(meant(&there, &path), meant(&here, &path), "{manifest}");
    }
}

#[test]
fn manifests_are_as_short_as_they_were_written() {
    let daemon = full();
    let yaml = String::from_utf8(daemon.command(&["export"]).output().unwrap().stdout).unwrap();
    let nightly = "\
apiVersion: batch/v1
kind: CronJob
metadata:
  name: nightly
  namespace: default
spec:
  jobTemplate:
    spec:
      template:
        spec:
          containers:
          - command:
            - sh
            - \"-c\"
            - echo $colour
            envFrom:
            - configMapRef:
                name: settings
            image: i:1
            name: c
            resources:
              requests:
                cpu: 100m
          restartPolicy: Never
  schedule: 30 2 29 2 *
  timeZone: Europe/Berlin
";
    assert!(yaml.contains(nightly), "{yaml}");
    assert!(!yaml.contains("geheim") && !yaml.contains("kind: Secret"), "{yaml}");
    let empty = daemon.command(&["export", "-n", "nowhere"]).output().unwrap();
    assert_eq!((empty.status.code(), empty.stdout.len()), (Some(0), 0), "{}", text(&empty));
    let all = daemon.command(&["export", "-A", "--ended"]).output().unwrap();
    assert!(text(&all).contains("3 Jobs") && text(&all).contains("name: over"), "{}", text(&all));
}
