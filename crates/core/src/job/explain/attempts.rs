//! A Job's pods, read out: what each container did, and what keeps those that have not run.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use super::Wait;
use crate::job::index::{self, Index};
use crate::job::view::{Class, View, phase};

/// One pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// `metadata.name`.
    pub pod: String,
    /// Its completion index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<Index>,
    /// `status.phase`.
    pub phase: String,
    /// `metadata.creationTimestamp`.
    pub created: Option<Time>,
    /// `status.reason`: why it failed as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By when it will be gone, if it is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaves: Option<Time>,
    /// What its containers did: init containers first, of each the run before the latest one, too.
    pub runs: Vec<Run>,
    /// Why it does not run: the scheduler's word, or a container's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The container.
    pub container: String,
    /// How often it had been restarted by then.
    pub restarts: i32,
    /// When it began.
    pub started: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
    /// What it ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why, in a word (`Error`, `OOMKilled`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The pods of `job`, the oldest first.
pub fn of(job: &Job, pods: &[Pod]) -> Vec<Attempt> {
    let view = View::of(job, pods);
    let mut seen: Vec<_> = view.pods.iter().collect();
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
    seen.sort_by_key(|seen| (created(seen.pod), seen.pod.metadata.name.clone()));
    seen.into_iter().map(|seen| attempt(seen.pod, seen.class)).collect()
}

/// What is waited for because of a pod.
pub fn waits(attempt: &Attempt) -> Option<Wait> {
    if let Some(until) = &attempt.leaves {
        return Some(Wait { what: format!("pod {} to end", attempt.pod), until: Some(until.clone()) });
    }
    let held_by = attempt.held_by.as_ref()?;
    Some(Wait { what: format!("pod {}: {held_by}", attempt.pod), until: None })
}

fn attempt(pod: &Pod, class: Class) -> Attempt {
    let status = pod.status.clone().unwrap_or_default();
    let containers: Vec<&ContainerStatus> =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()).collect();
    let is_active = class == Class::Active;
    Attempt {
        pod: pod.metadata.name.clone().unwrap_or_default(),
        index: index::of_pod(pod),
        phase: phase(pod).to_owned(),
        created: pod.metadata.creation_timestamp.clone(),
        reason: status.reason.clone(),
        leaves: pod.metadata.deletion_timestamp.clone().filter(|_| class == Class::Leaving),
        runs: containers.iter().flat_map(|container| runs(container)).collect(),
        held_by: if is_active {
            unscheduled(pod).or_else(|| containers.iter().find_map(|it| held_by(it)))
        } else {
            None
        },
    }
}

fn unscheduled(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|it| it.type_ == "PodScheduled" && it.status == "False")?;
    Some(told(scheduled.reason.as_deref(), scheduled.message.as_deref()))
}

fn held_by(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let why = told(waiting.reason.as_deref(), waiting.message.as_deref());
    (!why.is_empty()).then(|| format!("container {}: {why}", container.name))
}

fn told(reason: Option<&str>, message: Option<&str>) -> String {
    let parts = [reason, message].into_iter().flatten().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(": ")
}

fn runs(container: &ContainerStatus) -> Vec<Run> {
    let count = container.restart_count;
    let before = container.last_state.as_ref().and_then(|state| run(container, state, (count - 1).max(0)));
    let latest = container.state.as_ref().and_then(|state| run(container, state, count));
    // While a container waits to be restarted, the API may show the same end as the present and as the last state.
    let is_same = before.as_ref().zip(latest.as_ref()).is_some_and(|(before, latest)| {
        before.finished.is_some() && (&before.started, &before.finished) == (&latest.started, &latest.finished)
    });
    before.filter(|_| !is_same).into_iter().chain(latest).collect()
}

fn run(container: &ContainerStatus, state: &ContainerState, restarts: i32) -> Option<Run> {
    let base = Run {
        container: container.name.clone(),
        restarts,
        started: None,
        finished: None,
        exit_code: None,
        reason: None,
    };
    if let Some(running) = &state.running {
        return Some(Run { started: running.started_at.clone(), ..base });
    }
    let ended = state.terminated.as_ref()?;
    Some(Run {
        started: ended.started_at.clone(),
        finished: ended.finished_at.clone(),
        exit_code: Some(ended.exit_code),
        reason: ended.reason.clone(),
        ..base
    })
}
