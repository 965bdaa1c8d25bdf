//! A connection that is closed while its client still sends.
//!
//! A socket that is closed with unread bytes tells the other end to forget what it was sent: a client whose body is refused
//! would see a broken connection instead of the answer. So what it still sends is read and thrown away, for a moment.
//!
//! Invariant: nothing is read for longer than [`TIME`] after the last answer, and nothing at all if every body was read.
//! Upstream: `net/http/server.go` (`closeWriteAndWait`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long what a client still sends is read.
const TIME: Duration = Duration::from_secs(1);
/// How much is read at once.
const PIECE: usize = 16 << 10;

/// Whether a request's body was left unread.
#[derive(Clone, Debug, Default)]
pub struct Unread(Arc<AtomicBool>);

impl Unread {
    /// One was.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream that is closed so that its client can read what it was sent.
pub struct Linger<S> {
    stream: S,
    unread: Unread,
    /// Set when our side is closed.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Linger<S> {
    /// Around `stream`, if something is noted in `unread`.
    pub fn new(stream: S, unread: Unread) -> Linger<S> {
        Linger { stream, unread, until: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Linger<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Linger<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.until.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
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
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer));
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
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
