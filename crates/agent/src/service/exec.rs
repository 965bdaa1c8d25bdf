//! Commands in containers.
//!
//! Invariant: whoever holds a [`Process`]'s `exit` keeps the command alive; dropping it is the client's hanging up, and
//! kills the command. A command that can't be executed is no failure of the service: it ends with 126 or 127, as a
//! shell would have it end, and says why where its errors go.
//!
//! Upstream: `pkg/kubelet/kubelet_pods.go` (`GetExec`), v1.36.

use std::io::Cursor;

use futures::future::BoxFuture;
use stint_runtime::{ExecError, ExecHandle, ProcessSpec, Stdio};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ContainerRef, Service, ServiceError, not_found};
use crate::error::chain;

/// Which streams a client wants of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "these are the members of v1.PodExecOptions")]
pub struct Streams {
    /// It will write to its input.
    pub stdin: bool,
    /// It will read its output.
    pub stdout: bool,
    /// It will read its errors; with a terminal they come with the output.
    pub stderr: bool,
    /// The process gets a terminal.
    pub tty: bool,
}

/// A process and its streams.
pub struct Process {
    /// Its input, if it was asked for; shutting it down is the end of the input.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output, if it was asked for, until nobody can write to it any more.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its errors, if they were asked for.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Tells its terminal, if it has one, how many columns and rows it has. Does not block.
    pub resize: Option<Box<dyn FnMut(u16, u16) + Send>>,
    /// Its exit code: 128 and the signal's number when a signal ended it.
    pub exit: BoxFuture<'static, Result<i32, ServiceError>>,
}

impl Service {
    /// Starts `command` in a running container.
    pub async fn exec(
        &self,
        container: &ContainerRef,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<Process, ServiceError> {
        let run = self.latest(container)?;
        let Streams { stdin, stdout, stderr, tty } = streams;
        let stdio = if tty { Stdio::Terminal } else { Stdio::Pipes { stdin, stdout, stderr } };
        let spec = ProcessSpec { args: command, stdio, ..ProcessSpec::default() };
        match self.shared.runtime.exec(&run.id, spec).await {
            Ok(handle) => Ok(running(handle, streams)),
            Err(ExecError::NotRunning(_)) => Err(not_found(&container.container)),
            Err(ExecError::CommandNotFound { command, .. }) => {
                let text = if command.contains('/') {
                    format!("exec: {command:?}: no such file or directory")
                } else {
                    format!("exec: {command:?}: executable file not found in $PATH")
                };
                Ok(ended(127, &text, streams))
            }
            Err(ExecError::CommandNotExecutable { command, reason, .. }) => {
                Ok(ended(126, &format!("exec: {command:?}: {reason}"), streams))
            }
            Err(ExecError::Invalid { fault, .. }) => Err(ServiceError::BadRequest(fault)),
            Err(error @ ExecError::Failed { .. }) => Err(ServiceError::Internal(chain(&error))),
        }
    }
}

fn running(handle: ExecHandle, streams: Streams) -> Process {
    let ExecHandle { stdin, stdout, stderr, terminal, exit, .. } = handle;
    let held = terminal.clone();
    let resize = terminal.map(|terminal| -> Box<dyn FnMut(u16, u16) + Send> {
        // A terminal that is gone needs no size.
        Box::new(move |columns, rows| drop(terminal.resize(columns, rows)))
    });
    let exit = Box::pin(async move {
        let exit = exit.await;
        drop(held); // or the terminal would hang up on a command whose streams nobody wants
        exit.map(|exit| exit.code).map_err(|error| ServiceError::Internal(chain(&error)))
    });
    Process {
        stdin: stdin.filter(|_| streams.stdin),
        stdout: stdout.filter(|_| streams.stdout),
        stderr: stderr.filter(|_| streams.stderr),
        resize,
        exit,
    }
}

/// A command that was not even executed.
fn ended(code: i32, words: &str, streams: Streams) -> Process {
    let line_end = if streams.tty { "\r\n" } else { "\n" };
    let say = |words: String| -> Box<dyn AsyncRead + Send + Unpin> { Box::new(Cursor::new(words)) };
    let to_errors = streams.stderr && !streams.tty;
    let (out, err) = if to_errors {
        (String::new(), format!("{words}{line_end}"))
    } else {
        (format!("{words}{line_end}"), String::new())
    };
    Process {
        stdin: streams.stdin.then(|| -> Box<dyn AsyncWrite + Send + Unpin> { Box::new(tokio::io::sink()) }),
        stdout: streams.stdout.then(|| say(out)),
        stderr: to_errors.then(|| say(err)),
        resize: None,
        exit: Box::pin(std::future::ready(Ok(code))),
    }
}
