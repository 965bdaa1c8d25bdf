//! Counting finished pods exactly once, and concluding the Job (KEP-2307, `trackJobStatusAndRemoveFinalizers`).
//!
//! Invariant: a UID moves one way only: tracked pod → `uncountedTerminatedPods` (finalizer still on) → finalizer off →
//! counter. Each arrow is one phase, and each phase is safe to repeat.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::UncountedTerminatedPods;

use super::policy::{self, Judgement};
use super::view::{Class, Seen, View};
use super::{End, Outcome, refresh, set_completed, set_failed, set_gauges, shown, to_i32, to_time, write};
use crate::plan::{Action, Note, Phase, Plan, PodRef, Severity, Step};

/// What a Job's counters will be when everything that is known now has been counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// `status.succeeded` to come.
    pub succeeded: i32,
    /// `status.failed` to come.
    pub failed: i32,
}

impl View<'_> {
    /// Counted, recorded, and finished but not yet recorded pods together.
    pub fn totals(&self) -> Totals {
        let uncounted = self.uncounted();
        let unrecorded = |wanted: &dyn Fn(&Seen<'_>) -> bool| {
            let new = self.pods.iter().filter(|s| s.tracked && wanted(s)).filter(|s| !uncounted.holds(s.pod));
            to_i32(new.count())
        };
        let new_succeeded = || unrecorded(&|s| s.class == Class::Succeeded);
        Totals {
            succeeded: match &self.indexed {
                Some(indexed) => indexed.succeeded.len(),
                None => self.status.succeeded.unwrap_or(0) + to_i32(uncounted.succeeded.len()) + new_succeeded(),
            },
            failed: self.status.failed.unwrap_or(0)
                + to_i32(uncounted.failed.len())
                + unrecorded(&|s| self.counts_as_failed(s) && self.is_countable(s) && s.judgement != Judgement::Ignore),
        }
    }
}

/// RELEASE: finalizers off the pods that are recorded, and off those that ended and are never counted.
pub(super) fn release(view: &View<'_>, end_is_decided: bool) -> Option<Plan> {
    let uncounted = view.uncounted();
    let why = |seen: &Seen<'_>| {
        if uncounted.holds(seen.pod) {
            return Some("it is recorded in status.uncountedTerminatedPods");
        }
        match (seen.class, &view.indexed) {
            (Class::Succeeded | Class::Failed, Some(_)) if seen.index.is_none() => Some("it has no index of this Job"),
            (Class::Succeeded, Some(indexed)) if seen.index.is_some_and(|index| indexed.recorded.contains(index)) => {
                Some("its index is recorded in status.completedIndexes")
            }
            (Class::Succeeded, Some(indexed)) if seen.index.is_some_and(|index| indexed.failed.contains(index)) => {
                Some("its index is recorded in status.failedIndexes")
            }
            (Class::Failed, _) if seen.judgement == Judgement::Ignore => {
                let waits = view.is_awaiting_replacement(seen) && !end_is_decided && !view.job_is_leaving();
                (!waits).then_some("podFailurePolicy says to ignore it")
            }
            _ => None,
        }
    };
    let released = view.pods.iter().filter(|seen| seen.tracked).filter_map(|seen| Some((seen, why(seen)?)));
    let mut plan = Plan::of(Phase::Release, Vec::new());
    for (seen, why) in released {
        // Those that count were recorded, and noted then.
        plan.handled.extend(deciding_action(view, seen).filter(|_| seen.judgement == Judgement::Ignore));
        plan.steps.push(release_step(seen, why));
    }
    (!plan.is_empty()).then_some(plan)
}

/// The action of the rule of `podFailurePolicy` that decided about this pod, if one did.
fn deciding_action(view: &View<'_>, seen: &Seen<'_>) -> Option<&'static str> {
    let policy = view.job.spec.as_ref()?.pod_failure_policy.as_ref()?;
    if seen.class == Class::Failed { policy::deciding_action(policy, seen.pod) } else { None }
}

/// RELEASE, while the Job is being deleted: nothing of it is created any more, and no pod needs to wait for it.
pub(super) fn abandon(view: &View<'_>, now: Timestamp) -> Plan {
    let steps: Vec<Step> =
        view.pods.iter().filter(|s| s.tracked).map(|s| release_step(s, "the Job is being deleted")).collect();
    if steps.is_empty() {
        return refresh(view, now, "the Job is being deleted");
    }
    Plan::of(Phase::Release, steps)
}

/// RELEASE, after the end: pods that still carry the finalizer of a finished Job lose it.
pub(super) fn release_leftovers(view: &View<'_>, outcome: Outcome) -> Plan {
    let steps: Vec<Step> =
        view.pods.iter().filter(|s| s.tracked).map(|s| release_step(s, "the Job is finished")).collect();
    let mut plan = Plan::rest(match outcome {
        Outcome::Success => "the Job is complete",
        Outcome::Failure => "the Job has failed",
    });
    if !steps.is_empty() {
        plan.phase = Phase::Release;
        plan.steps = steps;
    }
    plan
}

/// FOLD: recorded pods, which have no finalizer any more (see [`release`]), go into the counters; and if nothing else
/// is left, the Job ends in the same write.
pub(super) fn fold(view: &View<'_>, end: Option<&End>, now: Timestamp) -> Option<Plan> {
    let uncounted = view.uncounted();
    if uncounted.is_empty() {
        return None;
    }
    let (succeeded, failed) = (uncounted.succeeded.len(), uncounted.failed.len());
    let mut status = shown(view, now);
    let add = |counter: Option<i32>, more: usize| match counter.unwrap_or(0) + to_i32(more) {
        0 => None,
        sum => Some(sum),
    };
    if view.indexed.is_none() {
        status.succeeded = add(status.succeeded, succeeded);
    }
    status.failed = add(status.failed, failed);
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
    let why = format!("{succeeded} succeeded and {failed} failed pods are counted");
    // A write that both counts and concludes is one write: there is no crash between them.
    let step = match end {
        Some(end) if nothing_is_left(view) => concluding(view, status, end, now, &why),
        _ => write(status, why),
    };
    Some(Plan::of(Phase::Fold, vec![step]))
}

/// RECORD: `most` finished pods at most are written down by UID, together with the interim condition if the end was decided just now.
pub(super) fn record(
    view: &View<'_>,
    end: Option<&End>,
    decided_now: bool,
    now: Timestamp,
    most: usize,
) -> Option<Plan> {
    let mut uncounted = UncountedTerminatedPods::default();
    let mut completed = view.indexed.as_ref().map(|indexed| indexed.recorded.clone());
    let mut failed = view.indexed.as_ref().map(|indexed| indexed.failed.clone()).unwrap_or_default();
    let mut recorded = 0;
    let mut uncounted_on_purpose = Vec::new();
    let mut handled = Vec::new();
    let has_succeeded = end.is_some_and(|end| end.outcome == Outcome::Success);
    let is_sent_away = |seen: &Seen<'_>| has_succeeded && !(decided_now && view.counts_as_failed(seen));
    for seen in view.pods.iter().filter(|seen| seen.tracked) {
        if recorded == most {
            break; // The next plan takes the next ones, once these are counted.
        }
        let counts_as_failed = match seen.class {
            Class::Succeeded => false,
            Class::Failed => true,
            // After a success, a pod that is sent away is neither succeeded nor failed. One that was leaving before has failed.
            Class::Leaving if !view.is_countable(seen) || is_sent_away(seen) => {
                uncounted_on_purpose.push(seen);
                continue;
            }
            Class::Leaving if view.counts_as_failed(seen) || end.is_some() => true,
            Class::Leaving | Class::Active => continue,
        };
        if counts_as_failed {
            if seen.judgement == Judgement::Ignore || (end.is_none() && view.is_awaiting_replacement(seen)) {
                continue;
            }
            handled.extend(deciding_action(view, seen));
            uncounted.failed.get_or_insert_default().push(seen.pod.metadata.uid.clone().unwrap_or_default());
            // An index fails in the same write as its pod: one that is being deleted may still end with success.
            failed.extend(seen.index.filter(|index| view.has_failed(*index)));
        } else if let Some(completed) = &mut completed {
            // The index is enough to count it once.
            completed.extend(seen.index);
        } else {
            uncounted.succeeded.get_or_insert_default().push(seen.pod.metadata.uid.clone().unwrap_or_default());
        }
        recorded += 1;
    }
    let announced = end.filter(|_| decided_now);
    if recorded == 0 && announced.is_none() {
        let steps: Vec<Step> =
            uncounted_on_purpose.into_iter().map(|seen| forget(seen, "the Job succeeded without it")).collect();
        return (!steps.is_empty()).then(|| Plan::of(Phase::Release, steps));
    }
    let mut status = shown(view, now);
    status.uncounted_terminated_pods = Some(uncounted);
    if let Some(completed) = &completed {
        set_completed(view, &mut status, completed);
    }
    set_failed(view, &mut status, &failed);
    let mut why = match recorded {
        1 => "1 finished pod is recorded before its finalizer goes".to_owned(),
        more => format!("{more} finished pods are recorded before their finalizers go"),
    };
    if let Some(end) = announced {
        status.conditions.get_or_insert_default().push(end.interim(&to_time(now)));
        why = format!("{why}; the Job's end is decided: {}", end.reason);
    }
    Some(Plan { handled, ..Plan::of(Phase::Record, vec![write(status, why)]) })
}

/// STOP: an ended Job needs no pods. Their finalizers stay on, so that they are still counted.
pub(super) fn stop(view: &View<'_>, end: &End) -> Option<Plan> {
    let steps: Vec<Step> = view
        .class(Class::Active)
        .map(|seen| {
            Step::new(Action::DeletePod(PodRef::of(seen.pod)), format!("the Job's end is decided: {}", end.reason))
                .announce(Severity::Normal, "SuccessfulDelete", Note::Pod("Deleted pod:"))
        })
        .collect();
    (!steps.is_empty()).then(|| Plan::of(Phase::Stop, steps))
}

/// FOLD without anything to count: the terminal condition, once no pod is left; until then the status follows the pods.
pub(super) fn conclude(view: &View<'_>, end: &End, now: Timestamp) -> Plan {
    if !nothing_is_left(view) {
        return refresh(view, now, "the Job's end is decided and its last pods are ending");
    }
    Plan::of(Phase::Fold, vec![concluding(view, shown(view, now), end, now, "every pod is counted and none is left")])
}

/// Whether every own pod has ended and lost its finalizer.
fn nothing_is_left(view: &View<'_>) -> bool {
    view.pods.iter().all(|s| !s.tracked && matches!(s.class, Class::Succeeded | Class::Failed))
}

fn concluding(view: &View<'_>, mut status: super::JobStatus, end: &End, now: Timestamp, why: &str) -> Step {
    let time = to_time(now);
    set_gauges(&mut status, 0, 0, 0);
    let completions = view.job.spec.as_ref().and_then(|spec| spec.completions);
    if completions != Some(0) {
        // A suspended Job may have failed; the API asks every finished one when it started.
        status.start_time.get_or_insert(time.clone());
    }
    if end.outcome == Outcome::Success {
        // A clock that stepped back must not let a Job complete before it started; the API refuses that.
        status.completion_time = status.start_time.clone().max(Some(time.clone()));
    }
    status.conditions.get_or_insert_default().push(end.terminal(&time));
    // An index is completed once, however many a counter that could not fall says.
    let too_many = view.indexed.is_none() && completions.is_some_and(|wanted| status.succeeded.unwrap_or(0) > wanted);
    let mut step = write(status, format!("{why}; the Job ends: {}", end.reason));
    match end.outcome {
        Outcome::Success => {
            if too_many {
                let message = "Too many succeeded pods running after completion count reached";
                step = step.announce(Severity::Warning, "TooManySucceededPods", Note::Text(message.to_owned()));
            }
            step.announce(Severity::Normal, "Completed", Note::Text("Job completed".to_owned()))
        }
        Outcome::Failure => step.announce(Severity::Warning, &end.reason, Note::Text(end.message.clone())),
    }
}

/// The step that releases a pod which is not to be counted, as long as it has not ended.
pub(super) fn forget(seen: &Seen<'_>, why: &str) -> Step {
    let resource_version = seen.pod.metadata.resource_version.clone().unwrap_or_default();
    Step::new(Action::ReleaseUncounted { pod: PodRef::of(seen.pod), resource_version }, why)
}

fn release_step(seen: &Seen<'_>, why: &str) -> Step {
    Step::new(Action::ReleasePod(PodRef::of(seen.pod)), why)
}
