//! Claims, their volumes, and images as volumes, with the real program and real containers on this machine's root
//! filesystem.
//!
//! Containers need root; elsewhere these tests say that they are skipped.
#![allow(clippy::needless_pass_by_value)] // `json!` reads best by value

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Daemon, text, until};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn claim(name: &str, more: Value) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})
}

/// A pod on the machine's own root filesystem that runs `script` with a volume at /v.
fn pod(name: &str, script: &str, volume: Value) -> Value {
    let mut volume = volume;
    volume["name"] = json!("v");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": {"stint.dev/rootfs": "host"}},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "volumes": [volume],
            "containers": [{"name": "c", "image": "none", "command": ["/bin/sh", "-c", script],
                            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        },
    })
}

fn of_claim(name: &str) -> Value {
    json!({"persistentVolumeClaim": {"claimName": name}})
}

fn phase(daemon: &Daemon, path: &str) -> String {
    daemon.get(path)["status"]["phase"].as_str().unwrap_or_default().to_owned()
}

fn is_gone(daemon: &Daemon, path: &str) -> bool {
    daemon.ask("GET", path, "").0 == 404
}

/// Runs the pod to its end, which has to be a good one.
fn succeed(daemon: &Daemon, pod: &Value) {
    daemon.create(PODS, pod);
    let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
    until("the pod is over", || matches!(phase(daemon, &path).as_str(), "Succeeded" | "Failed"));
    assert_eq!(phase(daemon, &path), "Succeeded", "{}", daemon.get(&path)["status"]);
}

#[test]
fn what_a_pod_writes_to_its_claim_is_there_for_the_next_one_and_goes_with_the_claim() {
    let Some(mut daemon) = Daemon::with_agent() else { return };
    until("there is a class", || !is_gone(&daemon, "/apis/storage.k8s.io/v1/storageclasses/standard"));
    // The pod is first, and waits for its claim.
    daemon.create(PODS, &pod("writes", "id -u > /v/text; chmod 600 /v/text", of_claim("c")));
    let waits = |message: &str| {
        until(message, || {
            let conditions = daemon.get(&format!("{PODS}/writes"))["status"]["conditions"].clone();
            conditions
                .as_array()
                .into_iter()
                .flatten()
                .any(|one| one["message"].as_str().unwrap_or("").contains(message))
        });
    };
    waits("persistentvolumeclaim \"c\" not found");
    daemon.create(CLAIMS, &claim("c", json!({})));
    until("the pod has written", || phase(&daemon, &format!("{PODS}/writes")) == "Succeeded");
    let bound = daemon.get(&format!("{CLAIMS}/c"));
    let volume = bound["spec"]["volumeName"].as_str().unwrap().to_owned();
    assert_eq!(volume, format!("pvc-{}", bound["metadata"]["uid"].as_str().unwrap()));
    assert_eq!((&bound["status"]["phase"], &bound["status"]["capacity"]["storage"]), (&json!("Bound"), &json!("1Gi")));
    let folder = daemon.data.path().join("volumes").join(&volume);
    assert_eq!(fs::read_to_string(folder.join("text")).unwrap(), "0\n");
    // Another user of the pod's group may read and write what root wrote for itself alone.
    let mut second = pod("reads", "cat /v/text && echo more >> /v/text && touch /v/new", of_claim("c"));
    second["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 4321});
    succeed(&daemon, &second);
    assert_eq!(fs::read_to_string(folder.join("text")).unwrap(), "0\nmore\n");

    // A daemon that is killed and started again knows it.
    daemon.kill();
    daemon.start_again(&["--allow-host-rootfs"]);
    assert_eq!(daemon.ask("DELETE", &format!("{CLAIMS}/c"), "").0, 200);
    until("the claim is protected", || !daemon.get(&format!("{CLAIMS}/c"))["metadata"]["deletionTimestamp"].is_null());
    assert!(folder.join("text").exists(), "pods name it");
    for name in ["writes", "reads"] {
        daemon.ask("DELETE", &format!("{PODS}/{name}"), "");
    }
    until("the claim is gone", || is_gone(&daemon, &format!("{CLAIMS}/c")));
    until("its volume is gone", || is_gone(&daemon, &format!("{VOLUMES}/{volume}")));
    assert!(!folder.exists(), "what it held is gone before it is");
    daemon.stop();
}

#[test]
fn a_volume_that_somebody_made_is_bound_and_never_emptied() {
    let Some(mut daemon) = Daemon::with_agent() else { return };
    let disk = tempfile::tempdir().unwrap();
    fs::write(disk.path().join("text"), "from before\n").unwrap();
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"},
        "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand",
                 "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": disk.path(), "type": "Directory"}},
    });
    daemon.create(VOLUMES, &volume);
    until("it is free", || phase(&daemon, &format!("{VOLUMES}/disk")) == "Available");
    daemon.create(CLAIMS, &claim("c", json!({"storageClassName": "by-hand"})));
    succeed(&daemon, &pod("p", "grep before /v/text && echo more > /v/more", of_claim("c")));
    // Read-only by the pod's own word.
    let mut only = of_claim("c");
    only["persistentVolumeClaim"]["readOnly"] = json!(true);
    succeed(&daemon, &pod("ro", "! touch /v/x 2> /dev/null && cat /v/more", only));
    for path in [format!("{PODS}/p"), format!("{PODS}/ro"), format!("{CLAIMS}/c")] {
        daemon.ask("DELETE", &path, "");
    }
    until("it is released", || phase(&daemon, &format!("{VOLUMES}/disk")) == "Released");
    assert_eq!(fs::read_to_string(disk.path().join("more")).unwrap(), "more\n");
    daemon.stop();
}

#[test]
fn an_ephemeral_volume_is_the_pods_own_and_goes_with_it() {
    let Some(mut daemon) = Daemon::with_agent() else { return };
    let spec = claim("", json!({}))["spec"].clone();
    let volume = json!({"ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": spec}}});
    succeed(&daemon, &pod("p", "test -z \"$(ls /v)\" && touch /v/x", volume));
    let made = daemon.get(&format!("{CLAIMS}/p-v"));
    assert_eq!((&made["metadata"]["labels"]["a"], &made["status"]["phase"]), (&json!("b"), &json!("Bound")));
    daemon.ask("DELETE", &format!("{PODS}/p"), "");
    until("its claim is gone", || is_gone(&daemon, &format!("{CLAIMS}/p-v")));
    until("its volume is gone", || daemon.get(VOLUMES)["items"].as_array().unwrap().is_empty());
    daemon.stop();
}

/// Writes a `docker save` archive of an image with two layers, the upper of which replaces a file of the lower.
fn image(archive: &Path, name: &str) {
    let save = tempfile::tempdir().unwrap();
    let tar = |folder: &Path, to: &Path, what: &[&str]| {
        let status = Command::new("tar").arg("-C").arg(folder).arg("-cf").arg(to).args(what).status().unwrap();
        assert!(status.success());
    };
    let mut layers = Vec::new();
    let mut digests = Vec::new();
    for (number, files) in
        [[("text", "old"), ("sub/base", "base")], [("text", "new"), ("sub/top", "top")]].iter().enumerate()
    {
        let root = save.path().join(format!("root{number}"));
        for (file, content) in files {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), content).unwrap();
        }
        let layer = format!("layer{number}.tar");
        tar(&root, &save.path().join(&layer), &["."]);
        let sum = Command::new("sha256sum").arg(save.path().join(&layer)).output().unwrap();
        digests.push(format!("sha256:{}", &text(&sum)[..64]));
        layers.push(layer);
    }
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": digests}, "history": [],
    });
    fs::write(save.path().join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]);
    fs::write(save.path().join("manifest.json"), manifest.to_string()).unwrap();
    tar(save.path(), archive, &["manifest.json", "config.json", "layer0.tar", "layer1.tar"]);
}

#[test]
fn what_is_in_an_image_is_a_volume_that_can_only_be_read() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: containers need root");
    }
    let mut daemon = Daemon::folder();
    let archive = daemon.data.path().join("image.tar");
    image(&archive, "example.test/data:1");
    let imported = daemon.command(&["image", "import"]).arg(&archive).output().unwrap();
    assert!(imported.status.success(), "{}", text(&imported));
    daemon.start_again(&["--allow-host-rootfs"]);
    let volume = |reference: &str| json!({"image": {"reference": reference, "pullPolicy": "Never"}});
    let script = "test \"$(cat /v/text /v/sub/base /v/sub/top)\" = newbasetop && ! touch /v/x 2> /dev/null";
    succeed(&daemon, &pod("whole", script, volume("example.test/data:1")));
    let mut part = pod("part", "test \"$(ls /v)\" = \"base\ntop\"", volume("example.test/data:1"));
    part["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = json!("sub");
    succeed(&daemon, &part);
    daemon.create(PODS, &pod("none", "true", volume("example.test/none:1")));
    let waiting = || daemon.get(&format!("{PODS}/none"))["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    until("it is told that there is no such image", || {
        waiting()["reason"] == "ErrImageNeverPull" && waiting().to_string().contains("example.test/none:1")
    });
    for name in ["whole", "part", "none"] {
        daemon.ask("DELETE", &format!("{PODS}/{name}"), "");
        until("the pod is gone", || is_gone(&daemon, &format!("{PODS}/{name}")));
    }
    let data = daemon.data.path().to_string_lossy().into_owned();
    until("nothing is mounted any more", || !fs::read_to_string("/proc/mounts").unwrap().contains(&data));
    daemon.stop();
}

/// Runs `stint run --host -` with a manifest; its exit code and all that it said.
fn run(manifest: &str) -> (Option<i32>, String) {
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stint"));
    command.env("STINT_DATA", data.path()).args(["run", "--host", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(manifest.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(!data.path().join("volumes").exists(), "volumes of a run go with it");
    (output.status.code(), text(&output))
}

fn job(name: &str, claim: &str) -> Value {
    let container = json!({"name": "c", "image": "none", "command": ["/bin/sh", "-c", "echo x > /v/x && cat /v/x"],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let mut volume = of_claim(claim);
    volume["name"] = json!("v");
    let spec = json!({"restartPolicy": "Never", "containers": [container], "volumes": [volume]});
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": {"spec": spec}}})
}

#[test]
fn a_run_makes_volumes_for_the_claims_of_its_manifests() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: containers need root");
    }
    let (code, said) = run(&format!("{}\n---\n{}", claim("c", json!({})), job("j", "c")));
    assert!(code == Some(0) && said.contains("x\n"), "{code:?}: {said}");
    let (code, said) = run(&job("j", "none").to_string());
    assert!(code == Some(65) && said.contains("a run has the claims of its own manifests only"), "{code:?}: {said}");
    let other = claim("c", json!({"storageClassName": "fast", "volumeName": "disk"}));
    let (code, said) = run(&format!("{other}\n---\n{}", job("j", "c")));
    let is_told = ["spec.storageClassName", "spec.volumeName"].iter().all(|field| said.contains(field));
    assert!(code == Some(65) && is_told, "{code:?}: {said}");
}
