//! `pods/portforward`: connections to the ports of a pod.
//!
//! | how | a connection is |
//! | --- | --- |
//! | `Upgrade: SPDY/3.1`, `portforward.k8s.io` | a stream `error` and a stream `data` with the same `requestID` |
//! | WebSocket `SPDY/3.1+portforward.k8s.io` | the same, the bytes of SPDY in binary messages |
//! | WebSocket `v4.channel.k8s.io` and its kin | a pair of channels for each of the query's `ports`: 2n data, 2n+1 error |
//!
//! Upstream: `kubelet/pkg/cri/streaming/portforward/{httpstream,websocket}.go`, `apiserver/pkg/util/proxy/streamtunnel.go`,
//! v1.36.
//!
//! Invariant: every connection ends for itself, soon after the pod's end of it; all of them end with the client's.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Subject;
use super::channels::{Command, Incoming, Outgoing, QUEUE, receive_all};
use super::node::{Node, PodRef};
use super::spdy::{self, Session, Stream, session};
use super::upgrade::{Wanted, wanted};
use super::websocket::{self, Framing, Tunnel, WebSocket};
use crate::Api;
use crate::params::Params;
use crate::path::Place;
use crate::status::{Error, Result};

/// How long the second stream of a pair may take.
const PAIRING: Duration = Duration::from_secs(30);
/// How long a client's last bytes are still carried once the pod has no more. Upstream: containerd's port forwarding.
const LINGER: Duration = Duration::from_secs(1);
/// So many ports fit into the channel numbers of one byte.
const MOST_PORTS: usize = 127;

/// How a WebSocket carries connections.
#[derive(Clone, Copy)]
enum Carrying {
    Tunnelled,
    Channels(Framing),
}

const WEBSOCKET: &[(&str, Carrying)] = &[
    ("SPDY/3.1+portforward.k8s.io", Carrying::Tunnelled),
    ("v4.channel.k8s.io", Carrying::Channels(Framing::Binary)),
    ("v4.base64.channel.k8s.io", Carrying::Channels(Framing::Base64)),
    ("", Carrying::Channels(Framing::Binary)),
];

const SPDY: &[(&str, ())] = &[("portforward.k8s.io", ())];

/// Which pod's ports.
#[derive(Clone)]
struct Target {
    node: Arc<dyn Node>,
    pod: PodRef,
}

pub(super) fn answer(api: &Api, place: &Place, name: &str, params: &Params, parts: &mut Parts) -> Result<Response> {
    let subject = Subject::find(api, place, name)?;
    subject.must_be_bound()?;
    let target = Target { node: subject.node(api)?.clone(), pod: subject.reference() };
    match wanted(&parts.headers)? {
        Wanted::Spdy => spdy::accept(parts, SPDY, |socket, ()| over_spdy(target, socket)),
        Wanted::WebSocket => {
            // Only the form with channels needs to know them beforehand.
            let ports = ports(params);
            let offers_tunnel = super::upgrade::list(&parts.headers, &http::header::SEC_WEBSOCKET_PROTOCOL)
                .iter()
                .any(|offer| *offer == WEBSOCKET[0].0);
            if !offers_tunnel {
                ports.as_ref().map_err(|why| Error::BadRequest(why.clone()))?;
            }
            websocket::accept(parts, WEBSOCKET, |socket, carrying| async move {
                match carrying {
                    Carrying::Tunnelled => over_spdy(target, Tunnel::new(socket)).await,
                    Carrying::Channels(framing) => {
                        over_channels(target, socket, framing, &ports.unwrap_or_default()).await;
                    }
                }
            })
        }
    }
}

/// The ports in the query: `ports=80,443`, or several times.
fn ports(params: &Params) -> std::result::Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for text in params.all("ports").flat_map(|value| value.split(',')).filter(|text| !text.is_empty()) {
        ports.push(port(text).ok_or_else(|| format!("unable to parse {text:?} as a port: it must be 1 to 65535"))?);
    }
    match ports.len() {
        0 => Err("query parameter \"ports\" is required".into()),
        1..=MOST_PORTS => Ok(ports),
        more => Err(format!("cannot forward {more} ports over one WebSocket: at most {MOST_PORTS}")),
    }
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

async fn over_spdy(target: Target, io: impl AsyncRead + AsyncWrite) {
    let (session, driving) = session(io);
    tokio::join!(driving, serve(target, session));
}

/// Half of a pair, and until when it waits for the other half.
struct Half {
    error: Option<Stream>,
    data: Option<Stream>,
    port: u16,
    until: Instant,
}

async fn serve(target: Target, mut session: Session) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut connections = FuturesUnordered::new();
    loop {
        let soonest = halves.values().map(|half| half.until).min();
        let expired = async {
            match soonest {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = session.next() => {
                let Some(stream) = stream else { return };
                if let Some((port, error, data)) = pair(&mut halves, stream).await {
                    connections.push(over_streams(target.clone(), port, error, data));
                }
            }
            Some(()) = connections.next() => {}
            () = expired => {
                let now = Instant::now();
                let late: Vec<_> = halves.extract_if(|_, half| half.until <= now).collect();
                for (_, half) in late {
                    for stream in half.error.iter().chain(&half.data) {
                        stream.outgoing.reset().await;
                    }
                }
            }
        }
    }
}

/// Puts a new stream to its other half. A stream that says not what it is, is refused.
async fn pair(halves: &mut HashMap<String, Half>, stream: Stream) -> Option<(u16, Stream, Stream)> {
    let headers = &stream.headers;
    let (port, request) = (headers.get("port").and_then(port), headers.get("requestid").map(str::to_owned));
    let is_error = match headers.get("streamtype") {
        Some("error") => Some(true),
        Some("data") => Some(false),
        _ => None,
    };
    let (Some(port), Some(request), Some(is_error)) = (port, request, is_error) else {
        tracing::debug!(?headers, "a stream for a port says no port, requestID or streamType");
        stream.outgoing.reset().await;
        return None;
    };
    let half = halves.entry(request.clone()).or_insert_with(|| Half {
        error: None,
        data: None,
        port,
        until: Instant::now() + PAIRING,
    });
    let place = if is_error { &mut half.error } else { &mut half.data };
    if place.is_some() || half.port != port {
        stream.outgoing.reset().await;
        return None;
    }
    *place = Some(stream);
    if half.error.is_none() || half.data.is_none() {
        return None;
    }
    let half = halves.remove(&request)?;
    Some((half.port, half.error?, half.data?))
}

async fn over_streams(target: Target, port: u16, error: Stream, data: Stream) {
    let Stream { incoming, outgoing, mut reset, .. } = data;
    let told = async {
        // Dropped without a word, it means that both sides are through.
        if (&mut reset).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = connect(&target, port, incoming, &outgoing, &error.outgoing) => {}
        () = told => {}
        () = outgoing.gone() => return,
    }
    outgoing.close().await;
    error.outgoing.close().await;
}

/// Connects, and carries bytes both ways until the pod has no more; a client may end first and still get its answer. What
/// goes wrong is written to `error`.
async fn connect(target: &Target, port: u16, mut incoming: Incoming, outgoing: &Outgoing, error: &Outgoing) {
    let Target { node, pod } = target;
    match node.forward(pod.clone(), port).await {
        Ok(connection) => {
            let (mut reader, writer) = tokio::io::split(connection);
            let down = async {
                // That the client has gone is seen by the caller.
                let _ = outgoing.send_all(&mut reader).await;
                outgoing.close().await;
            };
            let (mut up, mut down) = (pin!(receive_all(&mut incoming, writer)), pin!(down));
            tokio::select! {
                () = &mut down => {
                    // kubectl up to 1.31 ends its side only when it has been told that this connection is through.
                    let _ = tokio::time::timeout(LINGER, &mut up).await;
                }
                () = &mut up => down.await,
            }
        }
        Err(why) => {
            let PodRef { name, uid, .. } = pod;
            let text = format!("error forwarding port {port} to pod {name}, uid {uid}: {why}");
            let _ = error.send(text.into()).await;
        }
    }
}

async fn over_channels(target: Target, socket: WebSocket, framing: Framing, ports: &[u16]) {
    let (commands, queue) = mpsc::channel::<Command>(QUEUE);
    let mut inboxes = HashMap::new();
    let mut connections = Vec::new();
    for (port, data) in ports.iter().zip((0_u8..).step_by(2)) {
        let (inbox, incoming) = mpsc::channel(QUEUE);
        inboxes.insert(data, inbox);
        let outgoing = |channel: u8| Outgoing::new(channel.into(), commands.clone());
        connections.push((*port, incoming, outgoing(data), outgoing(data + 1)));
    }
    drop(commands);
    let running = futures::future::join_all(connections.into_iter().map(|(port, incoming, data, error)| {
        let target = &target;
        async move {
            // Each channel begins with the number of its port.
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            if data.send(number.clone()).await.is_ok() && error.send(number).await.is_ok() {
                tokio::select! {
                    () = connect(target, port, incoming, &data, &error) => {}
                    () = data.gone() => {}
                }
            }
        }
    }));
    tokio::join!(websocket::drive(socket, framing, inboxes, queue), running);
}
