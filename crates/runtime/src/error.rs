//! What can go wrong, one enum per concern: starting a container, and handling one that was started.
//!
//! Invariant: every message says what was attempted, on what, and (where somebody can act) what to do.
//! `Display` never repeats its source.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::ContainerId;

/// Why a container could not be started. Nothing of it is left behind.
#[derive(Debug, Error)]
pub enum StartError {
    /// `process.args[0]` does not exist in the container (the container world's exit code 127).
    #[error("command {command:?} was not found in container {container}")]
    CommandNotFound {
        /// The container.
        container: ContainerId,
        /// `process.args[0]` as the spec has it.
        command: String,
    },
    /// `process.args[0]` exists and the kernel refuses to execute it (exit code 126 in the container world).
    #[error("command {command:?} in container {container} can't be executed: {reason}")]
    CommandNotExecutable {
        /// The container.
        container: ContainerId,
        /// `process.args[0]` as the spec has it.
        command: String,
        /// The kernel's reason in words.
        reason: String,
    },
    /// The spec asks for a control that this runtime or this machine can't apply. It is never ignored.
    #[error("container {container} asks for {control}, which can't be applied here: {advice}")]
    Unsupported {
        /// The container.
        container: ContainerId,
        /// The control, as the spec names it, e.g. `linux.intelRdt`.
        control: String,
        /// What to do instead.
        advice: String,
    },
    /// The bundle contradicts itself, e.g. a hostname without a UTS namespace or a relative mount destination.
    #[error("the bundle of container {container} is not valid: {fault}")]
    Invalid {
        /// The container.
        container: ContainerId,
        /// What is wrong, with the field's name.
        fault: String,
    },
    /// A step of the way failed.
    #[error("container {container} could not be started: failed to {step}")]
    Failed {
        /// The container.
        container: ContainerId,
        /// What was attempted and on what, as a verb phrase: "mount overlay at /".
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a command could not be run in a container. Nothing of it is left behind.
#[derive(Debug, Error)]
pub enum ExecError {
    /// The container has ended, or was never started.
    #[error("container {0} is not running: a command needs a running container")]
    NotRunning(ContainerId),
    /// The command does not exist in the container (exit code 127 in the container world).
    #[error("command {command:?} was not found in container {container}")]
    CommandNotFound {
        /// The container.
        container: ContainerId,
        /// The first of the arguments.
        command: String,
    },
    /// The command exists and the kernel refuses to execute it (exit code 126 in the container world).
    #[error("command {command:?} in container {container} can't be executed: {reason}")]
    CommandNotExecutable {
        /// The container.
        container: ContainerId,
        /// The first of the arguments.
        command: String,
        /// The kernel's reason in words.
        reason: String,
    },
    /// What was asked for makes no sense, e.g. no command at all.
    #[error("the command for container {container} is not valid: {fault}")]
    Invalid {
        /// The container.
        container: ContainerId,
        /// What is wrong.
        fault: String,
    },
    /// A step of the way failed.
    #[error("a command could not be run in container {container}: failed to {step}")]
    Failed {
        /// The container.
        container: ContainerId,
        /// What was attempted and on what, as a verb phrase.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What can go wrong with a container that was started.
#[derive(Debug, Error)]
pub enum Error {
    /// The runtime knows no container of this name: it was never started or recovered, or is removed.
    #[error("no container {0} is known to the runtime: start or recover it first")]
    NotFound(ContainerId),
    /// An operation on a container or on its folder failed.
    #[error("failed to {step} for container {container}")]
    Failed {
        /// The container.
        container: ContainerId,
        /// What was attempted and on what.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A record in a container's folder does not parse.
    #[error("{} is not a record that this version of the runtime wrote: remove the folder if the container is not needed", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// Something that this machine lacks for running containers, as a sentence for its user.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}; {advice}")]
pub struct Problem {
    /// What is missing.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}
