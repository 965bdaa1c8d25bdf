//! Whatever schemathesis makes up from our own OpenAPI documents: no answer is the server's fault, and it lives on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::{Value, json};

use crate::{Daemon, installed, limited, repository, text};

/// How long requests are made up for one document, in seconds.
const SECONDS: u32 = 25;

/// The documents.
const DOCUMENTS: [&str; 2] = ["apis/batch/v1", "api/v1"];

/// Creates an object that made-up requests find: `hooks.py` calls half of all names so.
fn create(daemon: &Daemon, path: &str, mut object: Value) {
    object["metadata"]["name"] = json!("it");
    // It stays when it is deleted, so that later requests find it.
    object["metadata"]["finalizers"] = json!(["example.com/stays"]);
    let body = object.to_string();
    let mut socket = UnixStream::connect(daemon.data.path().join("stint.sock")).unwrap();
    let headers = "Host: stint\r\nContent-Type: application/json\r\nConnection: close";
    write!(socket, "POST {path} HTTP/1.1\r\n{headers}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{path}: {answer}");
}

/// One of each kind that a user has.
fn populate(daemon: &Daemon) {
    let pod = json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "image": "none" }] });
    let job = json!({ "template": { "spec": pod } });
    let in_default = |group: &str, plural: &str| format!("{group}/namespaces/default/{plural}");
    create(daemon, &in_default("/apis/batch/v1", "jobs"), json!({ "spec": job }));
    let cron_job = json!({ "spec": { "schedule": "0 3 * * *", "jobTemplate": { "spec": job } } });
    create(daemon, &in_default("/apis/batch/v1", "cronjobs"), cron_job);
    create(daemon, &in_default("/api/v1", "pods"), json!({ "spec": pod }));
    create(daemon, &in_default("/api/v1", "configmaps"), json!({ "data": { "a": "b" } }));
    create(daemon, &in_default("/api/v1", "secrets"), json!({ "stringData": { "a": "b" } }));
    create(daemon, &in_default("/api/v1", "serviceaccounts"), json!({}));
    create(daemon, &in_default("/api/v1", "services"), json!({ "spec": { "ports": [{ "port": 80 }] } }));
}

#[test]
fn nothing_that_schemathesis_makes_up_is_the_servers_fault() {
    let Some(schemathesis) = installed("python/bin/schemathesis") else { return };
    let mut daemon = Daemon::start(&["--no-agent"]);
    populate(&daemon);
    for document in DOCUMENTS {
        let began = Instant::now();
        let pki = daemon.data.path().join("pki");
        let output = limited(SECONDS * 24, &schemathesis)
            .args(["run", &format!("{}/openapi/v3/{document}", daemon.address), "--url", &daemon.address])
            .args(["--checks", "no_fault_of_the_server,the_answer_is_of_its_type"])
            .args(["--phases", "fuzzing", "--max-time", &SECONDS.to_string(), "--max-examples", "40"])
            .args(["--seed", "1", "--generation-database", "none", "--no-shrink", "--continue-on-failure"])
            .args([
                "--request-timeout",
                "120",
                "--suppress-health-check",
                "all",
                "--no-color",
                "--output-truncate",
                "true",
            ])
            .arg("--tls-verify")
            .arg(pki.join("ca.crt"))
            .arg("--request-cert")
            .arg(pki.join("admin.crt"))
            .arg("--request-cert-key")
            .arg(pki.join("admin.key"))
            .env("SCHEMATHESIS_HOOKS", "hooks")
            .env("PYTHONPATH", repository().join("tests/clients"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(daemon.data.path())
            .output()
            .unwrap();
        let said = text(&output);
        assert!(daemon.lives(), "{document}: the daemon ended:\n{said}");
        assert!(output.status.success(), "{document}: {}:\n{said}", output.status);
        let counted = said.lines().find(|line| line.contains("generated")).unwrap_or_default();
        eprintln!("{document}: {} in {:.0} s", counted.trim(), began.elapsed().as_secs_f64());
        assert!(!counted.is_empty(), "{document}: nothing was asked:\n{said}");
    }
}
