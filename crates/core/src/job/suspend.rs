//! Suspending a Job and resuming it (`spec.suspend`, KEP-2232).
//!
//! Invariant: while a Job is suspended it has no active pods and its time does not run: there is no `startTime`. The
//! condition `Suspended` is only there once the Job was suspended.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};

use super::view::{Class, View};
use super::{condition, end, manage, shown, to_time, write};
use crate::plan::{Action, Note, Phase, Plan, Severity, Step};

/// Whether the spec asks for suspension.
pub(super) fn is_wanted(view: &View<'_>) -> bool {
    view.job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true))
}

/// MANAGE, of a suspended Job: its active pods go, uncounted, `most` of them for now.
pub(super) fn suspend(view: &View<'_>, now: Timestamp, most: usize) -> Plan {
    let active: Vec<_> = view.class(Class::Active).take(most).collect();
    if active.is_empty() {
        return refresh_managed(view, now, "the Job is suspended");
    }
    manage::send_away(view, &active, "the Job is suspended", now)
}

/// The step that writes the status of a Job that goes on: with the condition `Suspended` as the spec asks, and an Event
/// when that changes.
pub(super) fn write_managed(view: &View<'_>, mut status: JobStatus, now: Timestamp, why: &str) -> Step {
    match turn(view, &mut status, now) {
        None => write(status, why),
        Some((event, message)) => {
            write(status, format!("{why}; {message}")).announce(Severity::Normal, event, Note::Text(message.to_owned()))
        }
    }
}

/// A plan that only brings the status of a Job that goes on up to date, empty if it is.
pub(super) fn refresh_managed(view: &View<'_>, now: Timestamp, why: &str) -> Plan {
    let step = write_managed(view, shown(view, now), now, "the status shows the pods as they are");
    if matches!(&step.action, Action::WriteJobStatus(status) if **status == view.status) {
        return Plan::rest(why);
    }
    let mut plan = Plan::of(Phase::Refresh, vec![step]);
    plan.because.push(why.to_owned());
    plan
}

/// Suspends or resumes in `status` what the spec wants so; with the Event's reason and message if that changes anything.
fn turn(view: &View<'_>, status: &mut JobStatus, now: Timestamp) -> Option<(&'static str, &'static str)> {
    let wanted = is_wanted(view);
    let time = to_time(now);
    if status.active.is_none() && view.job.spec.as_ref().is_some_and(|spec| end::has_enough_successes(view, spec)) {
        return None; // it is complete, and so neither suspended nor resumed
    }
    let is = condition(status, "Suspended").map(|condition| condition.status == "True");
    let (value, reason, event, message) = match (wanted, is) {
        (true, None | Some(false)) => ("True", "JobSuspended", "Suspended", "Job suspended"),
        (false, Some(true)) => ("False", "JobResumed", "Resumed", "Job resumed"),
        _ => return None,
    };
    status.start_time = (!wanted).then(|| time.clone());
    let new = JobCondition {
        type_: "Suspended".to_owned(),
        status: value.to_owned(),
        last_probe_time: Some(time.clone()),
        last_transition_time: Some(time),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|condition| condition.type_ == "Suspended") {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
    Some((event, message))
}
