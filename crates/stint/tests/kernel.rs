//! The real program on Debian's own kernel, in a virtual machine: what the kernel that tests run on may not have.
//!
//! A machine takes seconds to boot; cases that want the same one share it.

mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::machine::Machine;

/// How long a machine may take, which is far more than it does.
const PATIENCE: Duration = Duration::from_mins(15);

/// A Job of one pod with one container, which is `sh` with this script, and whatever else is said of the container.
fn job(name: &str, script: &str, more: &Value) -> Value {
    let mut container = json!({ "name": "c", "image": "host", "command": ["sh", "-c", script] });
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1000, "containers": [container] });
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "backoffLimit": 0, "template": { "spec": spec } } })
}

#[test]
fn jobs_run_within_their_limits_on_debians_kernel() {
    let Some(mut machine) = Machine::new() else { return };
    let limits = json!({ "resources": { "limits": { "memory": "64Mi", "cpu": "500m" } } });
    machine.file("/modest.json", 0o644, job("modest", "echo on $(uname -r)", &limits).to_string().as_bytes());
    machine.file("/greedy.json", 0o644, job("greedy", "tail /dev/zero", &limits).to_string().as_bytes());
    let runc = Path::new("/usr/sbin/runc");
    if runc.exists() {
        machine.program(runc, "/usr/sbin/runc");
    }
    let script = "#!/bin/sh
        stint run --host /modest.json; echo \"modest ended with $?\"
        stint run --host /greedy.json; echo \"greedy ended with $?\"
        [ ! -e /usr/sbin/runc ] || stint run --host --runtime runc /modest.json";
    let ended = machine.boot(script, PATIENCE);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    for told in ["on 6.", "modest ended with 0", "OOMKilled", "greedy ended with 1"] {
        assert!(ended.said.contains(told), "{told}: {}", ended.said);
    }
}

/// A profile under which nothing may be executed: what runs is what was put under it.
const STRICT: &str = "profile strict flags=(attach_disconnected,mediate_deleted) {
    /** rwmlk,
    deny /tmp/forbidden w,
    capability,
    signal,
}";

/// Tells under which profile a script is, without executing anything.
const TELL: &str = "read -r profile </proc/self/attr/current; echo \"$0 is under $profile\"";

/// Tries what nothing but a profile keeps root with all capabilities from.
const MOUNT: &str = "mount -t tmpfs none /tmp 2>/dev/null && echo \"$0 may mount\" || echo \"$0 may not mount\"";

/// A container that tells under which profile it is, and under which a command is that is executed in it.
fn telling(name: &str, script: &str, context: &Value) -> Value {
    let hook = format!("{TELL} >/tmp/told.new; echo >/tmp/told");
    // A new terminal has nothing to be read: that is how a shell sleeps by itself.
    let wait = "until [ -e /tmp/told ]; do read -t 1 -r nothing <>/dev/ptmx; done";
    let script = format!("{TELL}; {wait}; read -r told </tmp/told.new; echo \"$told\"; {script}");
    let mut job = job(name, &script, &json!({ "securityContext": context }));
    let container = &mut job["spec"]["template"]["spec"]["containers"][0];
    container["command"].as_array_mut().unwrap().push(format!("pod {name}").into());
    let command = json!(["sh", "-c", hook, format!("command in {name}")]);
    container["lifecycle"] = json!({ "postStart": { "exec": { "command": command } } });
    job
}

/// A pod with a sidecar, which is told to end when the other container has ended.
fn told_to_end() -> Value {
    let script = "trap 'echo it is told to end; exit' TERM; echo >/tmp/ready; while :; do sleep 1; done";
    let mut job = job("served", "echo it is served", &json!({}));
    let probe = json!({ "exec": { "command": ["test", "-e", "/tmp/ready"] }, "periodSeconds": 1, "timeoutSeconds": 60,
            "failureThreshold": 600 });
    job["spec"]["template"]["spec"]["initContainers"] = json!([{ "name": "s", "image": "host", "restartPolicy": "Always",
        "command": ["sh", "-c", script], "startupProbe": probe }]);
    job
}

/// A profile of the node's.
fn under(name: &str) -> Value {
    json!({ "appArmorProfile": { "type": "Localhost", "localhostProfile": name } })
}

/// Containers under several profiles, some with all that root can do, which a profile alone keeps from mounting.
fn confined() -> Vec<Value> {
    let loose = json!({ "type": "Unconfined" });
    let usual = json!({ "capabilities": { "add": ["ALL"] }, "seccompProfile": loose });
    let mut unconfined = usual.clone();
    unconfined["appArmorProfile"] = loose;
    let user = json!({ "runAsUser": 1000, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        "appArmorProfile": { "type": "RuntimeDefault" } });
    let signal = format!("{MOUNT}; sleep 100 & kill $!; wait $!; echo \"$0 is signalled: $?\"");
    let strict = "echo x 2>/dev/null >/tmp/forbidden || echo \"$0 may not write\"; echo x >/tmp/x && echo \"$0 may write \
                  elsewhere\"; cat /tmp/x 2>/dev/null || echo \"$0 may not execute\"";
    vec![
        telling("usual", &signal, &usual),
        telling("loose", MOUNT, &unconfined),
        telling("privileged", MOUNT, &json!({ "privileged": true })),
        telling("user", ":", &user),
        telling("strict", strict, &under("strict")),
        told_to_end(),
    ]
}

/// What is to be heard of those, and of what an ordinary user runs.
const TOLD: &[&str] = &[
    "pod usual is under stint-default (enforce)",
    "command in usual is under stint-default (enforce)",
    "pod usual may not mount",
    "pod usual is signalled: 143",
    "pod loose is under unconfined",
    "command in loose is under unconfined",
    "pod loose may mount",
    "pod privileged is under unconfined",
    "command in privileged is under unconfined",
    "pod privileged may mount",
    "pod user is under stint-default (enforce)",
    "command in user is under stint-default (enforce)",
    "pod strict is under strict (enforce)",
    "command in strict is under strict (enforce)",
    "pod strict may not write",
    "pod strict may write elsewhere",
    "pod strict may not execute",
    "it is told to end",
    "CreateContainerError: failed to get container spec opts: failed to generate apparmor spec opts: apparmor profile not found \
     missing",
    "pod rootless is under unconfined",
    "pod rootless-strict is under strict (enforce)",
    "command in rootless-strict is under strict (enforce)",
];

#[test]
fn containers_are_confined_by_app_armor_on_debians_kernel() {
    let parser = Path::new("/sbin/apparmor_parser");
    if !parser.exists() {
        return eprintln!("skipped: apparmor is not installed");
    }
    let Some(mut machine) = Machine::new() else { return };
    machine.program(parser, "/sbin/apparmor_parser");
    machine.folder(Path::new("/etc/apparmor.d"));
    machine.file("/strict", 0o644, STRICT.as_bytes());
    for (number, job) in confined().iter().enumerate() {
        machine.file(&format!("/jobs/{number}.json"), 0o644, job.to_string().as_bytes());
    }
    let missing = job("missing", "echo it runs", &json!({ "securityContext": under("missing") }));
    machine.file("/missing.json", 0o644, missing.to_string().as_bytes());
    let rootless = [telling("rootless", ":", &json!({})), telling("rootless-strict", ":", &under("strict"))];
    for (number, job) in rootless.iter().enumerate() {
        machine.file(&format!("/rootless/{number}.json"), 0o644, job.to_string().as_bytes());
    }
    let script = "#!/bin/sh
        apparmor_parser -Kr /strict && stint run --host /jobs
        stint run --host /missing.json >/missing 2>&1 &
        until grep 'profile not found' /missing; do sleep 1; done
        cat /missing
        su -s /bin/sh nobody -c 'HOME=/tmp stint run --host /rootless' &&
        grep '^stint-default (enforce)' /sys/kernel/security/apparmor/profiles";
    let ended = machine.boot(script, PATIENCE);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    for told in TOLD {
        assert!(ended.said.contains(told), "{told}: {}", ended.said);
    }
    assert!(!ended.said.contains("it runs"), "{}", ended.said);
}
