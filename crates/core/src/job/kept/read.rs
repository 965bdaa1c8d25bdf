//! Pods and Jobs read from JSON only as far as they are remembered.
//!
//! A controller's watch shows a pod five times in its life, and most of each time is its spec, its volumes and its field
//! managers: passing them over costs a fraction of making them.
//!
//! Invariant: [`SlimPod`] is [`slim`] of the whole pod. A property below asserts it.

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Deserializer};

use super::slim;
use crate::unmanaged::{UnmanagedMeta, resource};

/// A pod without what no decision about Jobs reads.
#[derive(Clone, Debug, PartialEq)]
pub struct SlimPod(pub Pod);

/// A Job without its spec and its field managers.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOutline(pub Job);

resource!(SlimPod, Pod);
resource!(JobOutline, Job);

impl<'de> Deserialize<'de> for SlimPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SlimPod, D::Error> {
        let read = ReadPod::deserialize(deserializer)?;
        let (spec, status) = (read.spec.map(PodSpec::from), read.status.map(PodStatus::from));
        let pod = Pod { metadata: read.metadata.into(), spec, status };
        Ok(SlimPod(slim(pod)))
    }
}

impl<'de> Deserialize<'de> for JobOutline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JobOutline, D::Error> {
        let read = ReadJob::deserialize(deserializer)?;
        Ok(JobOutline(Job { metadata: read.metadata.into(), spec: None, status: read.status }))
    }
}

#[derive(Deserialize)]
struct ReadPod {
    #[serde(default)]
    metadata: UnmanagedMeta,
    spec: Option<ReadSpec>,
    status: Option<ReadStatus>,
}

#[derive(Deserialize)]
struct ReadJob {
    #[serde(default)]
    metadata: UnmanagedMeta,
    status: Option<JobStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadSpec {
    node_name: Option<String>,
    init_containers: Option<Vec<ReadInitContainer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadInitContainer {
    #[serde(default)]
    name: String,
    restart_policy: Option<String>,
}

impl From<ReadSpec> for PodSpec {
    fn from(read: ReadSpec) -> PodSpec {
        let container = |read: ReadInitContainer| Container {
            name: read.name,
            restart_policy: read.restart_policy,
            ..Container::default()
        };
        PodSpec {
            node_name: read.node_name,
            init_containers: read.init_containers.map(|all| all.into_iter().map(container).collect()),
            ..PodSpec::default()
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadStatus {
    phase: Option<String>,
    conditions: Option<Vec<ReadCondition>>,
    init_container_statuses: Option<Vec<ReadContainer>>,
    container_statuses: Option<Vec<ReadContainer>>,
}

impl From<ReadStatus> for PodStatus {
    fn from(read: ReadStatus) -> PodStatus {
        let containers = |all: Vec<ReadContainer>| all.into_iter().map(ContainerStatus::from).collect();
        PodStatus {
            phase: read.phase,
            conditions: read.conditions.map(|all| all.into_iter().map(PodCondition::from).collect()),
            init_container_statuses: read.init_container_statuses.map(containers),
            container_statuses: read.container_statuses.map(containers),
            ..PodStatus::default()
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadCondition {
    #[serde(default, rename = "type")]
    type_: String,
    #[serde(default)]
    status: String,
    last_transition_time: Option<Time>,
}

impl From<ReadCondition> for PodCondition {
    fn from(read: ReadCondition) -> PodCondition {
        PodCondition {
            type_: read.type_,
            status: read.status,
            last_transition_time: read.last_transition_time,
            ..PodCondition::default()
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadContainer {
    #[serde(default)]
    name: String,
    #[serde(default)]
    restart_count: i32,
    state: Option<ReadState>,
}

#[derive(Deserialize)]
struct ReadState {
    terminated: Option<ReadTerminated>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadTerminated {
    #[serde(default)]
    exit_code: i32,
    finished_at: Option<Time>,
}

impl From<ReadContainer> for ContainerStatus {
    fn from(read: ReadContainer) -> ContainerStatus {
        let terminated = read.state.and_then(|state| state.terminated).map(|ended| ContainerStateTerminated {
            exit_code: ended.exit_code,
            finished_at: ended.finished_at,
            ..ContainerStateTerminated::default()
        });
        ContainerStatus {
            name: read.name,
            restart_count: read.restart_count,
            state: terminated.map(|ended| ContainerState { terminated: Some(ended), ..ContainerState::default() }),
            ..ContainerStatus::default()
        }
    }
}
