//! CronJobs.
//!
//! Upstream: `pkg/apis/batch/validation/validation.go` (`ValidateCronJobCreate`, `validateCronJobSpec`), v1.36.

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec};

use super::pod::enumerated;
use super::{NameRule, job, meta, non_negative, object_meta, object_meta_update, selector, text};
use crate::field::{Fault, Path};
use crate::schedule::Schedule;
use crate::schedule::zone;

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

fn time_zone(name: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if name.is_empty() {
        faults.push(Fault::invalid(path, name, "timeZone must be nil or non-empty string"));
        return;
    }
    let is_part = |part: &str| {
        !matches!(part, "." | "..")
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
    };
    if !name.split('/').all(is_part) {
        faults.push(Fault::invalid(path, name, format!("unknown time zone {name}")));
        return;
    }
    if name.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        faults.push(Fault::invalid(path, name, detail));
    }
    if let Err(why) = zone::find(name) {
        faults.push(Fault::invalid(path, name, why));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::defaults;

    /// One whose spec differs from a good one in these members.
    fn cron_job(name: &str, spec: &[(&str, serde_json::Value)]) -> CronJob {
        let pod = json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] });
        let mut object = json!({
            "metadata": { "name": name, "namespace": "n" },
            "spec": { "schedule": "0 3 * * *", "jobTemplate": { "spec": { "template": { "spec": pod } } } },
        });
        for (member, value) in spec {
            object["spec"][*member] = value.clone();
        }
        let mut cron_job = serde_json::from_value(object).unwrap();
        defaults::cron_job(&mut cron_job);
        cron_job
    }

    fn told(faults: &[Fault]) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    fn created(name: &str, spec: &[(&str, serde_json::Value)]) -> Vec<String> {
        let mut faults = Vec::new();
        create(&cron_job(name, spec), &mut faults);
        told(&faults)
    }

    #[test]
    fn a_name_leaves_room_for_that_of_its_jobs() {
        assert_eq!(created(&"a".repeat(52), &[]), [""; 0]);
        let name = "a".repeat(53);
        let expected = format!("metadata.name: Invalid value: \"{name}\": must be no more than 52 characters");
        assert_eq!(created(&name, &[]), [expected]);
    }

    #[test]
    fn schedules_are_refused_with_the_parsers_words_and_the_fields_path() {
        let in_schedule = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        for (schedule, expected) in [
            ("", vec!["Required value".to_owned()]),
            ("* * * *", vec!["expected exactly 5 fields, found 4: [* * * *]".to_owned()]),
            ("* 24 * * *", vec!["end of range (24) above maximum (23): 24".to_owned()]),
            ("* * * * 7", vec!["end of range (7) above maximum (6): 7".to_owned()]),
            ("@every x", vec!["failed to parse duration @every x: time: invalid duration \"x\"".to_owned()]),
            ("@reboot", vec!["unrecognized descriptor: @reboot".to_owned()]),
            ("TZ=UTC 0 0 * * *", vec![in_schedule.to_owned()]),
            (
                "TZ=0",
                vec![
                    "invalid schedule format: runtime error: slice bounds out of range [:-1]".to_owned(),
                    in_schedule.to_owned(),
                ],
            ),
            (
                "TZ=Foo/Bar 0 0 * * *",
                vec!["provided bad location Foo/Bar: unknown time zone Foo/Bar".to_owned(), in_schedule.to_owned()],
            ),
        ] {
            let whole = |why: &String| match schedule {
                "" => format!("spec.schedule: {why}"),
                _ => format!("spec.schedule: Invalid value: \"{schedule}\": {why}"),
            };
            let expected: Vec<String> = expected.iter().map(whole).collect();
            assert_eq!(created("v", &[("schedule", json!(schedule))]), expected);
        }
    }

    #[test]
    fn zones_are_refused_as_their_loader_refuses_them() {
        let explicit = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        for (name, expected) in [
            ("", vec!["timeZone must be nil or non-empty string"]),
            ("Local", vec![explicit]),
            ("local", vec![explicit, "unknown time zone local"]),
            ("utc", vec!["unknown time zone utc"]),
            ("../etc", vec!["unknown time zone ../etc"]),
            ("UTC/", vec!["unknown time zone UTC/"]),
            ("+05:30", vec!["unknown time zone +05:30"]),
            ("Etc/Much-Too-Long-Name", vec!["unknown time zone Etc/Much-Too-Long-Name"]),
            ("a..b", vec!["time: invalid location name"]),
            ("Etc/GMT+5", vec![]),
            ("US/Pacific", vec![]),
        ] {
            let whole = |why: &&str| format!("spec.timeZone: Invalid value: \"{name}\": {why}");
            let expected: Vec<String> = expected.iter().map(whole).collect();
            assert_eq!(created("v", &[("timeZone", json!(name))]), expected);
        }
    }

    #[test]
    fn every_fault_is_told_in_upstreams_order() {
        let spec = [
            ("schedule", json!("x")),
            ("startingDeadlineSeconds", json!(-1)),
            ("timeZone", json!("x")),
            ("concurrencyPolicy", json!("Maybe")),
            ("successfulJobsHistoryLimit", json!(-2)),
            ("failedJobsHistoryLimit", json!(-3)),
        ];
        let negative = "must be greater than or equal to 0";
        assert_eq!(
            created("v", &spec),
            [
                "spec.schedule: Invalid value: \"x\": expected exactly 5 fields, found 1: [x]".to_owned(),
                format!("spec.startingDeadlineSeconds: Invalid value: -1: {negative}"),
                "spec.timeZone: Invalid value: \"x\": unknown time zone x".to_owned(),
                "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\""
                    .to_owned(),
                format!("spec.successfulJobsHistoryLimit: Invalid value: -2: {negative}"),
                format!("spec.failedJobsHistoryLimit: Invalid value: -3: {negative}"),
            ]
        );
    }

    #[test]
    fn what_was_stored_with_a_zone_in_its_schedule_may_keep_one() {
        let updated = |before: &[(&str, serde_json::Value)], after: &[(&str, serde_json::Value)]| {
            let mut faults = Vec::new();
            spec(&cron_job("v", after).spec, Some(&cron_job("v", before).spec), &mut faults);
            told(&faults)
        };
        let zoned = [("schedule", json!("TZ=UTC 0 0 * * *"))];
        assert_eq!(updated(&zoned, &zoned), [""; 0]);
        let both = [zoned[0].clone(), ("timeZone", json!("UTC"))];
        let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        assert_eq!(updated(&zoned, &both), [format!("spec.schedule: Invalid value: \"TZ=UTC 0 0 * * *\": {why}")]);
        assert_eq!(updated(&[], &zoned).len(), 1);
        // A zone that is no more is not looked at again as long as it stays.
        let gone = [("timeZone", json!("Mars/Base"))];
        assert_eq!(updated(&gone, &gone), [""; 0]);
        assert_eq!(updated(&[], &gone), ["spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base"]);
    }
}
