//! `pods/exec` and `pods/attach`: a process whose streams are a client's.
//!
//! Upstream: `kubelet/pkg/cri/streaming/remotecommand/{exec,attach,httpstream,websocket}.go`, v1.36.
//!
//! Invariant: the client learns how it ended after everything that the process has written, and from then on nothing.
//! A client that leaves drops the process (see [`Process`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::channels::{Incoming, Outgoing, QUEUE, receive_all};
use super::node::{ContainerRef, Exit, Node, NodeError, Process, Streams, TerminalSize};
use super::spdy::{self, Session, Stream};
use super::upgrade::{Wanted, wanted};
use super::websocket::{self, Framing};
use super::{Subject, Subresource};
use crate::Api;
use crate::params::Params;
use crate::path::Place;
use crate::status::{Error, Result, encode};

/// What is to be done in which container.
pub(super) struct Command {
    node: Arc<dyn Node>,
    container: ContainerRef,
    action: Action,
    pub(super) streams: Streams,
}

enum Action {
    Exec(Vec<String>),
    Attach,
}

/// How the client is told the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// A `Status` in JSON, also after success.
    Status,
    /// The text of a failure.
    Text,
}

/// The streams of one client.
pub(super) struct Wires {
    pub(super) stdin: Option<Incoming>,
    pub(super) resize: Option<Incoming>,
    pub(super) stdout: Option<Outgoing>,
    pub(super) stderr: Option<Outgoing>,
    pub(super) error: Outgoing,
    pub(super) ending: Ending,
}

/// The WebSocket subprotocols, with what they differ in.
const WEBSOCKET: &[(&str, (Framing, Ending))] = &[
    ("v5.channel.k8s.io", (Framing::BinaryWithClose, Ending::Status)),
    ("v4.channel.k8s.io", (Framing::Binary, Ending::Status)),
    ("v4.base64.channel.k8s.io", (Framing::Base64, Ending::Status)),
    ("channel.k8s.io", (Framing::Binary, Ending::Text)),
    ("base64.channel.k8s.io", (Framing::Base64, Ending::Text)),
    ("", (Framing::Binary, Ending::Text)),
];

/// The SPDY protocols, and whether a client with a terminal opens a stream for its sizes.
const SPDY: &[(&str, (Ending, bool))] = &[
    ("v4.channel.k8s.io", (Ending::Status, true)),
    ("v3.channel.k8s.io", (Ending::Text, true)),
    ("v2.channel.k8s.io", (Ending::Text, false)),
    ("channel.k8s.io", (Ending::Text, false)),
];
/// How long a client may take to open all its streams.
const ARRIVAL: Duration = Duration::from_secs(30);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

pub(super) fn answer(
    api: &Api,
    place: &Place,
    name: &str,
    subresource: Subresource,
    params: &Params,
    parts: &mut Parts,
) -> Result<Response> {
    let command = command(api, place, name, subresource, params)?;
    match wanted(&parts.headers)? {
        Wanted::WebSocket => websocket::accept(parts, WEBSOCKET, |socket, (framing, ending)| async move {
            let (commands, queue) = mpsc::channel(QUEUE);
            let mut inboxes = HashMap::new();
            let mut inbox = |wanted: bool, channel| {
                wanted.then(|| {
                    let (sender, incoming) = mpsc::channel(QUEUE);
                    inboxes.insert(channel, sender);
                    incoming
                })
            };
            let Streams { stdin, stdout, stderr, tty } = command.streams;
            let outgoing = |channel: u8| Outgoing::new(channel.into(), commands.clone());
            let wires = Wires {
                stdin: inbox(stdin, STDIN),
                resize: inbox(tty, RESIZE),
                stdout: stdout.then(|| outgoing(STDOUT)),
                stderr: stderr.then(|| outgoing(STDERR)),
                error: outgoing(ERROR),
                ending,
            };
            drop(commands);
            // An empty piece tells older clients that they may begin. Clients of version 5 need none, and kubectl 1.31
            // complains of what comes before it has made its streams.
            let first = (framing != Framing::BinaryWithClose)
                .then(|| wires.stdout.as_ref().or(wires.stderr.as_ref()).unwrap_or(&wires.error).clone());
            let running = async move {
                if let Some(first) = first {
                    // If the client has gone, `run` sees it.
                    let _ = first.send(Bytes::new()).await;
                }
                command.run(wires).await;
            };
            tokio::join!(websocket::drive(socket, framing, inboxes, queue), running);
        }),
        Wanted::Spdy => spdy::accept(parts, SPDY, |socket, (ending, resizes)| async move {
            let (session, driving) = spdy::session(socket);
            let running = async move {
                if let Some(wires) = wires(session, command.streams, ending, resizes).await {
                    command.run(wires).await;
                }
            };
            tokio::join!(driving, running);
        }),
    }
}

/// Gathers the streams that a client opens over SPDY. None: it does not open those that it asked for.
async fn wires(mut session: Session, streams: Streams, ending: Ending, resizes: bool) -> Option<Wires> {
    let Streams { stdin, stdout, stderr, tty } = streams;
    let mut missing: Vec<&str> = [("error", true), ("stdin", stdin), ("stdout", stdout), ("stderr", stderr)]
        .into_iter()
        .filter_map(|(name, wanted)| wanted.then_some(name))
        .collect();
    if tty && resizes {
        missing.push("resize");
    }
    let mut arrived: HashMap<String, Stream> = HashMap::new();
    let arriving = async {
        while !missing.is_empty() {
            let stream = session.next().await?;
            let kind = stream.headers.get("streamtype").unwrap_or_default().to_owned();
            let Some(at) = missing.iter().position(|missing| *missing == kind) else {
                tracing::debug!(kind, "a client opened a stream that it did not ask for, or twice");
                stream.outgoing.reset().await;
                continue;
            };
            missing.swap_remove(at);
            arrived.insert(kind, stream);
        }
        Some(())
    };
    if tokio::time::timeout(ARRIVAL, arriving).await.is_err() {
        tracing::debug!(?missing, "a client did not open its streams in time");
        return None;
    }
    let mut incoming = |name| arrived.remove(name).map(|stream| stream.incoming);
    let (stdin, resize) = (incoming("stdin"), incoming("resize"));
    let mut outgoing = |name| arrived.remove(name).map(|stream| stream.outgoing);
    let (stdout, stderr) = (outgoing("stdout"), outgoing("stderr"));
    Some(Wires { stdin, resize, stdout, stderr, error: outgoing("error")?, ending })
}

/// What the request asks for, if it can be had.
fn command(api: &Api, place: &Place, name: &str, subresource: Subresource, params: &Params) -> Result<Command> {
    let subject = Subject::find(api, place, name)?;
    let container = subject.container(params.get("container"))?;
    subject.must_be_bound()?;
    let tty = params.flag("tty");
    let streams = Streams {
        stdin: params.flag("stdin"),
        stdout: params.flag("stdout"),
        // A terminal has one output.
        stderr: params.flag("stderr") && !tty,
        tty,
    };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(Error::BadRequest("you must specify at least 1 of stdin, stdout, stderr".into()));
    }
    let action = match subresource {
        Subresource::Exec => Action::Exec(params.all("command").map(str::to_owned).collect()),
        _ => Action::Attach,
    };
    Ok(Command { node: subject.node(api)?.clone(), container, action, streams })
}

impl Command {
    /// Runs it between the client's streams to its end, or until the client has gone.
    pub(super) async fn run(self, mut wires: Wires) {
        let client = wires.error.clone();
        let told = tokio::select! {
            () = client.gone() => return,
            told = self.outcome(&mut wires) => told,
        };
        for output in wires.stdout.iter().chain(&wires.stderr) {
            output.close().await;
        }
        let text = match wires.ending {
            Ending::Status => Some(encode(&told)),
            Ending::Text => told.message.map(String::into_bytes),
        };
        if let Some(text) = text {
            // If this fails, there is nobody to tell.
            let _ = wires.error.send(text.into()).await;
        }
        wires.error.close().await;
    }

    async fn outcome(self, wires: &mut Wires) -> Status {
        let (started, attempt) = match self.action {
            Action::Exec(command) => {
                (self.node.exec(self.container, command, self.streams).await, "executing command in")
            }
            Action::Attach => (self.node.attach(self.container, self.streams).await, "attaching to"),
        };
        let process = match started {
            Ok(process) => process,
            Err(NodeError::Internal(why)) => {
                return Error::Node(NodeError::Internal(format!("error {attempt} container: {why}"))).status();
            }
            Err(other) => return Error::Node(other).status(),
        };
        match carry(process, wires).await {
            Ok(exit) => told(&exit),
            Err(error) => Error::Node(error).status(),
        }
    }
}

/// Carries bytes in all directions until the process has ended and all that it has written is sent.
async fn carry(process: Process, wires: &mut Wires) -> std::result::Result<Exit, NodeError> {
    let Process { stdin, stdout, stderr, resize, exit } = process;
    let output = async |reader: Option<_>, outgoing: &Option<Outgoing>| {
        if let (Some(mut reader), Some(outgoing)) = (reader, outgoing) {
            // That the client has gone is seen by `run`.
            let _ = outgoing.send_all(&mut reader).await;
        }
    };
    let input = async {
        if let (Some(writer), Some(incoming)) = (stdin, &mut wires.stdin) {
            receive_all(incoming, writer).await;
        }
    };
    let sizes = async {
        if let (Some(mut resize), Some(incoming)) = (resize, &mut wires.resize) {
            let mut text = BytesMut::new();
            while let Some(piece) = incoming.recv().await {
                text.extend_from_slice(&piece);
                sizes_in(&mut text).into_iter().for_each(&mut resize);
            }
        }
        // Either may end long before the process does.
        std::future::pending::<()>().await;
    };
    let ended = async {
        let (exit, (), ()) = tokio::join!(exit, output(stdout, &wires.stdout), output(stderr, &wires.stderr));
        exit
    };
    tokio::select! {
        exit = ended => exit,
        ((), ()) = async { tokio::join!(input, sizes) } => unreachable!("sizes never end"),
    }
}

/// Takes the whole sizes off the front of a stream of them. What can't be one is dropped.
fn sizes_in(text: &mut BytesMut) -> Vec<TerminalSize> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    /// More than any size is long.
    const LONGEST: usize = 4096;
    let mut stream = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let mut sizes = Vec::new();
    let broken = loop {
        match stream.next() {
            Some(Ok(Size { width, height })) => sizes.push(TerminalSize { width, height }),
            Some(Err(error)) => break !error.is_eof(),
            None => break false,
        }
    };
    let used = if broken { text.len() } else { stream.byte_offset() };
    let _ = text.split_to(used);
    if text.len() > LONGEST {
        text.clear();
    }
    sizes
}

fn told(exit: &Exit) -> Status {
    match exit {
        Exit::Success => Status { status: Some("Success".into()), ..Status::default() },
        Exit::Code(code) => Status {
            status: Some("Failure".into()),
            message: Some(format!("command terminated with non-zero exit code: exit status {code}")),
            reason: Some("NonZeroExitCode".into()),
            details: Some(StatusDetails {
                causes: Some(vec![StatusCause {
                    reason: Some("ExitCode".into()),
                    message: Some(code.to_string()),
                    field: None,
                }]),
                ..StatusDetails::default()
            }),
            ..Status::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sizes_are_read_from_pieces_of_json() {
        let mut text = BytesMut::new();
        let size = |width, height| TerminalSize { width, height };
        let rows: [(&[u8], Vec<TerminalSize>, usize); 6] = [
            (br#"{"Width":80,"Height":24}"#, vec![size(80, 24)], 0),
            (br#"{"Width":1,"Height":2}{"Width":3,"Height":4}"#, vec![size(1, 2), size(3, 4)], 0),
            (br#"{"Width":5,"#, vec![], 11),
            (br#""Height":6}"#, vec![size(5, 6)], 0),
            (b"nonsense", vec![], 0),
            (&[b' '; 5000], vec![], 0),
        ];
        for (piece, sizes, left) in rows {
            text.extend_from_slice(piece);
            assert_eq!(sizes_in(&mut text), sizes);
            assert_eq!(text.len(), left);
        }
    }

    #[test]
    fn an_exit_code_is_a_cause_of_the_status() {
        let status = serde_json::to_value(told(&Exit::Code(3))).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"], serde_json::json!([{"reason": "ExitCode", "message": "3"}]));
        assert_eq!(serde_json::to_value(told(&Exit::Success)).unwrap()["status"], "Success");
    }
}
