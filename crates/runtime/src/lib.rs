//! Containers from an OCI runtime spec: zygote, shim, namespaces, mounts, cgroups v1 and v2, seccomp, logs and exit
//! records. Knows nothing of Kubernetes.
//!
//! ```no_run
//! # use stint_runtime::{Bundle, ContainerId, Native, Rootfs, Runtime, Stdin, default_spec, zygote};
//! // First thing in main, before any thread:
//! let zygote = zygote::spawn()?;
//! # let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! tokio.block_on(async {
//!     let runtime = Native::new(zygote);
//!     let id = ContainerId::new("hello")?;
//!     let dir = std::path::PathBuf::from("/run/hello"); // exists, mode 0700
//!     let (spec, rootfs, log) = (default_spec(), Rootfs::Host { size: None }, dir.join("log"));
//!     let (rotation, stdin, together) = (None, Stdin::Empty, None);
//!     runtime.start(Bundle { id: id.clone(), spec, rootfs, dir, log, rotation, stdin, together }).await?;
//!     let exit = runtime.wait(&id).await?;
//!     println!("exit code {}", exit.code);
//!     runtime.remove(&id).await?;
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! One process per container, the shim, holds what a container needs while it lives; see `shim` for its story, `plan` for
//! what it is told, `supervisor` for the daemon's side. `exec` tells of commands in a
//! running container, `rootless` of how an ordinary user has any.

pub mod allocator;
pub mod app_armor;
mod bundle;
pub mod defaults;
mod device_filter;
mod error;
mod exec;
mod host;
pub mod namespace;
mod native;
mod plan;
mod prepare;
mod record;
pub mod rootless;
mod scratch;
pub mod seccomp;
mod shim;
mod supervisor;
mod sys;
pub mod zygote;

use std::path::Path;
use std::pin::Pin;

pub use bundle::{
    Bundle, ContainerId, ContainerState, Exit, InvalidId, LogRotation, Rootfs, Started, Stdin, Writable, older_logs,
};
pub use defaults::{default_capabilities, default_spec};
pub use error::{Error, ExecError, Problem, StartError};
pub use exec::{ExecExit, ExecHandle, Input, Joined, Output, ProcessSpec, Stdio, Terminal};
pub use host::{check_host, has_controller};
pub use native::{Native, OciCli};
pub use scratch::{open as open_folder, remove as remove_folder};

/// A boxed future, the same type as `futures::future::BoxFuture`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Starts containers and keeps hold of them. The seam between the agent and the machine.
///
/// Invariant: a started container needs nothing from the process that started it; its end is recorded in its folder
/// whether or not anybody waits.
pub trait Runtime: Send + Sync + 'static {
    /// Starts a container; resolves once its program was executed. Not cancelled when the future is dropped.
    fn start(&self, bundle: Bundle) -> BoxFuture<'_, Result<Started, StartError>>;

    /// Resolves when the container's exit is recorded, also when that was long ago. Any number of waiters.
    fn wait<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Exit, Error>>;

    /// Runs a command in a running container, confined as the container's own process is; resolves once the command was
    /// executed.
    fn exec<'a>(&'a self, id: &'a ContainerId, process: ProcessSpec) -> BoxFuture<'a, Result<ExecHandle, ExecError>>;

    /// The way to a running container's standard input and terminal; what it writes is in its log. `None` where it has
    /// neither, or where its input was for another who joined before.
    fn join<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Option<Joined>, Error>> {
        let _ = id;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Sends a signal to the container's PID 1. A container that has ended already is no error.
    fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Error>;

    /// Kills every process in the container. A container that has ended already is no error.
    fn kill(&self, id: &ContainerId) -> Result<(), Error>;

    /// Kills what is left and removes cgroups and scratch; the folder and the log are the caller's. Removing twice is no error.
    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), Error>>;

    /// Takes hold, after a restart of the daemon, of the container that the records in `dir` tell of.
    /// `None` when none was started there.
    fn recover(&self, dir: &Path) -> Result<Option<ContainerState>, Error>;
}
