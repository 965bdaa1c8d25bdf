//! Which pods are the Job's: those that its selector selects (`ControllerRefManager`, v1.36).
//!
//! Invariant: a pod that another controller has is never touched; nothing is adopted by a Job that is being deleted or
//! whose end is decided, and nothing released by one that is being deleted.

use super::End;
use super::view::View;
use crate::plan::{Action, Phase, Plan, PodRef, Step};

/// CLAIM: pods without a controller that the selector selects are adopted, own ones that it does not are let go.
pub(super) fn claim(view: &View<'_>) -> Option<Plan> {
    if view.job_is_leaving() {
        return None;
    }
    let decided = End::of_status(&view.status).is_some();
    let lost = view.pods.iter().filter(|seen| !seen.selected);
    let lost =
        lost.map(|seen| Step::new(Action::LetGo(PodRef::of(seen.pod)), "the selector does not select it any more"));
    let found = view.loose.iter().filter(|pod| !decided && pod.metadata.deletion_timestamp.is_none());
    let found =
        found.map(|pod| Step::new(Action::Adopt(PodRef::of(pod)), "the selector selects it, and it has no controller"));
    let steps: Vec<Step> = lost.chain(found).collect();
    (!steps.is_empty()).then(|| Plan::of(Phase::Claim, steps))
}
