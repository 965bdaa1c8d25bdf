//! What can go wrong with a network.
//!
//! Invariant: a message says what was attempted and on what, and what to do where somebody can do something.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::subnet::Subnet;

/// Why pods have no network, or one pod has none.
#[derive(Debug, Error)]
pub enum Error {
    /// The machine reaches something else by addresses that were to be the pods'.
    #[error("the addresses {wanted} for pods overlap with this machine's route to {route}: choose others")]
    Clash {
        /// What was to be the pods'.
        wanted: Subnet,
        /// What is there.
        route: Subnet,
    },
    /// Every block of the range that is looked through is in use.
    #[error("every block of {0} is in use on this machine: choose other addresses for pods")]
    NoneFree(Subnet),
    /// As many pods as there are addresses.
    #[error("all addresses of {0} are in use: end pods, or choose a larger block")]
    Full(Subnet),
    /// A step failed.
    #[error("failed to {attempt}")]
    Failed {
        /// What was attempted, on what.
        attempt: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A configuration of CNI can't be used.
    #[error("the CNI configuration {} can't be used: {fault}", file.display())]
    Configuration {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// A configuration of CNI names a plugin that is not there.
    #[error("there is no CNI plugin {kind:?} in {folders}: install it, or say where it is")]
    NoPlugin {
        /// Its name.
        kind: String,
        /// Where it was looked for.
        folders: String,
    },
    /// A plugin of CNI did not do what it was told. The words are libcni's.
    #[error("plugin type={kind:?} failed ({command}): {message}")]
    Plugin {
        /// Its name.
        kind: String,
        /// `add` or `delete`.
        command: &'static str,
        /// What it said.
        message: String,
    },
    /// A pod asks for ports of the machine.
    #[error(
        "no plugin of the CNI network {network:?} has the capability portMappings, which host ports need: add `portmap`"
    )]
    NoPortMappings {
        /// The network.
        network: String,
    },
    /// Whoever makes networks has ended.
    #[error("the network is being taken down")]
    Closed,
}

impl Error {
    pub(crate) fn failed(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Failed { attempt: attempt.into(), source }
    }
}
