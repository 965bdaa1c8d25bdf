//! Create requests that a real Kubernetes 1.36 server answered: ours must be answered alike.
//!
//! The recorded answers lie beside the repository and are no part of it; without them the test says so and passes.

mod golden;

use golden::{Case, Verdict};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};
use stint_core::field::Fault;
use stint_core::{admit, decode, defaults, validate};

/// How many answers match; the rest ask for the language of CronJob schedules.
const FLOOR: usize = 206;

fn answer_job(case: &Case) -> Value {
    let decoded = match decode::decode::<Job>(case.body.as_bytes()) {
        Ok(decoded) => decoded,
        Err(why) => return Case::bad_request("Job", &why.to_string()),
    };
    let mut job = decoded.object;
    let mut warnings: Vec<String> = decoded.unknown;
    warnings.extend(admit::dedup_owner_references(&mut job.metadata));
    defaults::job(&mut job);
    job.metadata.namespace = Some("gv".to_owned());
    admit::generate_name(&mut job.metadata, "xxxxx");
    admit::prepare_job(&mut job, golden::UID);
    let faults = validate::job_create(&job);
    if !faults.is_empty() {
        return invalid("Job", job.metadata.name.as_deref().unwrap_or_default(), &faults);
    }
    warnings.extend(validate::job_warnings(&job));
    defaults::job(&mut job);
    golden::created(&job, &warnings)
}

fn answer_cron_job(case: &Case) -> Value {
    let decoded = match decode::decode::<CronJob>(case.body.as_bytes()) {
        Ok(decoded) => decoded,
        Err(why) => return Case::bad_request("CronJob", &why.to_string()),
    };
    let mut cron_job = decoded.object;
    let mut warnings: Vec<String> = decoded.unknown;
    warnings.extend(admit::dedup_owner_references(&mut cron_job.metadata));
    defaults::cron_job(&mut cron_job);
    cron_job.metadata.namespace = Some("gv".to_owned());
    admit::generate_name(&mut cron_job.metadata, "xxxxx");
    admit::prepare_cron_job(&mut cron_job, golden::UID);
    let faults = validate::cron_job_create(&cron_job);
    if !faults.is_empty() {
        return invalid("CronJob", cron_job.metadata.name.as_deref().unwrap_or_default(), &faults);
    }
    warnings.extend(validate::cron_job_warnings(&cron_job));
    golden::created(&cron_job, &warnings)
}

fn invalid(kind: &str, name: &str, faults: &[Fault]) -> Value {
    let (message, causes) = golden::invalid(kind, name, faults);
    json!({ "status": 422, "message": message, "causes": causes })
}

#[test]
fn create_requests_are_answered_as_kubernetes_answers_them() {
    let Some(cases) = golden::load("validation_create.json") else {
        return;
    };
    let total = cases.len();
    let mut verdict = Verdict::default();
    for case in cases {
        let ours = if case.path.contains("/cronjobs") { answer_cron_job(&case) } else { answer_job(&case) };
        verdict.compare(&case, &ours);
    }
    verdict.finish("create", total, FLOOR);
}
