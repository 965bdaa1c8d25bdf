//! Whether and how a Job ends, decided once.
//!
//! Invariant: the decision is written as an interim condition (`SuccessCriteriaMet` or `FailureTarget`) before anything
//! is done about it, and read back from there ever after; it is never taken twice (KEP-3998).

use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::condition;
use super::view::{Class, View, phase, restarts};

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

    /// The end that pods and spec call for now, in upstream's order of precedence.
    pub(super) fn decide(view: &View<'_>, spec: &JobSpec) -> Option<End> {
        if exceeds_backoff_limit(view, spec) {
            let message = "Job has reached the specified backoff limit";
            return Some(End::new(Outcome::Failure, "BackoffLimitExceeded", message));
        }
        if view.count(Class::Active) == 0 && !view.job_is_leaving() && has_enough_successes(view, spec) {
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

fn has_enough_successes(view: &View<'_>, spec: &JobSpec) -> bool {
    let succeeded = view.totals().succeeded;
    match spec.completions {
        Some(completions) => succeeded >= completions,
        // A work queue: one success says that the work is done.
        None => succeeded > 0,
    }
}
