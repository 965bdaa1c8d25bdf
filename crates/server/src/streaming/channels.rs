//! The several streams that share one connection, whichever protocol carries them.
//!
//! ```text
//!   socket ⇄ driver (websocket.rs, spdy/session.rs) ──▶ Incoming, one per stream
//!                                                  ◀── Outgoing, one per stream, all into one queue
//! ```
//!
//! Invariant: both directions hold a fixed number of pieces; whoever fills one waits. When the driver ends, every
//! [`Incoming`] ends and every [`Outgoing`] fails, so that nobody waits for a client that has gone.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// How many pieces may wait in each direction.
pub(super) const QUEUE: usize = 8;
/// How much is read of a process or a port at once.
const PIECE: usize = 32 * 1024;

/// What the client sends into a stream. It ends when the client closes its side.
pub(super) type Incoming = mpsc::Receiver<Bytes>;

/// What a driver is to send.
#[derive(Debug)]
pub(super) enum Command {
    /// Bytes of a stream.
    Data(u32, Bytes),
    /// The end of our side of a stream.
    Close(u32),
    /// The end of both sides of a stream that makes no sense.
    Reset(u32),
}

/// Our side of a stream.
#[derive(Clone)]
pub(super) struct Outgoing {
    id: u32,
    commands: mpsc::Sender<Command>,
}

/// The connection is over.
#[derive(Debug)]
pub(super) struct Gone;

impl Outgoing {
    pub(super) fn new(id: u32, commands: mpsc::Sender<Command>) -> Self {
        Self { id, commands }
    }

    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.commands.send(Command::Data(self.id, bytes)).await.map_err(|_| Gone)
    }

    /// Sends all that `reader` gives, until its end or the connection's.
    pub(super) async fn send_all(&self, reader: &mut (impl AsyncRead + Unpin)) -> Result<(), Gone> {
        let mut buffer = bytes::BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            match reader.read_buf(&mut buffer).await {
                // A terminal whose last process has ended says EIO; whatever it is, nothing more comes.
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => self.send(buffer.split().freeze()).await?,
            }
        }
    }

    pub(super) async fn close(&self) {
        // If the connection is over, so is the stream.
        let _ = self.commands.send(Command::Close(self.id)).await;
    }

    pub(super) async fn reset(&self) {
        let _ = self.commands.send(Command::Reset(self.id)).await;
    }

    /// Until the connection is over.
    pub(super) async fn gone(&self) {
        self.commands.closed().await;
    }
}

/// Writes all that comes in to `writer`, and shuts it down after the last piece. Once `writer` takes no more, what comes is
/// dropped, so that the other streams of the connection go on.
pub(super) async fn receive_all(incoming: &mut Incoming, mut writer: impl AsyncWrite + Unpin) {
    while let Some(piece) = incoming.recv().await {
        if writer.write_all(&piece).await.is_err() || writer.flush().await.is_err() {
            break;
        }
    }
    let _ = writer.shutdown().await;
    drop(writer);
    while incoming.recv().await.is_some() {}
}
