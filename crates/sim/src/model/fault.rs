//! Decisions that are broken on purpose, so that the model is seen to find it.

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use stint_core::job::index::{Index, IndexSet};
use stint_core::job::view::{Class, class, is_tracked};
use stint_core::plan::Phase;

/// A decision that is broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// None: what decides is what ships.
    #[default]
    None,
    /// The next decision does not wait until the cache shows the last one's writes.
    NoBarrier,
    /// A write whose outcome is unknown is taken for done, and nothing is read again.
    TrustsUnknown,
    /// Each pod is created twice.
    CreatesTwice,
    /// Finalizers go off before the status that records the pods is written.
    ReleasesFirst,
    /// Pods are counted before their finalizers are off.
    CountsTracked,
    /// Pods that were folded into the counters stay recorded.
    CountsAgain,
    /// One pod more than `parallelism` is active.
    OneTooMany,
    /// A suspended Job goes on.
    IgnoresSuspend,
    /// The interim conditions are not written.
    ForgetsEnd,
    /// The latest completed index is not written.
    LosesIndex,
    /// A Job is deleted a minute before its time.
    ExpiresEarly,
    /// A Job that another controller manages is taken for one's own.
    IgnoresManager,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 12] = [
        Fault::NoBarrier,
        Fault::TrustsUnknown,
        Fault::CreatesTwice,
        Fault::ReleasesFirst,
        Fault::CountsTracked,
        Fault::CountsAgain,
        Fault::OneTooMany,
        Fault::IgnoresSuspend,
        Fault::ForgetsEnd,
        Fault::LosesIndex,
        Fault::ExpiresEarly,
        Fault::IgnoresManager,
    ];

    /// What it is called on the command line.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// The Job as the broken decision sees it.
    pub fn of_job(self, job: &mut Job) {
        let Some(spec) = &mut job.spec else { return };
        match self {
            Fault::OneTooMany => spec.parallelism = spec.parallelism.map(|parallelism| parallelism + 1),
            Fault::IgnoresSuspend => spec.suspend = Some(false),
            Fault::IgnoresManager => spec.managed_by = None,
            Fault::ExpiresEarly => {
                spec.ttl_seconds_after_finished = spec.ttl_seconds_after_finished.map(|seconds| seconds - 60);
            }
            _ => {}
        }
    }

    /// The pod as the broken decision sees it.
    pub fn of_pod(self, pod: &mut Pod) {
        if self == Fault::CountsTracked && is_tracked(pod) && matches!(class(pod), Class::Succeeded | Class::Failed) {
            pod.metadata.finalizers = None;
        }
    }

    /// The status as it is written by the broken decision.
    pub fn of_status(self, phase: Phase, before: &JobStatus, status: &mut JobStatus) {
        match self {
            Fault::CountsAgain if phase == Phase::Fold => {
                status.uncounted_terminated_pods.clone_from(&before.uncounted_terminated_pods);
            }
            Fault::ForgetsEnd => {
                let kept = |kind: &str| !matches!(kind, "SuccessCriteriaMet" | "FailureTarget");
                status.conditions.iter_mut().for_each(|all| all.retain(|condition| kept(&condition.type_)));
            }
            Fault::LosesIndex => {
                let text = status.completed_indexes.as_deref().and_then(|text| text.rsplit_once(','));
                if let Some((first, _)) = text {
                    let indexes = IndexSet::parse(first, Index::MAX);
                    (status.succeeded, status.completed_indexes) = (Some(indexes.len()), Some(first.to_owned()));
                }
            }
            _ => {}
        }
    }
}
