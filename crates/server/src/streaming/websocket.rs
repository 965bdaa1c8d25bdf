//! WebSockets that carry several streams: the first byte of a message says of which.
//!
//! | subprotocol | a message is | half-close |
//! | --- | --- | --- |
//! | `v5.channel.k8s.io` | channel number, bytes | 255, channel number |
//! | `v4.channel.k8s.io`, `channel.k8s.io`, none | channel number, bytes | |
//! | `v4.base64.channel.k8s.io`, `base64.channel.k8s.io` | channel digit, base64, as text | |
//!
//! Upstream: `apimachinery/pkg/util/httpstream/wsstream/conn.go`, `apiserver/pkg/util/proxy/websocket.go`, v1.36.
//!
//! Invariant: a message to a channel that is full stops the reading of further ones; nothing else is read ahead.
//! A message is at most [`LARGEST`] bytes long.
//! Left out: pinging the client; those who care ping us.

use std::collections::HashMap;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use http::request::Parts;
use http::{HeaderValue, Method, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::channels::Command;
use super::upgrade::{Socket, choose, list, upgrade};
use crate::status::{Error, Result};

/// The largest message that is taken, which is upstream's.
const LARGEST: usize = 32 << 20;
/// How long a client may take to answer the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// Channel "number" of a half-close.
const CLOSE: u8 = 255;

/// How channels are told apart on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// A byte and bytes.
    Binary,
    /// The same, and a client can close its side of a channel.
    BinaryWithClose,
    /// A digit and base64.
    Base64,
}

/// A WebSocket on a connection that was one of HTTP.
pub(super) type WebSocket = WebSocketStream<Socket>;

/// Answers the handshake with the first offered subprotocol that is among `served`, and lets `serve` have the socket.
/// A served empty name stands for clients that offer none.
pub(super) fn accept<T, F>(
    parts: &mut Parts,
    served: &[(&'static str, T)],
    serve: impl FnOnce(WebSocket, T) -> F + Send + 'static,
) -> Result<Response>
where
    T: Copy + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let headers = &parts.headers;
    if parts.method != Method::GET {
        return Err(Error::MethodNotAllowed);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Error::BadRequest("unable to upgrade: Sec-WebSocket-Version must be 13".into()));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Error::BadRequest("unable to upgrade: Sec-WebSocket-Key is required".into()))?;
    let accepted = derive_accept_key(key.as_bytes());
    let mut offered = list(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    if offered.is_empty() {
        offered.push("");
    }
    let Some((protocol, kind)) = choose(&offered, served) else {
        return Err(Error::protocols(&offered, served.iter().map(|(name, _)| *name)));
    };
    let mut answer = vec![
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accepted).expect("base64 is visible ASCII")),
    ];
    if !protocol.is_empty() {
        answer.push((header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol)));
    }
    let kind = *kind;
    upgrade(parts, answer, move |socket| async move {
        let config = WebSocketConfig::default().max_message_size(Some(LARGEST)).max_frame_size(Some(LARGEST));
        serve(WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await, kind).await;
    })
}

/// Carries messages between the socket and the channels: `inboxes` by channel, and `commands` from all of them. Ends
/// when nobody is left to send, or with the connection.
pub(super) async fn drive(
    socket: WebSocket,
    framing: Framing,
    mut inboxes: HashMap<u8, mpsc::Sender<Bytes>>,
    mut commands: mpsc::Receiver<Command>,
) {
    let (mut sink, mut stream) = socket.split();
    let reading = async {
        while let Some(Ok(message)) = stream.next().await {
            let (Message::Binary(_) | Message::Text(_)) = message else {
                if message.is_close() {
                    break;
                }
                continue; // pings are answered below us
            };
            match unframe(framing, message.into_data()) {
                // A channel that nobody reads, or that is closed: the bytes go nowhere.
                Some(Piece::Data(channel, bytes)) => {
                    if let Some(inbox) = inboxes.get(&channel) {
                        let _ = inbox.send(bytes).await;
                    }
                }
                Some(Piece::Close(channel)) => {
                    inboxes.remove(&channel);
                }
                None => {}
            }
        }
    };
    let writing = async {
        while let Some(command) = commands.recv().await {
            if let Command::Data(channel, bytes) = command {
                let channel = u8::try_from(channel).expect("channels are numbered by us, from 0");
                sink.send(frame(framing, channel, &bytes)).await?;
            }
        }
        // Clients take a close without a code for a broken connection.
        sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
    };
    let mut reading = pin!(reading);
    tokio::select! {
        () = &mut reading => {}
        Ok(()) = writing => {
            // The client answers our closing with its own.
            let _ = tokio::time::timeout(FAREWELL, reading).await;
        }
        else => {}
    }
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Data(u8, Bytes),
    Close(u8),
}

fn unframe(framing: Framing, mut message: Bytes) -> Option<Piece> {
    let channel = message.first().copied()?;
    message.advance(1);
    match framing {
        Framing::BinaryWithClose if channel == CLOSE => Some(Piece::Close(message.first().copied()?)),
        Framing::Binary | Framing::BinaryWithClose => Some(Piece::Data(channel, message)),
        Framing::Base64 => Some(Piece::Data(channel.checked_sub(b'0')?, STANDARD.decode(message).ok()?.into())),
    }
}

fn frame(framing: Framing, channel: u8, bytes: &[u8]) -> Message {
    match framing {
        Framing::Binary | Framing::BinaryWithClose => {
            let mut message = BytesMut::with_capacity(1 + bytes.len());
            message.extend_from_slice(&[channel]);
            message.extend_from_slice(bytes);
            Message::Binary(message.freeze())
        }
        Framing::Base64 => {
            let mut message = String::from(char::from(b'0' + channel));
            STANDARD.encode_string(bytes, &mut message);
            Message::Text(message.into())
        }
    }
}

/// A WebSocket as a stream of bytes: the contents of its messages, whatever their borders.
pub(super) struct Tunnel {
    socket: WebSocket,
    rest: Bytes,
}

impl Tunnel {
    pub(super) fn new(socket: WebSocket) -> Self {
        Self { socket, rest: Bytes::new() }
    }
}

fn broken(error: tokio_tungstenite::tungstenite::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, error)
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let size = self.rest.len().min(out.remaining());
        out.put_slice(&self.rest.split_to(size));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(context)).map_err(broken)?;
        socket.start_send(Message::Binary(Bytes::copy_from_slice(bytes))).map_err(broken)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_channel_in_its_first_byte() {
        let rows: [(Framing, &[u8], Option<Piece>); 9] = [
            (Framing::Binary, b"\0abc", Some(Piece::Data(0, Bytes::from_static(b"abc")))),
            (Framing::Binary, b"\xff\0", Some(Piece::Data(255, Bytes::from_static(b"\0")))),
            (Framing::Binary, b"\x04", Some(Piece::Data(4, Bytes::new()))),
            (Framing::Binary, b"", None),
            (Framing::BinaryWithClose, b"\xff\0", Some(Piece::Close(0))),
            (Framing::BinaryWithClose, b"\xff", None),
            (Framing::Base64, b"0YWJj", Some(Piece::Data(0, Bytes::from_static(b"abc")))),
            (Framing::Base64, b"0***", None),
            (Framing::Base64, b"\0YWJj", None),
        ];
        for (framing, message, piece) in rows {
            assert_eq!(unframe(framing, Bytes::from_static(message)), piece, "{framing:?} {message:?}");
        }
    }

    #[test]
    fn what_is_framed_is_unframed_the_same() {
        for framing in [Framing::Binary, Framing::BinaryWithClose, Framing::Base64] {
            let message = frame(framing, 3, b"\x00\xffx");
            assert_eq!(message.is_text(), framing == Framing::Base64);
            let piece = unframe(framing, message.into_data());
            assert_eq!(piece, Some(Piece::Data(3, Bytes::from_static(b"\x00\xffx"))), "{framing:?}");
        }
    }
}
