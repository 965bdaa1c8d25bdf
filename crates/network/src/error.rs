//! What can go wrong with a network.
//!
//! Invariant: a message says what was attempted and on what, and what to do where somebody can do something.

use std::io;

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
    /// Whoever makes networks has ended.
    #[error("the network is being taken down")]
    Closed,
}

impl Error {
    pub(crate) fn failed(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Failed { attempt: attempt.into(), source }
    }
}
