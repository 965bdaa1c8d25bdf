//! HTTP/1.1 and HTTP/2 on one connection, with limits, until the daemon stops.
//!
//! Invariant: what a client may keep the daemon waiting for is bounded: heads, bodies and idle connections in time; heads
//! and what waits to be sent in bytes; requests at once on a connection in number.
//! When the daemon stops, a stream without an end of its own (a watch, a log) ends behind a whole line, and everything
//! else is answered to its end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode, Uri, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::metrics::counter::Counter;
use stint_server::Peer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Sleep;
use tower::ServiceExt;

use super::linger::{Linger, Unread};
use super::metrics::{Begun, Metrics};
use super::room::{Busy, Guest, IDLE};

/// How many bytes a request's head may have.
const HEAD_BYTES: u32 = 256 << 10;
/// How many fields the head of an HTTP/1.1 request may have.
const FIELDS: usize = 100;
/// How long a client may take for a request's body.
const BODY: Duration = Duration::from_mins(1);
/// How many requests one HTTP/2 connection may have at once (upstream's default).
const STREAMS: u32 = 250;
/// How often a quiet HTTP/2 connection is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);
/// How much of a stalled HTTP/2 stream's answer waits for it.
const STREAM_BUFFER: usize = 256 << 10;
/// How many HTTP/2 streams may be reset before they were looked at (CVE-2023-44487), and how many because of the client's
/// mistakes, before the connection ends.
const RESETS: (usize, usize) = (20, 1024);
/// How long a connection that has to go is given to do so.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves connections, and ends them together.
pub struct Http {
    router: Router,
    metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
}

/// What serves one connection.
pub struct Connection {
    router: Router,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
}

impl Http {
    /// Serves `router`.
    pub fn new(router: Router, metrics: Arc<Metrics>) -> Http {
        Http { router, metrics, stop: watch::channel(false).0 }
    }

    /// What serves the next connection.
    pub fn connection(&self) -> Connection {
        let (router, metrics) = (self.router.clone(), Arc::clone(&self.metrics));
        Connection { router, metrics, stop: self.stop.subscribe() }
    }

    /// Ends streams, and waits until what was asked is answered, at most for `grace`. Returns whether all was.
    pub async fn stop(self, grace: Duration) -> bool {
        self.stop.send_replace(true);
        drop((self.router, self.metrics));
        // Each connection and each stream listens, as long as it is there.
        tokio::time::timeout(grace, self.stop.closed()).await.is_ok()
    }
}

impl Connection {
    /// Serves it to its end.
    pub async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        guest: Arc<Guest>,
    ) {
        let Connection { router, metrics, mut stop } = self;
        let (stops, inside, unread) = (stop.clone(), Arc::clone(&guest), Unread::default());
        let (stream, refused) = (Linger::new(stream, unread.clone()), unread.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (router, stop, peer) = (router.clone(), stops.clone(), peer.clone());
            let (begun, busy, unread) = (metrics.begins(&request), inside.begin(), unread.clone());
            async move {
                let line = Line::of(&request);
                let mut request = request.map(|body| Body::new(Timed { body, alarm: None, ended: false, unread }));
                request.extensions_mut().insert(peer);
                let response = router.oneshot(request).await?;
                let took = begun.answered(response.status());
                line.log(response.status(), took);
                Ok::<_, Infallible>(response.map(|body| Ending::of(body, stop, begun, busy)))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(HEAD_BYTES as usize)
            .max_headers(FIELDS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES)
            .max_pending_accept_reset_streams(RESETS.0)
            .max_local_error_reset_streams(RESETS.1)
            .max_send_buf_size(STREAM_BUFFER)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async { drop(stop.wait_for(|stop| *stop).await) } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = guest.has_to_leave() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(FAREWELL, connection.as_mut()).await {
                    Ok(ended) => ended,
                    Err(_) if guest.is_idle() => return,
                    // A request came while we said farewell: it is the last one.
                    Err(_) => connection.await,
                }
            }
        };
        if let Err(error) = ended {
            if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
                refused.note(); // there may be more of the head, and of what is behind it
            }
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// A request's line in the access log.
struct Line(Option<(Method, Uri, String)>);

impl Line {
    /// Remembers what the line needs, if there will be one.
    fn of<B>(request: &Request<B>) -> Line {
        Line(tracing::enabled!(tracing::Level::DEBUG).then(|| {
            let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
            (request.method().clone(), request.uri().clone(), agent.unwrap_or_default().to_owned())
        }))
    }

    fn log(self, code: StatusCode, took: Duration) {
        if let Some((method, uri, agent)) = self.0 {
            let ms = took.as_secs_f64() * 1000.0;
            tracing::debug!(%method, path = uri.path(), query = uri.query(), code = code.as_u16(), ms, agent, "request");
        }
    }
}

/// A request's body, as long as it comes in time.
struct Timed {
    body: Incoming,
    /// Set when the client is first waited for.
    alarm: Option<Pin<Box<Sleep>>>,
    ended: bool,
    /// Told if it is left before its end.
    unread: Unread,
}

impl Drop for Timed {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.unread.note();
        }
    }
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.ended |= frame.is_none();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY)));
        ready!(alarm.as_mut().poll(context));
        let late = io::Error::new(io::ErrorKind::TimedOut, format!("it did not come within {} s", BODY.as_secs()));
        Poll::Ready(Some(Err(late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer that ends behind a whole line when the daemon stops.
struct Ending {
    body: Body,
    stop: BoxFuture<'static, ()>,
    /// Counts lines, which are a watch's events.
    events: Option<Counter>,
    /// Counted as open until this goes.
    _begun: Option<Begun>,
    /// The connection is busy until this goes.
    _busy: Busy,
    /// Whether the last byte that was sent ended a line, or none was sent.
    between_lines: bool,
}

impl Ending {
    /// Wraps bodies whose length nobody knows; the others end by themselves.
    fn of(body: Body, mut stop: watch::Receiver<bool>, begun: Begun, busy: Busy) -> Body {
        if body.size_hint().exact().is_some() {
            return body;
        }
        let stop = async move { drop(stop.wait_for(|stop| *stop).await) }.boxed();
        let events = begun.events();
        let begun = begun.stays().then_some(begun);
        Body::new(Ending { body, stop, events, _begun: begun, _busy: busy, between_lines: true })
    }
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                if let Some(Ok(frame)) = &frame
                    && let Some(last) =
                        frame.data_ref().filter(|data| data.has_remaining()).and_then(|data| data.last())
                {
                    self.between_lines = *last == b'\n';
                    if self.between_lines
                        && let Some(events) = &self.events
                    {
                        events.inc();
                    }
                }
                Poll::Ready(frame)
            }
            Poll::Pending if self.between_lines && self.stop.poll_unpin(context).is_ready() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;
