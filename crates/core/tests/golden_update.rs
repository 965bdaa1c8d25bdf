//! Update and `/status` requests that a real Kubernetes 1.36 server answered: ours must be answered alike.
//!
//! The recordings hold merge patches and, of the objects before, only what the accepted answers show; the objects are
//! rebuilt here from those. The recorded answers lie beside the repository and are no part of it; without them the test
//! says so and passes.

mod golden;

use golden::{Case, Verdict};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};
use stint_core::{admit, decode, defaults, validate};

/// How many answers match; one of the rest is the request handler's, one asks for the schedule's language.
const FLOOR: usize = 92;

fn base(name: &str, spec: &Value, kind: &str) -> Value {
    json!({ "apiVersion": "batch/v1", "kind": kind, "metadata": { "name": name, "namespace": "gu" }, "spec": spec })
}

fn template() -> Value {
    json!({ "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "busybox" }] } })
}

fn merge(target: &mut Value, patch: &Value) {
    let (Some(members), true) = (patch.as_object(), target.is_object()) else {
        target.clone_from(patch);
        return;
    };
    for (name, value) in members {
        match value {
            Value::Null => drop(target.as_object_mut().map(|t| t.remove(name))),
            Value::Object(_) if target[name].is_object() => merge(&mut target[name], value),
            Value::Object(_) => {
                target[name] = json!({});
                merge(&mut target[name], value);
            }
            _ => target[name] = value.clone(),
        }
    }
}

fn stored_job(case: &Case, name: &str) -> Job {
    let mut spec = match name {
        "nonidx" => json!({ "completions": 3 }),
        "idx" => json!({ "completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1 }),
        "sus" | "sus2" => json!({ "suspend": true }),
        _ => json!({}),
    };
    spec["managedBy"] = json!("example.com/x");
    if let Some(given) = case.record.get("spec").filter(|s| s.is_object()) {
        merge(&mut spec, given);
    }
    if spec.get("template").is_none() {
        spec["template"] = template();
    }
    let text = base(name, &spec, "Job").to_string();
    let mut job = decode::decode::<Job>(text.as_bytes()).expect("the stored job is one").object;
    defaults::job(&mut job);
    admit::prepare_job(&mut job, golden::UID);
    defaults::job(&mut job);
    let mut status = case.record.get("setupStatus").cloned().unwrap_or_default();
    if name == "sus2" {
        status = json!({ "startTime": "2026-01-01T00:00:00Z" });
        if case.name.contains("active") {
            status["active"] = json!(1);
        }
    }
    if status.is_object() {
        job.status = serde_json::from_value(status).expect("the stored status is one");
    }
    job
}

fn answer(case: &Case) -> Value {
    let path = case.path.split('?').next().unwrap_or_default();
    let mut parts = path.rsplit('/');
    let mut name = parts.next().unwrap_or_default();
    let is_status = name == "status";
    if is_status {
        name = parts.next().unwrap_or_default();
    }
    let patch = &case.record["body"];
    if path.contains("/cronjobs/") {
        let spec = json!({ "schedule": "*/5 * * * *", "jobTemplate": { "spec": { "template": template() } }, "suspend": true });
        let text = base(name, &spec, "CronJob").to_string();
        let mut old = decode::decode::<CronJob>(text.as_bytes()).expect("the stored cronjob is one").object;
        defaults::cron_job(&mut old);
        admit::prepare_cron_job(&mut old, golden::UID);
        let mut new = serde_json::to_value(&old).expect("an object is JSON");
        merge(&mut new, patch);
        let mut new = decode::decode::<CronJob>(new.to_string().as_bytes()).expect("patched").object;
        defaults::cron_job(&mut new);
        admit::prepare_cron_job_update(&old, &mut new);
        let faults = validate::cron_job_update(&old, &new);
        if faults.is_empty() {
            return golden::accepted(&new, &[], 200);
        }
        let (message, causes) = golden::invalid("CronJob", name, &faults);
        return json!({ "status": 422, "message": message, "causes": causes });
    }
    let old = stored_job(case, name);
    let mut new = serde_json::to_value(&old).expect("an object is JSON");
    merge(&mut new, patch);
    let mut new = match decode::decode::<Job>(new.to_string().as_bytes()) {
        Ok(decoded) => decoded.object,
        Err(why) => return Case::bad_request("Job", &why.to_string()),
    };
    defaults::job(&mut new);
    let faults = if is_status {
        admit::prepare_job_status_update(&old, &mut new);
        validate::job_status_update(&old, &new)
    } else {
        admit::prepare_job_update(&old, &mut new);
        validate::job_update(&old, &new)
    };
    if faults.is_empty() {
        return golden::accepted(&new, &[], 200);
    }
    let (message, causes) = golden::invalid("Job", name, &faults);
    json!({ "status": 422, "message": message, "causes": causes })
}

#[test]
fn update_requests_are_answered_as_kubernetes_answers_them() {
    let Some(cases) = golden::load("validation_update.json") else {
        return;
    };
    let total = cases.len();
    let mut verdict = Verdict::default();
    for case in cases {
        verdict.compare(&case, &answer(&case));
    }
    verdict.finish("update", total, FLOOR);
}
