//! A connection that is closed while its client still sends.
//!
//! A socket that is closed with unread bytes tells the other end to forget what it was sent: a client whose body is refused
//! would see a broken connection instead of the answer. So what it still sends is read and thrown away, for a moment.
//!
//! A connection is dropped unasked when a head was refused; what is left of it lingers in a task then.
//!
//! Invariant: nothing is read for longer than [`TIME`] after the last answer, and nothing at all if every body was read.
//! Upstream: `net/http/server.go` (`closeWriteAndWait`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::{Sleep, timeout};

/// How long what a client still sends is read.
const TIME: Duration = Duration::from_secs(5);
/// How much is read at once.
const PIECE: usize = 16 << 10;

/// Whether a part of a request was left unread.
#[derive(Clone, Debug, Default)]
pub struct Unread(Arc<AtomicBool>);

impl Unread {
    /// One was.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream that is closed so that its client can read what it was sent.
pub struct Linger<S: Stream> {
    /// Taken by who closes it last.
    stream: Option<S>,
    unread: Unread,
    /// Set when our side is closed.
    until: Option<Pin<Box<Sleep>>>,
}

/// A connection to a client.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

impl<S: Stream> Linger<S> {
    /// Around `stream`, if something is noted in `unread`.
    pub fn new(stream: S, unread: Unread) -> Linger<S> {
        Linger { stream: Some(stream), unread, until: None }
    }

    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(self.stream.as_mut().expect("it is taken when this is dropped"))
    }
}

impl<S: Stream> Drop for Linger<S> {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else { return };
        if self.until.is_some() || !self.unread.0.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(timeout(TIME, async move {
            let mut piece = [0; PIECE];
            // Whatever fails here, the client is gone, or our side was closed before.
            let _ = stream.shutdown().await;
            while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
        }));
    }
}

impl<S: Stream> AsyncRead for Linger<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl<S: Stream> AsyncWrite for Linger<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.until.is_none() {
            ready!(self.stream().poll_shutdown(context))?;
            if !self.unread.0.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.until = Some(Box::pin(tokio::time::sleep(TIME)));
        }
        let mut piece = [0; PIECE];
        loop {
            if self.until.as_mut().is_some_and(|until| until.as_mut().poll(context).is_ready()) {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut piece);
            let read = ready!(self.stream().poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}
