//! Taking an HTTP/1.1 connection over: who may, and how.
//!
//! Invariant: the answer `101` goes out before the first byte of the new protocol, since the connection is handed over
//! only after it; a client that hangs up in between costs a debug line.
//! Left out: HTTP/2, where clients do not ask for it: they are told that an upgrade is required.

use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use crate::status::{Error, Result};

/// A connection that no longer speaks HTTP.
pub(super) type Socket = TokioIo<Upgraded>;

/// What a client wants to speak from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    WebSocket,
    Spdy,
}

/// What the request asks to change to.
///
/// Upstream: `apimachinery/pkg/util/httpstream/httpstream.go` (`IsUpgradeRequest`), `wsstream/conn.go`
/// (`IsWebSocketRequest`), v1.36.
pub(super) fn wanted(headers: &HeaderMap) -> Result<Wanted> {
    let has = |name: HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let upgrade = has(header::CONNECTION, "upgrade");
    if upgrade && has(header::UPGRADE, "websocket") {
        Ok(Wanted::WebSocket)
    } else if upgrade && has(header::UPGRADE, "SPDY/3.1") {
        Ok(Wanted::Spdy)
    } else {
        Err(Error::BadRequest("Upgrade request required".into()))
    }
}

/// Answers `101` with `headers`, and then lets `serve` have the connection.
pub(super) fn upgrade<F>(
    parts: &mut Parts,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    serve: impl FnOnce(Socket) -> F + Send + 'static,
) -> Result<Response>
where
    F: Future<Output = ()> + Send,
{
    // What calls the router within the process has no connection to give.
    let connection = parts.extensions.remove::<OnUpgrade>().ok_or_else(|| {
        Error::BadRequest("cannot upgrade: this connection can't change its protocol, use HTTP/1.1".into())
    })?;
    let path = parts.uri.path().to_owned();
    tokio::spawn(async move {
        match connection.await {
            Ok(upgraded) => serve(TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%path, %error, "the client left before its connection was upgraded"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    for (name, value) in headers {
        out.append(name, value);
    }
    Ok(response)
}

/// The first of the protocols that a client offers which is served.
pub(super) fn choose<'a, T>(offered: &[&str], served: &'a [(&'static str, T)]) -> Option<&'a (&'static str, T)> {
    offered.iter().find_map(|offer| served.iter().find(|(name, _)| name == offer))
}

/// The values of a header that is a list, in order.
pub(super) fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .collect()
}
