//! The CronJob controller's decisions: one CronJob, its Jobs and the time in; a plan of one phase out.
//!
//! ```text
//!            ┌──────────────────────────────────────────────────────────────┐
//!            ▼                                                              │
//!   a Job that the status does not know yet ──► RECORD   active, lastScheduleTime
//!   more finished Jobs than are kept        ──► EXPIRE   delete the oldest  │
//!   status out of date                      ──► REFRESH  finished and missing Jobs leave `active`
//!   a time is due                           ──► MANAGE   (replace,) create ─┘
//!   otherwise                               ──► REST     say why nothing runs; wake at the next time
//! ```
//!
//! Invariants: a Job's name follows from the time that it is for, and a Job that exists is recorded before anything is
//! deleted or started; so there is one Job for a time, whichever write a crash comes before. With `Forbid`, nothing is
//! started while a Job is active. A plan that writes nothing may announce; reconciling twice writes nothing.
//!
//! The behaviour is that of `pkg/controller/cronjob/cronjob_controllerv2.go` and `utils.go` (v1.36). On purpose different:
//! of missed times the most recent one is found, where upstream's estimate misses it for schedules with uneven gaps; a
//! schedule that was changed counts from then on; times that passed while nobody looked are told in an event; and a Job
//! that was created but not recorded, since its controller died, is taken up without a warning.

mod due;
mod start;
mod view;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};

pub use due::{latest, missed};
pub use start::{SCHEDULED_TIMESTAMP, job_name, manual_job};

use crate::plan::{Event, Note, Phase, Plan, Severity, Step, Uid};
use crate::schedule::Schedule;
use crate::schedule::zone::{self, Zone};
use view::View;

/// One write to the API, or none.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create this Job. One that exists under its name is a success if the CronJob controls it.
    CreateJob(Box<Job>),
    /// Delete this Job and, behind its back, its pods (Background); one that is gone is a success.
    DeleteJob(JobRef),
    /// Replace the CronJob's status, guarded by its `resourceVersion`.
    WriteStatus(Box<CronJobStatus>),
    /// Only record the step's Events.
    Announce,
}

/// Names one Job of the CronJob's namespace; the UID guards its deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRef {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: Uid,
}

/// What a controller knows that the API does not: since when it has been looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Since when it looks without a break: since it started, or since its machine slept last.
    pub since: Timestamp,
    /// When it saw the schedule or its zone change, if it did: times before do not count.
    pub changed: Option<Timestamp>,
}

/// Decides what is to be done about `cron_job` at the time `now`, given the Jobs of its namespace that it may control.
///
/// `zone` is that of `spec.timeZone`, or the machine's own where there is none; `None` if there is no zone of that name.
pub fn reconcile(cron_job: &CronJob, jobs: &[Job], zone: Option<&Zone>, look: Look, now: Timestamp) -> Plan<Action> {
    let view = View::of(cron_job, jobs);
    if let Some(plan) = record(&view, view.unrecorded()) {
        return plan;
    }
    if let Some(plan) = expire(&view) {
        return plan;
    }
    let (status, events) = view.tidied(Vec::new());
    if status != view.status {
        return write(Phase::Refresh, status, events, "the status shows the Jobs as they are");
    }
    let mut rest = match start::decide(&view, zone, look, now) {
        start::Decision::Start(plan) => return plan,
        start::Decision::Taken(job, at) => {
            return record(&view, vec![(job, at)]).unwrap_or_else(|| Plan::rest("the Job of this time is recorded"));
        }
        start::Decision::Rest(plan) => plan,
    };
    for job in view.unexpected() {
        let text = format!("Saw a job that the controller did not create or forgot: {job}");
        rest.steps.push(announce(Severity::Warning, "UnexpectedJob", text));
    }
    rest
}

/// Whether the status of `cron_job` knows that `job` was started, or does not have to, since it is none of its scheduled
/// ones. A Job that is not recorded and gone would be started again.
pub fn is_recorded(cron_job: &CronJob, job: &Job) -> bool {
    View::of(cron_job, std::slice::from_ref(job)).unrecorded().is_empty()
}

/// When `cron_job` starts a Job next, as far as one can tell at the time `now`: not while it is suspended or being deleted,
/// nor if its schedule or zone can't be read.
pub fn next_time(cron_job: &CronJob, now: Timestamp) -> Option<Timestamp> {
    let spec = &cron_job.spec;
    if spec.suspend == Some(true) || cron_job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let schedule = Schedule::parse(&spec.schedule).ok()?;
    let zone = zone_of(cron_job)?;
    due::upcoming(schedule, View::of(cron_job, &[]).counts_from().unwrap_or(now), now, &zone)
}

/// The zone that a CronJob's schedule is meant in; `None` if there is none of that name.
pub fn zone_of(cron_job: &CronJob) -> Option<Zone> {
    let spec = &cron_job.spec;
    match spec.time_zone.as_deref().or_else(|| Schedule::zone_in(&spec.schedule)) {
        None | Some("Local") => Some(zone::local()),
        Some(name) => zone::named(name),
    }
}

/// RECORD: these Jobs were created for these times, and the status does not say so yet.
fn record(view: &View<'_>, jobs: Vec<(&Job, Timestamp)>) -> Option<Plan<Action>> {
    if jobs.is_empty() {
        return None;
    }
    let (status, events) = view.tidied(jobs);
    Some(write(Phase::Record, status, events, "the Job of a time was created"))
}

/// EXPIRE: the oldest finished Jobs go, of each outcome those that are more than its limit.
fn expire(view: &View<'_>) -> Option<Plan<Action>> {
    let surplus = view.surplus();
    if surplus.is_empty() {
        return None;
    }
    let mut without = view.status.clone();
    without.active.iter_mut().for_each(|active| {
        active.retain(|entry| !surplus.iter().any(|job| job.metadata.uid == entry.uid));
    });
    let mut steps: Vec<Step<Action>> =
        surplus.into_iter().map(|job| delete(job, "more finished Jobs than the history limit are there")).collect();
    let (status, events) = view.with(without).tidied(Vec::new());
    if status != view.status {
        steps.extend(write(Phase::Refresh, status, events, "the status shows the Jobs as they are").steps);
    }
    Some(Plan::of(Phase::Expire, steps))
}

fn delete(job: &Job, why: &str) -> Step<Action> {
    let name = job.metadata.name.clone().unwrap_or_default();
    let uid = Uid::of(&job.metadata);
    let note = Note::Text(format!("Deleted job {name}"));
    Step::new(Action::DeleteJob(JobRef { name, uid }), why).announce(Severity::Normal, "SuccessfulDelete", note)
}

fn write(phase: Phase, status: CronJobStatus, events: Vec<Event>, why: &str) -> Plan<Action> {
    let mut step = Step::new(Action::WriteStatus(Box::new(status)), why);
    step.events = events;
    Plan::of(phase, vec![step])
}

fn announce(severity: Severity, reason: &str, text: String) -> Step<Action> {
    Step::new(Action::Announce, text.clone()).announce(severity, reason, Note::Text(text))
}

#[cfg(test)]
mod tests;
