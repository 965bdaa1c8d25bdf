//! CronJobs.
//!
//! Upstream: `pkg/apis/batch/validation/validation.go` (`ValidateCronJobCreate`, `validateCronJobSpec`), v1.36.

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec};

use super::pod::enumerated;
use super::{NameRule, job, meta, non_negative, object_meta, object_meta_update, selector, text};
use crate::field::{Fault, Path};
use crate::schedule::Schedule;
use crate::schedule::zone::is_zone;

/// The controller adds 11 characters to make a Job's name, which may have 63.
const MAX_NAME: usize = 63 - 11;

pub(super) fn create(cron_job: &CronJob, faults: &mut Vec<Fault>) {
    object_meta(&cron_job.metadata, NameRule::DnsSubdomain, faults);
    spec(&cron_job.spec, None, faults);
    let name = text(cron_job.metadata.name.as_ref());
    if name.len() > MAX_NAME {
        let root = Path::root();
        let path = root.field("metadata");
        let detail = format!("must be no more than {MAX_NAME} characters");
        faults.push(Fault::invalid(&path.field("name"), name, detail));
    }
}

pub(super) fn update(old: &CronJob, new: &CronJob, faults: &mut Vec<Fault>) {
    meta::before_update(&old.metadata, &new.metadata, faults);
    object_meta_update(&old.metadata, &new.metadata, faults);
    spec(&new.spec, Some(&old.spec), faults);
}

fn spec(spec: &CronJobSpec, old: Option<&CronJobSpec>, faults: &mut Vec<Fault>) {
    let root = Path::root();
    let path = root.field("spec");
    schedule(spec, old, &path.field("schedule"), faults);
    non_negative(spec.starting_deadline_seconds, &path.field("startingDeadlineSeconds"), faults);
    if old.is_none_or(|old| old.time_zone != spec.time_zone)
        && let Some(zone) = &spec.time_zone
    {
        time_zone(zone, &path.field("timeZone"), faults);
    }
    let policies = ["Allow", "Forbid", "Replace"];
    enumerated(spec.concurrency_policy.as_ref(), &policies, &path.field("concurrencyPolicy"), faults);
    job_template(spec, &path.field("jobTemplate"), faults);
    for (field, limit) in [
        ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
    ] {
        non_negative(limit.map(i64::from), &path.field(field), faults);
    }
}

fn schedule(spec: &CronJobSpec, old: Option<&CronJobSpec>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let schedule = spec.schedule.as_str();
    if schedule.is_empty() {
        faults.push(Fault::required(path, ""));
        return;
    }
    if let Err(why) = Schedule::parse(schedule) {
        faults.push(Fault::invalid(path, schedule, why.to_string()));
    }
    if schedule.contains("TZ") {
        let detail = match old {
            Some(old) if old.schedule.contains("TZ") => {
                if spec.time_zone.is_none() {
                    return;
                }
                "cannot use both timeZone field and TZ or CRON_TZ in schedule"
            }
            _ => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        };
        faults.push(Fault::invalid(path, schedule, detail));
    }
}

fn time_zone(zone: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if zone.is_empty() {
        faults.push(Fault::invalid(path, zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let unknown = || Fault::invalid(path, zone, format!("unknown time zone {zone}"));
    let is_part = |part: &str| {
        !matches!(part, "." | "..")
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
    };
    if !zone.split('/').all(is_part) {
        faults.push(unknown());
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        faults.push(Fault::invalid(path, zone, detail));
    }
    // `Local` there always is.
    if zone != "Local" && !is_zone(zone) {
        faults.push(unknown());
    }
}

fn job_template(spec: &CronJobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let absent = JobSpec::default();
    let spec = spec.job_template.spec.as_ref().unwrap_or(&absent);
    let path = path.field("spec");
    job::spec_without_selector(spec, &path, faults);
    if spec.selector.is_some() {
        let value = selector::shown(spec.selector.as_ref());
        faults.push(Fault::invalid(&path.field("selector"), value, "`selector` will be auto-generated"));
    }
    if spec.manual_selector == Some(true) {
        faults.push(Fault::not_supported(&path.field("manualSelector"), true, &["nil", "false"]));
    }
}
