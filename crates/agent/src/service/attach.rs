//! The streams of a container's main process: its output from now on, and its input and terminal where it has them.
//!
//! Invariant: it is read from the container's log, so that any number of clients can look on, none of them can hold the
//! container up, and it works after a restart of the agent too. It ends with the run.
//!
//! What a client sends to a container without `stdin` goes nowhere. An input with `stdinOnce` is the first client's, and ends
//! with it.
//!
//! Upstream: `pkg/kubelet/kubelet_pods.go` (`GetAttach`), v1.36.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::stream::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::logs::{LogOptions, LogSource, LogStream};
use super::{ContainerRef, Process, Service, ServiceError, Streams, not_found};
use crate::error::chain;

impl Service {
    /// Joins the streams of a container's main process.
    pub async fn attach(&self, container: &ContainerRef, streams: Streams) -> Result<Process, ServiceError> {
        let run = self.latest(container)?;
        let runtime = self.shared.runtime.clone();
        let id = run.id.clone();
        let mut exit = async move { runtime.wait(&id).await }.boxed();
        if (&mut exit).now_or_never().is_some() {
            return Err(not_found(&container.container));
        }
        let output = |wanted: bool, stream: LogSource| {
            let options = LogOptions { follow: true, tail_lines: Some(0), stream, ..LogOptions::default() };
            let log = wanted.then(|| self.log_of(&run, &container.container, &options)).transpose();
            log.map(|log| log.map(|log| -> Box<dyn AsyncRead + Send + Unpin> { Box::new(Output::new(log)) }))
                .map_err(|error| ServiceError::Internal(format!("failed to read the container's log: {error}")))
        };
        let stdout = output(streams.stdout, LogSource::Stdout)?;
        let stderr = output(streams.stderr && !streams.tty, LogSource::Stderr)?;
        let exit =
            async move { exit.await.map(|exit| exit.code).map_err(|error| ServiceError::Internal(chain(&error))) };
        let joined = if streams.stdin || streams.tty { self.shared.runtime.join(&run.id).await } else { Ok(None) };
        let (input, terminal) = match joined.map_err(|error| ServiceError::Internal(chain(&error)))? {
            Some(joined) => (Some(joined.stdin), joined.terminal),
            None => (None, None),
        };
        let stdin = streams
            .stdin
            .then(|| -> Box<dyn AsyncWrite + Send + Unpin> { input.unwrap_or_else(|| Box::new(tokio::io::sink())) });
        let resize = terminal.map(|terminal| -> Box<dyn FnMut(u16, u16) + Send> {
            // A terminal that is gone needs no size.
            Box::new(move |columns, rows| drop(terminal.resize(columns, rows)))
        });
        Ok(Process { stdin, stdout, stderr, resize, exit: exit.boxed() })
    }
}

/// A log as something to read from.
struct Output {
    log: LogStream,
    piece: Bytes,
}

impl Output {
    fn new(log: LogStream) -> Output {
        Output { log, piece: Bytes::new() }
    }
}

impl AsyncRead for Output {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.piece.is_empty() {
            match ready!(self.log.poll_next_unpin(cx)) {
                Some(piece) => self.piece = piece?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let size = self.piece.len().min(buf.remaining());
        buf.put_slice(&self.piece[..size]);
        self.piece.advance(size);
        Poll::Ready(Ok(()))
    }
}
