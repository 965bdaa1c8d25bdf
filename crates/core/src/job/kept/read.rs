//! Pods and Jobs read from JSON only as far as they are remembered.
//!
//! A controller's watch shows a pod five times in its life, and most of each time is its spec, its volumes and its field
//! managers: passing them over costs a fraction of making them.
//!
//! Invariant: [`SlimPod`] is [`slim`] of the whole pod. A property below asserts it.

use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};

use super::slim;

/// A pod without what no decision about Jobs reads.
#[derive(Clone, Debug, PartialEq)]
pub struct SlimPod(pub Pod);

/// A Job without its spec and its field managers.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOutline(pub Job);

/// Makes a type one that clients ask the API for under the name of `$whole`.
macro_rules! resource {
    ($part:ty, $whole:ty) => {
        impl k8s_openapi::Resource for $part {
            const API_VERSION: &'static str = <$whole as k8s_openapi::Resource>::API_VERSION;
            const GROUP: &'static str = <$whole as k8s_openapi::Resource>::GROUP;
            const KIND: &'static str = <$whole as k8s_openapi::Resource>::KIND;
            const VERSION: &'static str = <$whole as k8s_openapi::Resource>::VERSION;
            const URL_PATH_SEGMENT: &'static str = <$whole as k8s_openapi::Resource>::URL_PATH_SEGMENT;
            type Scope = NamespaceResourceScope;
        }

        impl k8s_openapi::Metadata for $part {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.0.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.0.metadata
            }
        }
    };
}

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
    metadata: ReadMeta,
    spec: Option<ReadSpec>,
    status: Option<ReadStatus>,
}

#[derive(Deserialize)]
struct ReadJob {
    #[serde(default)]
    metadata: ReadMeta,
    status: Option<JobStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
}

impl From<ReadMeta> for ObjectMeta {
    fn from(read: ReadMeta) -> ObjectMeta {
        ObjectMeta {
            name: read.name,
            namespace: read.namespace,
            uid: read.uid,
            resource_version: read.resource_version,
            generation: read.generation,
            labels: read.labels,
            annotations: read.annotations,
            owner_references: read.owner_references,
            finalizers: read.finalizers,
            creation_timestamp: read.creation_timestamp,
            deletion_timestamp: read.deletion_timestamp,
            deletion_grace_period_seconds: read.deletion_grace_period_seconds,
            ..ObjectMeta::default()
        }
    }
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
