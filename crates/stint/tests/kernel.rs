//! The real program on Debian's own kernel, in a virtual machine: what the kernel that tests run on may not have.
//!
//! A machine takes seconds to boot; cases that want the same one share it.

mod support;

use std::time::Duration;

use serde_json::json;
use support::machine::Machine;

/// How long a machine may take, which is far more than it does.
const PATIENCE: Duration = Duration::from_mins(5);

/// A Job of one container that may have 64 MiB.
fn job(name: &str, script: &str) -> String {
    let limits = json!({ "limits": { "memory": "64Mi", "cpu": "500m" } });
    let container = json!({ "name": "c", "image": "host", "command": ["sh", "-c", script], "resources": limits });
    let template = json!({ "spec": { "restartPolicy": "Never", "containers": [container] } });
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "backoffLimit": 0, "template": template } })
    .to_string()
}

#[test]
fn jobs_run_within_their_limits_on_debians_kernel() {
    let Some(mut machine) = Machine::new() else { return };
    machine.file("/modest.json", 0o644, job("modest", "echo on $(uname -r)").as_bytes());
    machine.file("/greedy.json", 0o644, job("greedy", "tail /dev/zero").as_bytes());
    let script = "#!/bin/sh
        stint run --host /modest.json; echo \"modest ended with $?\"
        stint run --host /greedy.json; echo \"greedy ended with $?\"";
    let ended = machine.boot(script, PATIENCE);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    for told in ["on 6.", "modest ended with 0", "OOMKilled", "greedy ended with 1"] {
        assert!(ended.said.contains(told), "{told}: {}", ended.said);
    }
}
