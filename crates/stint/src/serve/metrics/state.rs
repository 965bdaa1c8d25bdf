//! The state of Jobs and CronJobs under the names of kube-state-metrics, so that dashboards and alerts find them.
//!
//! Invariant: a scrape costs no more than [`MOST`] objects of each kind do, however many there are: those that were
//! written last are shown, which are those that somebody still waits for.
//! Left out: `kube_job_labels` and `…_annotations`, which are empty there, too, unless somebody asks for them.

use std::cmp::Reverse;
use std::fmt;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use stint_core::schedule::Schedule;
use stint_core::schedule::zone::{self, Zone};
use stint_server::kinds::Kind;
use stint_store::{Entry, Store};

/// How many Jobs, and how many CronJobs, are shown.
const MOST: usize = 5000;

/// Shows what the store holds.
#[derive(Debug)]
pub struct State {
    /// Where the objects are.
    pub store: Store,
    /// In which schedules without a zone are meant.
    pub local_zone: Zone,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    namespace: String,
    resource_version: String,
    creation_timestamp: Option<Timestamp>,
    owner_references: Vec<Owner>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    name: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Job {
    metadata: Meta,
    #[serde(default)]
    spec: JobSpec,
    #[serde(default)]
    status: JobStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobSpec {
    parallelism: Option<i32>,
    completions: Option<i32>,
    active_deadline_seconds: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobStatus {
    active: i32,
    ready: i32,
    succeeded: i32,
    failed: i32,
    start_time: Option<Timestamp>,
    completion_time: Option<Timestamp>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct CronJob {
    metadata: Meta,
    #[serde(default)]
    spec: CronJobSpec,
    #[serde(default)]
    status: CronJobStatus,
    /// When it is to create the next Job.
    #[serde(skip)]
    next: Option<Timestamp>,
}

impl CronJob {
    /// The time after the last one, or after the creation; `None` while it is suspended.
    fn next(&self, local_zone: &Zone) -> Option<Timestamp> {
        let after = self.status.last_schedule_time.or(self.metadata.creation_timestamp)?;
        let schedule = Schedule::parse(&self.spec.schedule).ok().filter(|_| self.spec.suspend != Some(true))?;
        match self.spec.time_zone.as_str() {
            "" => schedule.next(after, local_zone),
            name => schedule.next(after, &zone::named(name)?),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CronJobSpec {
    schedule: String,
    time_zone: String,
    concurrency_policy: String,
    suspend: Option<bool>,
    starting_deadline_seconds: Option<i64>,
    successful_jobs_history_limit: Option<i32>,
    failed_jobs_history_limit: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CronJobStatus {
    active: Vec<serde::de::IgnoredAny>,
    last_schedule_time: Option<Timestamp>,
    last_successful_time: Option<Timestamp>,
}

/// One series of an object: labels beside its name and namespace, and the value.
type Series = (Vec<(&'static str, String)>, f64);
/// A metric: its name, its text, and its series of one object.
type Metric<T> = (&'static str, &'static str, fn(&T) -> Vec<Series>);

static JOBS: &[Metric<Job>] = &[
    ("kube_job_info", "[STABLE] Information about job.", |_| one(Some(1.0))),
    ("kube_job_created", "[STABLE] Unix creation timestamp", |job| one(job.metadata.creation_timestamp.map(unix))),
    (
        "kube_job_spec_parallelism",
        "[STABLE] The maximum desired number of pods the job should run at any given time.",
        |job| one(job.spec.parallelism.map(f64::from)),
    ),
    (
        "kube_job_spec_completions",
        "[STABLE] The desired number of successfully finished pods the job should be run with.",
        |job| one(job.spec.completions.map(f64::from)),
    ),
    (
        "kube_job_spec_active_deadline_seconds",
        "[STABLE] The duration in seconds relative to the startTime that the job may be active before the system tries to \
         terminate it.",
        |job| one(job.spec.active_deadline_seconds.map(number)),
    ),
    ("kube_job_status_succeeded", "[STABLE] The number of pods which reached Phase Succeeded.", |job| {
        one(Some(job.status.succeeded.into()))
    }),
    (
        "kube_job_status_failed",
        "[STABLE] The number of pods which reached Phase Failed and the reason for failure.",
        failures,
    ),
    ("kube_job_status_active", "[STABLE] The number of actively running pods.", |job| {
        one(Some(job.status.active.into()))
    }),
    ("kube_job_status_ready", "The number of ready pods that belong to this Job.", |job| {
        one(Some(job.status.ready.into()))
    }),
    ("kube_job_complete", "[STABLE] The job has completed its execution.", |job| condition(job, "Complete")),
    ("kube_job_failed", "[STABLE] The job has failed its execution.", |job| condition(job, "Failed")),
    (
        "kube_job_status_start_time",
        "[STABLE] StartTime represents time when the job was acknowledged by the Job Manager.",
        |job| one(job.status.start_time.map(unix)),
    ),
    ("kube_job_status_completion_time", "[STABLE] CompletionTime represents time when the job was completed.", |job| {
        one(job.status.completion_time.map(unix))
    }),
    ("kube_job_status_suspended", "The number of pods which reached Phase Suspended.", |job| {
        let suspended = job.status.conditions.iter().find(|condition| condition.kind == "Suspended");
        one(suspended.map(|condition| truth(condition.status == "True")))
    }),
    ("kube_job_owner", "[STABLE] Information about the Job's owner.", owners),
];

static CRON_JOBS: &[Metric<CronJob>] = &[
    ("kube_cronjob_info", "[STABLE] Info about cronjob.", |cron_job| {
        let CronJobSpec { schedule, concurrency_policy, time_zone, .. } = &cron_job.spec;
        // Without a zone the schedule is in the controller's, of which nothing is said.
        let time_zone = if time_zone.is_empty() { "local" } else { time_zone };
        let labels = [("schedule", schedule), ("concurrency_policy", concurrency_policy)];
        let labels = labels.map(|(name, value)| (name, value.clone()));
        vec![(labels.into_iter().chain([("timezone", time_zone.to_owned())]).collect(), 1.0)]
    }),
    ("kube_cronjob_created", "[STABLE] Unix creation timestamp", |cron_job| {
        one(cron_job.metadata.creation_timestamp.map(unix))
    }),
    ("kube_cronjob_status_active", "[STABLE] Active holds pointers to currently running jobs.", |cron_job| {
        one(i32::try_from(cron_job.status.active.len()).ok().map(f64::from))
    }),
    (
        "kube_cronjob_status_last_schedule_time",
        "[STABLE] LastScheduleTime keeps information of when was the last time the job was successfully scheduled.",
        |cron_job| one(cron_job.status.last_schedule_time.map(unix)),
    ),
    (
        "kube_cronjob_status_last_successful_time",
        "LastSuccessfulTime keeps information of when was the last time the job was completed successfully.",
        |cron_job| one(cron_job.status.last_successful_time.map(unix)),
    ),
    (
        "kube_cronjob_spec_suspend",
        "[STABLE] Suspend flag tells the controller to suspend subsequent executions.",
        |cron_job| one(cron_job.spec.suspend.map(truth)),
    ),
    (
        "kube_cronjob_spec_starting_deadline_seconds",
        "[STABLE] Deadline in seconds for starting the job if it misses scheduled time for any reason.",
        |cron_job| one(cron_job.spec.starting_deadline_seconds.map(number)),
    ),
    (
        "kube_cronjob_next_schedule_time",
        "[STABLE] Next time the cronjob should be scheduled. The time after lastScheduleTime, or after the cron job's \
         creation time if it's never been scheduled. Use this to determine if the job is delayed.",
        |cron_job| one(cron_job.next.map(unix)),
    ),
    (
        "kube_cronjob_metadata_resource_version",
        "[STABLE] Resource version representing a specific version of the cronjob.",
        |cron_job| one(cron_job.metadata.resource_version.parse().ok()),
    ),
    (
        "kube_cronjob_spec_successful_job_history_limit",
        "Successful job history limit tells the controller how many completed jobs should be preserved.",
        |cron_job| one(cron_job.spec.successful_jobs_history_limit.map(f64::from)),
    ),
    (
        "kube_cronjob_spec_failed_job_history_limit",
        "Failed job history limit tells the controller how many failed jobs should be preserved.",
        |cron_job| one(cron_job.spec.failed_jobs_history_limit.map(f64::from)),
    ),
];

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        show(&mut encoder, JOBS, &latest::<Job>(&self.store, "jobs"), "job_name", |job| &job.metadata)?;
        let mut cron_jobs = latest::<CronJob>(&self.store, "cronjobs");
        for cron_job in &mut cron_jobs {
            cron_job.next = cron_job.next(&self.local_zone);
        }
        show(&mut encoder, CRON_JOBS, &cron_jobs, "cronjob", |cron_job| &cron_job.metadata)
    }
}

/// The objects of a kind of batch/v1 that were written last.
fn latest<T: DeserializeOwned>(store: &Store, plural: &str) -> Vec<T> {
    let kind = Kind::at("batch", "v1", plural).expect("the API has the kinds of batch/v1");
    let snapshot = store.snapshot();
    let mut entries: Vec<&Entry> = snapshot.entries(&kind.prefix(None)).collect();
    if entries.len() > MOST {
        entries.select_nth_unstable_by_key(MOST, |entry| Reverse(entry.revision));
        entries.truncate(MOST);
    }
    entries.into_iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
}

fn show<T>(
    encoder: &mut DescriptorEncoder<'_>,
    metrics: &[Metric<T>],
    objects: &[T],
    name_label: &'static str,
    meta: fn(&T) -> &Meta,
) -> fmt::Result {
    for (name, help, series) in metrics {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for object in objects {
            let Meta { namespace, name, .. } = meta(object);
            for (more, value) in series(object) {
                let mut labels = vec![("namespace", namespace.clone()), (name_label, name.clone())];
                labels.extend(more);
                ConstGauge::<f64>::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

fn one(value: Option<f64>) -> Vec<Series> {
    value.into_iter().map(|value| (Vec::new(), value)).collect()
}

/// How many pods failed, where it is known why the Job did.
fn failures(job: &Job) -> Vec<Series> {
    const KNOWN: [&str; 3] = ["BackoffLimitExceeded", "DeadlineExceeded", "Evicted"];
    if job.status.failed == 0 {
        return one(Some(0.0));
    }
    let reason = |reason: &str, value| (vec![("reason", reason.to_owned())], value);
    let failed = job.status.conditions.iter().find(|condition| condition.kind == "Failed");
    let mut series: Vec<Series> = Vec::new();
    if let Some(failed) = failed {
        series.extend(KNOWN.map(|known| reason(known, truth(failed.reason == known))));
    }
    if failed.is_none_or(|failed| !KNOWN.contains(&failed.reason.as_str())) {
        series.push(reason("", job.status.failed.into()));
    }
    series
}

/// A condition, as one series for each value that it may have.
fn condition(job: &Job, kind: &str) -> Vec<Series> {
    let Some(found) = job.status.conditions.iter().find(|condition| condition.kind == kind) else { return Vec::new() };
    let series = |value: &str| (vec![("condition", value.to_lowercase())], truth(found.status == value));
    ["True", "False", "Unknown"].map(series).into()
}

fn owners(job: &Job) -> Vec<Series> {
    let series = |kind: &str, name: &str, is_controller: &str| {
        let labels = [("owner_kind", kind), ("owner_name", name), ("owner_is_controller", is_controller)];
        (labels.map(|(name, value)| (name, value.to_owned())).into(), 1.0)
    };
    let owners = &job.metadata.owner_references;
    if owners.is_empty() {
        return vec![series("", "", "")];
    }
    owners.iter().map(|owner| series(&owner.kind, &owner.name, &owner.controller.to_string())).collect()
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn unix(time: Timestamp) -> f64 {
    number(time.as_second())
}

#[allow(clippy::cast_precision_loss)] // seconds, far below 2^52
fn number(value: i64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests;
