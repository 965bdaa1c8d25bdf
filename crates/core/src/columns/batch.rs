//! Jobs and CronJobs in columns.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::cronjob::next_time;

use super::{
    AGE, Cell, Column, NAME, age, column, containers, count, docs, human_duration, name, or_none, selector, since,
    text, wide,
};

const CONTAINERS: Column = wide("Containers", "Names of each container in the template.");
const IMAGES: Column = wide("Images", "Images referenced by each container in the template.");
const SELECTOR: Column = wide("Selector", docs::JOB_SELECTOR);

pub(super) const JOB: &[Column] = &[
    NAME,
    text("Status", "Status of the job."),
    text("Completions", docs::JOB_COMPLETIONS),
    text("Duration", "Time required to complete the job."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn job(job: &Job, now: Timestamp) -> Vec<Cell> {
    let spec = job.spec.clone().unwrap_or_default();
    let pods = spec.template.spec.as_ref().map(|pod| pod.containers.as_slice()).unwrap_or_default();
    let [names, images] = containers(pods);
    vec![
        name(&job.metadata),
        job_status(job).into(),
        completions(job).into(),
        duration(job, now).into(),
        age(&job.metadata, now),
        names,
        images,
        selector(spec.selector.as_ref()),
    ]
}

fn job_status(job: &Job) -> &'static str {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let holds = |type_: &str| conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True");
    let first = |words: [&'static str; 2]| words.into_iter().find(|word| holds(word));
    if let Some(end) = first(["Complete", "Failed"]) {
        end
    } else if job.metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else {
        first(["FailureTarget", "SuccessCriteriaMet"]).unwrap_or("Running")
    }
}

fn completions(job: &Job) -> String {
    let succeeded = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or(0);
    let spec = job.spec.as_ref();
    if let Some(completions) = spec.and_then(|spec| spec.completions) {
        return format!("{succeeded}/{completions}");
    }
    match spec.and_then(|spec| spec.parallelism).unwrap_or(0) {
        pods @ 2.. => format!("{succeeded}/1 of {pods}"),
        _ => format!("{succeeded}/1"),
    }
}

fn duration(job: &Job, now: Timestamp) -> String {
    let Some(status) = &job.status else { return String::new() };
    let Some(Time(start)) = &status.start_time else { return String::new() };
    let end = status.completion_time.as_ref().map_or(now, |Time(end)| *end);
    human_duration(end.duration_since(*start))
}

pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", docs::SCHEDULE),
    text("Timezone", docs::TIME_ZONE),
    column("Suspend", "boolean", docs::SUSPEND),
    column("Active", "integer", docs::ACTIVE),
    text("Last Schedule", docs::LAST_SCHEDULE),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
    text(NEXT, "How long it is until the next Job is started."),
];

/// A column that a cluster does not have; so it comes after all others.
pub const NEXT: &str = "Next";

pub(super) fn cron_job(cron_job: &CronJob, now: Timestamp) -> Vec<Cell> {
    let spec = cron_job.spec.clone();
    let status = cron_job.status.clone().unwrap_or_default();
    let job = spec.job_template.spec.unwrap_or_default();
    let [names, images] = containers(job.template.spec.as_ref().map(|pod| &*pod.containers).unwrap_or_default());
    let suspend = match spec.suspend {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    let until = |at: Timestamp| human_duration(at.duration_since(now));
    let next = next_time(cron_job, now).map_or_else(|| or_none(""), until);
    let last = status.last_schedule_time.map_or_else(|| "<none>".into(), |Time(at)| since(Some(at), now));
    vec![
        name(&cron_job.metadata),
        spec.schedule.into(),
        spec.time_zone.as_deref().map_or_else(|| or_none(""), str::to_owned).into(),
        suspend.into(),
        count(status.active.unwrap_or_default().len()),
        last.into(),
        age(&cron_job.metadata, now),
        names,
        images,
        selector(job.selector.as_ref()),
        next.into(),
    ]
}
