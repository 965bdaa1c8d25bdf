//! Which pods are the Job's: those that its selector selects (`ControllerRefManager`, v1.36).
//!
//! Invariant: a pod that another controller has is never touched; nothing is adopted by a Job that is being deleted or
//! whose end is decided, and nothing released by one that is being deleted.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;

use super::End;
use super::view::{View, controller_of};
use crate::plan::{Action, Phase, Plan, PodRef, Step};
use crate::validate::selects;

/// CLAIM: pods without a controller that the selector selects are adopted, own ones that it does not are let go.
pub(super) fn claim(job: &Job, spec: &JobSpec, pods: &[Pod], view: &View<'_>) -> Option<Plan> {
    let selector = spec.selector.as_ref()?;
    if view.job_is_leaving() {
        return None;
    }
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let decided = End::of_status(&view.status).is_some();
    let mut steps = Vec::new();
    for pod in pods {
        let selected = selects(selector, pod.metadata.labels.as_ref());
        match controller_of(pod) {
            Some(owner) if owner.uid == uid && !selected => {
                steps.push(Step::new(Action::LetGo(PodRef::of(pod)), "the selector does not select it any more"));
            }
            None if selected && !decided && pod.metadata.deletion_timestamp.is_none() => {
                steps.push(Step::new(
                    Action::Adopt(PodRef::of(pod)),
                    "the selector selects it, and it has no controller",
                ));
            }
            _ => {}
        }
    }
    (!steps.is_empty()).then(|| Plan::of(Phase::Claim, steps))
}
