//! Rights and tokens: `deploy/` grants what is needed and no more, and what is missing is told and waited for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stint_controllers::rights::{Right, of_candidate, of_work};

use crate::attached::{Attached, CRON_JOBS, JOBS, api, cron_job, finish_pods, job, missed, pods_of, succeeded};
use crate::support::{Daemon, PATIENCE, until};

const OURS: Option<&str> = Some("stint.dev/job-controller");
const ACCOUNT: &str = "system:serviceaccount:stint-system:stint-controllers";

/// The objects of a file of `deploy/`.
fn deployed(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file);
    let text = fs::read_to_string(path).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

fn create(daemon: &Daemon, object: &Value) {
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    let api = match object["apiVersion"].as_str().unwrap() {
        "v1" => "/api/v1".to_owned(),
        version => format!("/apis/{version}"),
    };
    let place = object["metadata"]["namespace"].as_str().map_or_else(String::new, |name| format!("/namespaces/{name}"));
    daemon.create(&format!("{api}{place}/{kind}s"), object);
}

/// Creates the objects of a file of `deploy/`.
fn apply(daemon: &Daemon, file: &str) {
    for object in deployed(file) {
        create(daemon, &object);
    }
}

/// A kubeconfig of the ServiceAccount, with this token or a good one.
fn kubeconfig(daemon: &Daemon, token: Option<&str>) -> PathBuf {
    let path = "/api/v1/namespaces/stint-system/serviceaccounts/stint-controllers/token";
    let good = || {
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        let (code, body) = daemon.ask("POST", path, &request.to_string());
        assert_eq!(code, 201, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["status"]["token"].as_str().unwrap().to_owned()
    };
    let token = token.map_or_else(good, str::to_owned);
    let mut config: Value = serde_saphyr::from_str(&fs::read_to_string(daemon.kubeconfig()).unwrap()).unwrap();
    config["users"][0]["user"] = json!({ "token": token });
    config["contexts"][0]["context"]["namespace"] = json!("stint-system");
    let file = daemon.data.path().join("account");
    fs::write(&file, config.to_string()).unwrap();
    file
}

/// What the rules of these roles allow: group, resource with subresource, verb.
fn granted(roles: &[Value]) -> BTreeSet<(String, String, String)> {
    let texts =
        |list: &Value| list.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let mut all = BTreeSet::new();
    for rule in roles.iter().filter_map(|role| role["rules"].as_array()).flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                all.extend(texts(&rule["verbs"]).into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    all
}

fn needed() -> BTreeSet<(String, String, String)> {
    let text = |right: Right| {
        let behind = if right.subresource.is_empty() { String::new() } else { format!("/{}", right.subresource) };
        (right.group.to_owned(), right.resource.to_owned() + &behind, right.verb.to_owned())
    };
    let config = stint_controllers::Config::default();
    of_work(&config).into_iter().chain(of_candidate()).map(text).collect()
}

/// What the ServiceAccount has asked for, by the audit log.
fn asked(log: &Path) -> BTreeSet<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let text_of_log = fs::read_to_string(log).unwrap();
    // The last line may be on its way.
    let lines = text_of_log.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let entries = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries
        .filter(|entry| {
            entry["user"]["username"] == ACCOUNT && entry["objectRef"]["apiGroup"] != "authorization.k8s.io"
        })
        .map(|entry| {
            let about = &entry["objectRef"];
            let behind = about["subresource"].as_str().map_or_else(String::new, |name| format!("/{name}"));
            (text(&about["apiGroup"]), text(&about["resource"]) + &behind, text(&entry["verb"]))
        })
        .collect()
}

#[test]
fn the_rights_of_deploy_are_enough_and_the_least() {
    assert_eq!(granted(&deployed("rbac.yaml")), needed());
    let mut daemon = Daemon::folder();
    let log = daemon.data.path().join("audit.log");
    let log_path = log.to_str().unwrap().to_owned();
    daemon.start_again(&["--no-agent", "--controllers", "housekeeping", "--audit-log-path", &log_path]);
    for file in ["namespace.yaml", "service-account.yaml"] {
        apply(&daemon, file);
    }
    // Without rights it says which ones are missing, and works as soon as they are there.
    let attached = Attached::with(&daemon, &kubeconfig(&daemon, None), &["--lease-duration", "3s"]);
    attached.says("create pods in all namespaces, delete pods in all namespaces");
    attached.says("get leases.coordination.k8s.io in stint-system");
    apply(&daemon, "rbac.yaml");
    attached.says("has all the rights that it needs");

    // Everything that a controller does once: create, count, delete pods; start, record, delete Jobs.
    let mut quick = job("quick", OURS);
    quick["spec"]["ttlSecondsAfterFinished"] = json!(0);
    daemon.create(JOBS, &quick);
    let mut scheduled = cron_job("c", true, true);
    scheduled["spec"]["successfulJobsHistoryLimit"] = json!(0);
    scheduled["spec"]["jobTemplate"]["spec"]["managedBy"] = json!(OURS);
    daemon.create(CRON_JOBS, &scheduled);
    missed(&daemon, "c");
    until("the Jobs came and went", || {
        finish_pods(&daemon);
        let cron_job = daemon.get(&format!("{CRON_JOBS}/c"));
        let is_done = !cron_job["status"]["lastSuccessfulTime"].is_null() && cron_job["status"]["active"].is_null();
        is_done && daemon.get(JOBS)["items"] == json!([])
    });
    daemon.create(JOBS, &job("paused", OURS));
    until("it has a pod", || pods_of(&daemon, "paused") == 1);
    let mut paused = daemon.get(&format!("{JOBS}/paused"));
    paused["spec"]["suspend"] = json!(true);
    paused["metadata"]["resourceVersion"] = Value::Null;
    assert_eq!(daemon.ask("PUT", &format!("{JOBS}/paused"), &paused.to_string()).0, 200);
    until("it has none", || pods_of(&daemon, "paused") == 0);
    assert!(!attached.said().contains("a step was refused"), "{}", attached.said());
    attached.stop();

    // Needed where an answer was lost, where lists are not streamed, where an Event is told again, and where the API wants it
    // of who makes owners that block deletion.
    let lost = ["get cronjobs", "get jobs", "list cronjobs", "list jobs", "list pods"];
    let rare = [&lost[..], &["patch events", "update cronjobs/finalizers", "update jobs/finalizers"]].concat();
    let unused = || -> BTreeSet<String> {
        let all = needed();
        let unused = all.difference(&asked(&log)).map(|(_, resource, verb)| format!("{verb} {resource}")).collect();
        let rare = rare.iter().map(|&right| right.to_owned()).collect();
        BTreeSet::difference(&unused, &rare).cloned().collect()
    };
    // What is answered is logged behind the answer.
    let began = Instant::now();
    while !unused().is_empty() {
        assert!(began.elapsed() < PATIENCE, "never asked for: {:?}", unused());
        std::thread::sleep(Duration::from_millis(20));
    }
    let beyond: Vec<_> = asked(&log).difference(&needed()).cloned().collect();
    assert!(beyond.is_empty(), "it asked for more: {beyond:?}");
}

#[test]
fn a_token_that_is_refused_is_told_and_a_new_one_is_taken_from_the_kubeconfig() {
    let daemon = api();
    for file in ["namespace.yaml", "service-account.yaml", "rbac.yaml"] {
        apply(&daemon, file);
    }
    let args = ["--lease-duration", "3s"];
    let attached = Attached::with(&daemon, &kubeconfig(&daemon, Some("expired")), &args);
    attached.says("Unauthorized");
    daemon.create(JOBS, &job("j", OURS));
    kubeconfig(&daemon, None);
    until("it works with the new one", || {
        finish_pods(&daemon);
        succeeded(&daemon, "j")
    });
    attached.stop();
}
