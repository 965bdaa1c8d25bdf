//! The Job controller's decisions: one Job, its pods and the time in; a plan of one phase out.
//!
//! ```text
//!            ┌────────────────────────────────────────────────────────────────────┐
//!            ▼                                                                    │
//!   pods without a controller, or not selected ──► CLAIM   adopt, let go          │
//!   pods finished, or the end decided ──► RECORD   uids → status.uncounted        │
//!   recorded, still with finalizer    ──► RELEASE  finalizers off                 │
//!   recorded, without finalizer       ──► FOLD     uncounted → counters ──► Complete | Failed
//!   end decided, pods still active    ──► STOP     delete them                    │
//!   otherwise                         ──► MANAGE   create or delete pods ─────────┘
//!   status out of date                ──► REFRESH
//! ```
//!
//! Invariants: a finished pod is counted exactly once, because its UID is in the status before its finalizer goes and
//! its finalizer is gone before it is counted; no pod is created once the end is decided; a terminal condition never
//! changes; reconciling twice changes nothing. A crash between any two writes repeats work and loses nothing, since
//! each phase is chosen from what the API holds and from nothing else.
//!
//! The behaviour is that of `pkg/controller/job/job_controller.go` (v1.36), `syncJob`, `manageJob` and
//! `trackJobStatusAndRemoveFinalizers`; where the order of writes differs from it, the comment says so.
//!
//! Four differences from upstream are on purpose. While replacements wait for their delay, upstream writes `active: 0`
//! whatever is active; ours writes what is. And upstream's memory of failures for that delay is lost with its process;
//! ours is derived from the pods. A status that the API would refuse is not asked for: see [`set_completed`]. And an active
//! pod that has lost its finalizer is deleted, since nobody would count it: see [`manage`]; upstream lets it run.

mod backoff;
mod claim;
mod end;
pub mod explain;
pub mod index;
pub mod kept;
mod manage;
pub mod per_index;
pub mod policy;
mod success;
mod suspend;
mod track;
mod tuning;
pub mod view;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use backoff::Backoff;
pub use end::{End, Outcome};
pub use tuning::Tuning;
pub use view::View;

use crate::plan::{Action, Note, Phase, Plan, PodRef, Severity, Step};
use view::Class;

/// The finalizer that keeps a finished pod until its Job has counted it.
pub const TRACKING_FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// Decides what is to be done about `job`, given every pod of its namespace that it may own, at the time `now`.
///
/// `pods` may hold foreign pods: only those that the Job controls count. Delays and limits are upstream's.
pub fn reconcile(job: &Job, pods: &[Pod], now: Timestamp) -> Plan {
    reconcile_with(job, pods, now, Tuning::default())
}

/// [`reconcile`] with other delays and limits.
pub fn reconcile_with(job: &Job, pods: &[Pod], now: Timestamp, tuning: Tuning) -> Plan {
    reconcile_kept(job, pods, None, now, tuning)
}

/// [`reconcile_with`], given of the pods that are [settled](kept::Settled) no more than when the latest of them ended.
pub fn reconcile_kept(
    job: &Job,
    pods: &[Pod],
    latest_success: Option<Timestamp>,
    now: Timestamp,
    tuning: Tuning,
) -> Plan {
    let Some(spec) = &job.spec else { return Plan::rest("the Job has no spec") };
    if let Some(other) = foreign_controller(spec) {
        return Plan::rest(format!("the Job is managed by {other}"));
    }
    if let Some(mode) = spec.completion_mode.as_deref().filter(|mode| !matches!(*mode, "NonIndexed" | "Indexed")) {
        let message = "Skipped Job sync because completion mode is unknown".to_owned();
        let step = Step::new(Action::Announce, format!("the completion mode {mode} is unknown"));
        let step = step.announce(Severity::Warning, "UnknownCompletionMode", Note::Text(message));
        return Plan::of(Phase::Rest, vec![step]);
    }
    let view = View { latest_success, ..View::of(job, pods) };
    if let Some(end) = finished(&view.status) {
        return track::release_leftovers(&view, end);
    }
    if let Some(plan) = claim::claim(&view) {
        return plan;
    }
    let decided = End::of_status(&view.status);
    if let Some(plan) = track::release(&view, decided.is_some()) {
        return plan;
    }
    if let Some(plan) = track::fold(&view, decided.as_ref(), now) {
        return plan;
    }
    let end = decided.clone().or_else(|| End::decide(&view, spec, now));
    if let Some(plan) = track::record(&view, end.as_ref(), decided.is_none(), now, tuning.max_uncounted_pods) {
        return plan;
    }
    match end {
        Some(end) => track::stop(&view, &end).unwrap_or_else(|| track::conclude(&view, &end, now)),
        None if view.job_is_leaving() => track::abandon(&view, now),
        None => manage::manage(&view, spec, now, tuning).waking(end::deadline(&view.status, spec, now)),
    }
}

/// The controller that manages the Job, if it is not this one.
pub fn foreign_controller(spec: &JobSpec) -> Option<&str> {
    spec.managed_by.as_deref().filter(|by| *by != "kubernetes.io/job-controller")
}

/// Decides about pods whose Job is gone: they lose the tracking finalizer, so that they can be deleted.
pub fn reconcile_absent(pods: &[Pod]) -> Plan {
    let steps: Vec<Step> = pods
        .iter()
        .filter(|pod| view::is_tracked(pod))
        .map(|pod| Step::new(Action::ReleasePod(PodRef::of(pod)), "its Job is gone"))
        .collect();
    if steps.is_empty() {
        return Plan::rest("the Job is gone and no pod waits for it");
    }
    Plan::of(Phase::Release, steps)
}

/// The terminal condition of a Job, `Complete` or `Failed`, if it has one.
pub fn finished(status: &JobStatus) -> Option<Outcome> {
    let holds = |kind| condition(status, kind).is_some_and(|c| c.status == "True");
    match (holds("Complete"), holds("Failed")) {
        (true, _) => Some(Outcome::Success),
        (_, true) => Some(Outcome::Failure),
        _ => None,
    }
}

/// The condition of type `kind`.
pub fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// How many pods may run at once; the API's default is 1.
fn parallelism(spec: &JobSpec) -> i32 {
    spec.parallelism.unwrap_or(1)
}

/// The status as the pods show it now: the gauges active, ready and terminating, the sets of recorded indexes and what
/// follows from them, and the fields that are always present once a Job was reconciled. Other counters and conditions stay.
fn shown(view: &View<'_>, now: Timestamp) -> JobStatus {
    let mut status = view.status.clone();
    set_gauges(&mut status, view.count(Class::Active), view.ready(), view.count(Class::Leaving));
    status.uncounted_terminated_pods.get_or_insert_with(UncountedTerminatedPods::default);
    if !suspend::is_wanted(view) {
        status.start_time.get_or_insert(to_time(now));
    }
    if let Some(indexed) = &view.indexed {
        set_completed(view, &mut status, &indexed.recorded);
        set_failed(view, &mut status, &indexed.failed);
    }
    status
}

/// Writes the completed indexes, and how many they are.
///
/// The API lets the counter fall only while completions and parallelism are equal (`RejectDecreasingSucceededCounter`). Of a
/// Job that lost indexes and whose parallelism was changed before its controller had looked, the counter stays too high:
/// with the right one no status of it would ever be taken again. Nothing is decided by it; the indexes count.
fn set_completed(view: &View<'_>, status: &mut JobStatus, completed: &index::IndexSet) {
    let is_elastic = view.job.spec.as_ref().is_some_and(|spec| spec.completions == spec.parallelism);
    let least = if is_elastic { 0 } else { status.succeeded.unwrap_or(0) };
    status.completed_indexes = (!completed.is_empty()).then(|| completed.to_string());
    status.succeeded = Some(completed.len().max(least)).filter(|count| *count > 0);
}

/// Writes the failed indexes, which a Job without `backoffLimitPerIndex` does not have.
fn set_failed(view: &View<'_>, status: &mut JobStatus, failed: &index::IndexSet) {
    if view.indexed.as_ref().is_some_and(|indexed| indexed.per_index.is_some()) {
        status.failed_indexes = Some(failed.to_string());
    }
}

/// Writes the three gauges as upstream does: `active` is absent when 0, the others are always there.
fn set_gauges(status: &mut JobStatus, active: i32, ready: i32, terminating: i32) {
    status.active = (active != 0).then_some(active);
    status.ready = Some(ready);
    status.terminating = Some(terminating);
}

/// A plan that only brings the status up to date, empty if it is.
fn refresh(view: &View<'_>, now: Timestamp, why: &str) -> Plan {
    let status = shown(view, now);
    if status == view.status {
        return Plan::rest(why);
    }
    let mut plan = Plan::of(Phase::Refresh, vec![write(status, "the status shows the pods as they are")]);
    plan.because.push(why.to_owned());
    plan
}

/// The step that replaces the status.
fn write(status: JobStatus, why: impl Into<String>) -> Step {
    Step::new(Action::WriteJobStatus(Box::new(status)), why)
}

/// A Kubernetes `Time` holds whole seconds.
fn to_time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).expect("the second of a timestamp is a timestamp"))
}

/// `1 pod waits`, `2 pods wait`: so many pods, with the verb that goes with them.
fn pods_that(count: i32, one: &str, more: &str) -> String {
    if count == 1 { format!("1 pod {one}") } else { format!("{count} pods {more}") }
}

/// Counts of pods fit 32 bits: the API bounds them there.
fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod models;
#[cfg(test)]
mod tests;
