//! What the API asks of the node that runs a pod.
//!
//! [`Node`] is the seam between the API server and an agent: logs, commands, and connections to ports, of pods that the
//! API has already found and that are bound to a node.
//!
//! Invariant: everything that comes from a node is read piece by piece and at the reader's pace; nothing here gathers a
//! whole output. Dropping what a call returned tells the node that the client has gone.
//! Left out: which node. There is one.

use std::io;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};

/// What runs the pods of this API.
///
/// Upstream: what `pkg/kubelet/server/server.go` serves to the API server, v1.36.
pub trait Node: Send + Sync + 'static {
    /// The log of a container, as the bytes that the client is to see. It ends at the container's end when it is
    /// followed, and at what is there now when it is not.
    fn logs(&self, container: ContainerRef, options: LogOptions) -> BoxFuture<'_, Result<LogStream, NodeError>>;

    /// Starts `command` in a running container.
    fn exec(
        &self,
        container: ContainerRef,
        command: Vec<String>,
        streams: Streams,
    ) -> BoxFuture<'_, Result<Process, NodeError>>;

    /// Joins the streams of a container's main process. Its exit is reported as a success, whatever its code, and so is
    /// an end of its output.
    fn attach(&self, container: ContainerRef, streams: Streams) -> BoxFuture<'_, Result<Process, NodeError>>;

    /// Connects to a TCP port as a process in the pod would, at its loopback address.
    fn forward(&self, pod: PodRef, port: u16) -> BoxFuture<'_, Result<Box<dyn Connection>, NodeError>>;
}

/// A pod, as the API knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// A container of a pod, of whatever sort (init and ephemeral ones too).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// Its pod.
    pub pod: PodRef,
    /// Its name.
    pub container: String,
}

/// Which part of a log, and in which form. The members are those of `v1.PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Whether to go on while the container runs.
    pub follow: bool,
    /// Of the instance before the current one.
    pub previous: bool,
    /// Only what was written at this time or later. (`sinceSeconds` was added to the time of the request.)
    pub since: Option<Timestamp>,
    /// Whether each line starts with its RFC 3339 time and a space.
    pub timestamps: bool,
    /// Only so many lines from the end; 0 gives none but what follows.
    pub tail_lines: Option<u64>,
    /// The end comes after so many bytes, in the middle of a line if need be.
    pub limit_bytes: Option<u64>,
    /// Which of the container's outputs.
    pub stream: LogSource,
}

/// Which of a container's outputs a log shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogSource {
    /// Both, as they came.
    #[default]
    All,
    /// Standard output only.
    Stdout,
    /// Standard error only.
    Stderr,
}

/// The bytes of a log, in pieces of any size. An error ends it, and breaks the answer off.
pub type LogStream = BoxStream<'static, io::Result<Bytes>>;

/// Which streams a client wants of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "these are the members of v1.PodExecOptions")]
pub struct Streams {
    /// It will write to its input.
    pub stdin: bool,
    /// It will read its output.
    pub stdout: bool,
    /// It will read its errors. Never together with a terminal, where they come with the output.
    pub stderr: bool,
    /// The process gets a terminal.
    pub tty: bool,
}

/// A process and its streams. Dropping it is the client's hanging up.
pub struct Process {
    /// Its input, if it was asked for; shutting it down is the end of the input.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output, if it was asked for, until nobody can write to it any more.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its errors, if they were asked for.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Tells its terminal, if it has one, how large it is. Must not block.
    pub resize: Option<Box<dyn FnMut(TerminalSize) + Send>>,
    /// How it ended.
    pub exit: BoxFuture<'static, Result<Exit, NodeError>>,
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With code 0, or nobody asks for its code.
    Success,
    /// With another code, which for a process that a signal ended is 128 and the signal's number.
    Code(i32),
}

/// Both directions of a connection. Shutting it down for writing leaves it open for reading.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Why a node could not do what it was asked. The text is for the client; it is the kubelet's where the kubelet has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The container is in no state for it: `container "c" in pod "p" is waiting to start: ContainerCreating`.
    #[error("{0}")]
    BadRequest(String),
    /// The node knows no such pod or container, or the container is not running: `container not found ("c")`.
    #[error("{0}")]
    NotFound(String),
    /// There is no node, or it does not answer now.
    #[error("{0}")]
    Unavailable(String),
    /// It was tried, and failed.
    #[error("Internal error occurred: {0}")]
    Internal(String),
}
