//! What five hundred pods leave on the machine: nothing.
//!
//! The real program in a network namespace of the test's own. Of mounts, processes, cgroups, interfaces, descriptors and files those
//! are counted that are the daemon's, since others work on the same machine.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};
use support::{Daemon, leftovers, until};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// How many namespaces wait for pods.
const READY: usize = 8;

/// A Job of pods with volumes of several kinds and a probe.
fn job(name: &str, completions: usize, parallelism: usize, script: &str) -> Value {
    let mounts = ["disk", "memory", "config"].map(|name| json!({ "name": name, "mountPath": format!("/mnt/{name}") }));
    let probe = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1, "timeoutSeconds": 60 });
    let container = json!({ "name": "c", "image": "host", "command": ["sh", "-c", script],
        "readinessProbe": probe, "volumeMounts": mounts });
    let volumes = json!([{ "name": "disk", "emptyDir": {} }, { "name": "memory", "emptyDir": { "medium": "Memory" } },
        { "name": "config", "configMap": { "name": "config" } }]);
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], "volumes": volumes });
    let template = json!({ "metadata": { "annotations": { "stint.dev/rootfs": "host" } }, "spec": spec });
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name }, "spec": {
        "completions": completions, "parallelism": parallelism, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
        "template": template } })
}

/// How many pods have a record.
fn records(daemon: &Daemon) -> usize {
    let all = daemon.memory_folders().into_iter().flat_map(|folder| leftovers::entries(&folder));
    all.filter(|path| path.join("containers").exists()).count()
}

/// What the daemon has of the machine.
fn count(daemon: &Daemon) -> BTreeMap<&'static str, usize> {
    let (data, memory) = (daemon.data.path(), daemon.memory_folders());
    let id = fs::read_to_string(data.join("id")).unwrap();
    let is_ours =
        |path: &std::path::Path| path.starts_with(data) || memory.iter().any(|folder| path.starts_with(folder));
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    BTreeMap::from([
        ("mounts, which hold network namespaces too", leftovers::mounts().iter().filter(|path| is_ours(path)).count()),
        ("processes", leftovers::processes(&data.to_string_lossy()).len()),
        ("cgroups", leftovers::cgroups(id.trim()).iter().filter(|path| !path.ends_with(id.trim())).count()),
        ("interfaces", interfaces.lines().count()),
        ("files of logs", leftovers::files(&data.join("logs"))),
        ("files of containers", leftovers::files(&data.join("scratch"))),
        ("files in memory", memory.iter().map(|folder| leftovers::files(folder)).sum()),
    ])
}

#[test]
fn five_hundred_pods_leave_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: containers need root");
        return;
    }
    let machine = std::thread::spawn(|| {
        stint_runtime::namespace::enter_new_network().unwrap();
        let mut daemon = Daemon::folder();
        daemon.start_again(&["--allow-host-rootfs", "--pod-network", "own"]);
        five_hundred_pods(&daemon);
        daemon.stop();
    });
    if let Err(panic) = machine.join() {
        std::panic::resume_unwind(panic);
    }
}

fn five_hundred_pods(daemon: &Daemon) {
    let config =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "config" }, "data": { "a": "b" } });
    daemon.create(support::CONFIG_MAPS, &config);
    let status = |job: &str| daemon.get(&format!("{JOBS}/{job}"))["status"].clone();
    let delete = |job: &str| {
        let (code, body) = daemon.ask("DELETE", &format!("{JOBS}/{job}?propagationPolicy=Background"), "");
        assert_eq!(code, 200, "{body}");
    };
    let no_pods = || daemon.get(PODS)["items"].as_array().unwrap().is_empty();
    // What is made once, and namespaces that wait for pods, are there after the first ones.
    daemon.create(JOBS, &job("first", 5, 5, "true"));
    until("the first are done", || status("first")["succeeded"] == 5);
    delete("first");
    until("the first are gone", no_pods);
    until("nothing of the first is left, and namespaces wait", || {
        let now = count(daemon);
        let cables = fs::read_to_string("/proc/thread-self/net/dev").unwrap().matches("st-").count();
        let none = ["cgroups", "files of logs", "files of containers"].iter().all(|of_pods| now[of_pods] == 0);
        none && cables == READY && records(daemon) == 0
    });
    let descriptors = || leftovers::descriptors(daemon.child.as_ref().unwrap().id());
    let (before, open) = (count(daemon), descriptors());

    let writes = "cat /mnt/config/a; echo x | tee /mnt/disk/x /mnt/memory/x";
    daemon.create(JOBS, &job("good", 350, 12, writes));
    daemon.create(JOBS, &job("bad", 110, 4, &format!("{writes}; exit 1")));
    for round in 0..4 {
        // Ended while they run and while they start.
        let name = format!("killed-{round}");
        daemon.create(JOBS, &job(&name, 10, 10, &format!("{writes}; sleep 1000")));
        until("some run", || status(&name)["ready"].as_u64() > Some(round));
        delete(&name);
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(15);
    while (status("good")["succeeded"] != 350 || status("bad")["failed"] != 110) && std::time::Instant::now() < deadline
    {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!((&status("good")["succeeded"], &status("bad")["failed"]), (&json!(350), &json!(110)));
    // None of them sends anything, so few networks are enough.
    let pods = daemon.get(PODS)["items"].take();
    let addresses: BTreeSet<_> =
        pods.as_array().unwrap().iter().map(|pod| pod["status"]["podIP"].to_string()).collect();
    assert!(addresses.len() < 200, "460 pods had {} networks", addresses.len());
    delete("good");
    delete("bad");
    until("all are gone", no_pods);
    let began = std::time::Instant::now();
    while count(daemon) != before && began.elapsed() < support::PATIENCE {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(count(daemon), before);
    // Connections in the process come and go.
    until("no descriptor is left", || descriptors() <= open + 10);
}
