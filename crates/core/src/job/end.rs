//! Whether and how a Job ends, decided once.
//!
//! Invariant: the decision is written as an interim condition (`SuccessCriteriaMet` or `FailureTarget`) before anything
//! is done about it, and read back from there ever after; it is never taken twice (KEP-3998).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::policy::Judgement;
use super::view::{Class, View, phase, restarts};
use super::{condition, success};
use crate::plan::Wake;

/// How a Job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `Complete`.
    Success,
    /// `Failed`.
    Failure,
}

/// A decided end, not necessarily reached yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// How.
    pub outcome: Outcome,
    /// The conditions' `reason`.
    pub reason: String,
    /// The conditions' `message`.
    pub message: String,
}

impl End {
    fn new(outcome: Outcome, reason: &str, message: &str) -> End {
        End { outcome, reason: reason.to_owned(), message: message.to_owned() }
    }

    /// The end that the status says was decided.
    pub(super) fn of_status(status: &JobStatus) -> Option<End> {
        let decided = |kind, outcome| {
            let found = condition(status, kind).filter(|c| c.status == "True")?;
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            Some(End { outcome, reason: text(&found.reason), message: text(&found.message) })
        };
        decided("SuccessCriteriaMet", Outcome::Success).or_else(|| decided("FailureTarget", Outcome::Failure))
    }

    /// The end that pods, spec and time call for now, in upstream's order of precedence.
    pub(super) fn decide(view: &View<'_>, spec: &JobSpec, now: Timestamp) -> Option<End> {
        let failure = |reason, message: &str| Some(End::new(Outcome::Failure, reason, message));
        if let Some(message) = fatal_failure(view) {
            return failure("PodFailurePolicy", message);
        }
        if exceeds_backoff_limit(view, spec) {
            return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if deadline(&view.status, spec, now).is_some_and(|deadline| deadline.at <= now) {
            return failure("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        if let Some((reason, message)) = failed_indexes(view, spec) {
            return failure(reason, message);
        }
        if let (Some(policy), Some(indexed)) = (&spec.success_policy, &view.indexed)
            && let Some(rule) = success::fulfilled(policy, indexed.completions, &indexed.succeeded)
        {
            let message = format!("Matched rules at index {rule}");
            return Some(End::new(Outcome::Success, "SuccessPolicy", &message));
        }
        if view.count(Class::Active) == 0 && has_enough_successes(view, spec) {
            let message = "Reached expected number of succeeded pods";
            return Some(End::new(Outcome::Success, "CompletionsReached", message));
        }
        None
    }

    /// The condition that announces this end: the interim one.
    pub(super) fn interim(&self, now: &Time) -> JobCondition {
        let kind = match self.outcome {
            Outcome::Success => "SuccessCriteriaMet",
            Outcome::Failure => "FailureTarget",
        };
        self.condition(kind, now)
    }

    /// The condition that states this end: the terminal one.
    pub(super) fn terminal(&self, now: &Time) -> JobCondition {
        let kind = match self.outcome {
            Outcome::Success => "Complete",
            Outcome::Failure => "Failed",
        };
        self.condition(kind, now)
    }

    fn condition(&self, kind: &str, now: &Time) -> JobCondition {
        JobCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            last_probe_time: Some(now.clone()),
            last_transition_time: Some(now.clone()),
            reason: Some(self.reason.clone()),
            message: Some(self.message.clone()),
        }
    }
}

/// When `activeDeadlineSeconds` are over, of a Job that starts `now` if it has not. None: there is no deadline, or the time
/// does not run.
pub(super) fn deadline(status: &JobStatus, spec: &JobSpec, now: Timestamp) -> Option<Wake> {
    if spec.suspend == Some(true) {
        return None;
    }
    let seconds = spec.active_deadline_seconds?;
    let start = status.start_time.as_ref().map_or(now, |time| time.0);
    let at = start.saturating_add(SignedDuration::from_secs(seconds)).ok()?;
    Some(Wake { at, why: format!("the Job may be active until {at}") })
}

/// What a rule of `podFailurePolicy` with the action FailJob says of a failed pod, counted already or not.
fn fatal_failure<'a>(view: &'a View<'_>) -> Option<&'a str> {
    view.class(Class::Failed).find_map(|seen| match &seen.judgement {
        Judgement::FailJob(message) => Some(message.as_str()),
        _ => None,
    })
}

/// Reason and message when the failed indexes end the Job.
fn failed_indexes(view: &View<'_>, spec: &JobSpec) -> Option<(&'static str, &'static str)> {
    let indexed = view.indexed.as_ref()?;
    let failed = indexed.per_index.as_ref()?.failed.len();
    if spec.max_failed_indexes.is_some_and(|most| failed > most) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(("MaxFailedIndexesExceeded", message));
    }
    let completions = spec.completions.unwrap_or(0);
    let all = failed.saturating_add(indexed.succeeded.len()) >= completions;
    (failed > 0 && all).then_some(("FailedIndexes", "Job has failed indexes"))
}

/// All failures that will be counted, those not written down yet included.
fn exceeds_backoff_limit(view: &View<'_>, spec: &JobSpec) -> bool {
    let limit = spec.backoff_limit.unwrap_or(6);
    if view.totals().failed > limit {
        return true;
    }
    // With OnFailure the containers are restarted in place: their restarts are the retries (pastBackoffLimitOnFailure).
    let on_failure = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    if !on_failure {
        return false;
    }
    let restarts: i32 =
        view.pods.iter().filter(|seen| matches!(phase(seen.pod), "Running" | "Pending")).map(|s| restarts(s.pod)).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// Whether the Job is complete once none of its pods is active.
pub(super) fn has_enough_successes(view: &View<'_>, spec: &JobSpec) -> bool {
    let succeeded = view.totals().succeeded;
    match spec.completions {
        Some(completions) => succeeded >= completions,
        // A work queue: one success says that the work is done.
        None => succeeded > 0,
    }
}
