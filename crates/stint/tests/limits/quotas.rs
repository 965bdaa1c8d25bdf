//! What a ResourceQuota says is used, as objects come and go.

use serde_json::{Value, json};

use crate::support::{CONFIG_MAPS, Daemon, config_map, until};

const CORE: &str = "/api/v1/namespaces/default";

#[test]
fn what_a_quota_says_is_used_follows_what_comes_goes_and_is_over() {
    let mut daemon = Daemon::start(&["--no-agent"]);
    let account = format!("{CORE}/serviceaccounts/default");
    until("the account is there", || daemon.ask("GET", &account, "").0 == 200);
    daemon.create(CONFIG_MAPS, &config_map("before"));
    let hard = json!({ "count/configmaps": "4", "pods": "2", "count/pods": "9", "requests.cpu": "1", "requests.storage": "5Gi" });
    daemon.create(
        &format!("{CORE}/resourcequotas"),
        &json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "q" }, "spec": { "hard": hard } }),
    );
    let used = |daemon: &Daemon, name: &str| -> Value {
        daemon.get(&format!("{CORE}/resourcequotas/q"))["status"]["used"][name].clone()
    };
    // The certificate's ConfigMap is there in every namespace.
    until("what was there is counted", || used(&daemon, "count/configmaps") == "2");
    assert_eq!(used(&daemon, "pods"), "0");
    assert_eq!(daemon.get(&format!("{CORE}/resourcequotas/q"))["status"]["hard"], hard);

    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "restartPolicy": "Never", "containers": [{
                "name": "c", "image": "none", "resources": { "requests": { "cpu": "400m" } },
            }] },
        })
    };
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "c" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "2Gi" } } },
    });
    daemon.create(&format!("{CORE}/persistentvolumeclaims"), &claim);
    let pods = format!("{CORE}/pods");
    daemon.create(&pods, &pod("a"));
    daemon.create(&pods, &pod("b"));
    until("they are counted", || used(&daemon, "requests.cpu") == "800m" && used(&daemon, "requests.storage") == "2Gi");
    let (code, refusal) = daemon.ask("POST", &pods, &pod("c").to_string());
    assert!(code == 403 && refusal.contains("exceeded quota: q, requested: pods=1,requests.cpu=400m"), "{refusal}");

    // One is over, which makes room; the other goes.
    let status = json!({ "status": { "phase": "Succeeded" } }).to_string();
    assert_eq!(patch(&daemon, &format!("{pods}/a/status"), &status), 200);
    until("a pod that is over uses nothing but its place", || {
        used(&daemon, "pods") == "1" && used(&daemon, "requests.cpu") == "400m" && used(&daemon, "count/pods") == "2"
    });
    daemon.ask("DELETE", &format!("{pods}/b?gracePeriodSeconds=0"), "");
    daemon.ask("DELETE", &format!("{CONFIG_MAPS}/before"), "");
    daemon.ask("DELETE", &format!("{CORE}/persistentvolumeclaims/c"), "");
    until("what is gone uses nothing", || {
        used(&daemon, "pods") == "0" && used(&daemon, "count/configmaps") == "1" && used(&daemon, "count/pods") == "1"
    });

    // Another limit is counted at once, and one that is gone is not told any more.
    let spec = json!({ "spec": { "hard": { "pods": null, "count/secrets": "3" } } }).to_string();
    assert_eq!(patch(&daemon, &format!("{CORE}/resourcequotas/q"), &spec), 200);
    until("the new limit is counted", || used(&daemon, "count/secrets") == "0" && used(&daemon, "pods").is_null());
    daemon.create(
        &format!("{CORE}/secrets"),
        &json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } }),
    );
    until("it is watched", || used(&daemon, "count/secrets") == "1");

    // What happened while no daemon was there is counted by the next one.
    daemon.kill();
    daemon.start_again(&["--no-agent", "--controllers", "none"]);
    daemon.ask("DELETE", &format!("{CORE}/secrets/s"), "");
    daemon.stop();
    daemon.start_again(&["--no-agent"]);
    until("it is counted", || used(&daemon, "count/secrets") == "0");
    let revision =
        |daemon: &Daemon| daemon.get(&format!("{CORE}/resourcequotas/q"))["metadata"]["resourceVersion"].clone();
    let now = revision(&daemon);
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(revision(&daemon), now, "counting again changes nothing");
    daemon.stop();
}

/// A merge patch; returns the code.
fn patch(daemon: &Daemon, path: &str, patch: &str) -> u16 {
    let head =
        format!("PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/merge-patch+json\r\nConnection: close");
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{patch}", patch.len());
    crate::client::ask(&mut crate::client::unix(daemon), &request).0
}
