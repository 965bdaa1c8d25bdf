//! What pods of the daemon have of the API: a token, the authority's certificate, and the address; with real containers and
//! a real client in them.
//!
//! Left out: how a token is replaced while a container runs, which the agent's tests show with a clock that can be set.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, text, until};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";

/// The newest kubectl of this machine.
fn kubectl() -> Option<PathBuf> {
    let folder = Path::new("/usr/lib/google-cloud-sdk/bin");
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = files.filter(|path| path.to_string_lossy().contains("/kubectl.1.")).max();
    if newest.is_none() {
        eprintln!("skipped: there is no kubectl in {}", folder.display());
    }
    newest
}

/// A Job whose pod runs `script` on the machine's own root filesystem. It knows of no kubeconfig.
fn job(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "backoffLimit": 0, "template": {
            "metadata": { "annotations": { "stint.dev/rootfs": "host" } },
            "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "c", "image": "none", "command": ["/bin/sh", "-c", script],
                    "env": [{ "name": "HOME", "value": "/nonexistent" }],
                }],
            },
        } },
    })
}

fn pod_of(daemon: &Daemon, job: &str) -> Value {
    daemon.get(&format!("{PODS}?labelSelector=job-name={job}"))["items"][0].clone()
}

fn log(daemon: &Daemon, kubectl: &Path, job: &str) -> String {
    let mut command = Command::new(kubectl);
    command.arg("--kubeconfig").arg(daemon.kubeconfig()).args(["logs", &format!("job/{job}")]).stdin(Stdio::null());
    text(&command.output().unwrap())
}

#[test]
fn a_pod_reaches_the_api_as_its_account_and_does_what_a_role_lets_it() {
    let Some(kubectl) = kubectl() else { return };
    let Some(mut daemon) = Daemon::with_agent() else { return };
    let program = kubectl.display();
    daemon.create(
        JOBS,
        &job(
            "asks",
            &format!(
                "until {program} get configmaps -o name 2>&1; do sleep 0.1; done; \
         cat /var/run/secrets/kubernetes.io/serviceaccount/namespace"
            ),
        ),
    );
    let refusal = "User \"system:serviceaccount:default:default\" cannot list resource \"configmaps\"";
    until("it is refused", || log(&daemon, &kubectl, "asks").contains(refusal));
    until("it is seen to run", || pod_of(&daemon, "asks")["status"]["phase"] == "Running");
    let rule = json!({ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"] });
    daemon.create(&format!("{RBAC}/roles"), &json!({ "metadata": { "name": "reader" }, "rules": [rule] }));
    daemon.create(
        &format!("{RBAC}/rolebindings"),
        &json!({
            "metadata": { "name": "reader" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader" },
            "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": "default" }],
        }),
    );
    until("the Job is complete", || daemon.get(&format!("{JOBS}/asks"))["status"]["succeeded"] == 1);
    let said = log(&daemon, &kubectl, "asks");
    assert!(said.ends_with("configmap/kube-root-ca.crt\ndefault"), "{said}");
    daemon.stop();
}

#[test]
fn a_pods_token_is_worth_nothing_once_the_pod_is_gone() {
    let Some(kubectl) = kubectl() else { return };
    let Some(mut daemon) = Daemon::with_agent() else { return };
    daemon.create(JOBS, &job("holds", "cat /var/run/secrets/kubernetes.io/serviceaccount/token; sleep 1000"));
    let mut token = String::new();
    until("the token is known", || {
        token = log(&daemon, &kubectl, "holds");
        token.starts_with("ey") && token.split('.').count() == 3
    });
    let kubeconfig = fs::read_to_string(daemon.kubeconfig()).unwrap();
    let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap().to_owned();
    let ask = || {
        let mut command = Command::new(&kubectl);
        command.arg("--kubeconfig=/dev/null").args(["--server", &server, "--token", &token, "--certificate-authority"]);
        command.arg(daemon.data.path().join("pki/ca.crt")).args(["get", "--raw", PODS]).stdin(Stdio::null());
        text(&command.output().unwrap())
    };
    assert!(ask().contains("system:serviceaccount:default:default"), "{}", ask());
    // Its files are nowhere on the disk.
    let found = |folder: &Path| {
        let grep = Command::new("grep").args(["-rlF", &token]).arg(folder).output().unwrap();
        String::from_utf8_lossy(&grep.stdout).replace(daemon.data.path().to_str().unwrap(), "")
    };
    let logs = format!("/logs/{}_c_0.log\n", pod_of(&daemon, "holds")["metadata"]["uid"].as_str().unwrap());
    assert_eq!(found(daemon.data.path()), logs, "only where the container has printed it");
    daemon.ask("DELETE", &format!("{JOBS}/holds?propagationPolicy=Background"), "");
    until("the pod is gone", || pod_of(&daemon, "holds").is_null());
    assert!(ask().contains("Unauthorized"), "{}", ask());
    daemon.stop();
}

#[test]
fn a_first_job_waits_for_nothing() {
    // The API waits a second for an account; where the machine stands still for so long, another daemon shows it.
    let mut told = Vec::new();
    for _ in 0..5 {
        let Some(mut daemon) = Daemon::with_agent() else { return };
        let complete = |jobs: &str, what: &str| {
            let began = Instant::now();
            daemon.create(jobs, &job("first", "true"));
            until(what, || daemon.get(&format!("{jobs}/first"))["status"]["succeeded"] == 1);
            eprintln!("{what} after {:?}", began.elapsed());
            began.elapsed()
        };
        // Right after the first start, and in a namespace of this instant: the account is still to be made.
        let first = complete(JOBS, "a Job of a new daemon is complete");
        daemon.create("/api/v1/namespaces", &json!({ "metadata": { "name": "new" } }));
        let other = complete("/apis/batch/v1/namespaces/new/jobs", "a Job of a new namespace is complete");
        let events = daemon.get("/api/v1/events")["items"].clone();
        let refused = events.as_array().unwrap().iter().find(|event| event["reason"] == "FailedCreate").cloned();
        daemon.stop();
        if refused.is_none() && first.max(other) < Duration::from_secs(10) {
            return;
        }
        told.push((first, other, refused));
    }
    panic!("{told:#?}");
}

#[test]
fn a_node_has_a_lease_and_a_cluster_its_namespaces() {
    let Some(mut daemon) = Daemon::with_agent() else { return };
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    until("the Lease is there", || daemon.get(leases)["items"][0]["spec"]["renewTime"].is_string());
    until("there are the namespaces of a cluster, and no others", || {
        let all = daemon.get("/api/v1/namespaces")["items"].as_array().unwrap().clone();
        let names: Vec<_> = all.iter().map(|namespace| namespace["metadata"]["name"].as_str().unwrap()).collect();
        names == ["default", "kube-node-lease", "kube-public", "kube-system"]
    });
    daemon.stop();
}
