//! What can go wrong in the agent, one enum. What goes wrong with one pod is told in its status, not here.

use std::io;
use std::path::PathBuf;

/// A failure of the agent or of its work for a pod.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something on a file of ours.
    #[error("failed to {attempt} {}", path.display())]
    Io {
        /// What was attempted, as a verb phrase.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// The API refused or did not answer.
    #[error("failed to {attempt} {object}")]
    Api {
        /// What was attempted, as a verb phrase.
        attempt: &'static str,
        /// On what.
        object: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// The runtime could not do what it was told with a container.
    #[error("failed to {attempt}")]
    Runtime {
        /// What was attempted.
        attempt: &'static str,
        /// The answer.
        source: stint_runtime::Error,
    },
    /// The pod has no network, or could not be rid of it.
    #[error("the pod's network")]
    Network(#[from] stint_network::Error),
    /// The pod asks for something that is missing, wrong, or not supported.
    #[error("{0}")]
    Config(String),
    /// The container can't be made as it has to be, in the words of who makes it in a cluster.
    #[error("{0}")]
    Create(String),
}

impl Error {
    pub(crate) fn io(attempt: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { attempt, path, source }
    }

    pub(crate) fn api(attempt: &'static str, object: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
        let object = object.into();
        move |source| Error::Api { attempt, object, source: Box::new(source) }
    }

    pub(crate) fn config(fault: impl Into<String>) -> Error {
        Error::Config(fault.into())
    }

    /// Why a container waits that could not be made for this: the kubelet's `ErrCreateContainer` for what a runtime would not
    /// make, and `ErrCreateContainerConfig` for what is missing or wrong before.
    pub(crate) fn waiting_reason(&self) -> &'static str {
        if matches!(self, Error::Create(_)) { "CreateContainerError" } else { "CreateContainerConfigError" }
    }

    /// The error and everything that caused it, for a status message.
    pub(crate) fn chain(&self) -> String {
        chain(self)
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
