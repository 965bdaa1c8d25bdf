//! What comes of an object here otherwise than in a cluster, and what the clocks do to its schedule.
//!
//! What a row of `docs/compatibility.md` says of it is said in the row's own words. Left out: whether an object is valid, and
//! what of it this node does not honour; the API says both.

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stint_core::cronjob::zone_of;
use stint_core::manifest::Document;
use stint_core::schedule::Schedule;
use stint_core::schedule::zone::{self, Zone};
use stint_core::storage::CLASS;
use stint_server::differences::{CLAIMS, CLOCKS, Difference, SERVICES};

use super::Severity;
use crate::args::Target;

/// How far ahead changes of the clocks are looked for: each comes once a year.
const AHEAD: SignedDuration = SignedDuration::from_hours(366 * 24);
const DAY: SignedDuration = SignedDuration::from_hours(24);

type Said = Vec<(Severity, String)>;

/// What there is to say about `document` where it is for `target`.
pub fn of(document: &Document, target: Target, now: Timestamp) -> Said {
    let mut said = Said::new();
    if let Some((spec, meta)) = pods(document).filter(|_| target == Target::Cluster) {
        said.extend(elsewhere(spec, meta));
    }
    match document {
        Document::CronJob(cron_job) => said.extend(clocks(cron_job, target, now)),
        Document::Claim(claim) => said.extend(claims(claim, target)),
        Document::Other { api_version, kind, .. } if (&**api_version, &**kind) == ("v1", "Service") => {
            said.extend((target == Target::Stint).then(|| row(&SERVICES)));
        }
        _ => {}
    }
    said
}

/// The pods that a document describes, and what is said about them.
fn pods(document: &Document) -> Option<(&PodSpec, Option<&ObjectMeta>)> {
    let template = match document {
        Document::Pod(pod) => return Some((pod.spec.as_ref()?, Some(&pod.metadata))),
        Document::Job(job) => &job.spec.as_ref()?.template,
        Document::CronJob(cron_job) => &cron_job.spec.job_template.spec.as_ref()?.template,
        _ => return None,
    };
    Some((template.spec.as_ref()?, template.metadata.as_ref()))
}

/// What pods have of this machine that they do not have in a cluster.
fn elsewhere(spec: &PodSpec, meta: Option<&ObjectMeta>) -> Said {
    let mut said = Said::new();
    let annotations = meta.and_then(|meta| meta.annotations.as_ref());
    let root = stint_agent::ROOTFS_ANNOTATION;
    if annotations.is_some_and(|annotations| annotations.contains_key(root)) {
        let message =
            format!("the annotation {root} means nothing in a cluster: containers find what their images hold");
        said.push((Severity::Differs, message));
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        if let Some(path) = volume.host_path.as_ref().map(|source| &source.path) {
            let message = format!("volumes[{index}].hostPath: {path:?} is a folder of whichever node a pod comes to");
            said.push((Severity::Note, message));
        }
    }
    said
}

fn claims(claim: &PersistentVolumeClaim, target: Target) -> Said {
    let Some(spec) = &claim.spec else { return Said::new() };
    let class = spec.storage_class_name.as_deref();
    let is_plain = spec.data_source.is_none() && spec.data_source_ref.is_none();
    match target {
        Target::Stint if is_plain && class.is_none_or(|class| class == CLASS || class.is_empty()) => Said::new(),
        Target::Stint => vec![row(&CLAIMS)],
        Target::Cluster if class == Some(CLASS) => {
            let message = format!(
                "spec.storageClassName: clusters need not have a class {CLASS:?}; without one they take their own default"
            );
            vec![(Severity::Note, message)]
        }
        Target::Cluster => Said::new(),
    }
}

/// What a row of the page says.
fn row(difference: &Difference) -> (Severity, String) {
    (Severity::Differs, format!("{} {}: {}", difference.what, difference.here, difference.why))
}

/// What the clocks do to a schedule within a year, and whose clocks those are.
fn clocks(cron_job: &CronJob, target: Target, now: Timestamp) -> Said {
    let spec = &cron_job.spec;
    let (Ok(schedule), Some(zone)) = (Schedule::parse(&spec.schedule), zone_of(cron_job)) else { return Said::new() };
    let mut said = Said::new();
    let is_calendar = matches!(schedule, Schedule::Calendar(_));
    let names_zone = spec.time_zone.is_some() || Schedule::zone_in(&spec.schedule).is_some();
    if target == Target::Cluster && is_calendar && !names_zone && zone != zone::named("UTC").unwrap_or_else(Zone::utc) {
        let message = format!(
            "spec.timeZone is not set: a cluster takes its controller's zone, mostly UTC, and not this machine's, {}",
            zone.name()
        );
        said.push((Severity::Differs, message));
    }
    let changes = zone.changes(now).take_while(|change| change.0 <= now + AHEAD);
    for change in changes.filter(|_| is_calendar) {
        said.extend(at_change(schedule, &zone, change));
        if is_otherwise(schedule, &zone, change) {
            said.push(row(&CLOCKS));
        }
    }
    said
}

/// What a change of the clocks does to a schedule that does not fire every hour anyway.
fn at_change(schedule: Schedule, zone: &Zone, change: (Timestamp, i64, i64)) -> Option<(Severity, String)> {
    let (at, before, after) = change;
    let count = |from: Timestamp, hours: SignedDuration, zone: &Zone| {
        schedule.fires(from, zone).take_while(|fire| *fire <= from + hours).take(25).count()
    };
    if count(at + DAY, DAY, zone) >= 24 {
        return None;
    }
    // What would have been, had the clocks gone on; a second earlier, for a time that is just when they change.
    let shift = SignedDuration::from_secs((after - before).abs());
    let second = SignedDuration::from_secs(1);
    let (from, old, new) = (on_the_wall(at, before), clock(at, before), clock(at, after));
    let zone_name = zone.name();
    let message = if after > before {
        let skipped = count(at - second, shift - second, &Zone::fixed(before));
        let what = format!("on {from} the clocks go from {old} to {new} ({zone_name}), and it does not fire between");
        (skipped > 0).then_some(what)
    } else {
        let again = count(at - second, shift - second, zone);
        let what = format!(
            "on {from} the clocks go back from {old} to {new} ({zone_name}), and it fires in both of the hours"
        );
        (again > 0).then_some(what)
    };
    Some((Severity::Note, format!("spec.schedule: {}", message?)))
}

/// Whether a cluster leaves out more than the time that is skipped; see the row.
fn is_otherwise(schedule: Schedule, zone: &Zone, (at, before, after): (Timestamp, i64, i64)) -> bool {
    if after <= before {
        return false;
    }
    let midnight = (1..=after - before).contains(&(at.as_second() + after).rem_euclid(86_400));
    let is_east = before > 0;
    let (affected, rest) = match (midnight && is_east, (after - before) % 3600 != 0) {
        (true, _) => (true, DAY),
        (_, true) => (true, SignedDuration::from_hours(1)),
        _ => (false, DAY),
    };
    affected && schedule.next(at - SignedDuration::from_secs(1), zone).is_some_and(|fire| fire < at + rest)
}

fn on_the_wall(at: Timestamp, offset: i64) -> String {
    local(at, offset, "%Y-%m-%d")
}

fn clock(at: Timestamp, offset: i64) -> String {
    local(at, offset, "%H:%M")
}

fn local(at: Timestamp, offset: i64, form: &str) -> String {
    let offset =
        i32::try_from(offset).ok().and_then(|seconds| Offset::from_seconds(seconds).ok()).unwrap_or(Offset::UTC);
    at.to_zoned(offset.to_time_zone()).strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(spec: &Value, target: Target) -> Vec<String> {
        let cron_job: CronJob = serde_json::from_value(json!({ "metadata": { "name": "c" }, "spec": spec })).unwrap();
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let told = of(&Document::CronJob(Box::new(cron_job)), target, now);
        told.into_iter().map(|(severity, message)| format!("{severity} {message}")).collect()
    }

    #[test]
    fn what_the_clocks_do_to_a_schedule_is_told_once_for_each_change() {
        let berlin = |schedule: &str| {
            said(&json!({ "schedule": schedule, "timeZone": "Europe/Berlin", "jobTemplate": {} }), Target::Stint)
        };
        assert_eq!(
            berlin("30 2 * * *"),
            [
                "note spec.schedule: on 2026-03-29 the clocks go from 02:00 to 03:00 (Europe/Berlin), and it does not fire between",
                "note spec.schedule: on 2026-10-25 the clocks go back from 03:00 to 02:00 (Europe/Berlin), and it fires in both of the hours",
            ]
        );
        for unharmed in ["30 3 * * *", "*/10 * * * *", "0 * * * *", "@every 7h", "30 2 1 * *"] {
            assert_eq!(berlin(unharmed), Vec::<String>::new(), "{unharmed}");
        }
    }

    #[test]
    fn a_day_that_begins_late_is_told_in_the_words_of_the_page() {
        let told =
            said(&json!({ "schedule": "0 9 * * *", "timeZone": "Africa/Cairo", "jobTemplate": {} }), Target::Cluster);
        assert_eq!(told, [format!("differs {} {}: {}", CLOCKS.what, CLOCKS.here, CLOCKS.why)]);
    }

    #[test]
    fn what_pods_have_of_this_machine_is_told() {
        let template = json!({
            "metadata": { "annotations": { "stint.dev/rootfs": "host" } },
            "spec": { "containers": [],
                "volumes": [{ "name": "v", "hostPath": { "path": "/srv" } }] },
        });
        let spec =
            json!({ "schedule": "0 9 * * *", "timeZone": "UTC", "jobTemplate": { "spec": { "template": template } } });
        let told = said(&spec, Target::Cluster);
        assert!(told[0].starts_with("differs the annotation stint.dev/rootfs"), "{told:?}");
        assert_eq!(told[1..], ["note volumes[0].hostPath: \"/srv\" is a folder of whichever node a pod comes to"]);
    }
}
