//! What a pod tries that means no good, as a pod of the real daemon. `docs/security.md` lists these and all others.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::{Daemon, until};

const PODS: &str = "/api/v1/namespaces/default/pods";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

/// A daemon whose pods have curl.
fn daemon() -> Option<Daemon> {
    if !Path::new("/usr/bin/curl").exists() {
        eprintln!("skipped: there is no curl");
        return None;
    }
    Daemon::with_agent()
}

/// Runs a script in a pod and returns what it said.
fn run(daemon: &Daemon, name: &str, script: &str, more: &Value) -> String {
    let mut container = json!({ "name": "c", "image": "host", "command": ["bash", "-c", script] });
    container["volumeMounts"] = more["mounts"].clone();
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container],
        "volumes": more["volumes"] });
    let metadata = json!({ "name": name, "annotations": { "stint.dev/rootfs": "host" } });
    daemon.create(PODS, &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }));
    let mut log = String::new();
    until(&format!("{name} has said what it found"), || {
        let (code, text) = daemon.ask("GET", &format!("{PODS}/{name}/log"), "");
        log = text;
        code == 200 && log.contains("that is all")
    });
    log
}

#[test]
fn reading_another_pods_secrets() {
    let Some(mut daemon) = daemon() else { return };
    let secret = json!({ "metadata": { "name": "hidden" }, "stringData": { "key-of-another": "s3cr3t" } });
    daemon.create("/api/v1/namespaces/default/secrets", &secret);
    let volume = json!({ "volumes": [{ "name": "s", "secret": { "secretName": "hidden" } }],
        "mounts": [{ "name": "s", "mountPath": "/mnt" }] });
    let owner = run(&daemon, "owner", "cat /mnt/key-of-another; echo; echo that is all; sleep 1000", &volume);
    assert_eq!(owner, "s3cr3t\nthat is all\n");
    // By files of the node, by other processes, and by asking the API as itself. The brackets keep it from finding itself.
    let script = "find /dev/shm /run /proc/*/root/mnt /proc/*/cwd/ -xdev -name 'key-of-[a]nother' 2>/dev/null
        grep -rslE 's3[c]r3t' /dev/shm /run /proc/[0-9]*/environ /proc/[0-9]*/cmdline
        cat /proc/[0-9]*/root/mnt/key-of-another 2>/dev/null
        account=/var/run/secrets/kubernetes.io/serviceaccount
        for path in secrets secrets/hidden; do
            curl -s --cacert $account/ca.crt -H \"Authorization: Bearer $(cat $account/token)\" -o /tmp/answer -w '%{http_code} ' \\
                https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/default/$path
            grep -o 's3[c]r3t\\|czNjcjN0' /tmp/answer
        done
        echo that is all";
    assert_eq!(run(&daemon, "thief", script, &json!({})), "403 403 that is all\n");
    daemon.stop();
}

#[test]
fn reaching_the_api_with_no_token_and_with_a_foreign_one() {
    let Some(mut daemon) = daemon() else { return };
    // Another daemon's token is for an account of the same name, and well signed: with another key.
    let mut other = Daemon::start(&["--no-agent"]);
    until("the account is there", || other.ask("GET", ACCOUNT, "").0 == 200);
    let request = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":[]}}"#;
    let (code, answer) = other.ask("POST", &format!("{ACCOUNT}/token"), request);
    assert_eq!(code, 201, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let token = answer["status"]["token"].as_str().unwrap();
    let script = format!(
        "account=/var/run/secrets/kubernetes.io/serviceaccount
        ask() {{ curl -s --cacert $account/ca.crt -o /dev/null -w '%{{http_code}} ' \"$@\" \\
            https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/apis; }}
        ask; ask -H 'Authorization: Bearer {token}'; ask -H \"Authorization: Bearer $(cat $account/token)\"
        echo that is all"
    );
    assert_eq!(run(&daemon, "stranger", &script, &json!({})), "403 401 200 that is all\n");
    other.stop();
    daemon.stop();
}

#[test]
fn writing_to_the_hosts_root() {
    let Some(mut daemon) = daemon() else { return };
    let here = daemon.data.path().join("stint.sock");
    let script = format!(
        "echo x > {0}/planted; rm -rf {0}/logs {0}/store; ls {0} | grep -c planted
        curl -s --unix-socket {0}/stint.sock http://stint/version; echo that is all",
        here.parent().unwrap().display()
    );
    let said = run(&daemon, "vandal", &script, &json!({}));
    assert!(said.starts_with("1\n") && !said.contains("gitVersion"), "it has an own copy, and no socket: {said}");
    assert!(!daemon.data.path().join("planted").exists());
    assert!(fs::read_dir(daemon.data.path().join("store")).unwrap().count() > 0);
    daemon.stop();
}
