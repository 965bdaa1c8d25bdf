//! SPDY/3.1, which kubectl before 1.30 speaks to run commands, and every kubectl to reach ports.
//!
//! ```text
//!   socket ⇄ session.rs ⇄ connection.rs (frames, streams) ⇄ headers.rs (zlib) ⇄ dictionary.rs
//! ```
//!
//! Here: the handshake, and what a stream is to those who use it.
//!
//! Upstream: `apimachinery/pkg/util/httpstream/spdy/upgrade.go`, `httpstream.go` (`Handshake`), v1.36.

mod connection;
mod dictionary;
mod headers;
mod session;

use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderName, HeaderValue, header};
use tokio::sync::oneshot;

pub(super) use headers::Headers;
pub(super) use session::{Session, session};

use super::channels::{Incoming, Outgoing};
use super::upgrade::{Socket, choose, list, upgrade};
use crate::status::{Error, Result};

const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// A stream that the client has opened.
pub(super) struct Stream {
    /// What the client says that it is.
    pub(super) headers: Headers,
    /// What comes from the client.
    pub(super) incoming: Incoming,
    /// What goes to it.
    pub(super) outgoing: Outgoing,
    /// Told when the client wants no more of it; dropped without a word when both sides are through.
    pub(super) reset: oneshot::Receiver<()>,
}

/// Answers the handshake with the first offered protocol that is among `served`, and lets `serve` have the connection.
pub(super) fn accept<T, F>(
    parts: &mut Parts,
    served: &[(&'static str, T)],
    serve: impl FnOnce(Socket, T) -> F + Send + 'static,
) -> Result<Response>
where
    T: Copy + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let offered = list(&parts.headers, &PROTOCOL);
    if offered.is_empty() {
        return Err(Error::BadRequest("unable to upgrade: X-Stream-Protocol-Version is required".into()));
    }
    let Some((protocol, kind)) = choose(&offered, served) else {
        let mut response = Error::protocols(&offered, served.iter().map(|(name, _)| *name)).into_response();
        for (name, _) in served {
            response.headers_mut().append(ACCEPTED, HeaderValue::from_static(name));
        }
        return Ok(response);
    };
    let answer =
        [(header::UPGRADE, HeaderValue::from_static("SPDY/3.1")), (PROTOCOL, HeaderValue::from_static(protocol))];
    let kind = *kind;
    upgrade(parts, answer, move |socket| serve(socket, kind))
}
