//! What others may ask of the pods on this node: their logs, commands in their containers, connections to their ports.
//!
//! ```text
//!   logs ─────► the pod's status says which run ─► its log file (CRI format)
//!   exec ─────► the latest run of the container ─► Runtime::exec
//!   attach ───► the same ────────────────────────► Runtime::attach
//!   forward ──► 127.0.0.1 in the pod's network namespace
//! ```
//!
//! Plain async functions and streams; whoever speaks HTTP calls them. Invariant: a call only reads what the agent keeps;
//! it never changes a pod's state, and dropping what it returned lets go of everything.
//!
//! Errors are worded as the kubelet words them (`pkg/kubelet/kubelet_pods.go`, v1.36), since clients show them.

mod attach;
mod exec;
mod forward;
mod logs;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use stint_core::pod::Attempt;
use stint_runtime::ContainerId;

use crate::agent::Shared;
use crate::error::chain;
use crate::folder::PodFolder;
use crate::worker::container_id;

pub use exec::{Process, Streams};
pub use forward::{Connection, Network};
pub use logs::{LogOptions, LogSource, LogStream};

/// The services of a node. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

/// A pod, as its client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`: a later pod of the same name is another one.
    pub uid: String,
}

/// A container of a pod, of whatever sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// Its pod.
    pub pod: PodRef,
    /// Its name.
    pub container: String,
}

/// Why a service could not be had. The text is for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The container is in no state for it: `container "c" in pod "p" is waiting to start: ContainerCreating`.
    #[error("{0}")]
    BadRequest(String),
    /// There is no such pod or container, or it does not run: `container not found ("c")`.
    #[error("{0}")]
    NotFound(String),
    /// It was tried, and failed.
    #[error("{0}")]
    Internal(String),
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>) -> Service {
        Service { shared }
    }

    /// The latest run of a container that was started here.
    fn latest(&self, container: &ContainerRef) -> Result<Run, ServiceError> {
        let internal = |error: crate::Error| ServiceError::Internal(error.chain());
        let ContainerRef { pod, container } = container;
        let folder = PodFolder::new(&self.shared.config.folders, &pod.uid).map_err(internal)?;
        let mut attempts = folder.attempts().into_iter().filter(|(name, _)| name == container);
        let (_, attempt) = attempts.next_back().ok_or_else(|| not_found(container))?;
        let id = container_id(&pod.uid, container, attempt).map_err(internal)?;
        Ok(Run { folder, id, attempt })
    }

    /// The pod's object, as the API has it now.
    async fn pod(&self, pod: &PodRef) -> Result<Pod, ServiceError> {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), &pod.namespace);
        let found = api.get_opt(&pod.name).await;
        let found = found.map_err(|error| {
            ServiceError::Internal(format!("failed to read pod {}/{}: {}", pod.namespace, pod.name, chain(&error)))
        })?;
        let same = found.filter(|found| found.metadata.uid.as_deref() == Some(&pod.uid));
        same.ok_or_else(|| ServiceError::NotFound(format!("pod {:?} cannot be found", pod.name)))
    }
}

/// A run of a container.
struct Run {
    folder: PodFolder,
    id: ContainerId,
    attempt: Attempt,
}

/// The kubelet's words for a container that does not run.
fn not_found(container: &str) -> ServiceError {
    ServiceError::NotFound(format!("container not found ({container:?})"))
}
