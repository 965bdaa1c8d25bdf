//! Whether a Job is started now, and the Job.
//!
//! Upstream: `pkg/controller/cronjob/cronjob_controllerv2.go` (`syncCronJob`) and `utils.go` (`getJobFromTemplate2`), v1.36.

use std::collections::BTreeMap;

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::due::{Due, due, missed, upcoming};
use super::view::{self, View};
use super::{Action, Look, announce, delete};
use crate::field::quote;
use crate::plan::{Note, Phase, Plan, Severity, Step, Wake};
use crate::schedule::Schedule;
use crate::schedule::zone::{self, Zone};

/// The annotation of a Job that says for which time it was created.
pub const SCHEDULED_TIMESTAMP: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// The annotation of a Job that a user started by hand.
const INSTANTIATE: &str = "cronjob.kubernetes.io/instantiate";

/// Above this many missed times upstream warns.
const MANY: i64 = 100;

/// What came of a look at the clock.
pub(super) enum Decision<'a> {
    /// Start a Job.
    Start(Plan<Action>),
    /// A Job of the CronJob has the name already that the one for this time would have.
    Taken(&'a Job, Timestamp),
    /// Nothing is started; the plan says why.
    Rest(Plan<Action>),
}

/// The name of the Job of `cron_job` for the time `at`: of all its times in one minute there is one Job.
pub fn job_name(cron_job: &str, at: Timestamp) -> String {
    format!("{cron_job}-{}", at.as_second().div_euclid(60))
}

/// For which time `job` was created.
pub(super) fn scheduled_time(job: &Job) -> Option<Timestamp> {
    job.metadata.annotations.as_ref()?.get(SCHEDULED_TIMESTAMP)?.parse().ok()
}

/// The Job of a run by hand, under this name.
pub fn manual_job(cron_job: &CronJob, name: String) -> Job {
    let mut job = from_template(cron_job, name);
    annotate(&mut job, INSTANTIATE, "manual".to_owned());
    job
}

pub(super) fn decide<'a>(view: &View<'a>, zone: Option<&Zone>, look: Look, now: Timestamp) -> Decision<'a> {
    let spec = &view.cron_job.spec;
    if view.cron_job.metadata.deletion_timestamp.is_some() {
        return Decision::Rest(Plan::rest("the CronJob is being deleted"));
    }
    let Some(zone) = zone else {
        let name = spec.time_zone.as_deref().unwrap_or_default();
        let text = format!("invalid timeZone: {}: unknown time zone {name}", quote(name));
        return told(vec![announce(Severity::Warning, "UnknownTimeZone", text)]);
    };
    if spec.suspend == Some(true) {
        return Decision::Rest(Plan::rest("the CronJob is suspended"));
    }
    let mut unsupported = Vec::new();
    if spec.schedule.contains("TZ") {
        let text = format!(
            "CRON_TZ or TZ used in schedule {} is not officially supported, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
            quote(&spec.schedule)
        );
        unsupported.push(announce(Severity::Warning, "UnsupportedSchedule", text));
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            let text = format!("unparseable schedule: {} : {why}", quote(&spec.schedule));
            unsupported.push(announce(Severity::Warning, "UnparseableSchedule", text));
            return told(unsupported);
        }
    };
    let prefixed = Schedule::zone_in(&spec.schedule).and_then(zone::named);
    let mut decision = at_its_time(view, schedule, prefixed.as_ref().unwrap_or(zone), look, now);
    if let Decision::Start(plan) | Decision::Rest(plan) = &mut decision {
        plan.steps.splice(0..0, unsupported);
    }
    decision
}

fn at_its_time<'a>(view: &View<'a>, schedule: Schedule, zone: &Zone, look: Look, now: Timestamp) -> Decision<'a> {
    let spec = &view.cron_job.spec;
    let from = view.counts_from().unwrap_or(now).max(look.changed.unwrap_or(Timestamp::MIN));
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let base = deadline.and_then(|deadline| now.checked_sub(deadline).ok()).map_or(from, |start| start.max(from));
    let wake =
        upcoming(schedule, from, now, zone).map(|at| Wake { at, why: format!("the schedule's next time is {at}") });
    let rest = |steps: Vec<Step<Action>>, why: &str| {
        let mut plan = Plan { steps, ..Plan::rest(why) };
        plan.wake.clone_from(&wake);
        Decision::Rest(plan)
    };
    let (at, estimate) = match due(schedule, base, now, zone) {
        Due::Never => {
            let text = format!(
                "invalid schedule: {} : time difference between two schedules is less than 1 second",
                spec.schedule
            );
            return told(vec![announce(Severity::Warning, "InvalidSchedule", text)]);
        }
        Due::NotYet => return rest(Vec::new(), "no time is due"),
        Due::At { at, estimate } => (at, estimate),
    };
    let mut tell = Vec::new();
    if estimate > MANY {
        let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        tell.push(announce(Severity::Warning, "TooManyMissedTimes", text.to_owned()));
    }
    if deadline.is_some_and(|deadline| at.saturating_add(deadline).is_ok_and(|end| end < now)) {
        let when = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        let text = format!("Missed scheduled time to start a job: {when}");
        tell.push(announce(Severity::Warning, "MissSchedule", text));
        return rest(tell, "the last time that was due is past its deadline");
    }
    let name = view.job_name(at);
    let is_recorded = view.status.active.iter().flatten().any(|entry| entry.name.as_ref() == Some(&name))
        || view.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == at);
    if is_recorded {
        return rest(tell, "the Job of the last time that was due is started");
    }
    let active = view.active();
    if spec.concurrency_policy.as_deref() == Some("Forbid") && !active.is_empty() {
        let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
        tell.push(announce(Severity::Normal, "JobAlreadyActive", text.to_owned()));
        return rest(tell, "a Job is still active, and the concurrency policy is Forbid");
    }
    match view.named_for(at) {
        // Another time of this minute had it (seen of 1.36.2: the status stays as it is).
        Some(job) if view::outcome(job).is_some() => return rest(tell, "the Job of this minute has ended"),
        Some(job) => return Decision::Taken(job, at),
        None => {}
    }
    let mut steps = tell;
    if at <= look.since {
        steps.push(passed(missed(schedule, base, look.since, zone), at, now));
    }
    if spec.concurrency_policy.as_deref() == Some("Replace") {
        steps.extend(active.into_iter().map(|job| delete(job, "the concurrency policy is Replace")));
    }
    let mut job = from_template(view.cron_job, name.clone());
    let local = spec.time_zone.as_ref().map_or(0, |_| zone.offset_at(at));
    annotate(&mut job, SCHEDULED_TIMESTAMP, rfc3339(at, local));
    let note = Note::Text(format!("Created job {name}"));
    let create = Step::new(Action::CreateJob(Box::new(job)), format!("its time was {at}"));
    steps.push(create.announce(Severity::Normal, "SuccessfulCreate", note));
    Decision::Start(Plan { wake, ..Plan::of(Phase::Manage, steps) })
}

/// Says how many times passed while nobody looked, of which the last one is made up for.
fn passed(count: usize, at: Timestamp, now: Timestamp) -> Step<Action> {
    let late = now.duration_since(at).as_secs();
    let times = if count == 1 { "1 scheduled time" } else { &format!("{count} scheduled times") };
    let text = format!("{times} passed while nobody looked at the clock; the last one, {at}, is started {late} s late");
    announce(Severity::Warning, "MissedTimes", text)
}

/// A plan that only tells, and waits for a change.
fn told<'a>(steps: Vec<Step<Action>>) -> Decision<'a> {
    let why = steps.last().map_or_else(String::new, |step| step.why.clone());
    Decision::Rest(Plan { steps, ..Plan::rest(why) })
}

/// A Job as the template has it, controlled by the CronJob.
fn from_template(cron_job: &CronJob, name: String) -> Job {
    let template = &cron_job.spec.job_template;
    let given = template.metadata.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "batch/v1".to_owned(),
        kind: "CronJob".to_owned(),
        name: cron_job.metadata.name.clone().unwrap_or_default(),
        uid: cron_job.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron_job.metadata.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

fn annotate(job: &mut Job, key: &str, value: String) {
    job.metadata.annotations.get_or_insert_with(BTreeMap::new).insert(key.to_owned(), value);
}

/// The moment as Go writes it: `Z` where local time is UTC.
fn rfc3339(at: Timestamp, offset: i64) -> String {
    match i32::try_from(offset).ok().and_then(|seconds| Offset::from_seconds(seconds).ok()) {
        Some(offset) if offset != Offset::UTC => at.display_with_offset(offset).to_string(),
        _ => at.to_string(),
    }
}
