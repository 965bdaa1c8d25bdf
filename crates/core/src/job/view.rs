//! A Job and its pods, seen as the Job controller sees them: each pod in exactly one class.
//!
//! Invariant: every own pod is active, leaving or finished, and which of them is decided here alone. The definitions
//! are those of `pkg/controller/job/job_controller.go` (v1.36): `getValidPodsWithFilter`, `isPodFailed`, `countReadyPods`.

use std::collections::BTreeSet;

use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::index::{self, Index, IndexSet};
use super::policy::{Judgement, judge};
use super::{TRACKING_FINALIZER, per_index};
use crate::plan::Uid;

/// Where one pod stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Phase Pending, Running or Unknown, and not being deleted.
    Active,
    /// Being deleted, and not finished yet.
    Leaving,
    /// Phase Succeeded.
    Succeeded,
    /// Phase Failed.
    Failed,
}

/// One own pod with what the controller asks of it.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Where it stands.
    pub class: Class,
    /// Whether the tracking finalizer is on it.
    pub tracked: bool,
    /// Its completion index, if the Job is Indexed and this is one of its indexes.
    pub index: Option<Index>,
    /// What `podFailurePolicy` makes of it, if it has failed.
    pub judgement: Judgement,
}

/// What only Indexed Jobs have.
#[derive(Debug)]
pub struct Indexed {
    /// Indexes are below this.
    pub completions: Index,
    /// The completed indexes that the status holds.
    pub recorded: IndexSet,
    /// The failed indexes that the status holds. An index that has failed stays so, even when a pod of it that was being
    /// deleted ends with success after all: the API wants the two sets apart.
    pub failed: IndexSet,
    /// The completed ones with those of succeeded pods that are not recorded yet.
    pub succeeded: IndexSet,
    /// What only those with `backoffLimitPerIndex` have.
    pub per_index: Option<per_index::PerIndex>,
}

/// A Job with its own pods.
#[derive(Debug)]
pub struct View<'a> {
    /// The Job.
    pub job: &'a Job,
    /// Its status, or the empty one.
    pub status: JobStatus,
    /// The pods that the Job controls.
    pub pods: Vec<Seen<'a>>,
    /// Whether only failed pods are replaced, not leaving ones (`podReplacementPolicy: Failed`).
    pub only_replace_failed: bool,
    /// For Indexed Jobs.
    pub indexed: Option<Indexed>,
    /// When the latest of the pods ended that are left out of `pods` since they are settled.
    pub latest_success: Option<Timestamp>,
}

impl<'a> View<'a> {
    /// Sorts `pods` by what they are to `job`; pods with another controller are left out.
    pub fn of(job: &'a Job, pods: &'a [Pod]) -> View<'a> {
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let spec = job.spec.as_ref();
        let status = job.status.clone().unwrap_or_default();
        let completions = spec
            .filter(|spec| spec.completion_mode.as_deref() == Some("Indexed"))
            .map(|spec| Index::try_from(spec.completions.unwrap_or(0)).unwrap_or(0));
        let policy = spec.and_then(|spec| spec.pod_failure_policy.as_ref());
        let pods = pods
            .iter()
            .filter(|pod| controller_of(pod).is_some_and(|owner| owner.uid == uid))
            .map(|pod| {
                let class = class(pod);
                let index = completions.and_then(|end| index::of_pod(pod).filter(|index| *index < end));
                let judgement = match policy {
                    Some(policy) if class == Class::Failed => judge(policy, pod),
                    _ => Judgement::Count,
                };
                Seen { pod, class, tracked: is_tracked(pod), index, judgement }
            })
            .collect();
        let only_replace_failed =
            policy.is_some() || spec.is_some_and(|spec| spec.pod_replacement_policy.as_deref() == Some("Failed"));
        let mut view = View { job, status, pods, only_replace_failed, indexed: None, latest_success: None };
        view.indexed = completions.map(|completions| view.indexes(completions));
        view
    }

    fn indexes(&self, completions: Index) -> Indexed {
        let set = |text: &Option<String>| IndexSet::parse(text.as_deref().unwrap_or_default(), completions);
        let recorded = set(&self.status.completed_indexes);
        let failed = set(&self.status.failed_indexes);
        let succeeding = self.pods.iter().filter(|seen| seen.tracked && seen.class == Class::Succeeded);
        let mut succeeded = recorded.clone();
        succeeded.extend(succeeding.filter_map(|seen| seen.index).filter(|index| !failed.contains(*index)));
        let limit = self.job.spec.as_ref().and_then(|spec| spec.backoff_limit_per_index);
        let per_index = limit.map(|limit| per_index::PerIndex::of(self, limit, failed.clone(), &succeeded));
        Indexed { completions, recorded, failed, succeeded, per_index }
    }

    /// The pods of one class.
    pub fn class(&self, class: Class) -> impl Iterator<Item = &Seen<'a>> {
        self.pods.iter().filter(move |seen| seen.class == class)
    }

    /// How many pods are of one class.
    pub fn count(&self, class: Class) -> i32 {
        super::to_i32(self.class(class).count())
    }

    /// How many active pods have the condition Ready.
    pub fn ready(&self) -> i32 {
        super::to_i32(self.class(Class::Active).filter(|seen| is_ready(seen.pod)).count())
    }

    /// Whether this pod counts as a failed one: it failed, or it is leaving and need not end before it is replaced.
    pub fn counts_as_failed(&self, seen: &Seen<'_>) -> bool {
        match seen.class {
            Class::Failed => true,
            Class::Leaving => !self.only_replace_failed,
            Class::Active | Class::Succeeded => false,
        }
    }

    /// Whether this pod is ever counted: pods of an Indexed Job without a valid index are not.
    pub fn is_countable(&self, seen: &Seen<'_>) -> bool {
        self.indexed.is_none() || seen.index.is_some()
    }

    /// Whether this pod keeps its finalizer until its index has another pod, which goes on counting from it.
    pub fn is_awaiting_replacement(&self, seen: &Seen<'_>) -> bool {
        let per_index = self.indexed.as_ref().and_then(|indexed| indexed.per_index.as_ref());
        per_index.is_some_and(|per_index| {
            per_index.awaiting.values().any(|waiting| std::ptr::eq(waiting.pod(self), seen.pod))
        })
    }

    /// Whether `index` gets no other pod, though none of it has succeeded.
    pub fn has_failed(&self, index: Index) -> bool {
        let per_index = self.indexed.as_ref().and_then(|indexed| indexed.per_index.as_ref());
        per_index.is_some_and(|per_index| per_index.failed.contains(index))
    }

    /// How many completions there are so far, those not recorded yet included only for Indexed Jobs.
    pub fn completed(&self) -> i32 {
        match &self.indexed {
            Some(indexed) => indexed.succeeded.len(),
            None => self.status.succeeded.unwrap_or(0),
        }
    }

    /// The UIDs that the status holds as finished but not yet counted: succeeded, failed.
    pub fn uncounted(&self) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        (set_of(uncounted.and_then(|u| u.succeeded.as_ref())), set_of(uncounted.and_then(|u| u.failed.as_ref())))
    }

    /// Whether the Job itself is being deleted.
    pub fn job_is_leaving(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }
}

/// The owner that controls `pod`, if any.
pub fn controller_of(pod: &Pod) -> Option<&OwnerReference> {
    pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// `metadata.uid`, or the empty string of an object that was never stored.
pub fn uid_of(pod: &Pod) -> Uid {
    Uid::of(&pod.metadata)
}

/// Whether the tracking finalizer is on `pod`.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == TRACKING_FINALIZER)
}

/// Where `pod` stands.
pub fn class(pod: &Pod) -> Class {
    match phase(pod) {
        "Succeeded" => Class::Succeeded,
        "Failed" => Class::Failed,
        _ if pod.metadata.deletion_timestamp.is_some() => Class::Leaving,
        _ => Class::Active,
    }
}

/// `status.phase`, empty when absent.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether the condition Ready is True.
pub fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some()
}

/// Since when it is, if the node says so.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    Some(ready_condition(pod)?.last_transition_time.as_ref()?.0)
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.find(|c| c.type_ == "Ready" && c.status == "True")
}

/// When `pod` ended: the latest end of its containers if all ended, else when it stopped being ready, else when its
/// deletion was asked for, else its creation. `getFinishedTime` in `backoff_utils.go`.
pub fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref();
    let containers = || status.into_iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ends: Option<Vec<Timestamp>> =
        containers().map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)).collect();
    let latest_end = ends.and_then(|ends| ends.into_iter().max());
    let unready = || {
        let condition = status?.conditions.iter().flatten().find(|c| c.type_ == "Ready" && c.status == "False")?;
        Some(condition.last_transition_time.as_ref()?.0)
    };
    let deletion_asked = || {
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        Some(at.saturating_sub(pod.metadata.deletion_grace_period_seconds.unwrap_or(0).seconds()).unwrap_or(at))
    };
    let created = || Some(pod.metadata.creation_timestamp.as_ref()?.0);
    latest_end.or_else(unready).or_else(deletion_asked).or_else(created)
}

/// How often the containers of `pod` were restarted, init containers included.
pub fn restarts(pod: &Pod) -> i32 {
    pod.status
        .iter()
        .flat_map(|s| s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten()))
        .map(|c| c.restart_count)
        .sum()
}

fn set_of(list: Option<&Vec<String>>) -> BTreeSet<&str> {
    list.into_iter().flatten().map(String::as_str).collect()
}
