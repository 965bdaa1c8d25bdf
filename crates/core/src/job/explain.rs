//! Why a Job is in the state it is in: what its pods did, what it waits for and until when, and what comes then.
//!
//! Invariant: nothing is decided here. Reasons are those of the plan that the controller would make now, and what comes next
//! is the plan that it would make when the wait is over; pods and events are only read out.
//! Left out: pods that are gone. The Job's counters hold them.

mod attempts;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use super::{End, Outcome, Tuning, condition, end, finished, foreign_controller, reconcile_with, to_time};
use crate::plan::{Action, Plan, Step};
use crate::ttl;
pub use attempts::{Attempt, Run};

/// For how long a refusal that the API gave is told of: longer than the longest delay before it is asked again.
const REFUSAL_HOLDS: SignedDuration = SignedDuration::from_mins(2);

/// What there is to be said of a Job.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The Job's `metadata.namespace`.
    pub namespace: String,
    /// Its `metadata.name`.
    pub name: String,
    /// Where it stands, in a sentence.
    pub state: String,
    /// Why the controller does what it does now.
    pub because: Vec<String>,
    /// What it waits for.
    pub waits: Vec<Wait>,
    /// Its pods that are still there, the oldest first.
    pub attempts: Vec<Attempt>,
    /// How many pods have succeeded and failed, those that are gone included.
    pub counted: Counted,
    /// What the controller does next, if nothing else happens.
    pub next: Vec<String>,
    /// When it does that; now, if there is no time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Time>,
}

/// Something that is waited for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// What.
    pub what: String,
    /// Until when, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// A Job's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// `status.succeeded`.
    pub succeeded: i32,
    /// `status.failed`.
    pub failed: i32,
    /// How many failures it may have (`backoffLimit`).
    pub backoff_limit: i32,
}

/// Explains `job`, given every pod of its namespace that it may own and the Events about it, at the time `now`.
pub fn explain(job: &Job, pods: &[Pod], events: &[Event], now: Timestamp, tuning: Tuning) -> Explanation {
    let status = job.status.clone().unwrap_or_default();
    let plan = plan(job, pods, now, tuning);
    let attempts = attempts::of(job, pods);
    let mut waits: Vec<Wait> = waits_of_job(job, &status, &plan, now);
    waits.extend(refusal(job, events, now).filter(|_| finished(&status).is_none()));
    waits.extend(attempts.iter().filter_map(attempts::waits));
    let (next, next_at) = next(job, pods, &plan, tuning);
    let mut because = plan.because;
    for step in &plan.steps {
        if !because.contains(&step.why) {
            because.push(step.why.clone());
        }
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Explanation {
        namespace: text(&job.metadata.namespace),
        name: text(&job.metadata.name),
        state: state(job, &status),
        because,
        waits,
        attempts,
        counted: Counted {
            succeeded: status.succeeded.unwrap_or(0),
            failed: status.failed.unwrap_or(0),
            backoff_limit: job.spec.as_ref().and_then(|spec| spec.backoff_limit).unwrap_or(6),
        },
        next,
        next_at: next_at.map(to_time),
    }
}

/// What the controller would do at that time: about the Job's pods or, if they need nothing, about its time to live.
fn plan(job: &Job, pods: &[Pod], at: Timestamp, tuning: Tuning) -> Plan {
    let plan = reconcile_with(job, pods, at, tuning);
    if !plan.is_empty() {
        return plan;
    }
    let Plan { wake, steps, .. } = ttl::reconcile(job, at);
    Plan { steps, ..plan }.waking(wake)
}

fn state(job: &Job, status: &JobStatus) -> String {
    let said = |end: &End| format!("{} ({})", end.message, end.reason);
    if let Some(outcome) = finished(status) {
        let kind = if outcome == Outcome::Success { "Complete" } else { "Failed" };
        let condition = condition(status, kind);
        let text = |text: Option<&String>| text.cloned().unwrap_or_default();
        let message = text(condition.and_then(|it| it.message.as_ref()));
        let reason = text(condition.and_then(|it| it.reason.as_ref()));
        let at = condition.and_then(|it| it.last_transition_time.as_ref());
        let since = at.map_or_else(String::new, |at| format!(" since {}", at.0));
        return format!("{kind}{since}: {message} ({reason})");
    }
    let spec = job.spec.clone().unwrap_or_default();
    if let Some(other) = foreign_controller(&spec) {
        return format!("Managed by {other}, not by this controller");
    }
    if let Some(end) = End::of_status(status) {
        let what = if end.outcome == Outcome::Success { "Succeeding" } else { "Failing" };
        return format!("{what}, until its last pods have ended: {}", said(&end));
    }
    if job.metadata.deletion_timestamp.is_some() {
        return "Being deleted".to_owned();
    }
    if spec.suspend == Some(true) {
        return "Suspended".to_owned();
    }
    let mut state = match (status.active.unwrap_or(0), status.ready.unwrap_or(0)) {
        (0, _) => "Waiting: no pod is active".to_owned(),
        (active, ready) => format!("Running: {} active, {ready} of them ready", pods_of(active)),
    };
    if let Some(leaving) = status.terminating.filter(|leaving| *leaving > 0) {
        let _ = write!(state, ", {leaving} terminating");
    }
    state
}

fn waits_of_job(job: &Job, status: &JobStatus, plan: &Plan, now: Timestamp) -> Vec<Wait> {
    let mut waits = Vec::new();
    let Some(spec) = &job.spec else { return waits };
    let is_over = finished(status).is_some();
    if !is_over && spec.suspend == Some(true) {
        waits.push(Wait { what: "somebody who resumes it: spec.suspend is true".to_owned(), until: None });
    } else if !is_over && spec.parallelism == Some(0) {
        waits.push(Wait { what: "somebody who raises spec.parallelism, which is 0".to_owned(), until: None });
    }
    let deadline = end::deadline(status, spec, now).filter(|_| !is_over && status.start_time.is_some());
    for wake in plan.wake.iter().chain(&deadline) {
        let wait = Wait { what: wake.why.clone(), until: Some(to_time(wake.at)) };
        if !waits.contains(&wait) {
            waits.push(wait);
        }
    }
    waits
}

/// The latest refusal of a pod, by a quota for instance, if none was created since then and it is not long ago.
fn refusal(job: &Job, events: &[Event], now: Timestamp) -> Option<Wait> {
    let of_job = |event: &&Event| event.involved_object.uid == job.metadata.uid;
    let at = |event: &Event| event.last_timestamp.as_ref().map(|time| time.0);
    let latest = |reason: &str| {
        let told = events.iter().filter(of_job).filter(|event| event.reason.as_deref() == Some(reason));
        told.max_by_key(|event| at(event))
    };
    let refused = latest("FailedCreate")?;
    let is_past = latest("SuccessfulCreate").is_some_and(|created| at(created) > at(refused));
    let holds = at(refused).is_some_and(|at| now.duration_since(at) <= REFUSAL_HOLDS);
    let message = refused.message.as_deref().unwrap_or_default();
    let message = message.strip_prefix("Error creating: ").unwrap_or(message);
    (!is_past && holds)
        .then(|| Wait { what: format!("the API to take its pods, which it refuses: {message}"), until: None })
}

/// What comes next and, if that is not now, when.
fn next(job: &Job, pods: &[Pod], plan: &Plan, tuning: Tuning) -> (Vec<String>, Option<Timestamp>) {
    if !plan.is_empty() {
        return (told(plan), None);
    }
    let Some(wake) = &plan.wake else { return (Vec::new(), None) };
    (told(&self::plan(job, pods, wake.at, tuning)), Some(wake.at))
}

/// The steps of a plan, those of a kind and reason together; that the status shows them goes without saying.
fn told(plan: &Plan) -> Vec<String> {
    let mut groups: Vec<(&str, &str, i32)> = Vec::new();
    let is_status = |step: &&Step| matches!(step.action, Action::WriteJobStatus(_));
    let only_status = plan.steps.iter().all(|step| is_status(&step));
    for step in plan.steps.iter().filter(|step| only_status || !is_status(step)) {
        let verb = verb(&step.action);
        match groups.iter_mut().find(|group| (group.0, group.1) == (verb, step.why.as_str())) {
            Some(group) => group.2 += 1,
            None => groups.push((verb, &step.why, 1)),
        }
    }
    let about_job = |verb: &str| verb.ends_with("Job") || verb.ends_with("status");
    let line = |(verb, why, count): (&str, &str, i32)| {
        if about_job(verb) { format!("{verb}: {why}") } else { format!("{verb} {}: {why}", pods_of(count)) }
    };
    groups.into_iter().map(line).collect()
}

fn verb(action: &Action) -> &'static str {
    match action {
        Action::CreatePod(_) => "create",
        Action::DeletePod(_) => "delete",
        Action::ReleasePod(_) | Action::ReleaseUncounted { .. } => "remove the tracking finalizer from",
        Action::Adopt(_) => "adopt",
        Action::LetGo(_) => "let go of",
        Action::DeleteJob(_) => "delete the Job",
        Action::WriteJobStatus(_) => "write the status",
        Action::Announce => "leave alone the Job",
    }
}

fn pods_of(count: i32) -> String {
    if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") }
}
