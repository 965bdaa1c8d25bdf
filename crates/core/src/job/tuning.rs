//! The constants of the Job controller, as far as they may be turned.
//!
//! Invariant: none of them changes what comes of a Job, only in how many steps and how soon. The defaults are upstream's
//! constants (`pkg/controller/job/job_controller.go`, v1.36).

use super::Backoff;

/// How fast the Job controller goes, and how much it does at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// The delays before failed pods are replaced.
    pub backoff: Backoff,
    /// How many UIDs `status.uncountedTerminatedPods` holds at most, at least 1 (`MaxUncountedPods`).
    pub max_uncounted_pods: usize,
    /// How many pods one plan creates or deletes at most, at least 1 (`MaxPodCreateDeletePerSync`).
    pub max_pods_per_plan: usize,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { backoff: Backoff::default(), max_uncounted_pods: 500, max_pods_per_plan: 500 }
    }
}
