//! A Job and its pods, seen as the Job controller sees them: each pod in exactly one class.
//!
//! Invariant: every own pod is active, leaving or finished, and which of them is decided here alone. The definitions
//! are those of `pkg/controller/job/job_controller.go` (v1.36): `getValidPodsWithFilter`, `isPodFailed`, `countReadyPods`.

use std::collections::BTreeSet;

use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::index::{self, Index, IndexSet};
use super::policy::{Judgement, judge};
use super::{TRACKING_FINALIZER, per_index};
use crate::plan::Uid;
use crate::pod::is_sidecar;
use crate::validate::selects;

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
    /// Whether its condition Ready is True.
    pub ready: bool,
    /// Whether the Job's selector selects it.
    pub selected: bool,
    /// Its completion index, if the Job is Indexed and this is one of its indexes.
    pub index: Option<Index>,
    /// What `podFailurePolicy` makes of it, if it has failed or is leaving: a Job that fails counts those, too.
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
    /// Those that have an active pod.
    pub active: IndexSet,
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
    /// The pods that the Job controls. Whatever is asked of thousands of them is in here: going to the pods themselves
    /// costs more than all that is decided.
    pub pods: Vec<Seen<'a>>,
    /// The pods that nobody controls and that the Job's selector selects.
    pub loose: Vec<&'a Pod>,
    /// Whether only failed pods are replaced, not leaving ones (`podReplacementPolicy: Failed`).
    pub only_replace_failed: bool,
    /// For Indexed Jobs.
    pub indexed: Option<Indexed>,
    /// When the latest of the pods ended that are left out of `pods` since they are settled.
    pub latest_success: Option<Timestamp>,
}

impl<'a> View<'a> {
    /// Sorts `pods` by what they are to `job`, in one pass over them; pods with another controller are left out.
    pub fn of(job: &'a Job, pods: &'a [Pod]) -> View<'a> {
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let spec = job.spec.as_ref();
        let status = job.status.clone().unwrap_or_default();
        let completions = spec
            .filter(|spec| spec.completion_mode.as_deref() == Some("Indexed"))
            .map(|spec| Index::try_from(spec.completions.unwrap_or(0)).unwrap_or(0));
        let policy = spec.and_then(|spec| spec.pod_failure_policy.as_ref());
        let selector = spec.and_then(|spec| spec.selector.as_ref());
        let is_selected = |pod: &Pod| selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref()));
        let see = |pod: &'a Pod| {
            let class = class(pod);
            Seen {
                pod,
                class,
                tracked: is_tracked(pod),
                ready: is_ready(pod),
                selected: selector.is_none() || is_selected(pod),
                index: completions.and_then(|end| index::of_pod(pod).filter(|index| *index < end)),
                judgement: match policy {
                    Some(policy) if matches!(class, Class::Failed | Class::Leaving) => judge(policy, pod),
                    _ => Judgement::Count,
                },
            }
        };
        let (mut own, mut loose) = (Vec::with_capacity(pods.len()), Vec::new());
        for pod in pods {
            match controller_of(pod) {
                Some(owner) if owner.uid == uid => own.push(see(pod)),
                None if is_selected(pod) => loose.push(pod),
                _ => {}
            }
        }
        let only_replace_failed =
            policy.is_some() || spec.is_some_and(|spec| spec.pod_replacement_policy.as_deref() == Some("Failed"));
        let mut view = View { job, status, pods: own, loose, only_replace_failed, indexed: None, latest_success: None };
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
        let mut indexed = Indexed {
            completions,
            recorded,
            failed,
            succeeded,
            active: self.class(Class::Active).filter_map(|seen| seen.index).collect(),
            per_index: None,
        };
        let limit = self.job.spec.as_ref().and_then(|spec| spec.backoff_limit_per_index);
        indexed.per_index = limit.map(|limit| per_index::PerIndex::of(self, &indexed, limit));
        indexed
    }

    /// The pods of one class.
    pub fn class(&self, class: Class) -> impl Iterator<Item = &Seen<'a>> {
        self.pods.iter().filter(move |seen| seen.class == class)
    }

    /// How many pods are of one class.
    pub fn count(&self, class: Class) -> i32 {
        super::to_i32(self.class(class).count())
    }

    /// Whether an active pod has lost its finalizer: it was to be sent away, and its deletion has not come through.
    pub fn has_begun_to_send_away(&self) -> bool {
        self.class(Class::Active).any(|seen| !seen.tracked)
    }

    /// How many active pods have the condition Ready.
    pub fn ready(&self) -> i32 {
        super::to_i32(self.class(Class::Active).filter(|seen| seen.ready).count())
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

    /// What the status holds as finished but not yet counted.
    pub fn uncounted(&self) -> Uncounted<'_> {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        Uncounted {
            succeeded: set_of(uncounted.and_then(|u| u.succeeded.as_ref())),
            failed: set_of(uncounted.and_then(|u| u.failed.as_ref())),
        }
    }

    /// Whether the Job itself is being deleted.
    pub fn job_is_leaving(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }
}

/// The UIDs of pods that the status holds as finished but not yet counted.
#[derive(Debug)]
pub struct Uncounted<'a> {
    /// Those that succeeded.
    pub succeeded: BTreeSet<&'a str>,
    /// Those that failed.
    pub failed: BTreeSet<&'a str>,
}

impl Uncounted<'_> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.succeeded.is_empty() && self.failed.is_empty()
    }

    /// Whether `pod` is one of them.
    pub fn holds(&self, pod: &Pod) -> bool {
        // Most of the time there are none: then thousands of pods need not be asked for their names.
        let is_among = |uid: &str| self.succeeded.contains(uid) || self.failed.contains(uid);
        !self.is_empty() && is_among(pod.metadata.uid.as_deref().unwrap_or_default())
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
    let unready = || {
        let condition = status?.conditions.iter().flatten().find(|c| c.type_ == "Ready" && c.status == "False")?;
        Some(condition.last_transition_time.as_ref()?.0)
    };
    let deletion_asked = || {
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        Some(at.saturating_sub(pod.metadata.deletion_grace_period_seconds.unwrap_or(0).seconds()).unwrap_or(at))
    };
    let created = || Some(pod.metadata.creation_timestamp.as_ref()?.0);
    latest_end(pod).or_else(unready).or_else(deletion_asked).or_else(created)
}

/// When the last container of `pod` ended, if all have that are not there for its start alone: sidecars end after the main
/// ones, and when they have, it does not matter of a main one that nobody knows (`getFinishTimeFromContainers`).
fn latest_end(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let end = |one: &ContainerStatus| Some(one.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0);
    let mains: Option<Vec<Timestamp>> = status.container_statuses.iter().flatten().map(end).collect();
    let of_sidecar = |one: &&ContainerStatus| sidecars(pod).any(|sidecar| sidecar.name == one.name);
    let sidecars: Option<Vec<Timestamp>> =
        status.init_container_statuses.iter().flatten().filter(of_sidecar).map(end).collect();
    sidecars?.into_iter().chain(mains.into_iter().flatten()).max()
}

fn sidecars(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).filter(|init| is_sidecar(init))
}

/// How often the containers of `pod` were restarted, init containers included.
pub fn restarts(pod: &Pod) -> i32 {
    pod.status
        .iter()
        .flat_map(|s| s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten()))
        .map(|c| c.restart_count)
        .sum()
}

/// How often that container of `pod` was restarted that was most often, and that sidecar (`maxContainerRestarts`).
pub fn most_restarts(pod: &Pod) -> (i32, i32) {
    let of_sidecar = |one: &&ContainerStatus| sidecars(pod).any(|sidecar| sidecar.name == one.name);
    let Some(status) = &pod.status else { return (0, 0) };
    let main = status.container_statuses.iter().flatten().map(|one| one.restart_count).max();
    let beside = status.init_container_statuses.iter().flatten().filter(of_sidecar).map(|one| one.restart_count).max();
    (main.unwrap_or(0), beside.unwrap_or(0))
}

fn set_of(list: Option<&Vec<String>>) -> BTreeSet<&str> {
    list.into_iter().flatten().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> String {
        Timestamp::from_second(seconds).unwrap().to_string()
    }

    #[test]
    fn a_pod_has_ended_with_its_last_container_or_sidecar() {
        let ended = |name: &str, second| {
            json!({ "name": name, "restartCount": 0, "ready": false, "image": "", "imageID": "",
            "state": { "terminated": { "exitCode": 0, "finishedAt": at(second) } } })
        };
        let runs = |name: &str| {
            json!({ "name": name, "restartCount": 0, "ready": true, "image": "", "imageID": "",
            "state": { "running": {} } })
        };
        let cases: [(&str, Vec<Value>, Vec<Value>, i64); 6] = [
            ("all main ones ended", vec![ended("a", 20), ended("b", 30)], vec![], 30),
            ("one has not: when it stopped being ready", vec![ended("a", 20), runs("b")], vec![], 15),
            ("the sidecar ended last", vec![ended("a", 20)], vec![ended("setup", 90), ended("side", 40)], 40),
            ("the sidecar has not", vec![ended("a", 20)], vec![ended("setup", 5), runs("side")], 15),
            ("of a main one nobody knows", vec![runs("a")], vec![ended("side", 40)], 40),
            ("nothing was told", vec![], vec![], 15),
        ];
        for (what, main, init, expected) in cases {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "creationTimestamp": at(10) },
                "spec": { "containers": [], "initContainers": [
                    { "name": "setup" }, { "name": "side", "restartPolicy": "Always" },
                ] },
                "status": { "containerStatuses": main, "initContainerStatuses": init,
                    "conditions": [{ "type": "Ready", "status": "False", "lastTransitionTime": at(15) }] },
            }))
            .unwrap();
            assert_eq!(finished_at(&pod), Timestamp::from_second(expected).ok(), "{what}");
        }
    }
}
