//! What has to be remembered of Jobs and pods between decisions.
//!
//! ```text
//!   a pod                     ─► slim       what decisions about its Job read
//!   one that is counted       ─► Settled    when it ended
//!   a Job that has ended      ─► Ended      its end, its time to live
//!   a pod of such a Job       ─► Leftover   its name, whose it is, whether it still waits to be released
//! ```
//!
//! Invariant: a plan about what is remembered is the plan about the whole objects. Every story of the Job controller's tests
//! asserts it, and a property below. What a new decision reads is to be kept here first.
//! Left out: a Job that goes on. It needs its template, and there are few of them.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

mod read;

pub use read::{JobOutline, SlimPod};

use super::index::INDEX;
use super::per_index::{FAILURES, IGNORED};
use super::view::{Class, class, controller_of, finished_at, is_tracked, uid_of};
use super::{Outcome, TRACKING_FINALIZER, finished};
use crate::plan::Uid;
use crate::pod::is_sidecar;
use crate::validate::selects;

/// `pod` without what no decision about Jobs reads.
#[must_use]
pub fn slim(pod: Pod) -> Pod {
    let meta = pod.metadata;
    let metadata = ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        labels: meta.labels,
        annotations: meta.annotations.map(|mut annotations| {
            annotations.retain(|name, _| matches!(name.as_str(), INDEX | FAILURES | IGNORED));
            annotations
        }),
        owner_references: meta.owner_references.map(|mut owners| {
            owners.retain(|owner| owner.controller == Some(true));
            owners.shrink_to_fit();
            owners
        }),
        finalizers: meta.finalizers.map(|mut finalizers| {
            finalizers.retain(|finalizer| finalizer == TRACKING_FINALIZER);
            finalizers.shrink_to_fit();
            finalizers
        }),
        creation_timestamp: meta.creation_timestamp,
        deletion_timestamp: meta.deletion_timestamp,
        deletion_grace_period_seconds: meta.deletion_grace_period_seconds,
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: pod.spec.and_then(slim_spec), status: pod.status.map(slim_status) }
}

/// Where it runs, and which of its containers are sidecars.
fn slim_spec(spec: PodSpec) -> Option<PodSpec> {
    let mut sidecars = spec.init_containers.unwrap_or_default();
    sidecars.retain(is_sidecar);
    let named = |sidecar: Container| Container {
        name: sidecar.name,
        restart_policy: sidecar.restart_policy,
        ..Container::default()
    };
    let sidecars: Vec<Container> = sidecars.into_iter().map(named).collect();
    let init_containers = (!sidecars.is_empty()).then_some(sidecars);
    (spec.node_name.is_some() || init_containers.is_some()).then(|| PodSpec {
        node_name: spec.node_name,
        init_containers,
        ..PodSpec::default()
    })
}

fn slim_status(status: PodStatus) -> PodStatus {
    let conditions = |all: Vec<PodCondition>| all.into_iter().map(slim_condition).collect();
    let containers = |all: Vec<ContainerStatus>| all.into_iter().map(slim_container).collect();
    PodStatus {
        phase: status.phase,
        conditions: status.conditions.map(conditions),
        init_container_statuses: status.init_container_statuses.map(containers),
        container_statuses: status.container_statuses.map(containers),
        ..PodStatus::default()
    }
}

fn slim_condition(condition: PodCondition) -> PodCondition {
    PodCondition {
        type_: condition.type_,
        status: condition.status,
        last_transition_time: condition.last_transition_time,
        ..PodCondition::default()
    }
}

fn slim_container(container: ContainerStatus) -> ContainerStatus {
    let terminated = container.state.and_then(|state| state.terminated).map(|ended| ContainerStateTerminated {
        exit_code: ended.exit_code,
        finished_at: ended.finished_at,
        ..ContainerStateTerminated::default()
    });
    ContainerStatus {
        name: container.name,
        restart_count: container.restart_count,
        state: terminated.map(|ended| ContainerState { terminated: Some(ended), ..ContainerState::default() }),
        ..ContainerStatus::default()
    }
}

/// A pod of a Job that goes on, which has succeeded and waits for nothing. A decision reads of it only when it ended, and of
/// all such pods only of the latest: a Job with ten thousand pods is looked at as fast as those are that are not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What is still to be remembered of it when its Job has ended.
    pub leftover: Leftover,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl Settled {
    /// What is to be remembered of `pod`, which `job` controls. None: a decision may be about it.
    pub fn of(pod: &Pod, job: &Job) -> Option<Settled> {
        if class(pod) != Class::Succeeded || is_tracked(pod) {
            return None;
        }
        let selector = job.spec.as_ref()?.selector.as_ref();
        let is_selected = selector.is_none_or(|selector| selects(selector, pod.metadata.labels.as_ref()));
        let leftover = Leftover::of(pod).filter(|leftover| is_selected && leftover.job == Uid::of(&job.metadata))?;
        Some(Settled { leftover, finished_at: finished_at(pod) })
    }
}

/// A Job that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    uid: Uid,
    /// `metadata.resourceVersion`, by which its deletion is guarded. A number (KEP-5504), which takes less room.
    revision: Option<u64>,
    outcome: Outcome,
    /// When the terminal condition was written.
    at: Option<Time>,
    ttl_seconds_after_finished: Option<i32>,
    deletion: Option<Time>,
}

impl Ended {
    /// What is to be remembered of `job`. None: it has not ended, or is not ours to decide about.
    pub fn of(job: &Job) -> Option<Ended> {
        let spec = job.spec.as_ref()?;
        let known_mode = matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed"));
        if spec.managed_by.is_some() || !known_mode {
            return None;
        }
        let status = job.status.as_ref()?;
        let outcome = finished(status)?;
        let is_terminal = |condition: &&JobCondition| {
            matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
        };
        let mut terminal = status.conditions.iter().flatten().filter(is_terminal);
        let at = terminal.next()?.last_transition_time.clone();
        if terminal.next().is_some() {
            return None; // it contradicts itself
        }
        Some(Ended {
            uid: Uid::of(&job.metadata),
            revision: job.metadata.resource_version.as_ref().and_then(|text| text.parse().ok()),
            outcome,
            at,
            ttl_seconds_after_finished: spec.ttl_seconds_after_finished,
            deletion: job.metadata.deletion_timestamp.clone(),
        })
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &Uid {
        &self.uid
    }

    /// A Job of which the decisions are the same.
    pub fn job(&self, namespace: &str, name: &str) -> Job {
        let condition = JobCondition {
            type_: match self.outcome {
                Outcome::Success => "Complete".to_owned(),
                Outcome::Failure => "Failed".to_owned(),
            },
            status: "True".to_owned(),
            last_transition_time: self.at.clone(),
            ..JobCondition::default()
        };
        Job {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                uid: Some(self.uid.to_string()),
                resource_version: self.revision.map(|revision| revision.to_string()),
                deletion_timestamp: self.deletion.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(JobSpec { ttl_seconds_after_finished: self.ttl_seconds_after_finished, ..JobSpec::default() }),
            status: Some(JobStatus { conditions: Some(vec![condition]), ..JobStatus::default() }),
        }
    }
}

/// A pod of a Job that has ended. Only a tracked one is in any plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// `metadata.uid`.
    pub uid: Uid,
    /// The UID of the Job that controls it.
    pub job: Uid,
    name: Box<str>,
    /// Whether the tracking finalizer is on it.
    pub tracked: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl Leftover {
    /// What is to be remembered of `pod`. None: nobody controls it.
    pub fn of(pod: &Pod) -> Option<Leftover> {
        Some(Leftover {
            uid: uid_of(pod),
            job: Uid::from(controller_of(pod)?.uid.as_str()),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
            tracked: is_tracked(pod),
            deleting: pod.metadata.deletion_timestamp.is_some(),
        })
    }

    /// A pod of which the decisions about Jobs are the same.
    pub fn pod(&self, namespace: &str) -> Pod {
        let owner = OwnerReference { uid: self.job.to_string(), controller: Some(true), ..OwnerReference::default() };
        Pod {
            metadata: ObjectMeta {
                name: Some(self.name.to_string()),
                namespace: Some(namespace.to_owned()),
                uid: Some(self.uid.to_string()),
                owner_references: Some(vec![owner]),
                finalizers: self.tracked.then(|| vec![TRACKING_FINALIZER.to_owned()]),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
