//! When a finished Job goes by itself: `ttlSecondsAfterFinished` (KEP-592).
//!
//! Invariant: only a finished Job that is not being deleted goes, and never before its time. The time is reckoned from
//! what the Job says, so that restarts and clock steps do not change it.
//! Upstream: `pkg/controller/ttlafterfinished/ttlafterfinished_controller.go`, v1.36.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use crate::plan::{Action, Phase, Plan, Step, Uid, Wake};

/// Decides about `job` at the time `now`: to delete it, to look again at its time, or nothing.
pub fn reconcile(job: &Job, now: Timestamp) -> Plan {
    if job.metadata.deletion_timestamp.is_some() {
        return Plan::rest("the Job is being deleted");
    }
    let Some(at) = expires_at(job) else { return Plan::rest("the Job does not go by itself") };
    if at > now {
        let why = format!("the finished Job stays until {at}");
        return Plan::rest(why.clone()).waking(Some(Wake { at, why }));
    }
    let uid = Uid::of(&job.metadata);
    Plan::of(
        Phase::Expire,
        vec![Step::new(Action::DeleteJob(uid), format!("its time after finishing was over at {at}"))],
    )
}

/// When the Job's time is over, if it is finished and its time is limited.
pub fn expires_at(job: &Job) -> Option<Timestamp> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let terminal = |kind: &str| matches!(kind, "Complete" | "Failed");
    let finished = conditions.iter().find(|condition| terminal(&condition.type_) && condition.status == "True")?;
    let at = finished.last_transition_time.as_ref()?.0;
    at.saturating_add(SignedDuration::from_secs(seconds.into())).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(ttl: Option<i32>, finished: bool) -> Job {
        let conditions = if finished {
            json!([{ "type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }])
        } else {
            json!([{ "type": "Suspended", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }])
        };
        let spec = json!({ "ttlSecondsAfterFinished": ttl, "template": {} });
        serde_json::from_value(
            json!({ "metadata": { "uid": "u" }, "spec": spec, "status": { "conditions": conditions } }),
        )
        .unwrap()
    }

    #[test]
    fn a_finished_job_goes_at_its_second_and_not_before() {
        let end: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |seconds| end + SignedDuration::from_secs(seconds);
        let early = reconcile(&job(Some(10), true), at(9));
        assert!(early.is_empty() && early.wake.unwrap().at == at(10));
        let plan = reconcile(&job(Some(10), true), at(10));
        assert_eq!(plan.steps[0].action, Action::DeleteJob(Uid::from("u")));
        assert_eq!(reconcile(&job(Some(0), true), end).steps.len(), 1);
        for other in [job(None, true), job(Some(0), false)] {
            let plan = reconcile(&other, at(1000));
            assert!(plan.is_empty() && plan.wake.is_none());
        }
    }
}
