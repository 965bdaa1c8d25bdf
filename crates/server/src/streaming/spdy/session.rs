//! A connection at work: one task that reads, writes, and hands out the streams.
//!
//! Invariant: when a stream is not read, nothing more is read of the connection, while what is to be sent still is. So
//! two sides that both write never wait for each other. At most [`FULL`] bytes, and what one command adds, wait for the
//! socket.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::Stream;
use super::connection::{Connection, Event};
use crate::streaming::channels::{Command, Outgoing, QUEUE};

/// How much is read at once.
const PIECE: usize = 16 * 1024;
/// With so much to send, nothing more is taken from anybody.
const FULL: usize = 64 * 1024;
/// How long a client may take to read the rest and to hang up.
const FAREWELL: Duration = Duration::from_secs(5);

/// The streams of a connection, as they are opened. While it is there, the connection is kept open.
pub(in crate::streaming) struct Session {
    arrivals: mpsc::Receiver<Stream>,
    _commands: mpsc::Sender<Command>,
}

impl Session {
    /// The next stream; none once the connection is over.
    pub(in crate::streaming) async fn next(&mut self) -> Option<Stream> {
        self.arrivals.recv().await
    }
}

/// The streams that come over `io`, and what has to run for them to.
pub(in crate::streaming) fn session<S>(io: S) -> (Session, impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite,
{
    let (commands, queue) = mpsc::channel(QUEUE);
    let (arrive, arrivals) = mpsc::channel(QUEUE);
    let streams = Streams { arrive, open: HashMap::new(), commands: commands.downgrade() };
    (Session { arrivals, _commands: commands }, drive(io, streams, queue))
}

/// The near ends of the streams.
struct Streams {
    arrive: mpsc::Sender<Stream>,
    open: HashMap<u32, Near>,
    commands: mpsc::WeakSender<Command>,
}

struct Near {
    /// None: the client has finished.
    inbox: Option<mpsc::Sender<Bytes>>,
    reset: Option<oneshot::Sender<()>>,
    /// We have finished.
    closed: bool,
}

impl Streams {
    /// Waits until `event` can be delivered without waiting.
    async fn room(&self, event: Option<&Event>) {
        // Who no longer listens has room for everything.
        match event {
            Some(Event::Opened(..)) => drop(self.arrive.reserve().await),
            Some(Event::Data(stream, _)) => {
                if let Some(inbox) = self.open.get(stream).and_then(|near| near.inbox.as_ref()) {
                    drop(inbox.reserve().await);
                }
            }
            Some(Event::Finished(_) | Event::Reset(_)) | None => {}
        }
    }

    fn deliver(&mut self, event: Event) {
        match event {
            Event::Opened(stream, headers) => {
                let Some(commands) = self.commands.upgrade() else { return };
                let (inbox, incoming) = mpsc::channel(QUEUE);
                let (reset, told) = oneshot::channel();
                self.open.insert(stream, Near { inbox: Some(inbox), reset: Some(reset), closed: false });
                let outgoing = Outgoing::new(stream, commands);
                let _ = self.arrive.try_send(Stream { headers, incoming, outgoing, reset: told });
            }
            Event::Data(stream, bytes) => {
                if let Some(inbox) = self.open.get(&stream).and_then(|near| near.inbox.as_ref()) {
                    let _ = inbox.try_send(bytes);
                }
            }
            Event::Finished(stream) => {
                if let Some(near) = self.open.get_mut(&stream) {
                    near.inbox = None;
                    if near.closed {
                        self.open.remove(&stream);
                    }
                }
            }
            Event::Reset(stream) => {
                if let Some(reset) = self.open.remove(&stream).and_then(|near| near.reset) {
                    let _ = reset.send(());
                }
            }
        }
    }

    fn close(&mut self, stream: u32) {
        if let Some(near) = self.open.get_mut(&stream) {
            near.closed = true;
            if near.inbox.is_none() {
                self.open.remove(&stream);
            }
        }
    }
}

async fn drive(io: impl AsyncRead + AsyncWrite, mut streams: Streams, mut queue: mpsc::Receiver<Command>) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut connection = Connection::new();
    let mut events = VecDeque::new();
    let mut buffer = BytesMut::new();
    let mut unflushed = false;
    let broken = loop {
        buffer.reserve(PIECE);
        let full = connection.out.len() >= FULL;
        tokio::select! {
            read = reader.read_buf(&mut buffer), if events.is_empty() && !full => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => if let Err(broken) = connection.receive(buffer.split().freeze(), &mut events) {
                    tracing::debug!(%broken, "a client does not speak SPDY/3.1");
                    break true;
                },
            },
            () = streams.room(events.front()), if !events.is_empty() => {
                events.pop_front().into_iter().for_each(|event| streams.deliver(event));
            }
            command = queue.recv(), if !full => match command {
                Some(Command::Data(stream, bytes)) => connection.send(stream, &bytes),
                Some(Command::Close(stream)) => {
                    connection.finish(stream);
                    streams.close(stream);
                }
                Some(Command::Reset(stream)) => {
                    connection.reset(stream);
                    streams.open.remove(&stream);
                }
                None => break false,
            },
            pushed = push(&mut writer, &mut connection.out), if unflushed || !connection.out.is_empty() => match pushed {
                Ok(Pushed::Some) => unflushed = true,
                Ok(Pushed::All) => unflushed = false,
                Err(_) => return,
            },
        }
    };
    connection.go_away(broken);
    // Nobody is left who would want to know how this goes.
    let _ = tokio::time::timeout(FAREWELL, async {
        writer.write_all_buf(&mut connection.out).await?;
        writer.flush().await?;
        writer.shutdown().await?;
        while reader.read_buf(&mut buffer).await? > 0 {
            buffer.clear();
        }
        Ok::<_, std::io::Error>(())
    })
    .await;
}

/// How far [`push`] came.
enum Pushed {
    /// Some bytes were written.
    Some,
    /// All that was written before is on its way.
    All,
}

/// Writes some of `out`, or flushes if there is nothing in it. May be dropped and called again.
async fn push(writer: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> std::io::Result<Pushed> {
    if out.is_empty() {
        writer.flush().await?;
        return Ok(Pushed::All);
    }
    match writer.write_buf(out).await? {
        0 => Err(std::io::ErrorKind::WriteZero.into()),
        _ => Ok(Pushed::Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of a data frame of stream 1.
    fn head(size: usize, fin: bool) -> [u8; 8] {
        let [_, a, b, c] = u32::try_from(size).unwrap().to_be_bytes();
        [0, 0, 0, 1, u8::from(fin), a, b, c]
    }

    /// A client that has opened stream 1, and the stream.
    async fn opened() -> (tokio::io::DuplexStream, Session, Stream) {
        let (mut client, server) = tokio::io::duplex(4096);
        let (mut session, driving) = session(server);
        tokio::spawn(driving);
        let block = super::super::headers::Deflater::new().block(&crate::streaming::spdy::Headers::default());
        let size = u8::try_from(10 + block.len()).unwrap();
        let syn = [&[0x80, 3, 0, 1, 0, 0, 0, size, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &block].concat();
        client.write_all(&syn).await.unwrap();
        let stream = session.next().await.unwrap();
        (client, session, stream)
    }

    #[tokio::test]
    async fn what_nobody_reads_does_not_stop_what_is_sent() {
        const MUCH: usize = 4 << 20;
        let (client, session, mut stream) = opened().await;
        let (mut reader, mut writer) = tokio::io::split(client);
        // The client writes, and the stream does not read, until all has been sent the other way.
        let writing = tokio::spawn(async move {
            writer.write_all(&head(MUCH, true)).await.unwrap();
            writer.write_all(&vec![1; MUCH]).await.unwrap();
            writer
        });
        let sending = async {
            for _ in 0..MUCH / 65536 {
                stream.outgoing.send(vec![2; 65536].into()).await.unwrap();
            }
        };
        let reading = async {
            let mut size = 0;
            let mut buffer = vec![0; 65536];
            while size < MUCH {
                size += reader.read(&mut buffer).await.unwrap();
            }
        };
        tokio::join!(sending, reading);
        assert!(!writing.is_finished(), "the rest waits in the client");
        let mut size = 0;
        while let Some(piece) = stream.incoming.recv().await {
            size += piece.len();
        }
        assert_eq!(size, MUCH);
        drop((writing.await.unwrap(), session));
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_ends_the_streams_and_their_senders() {
        let (client, mut session, mut stream) = opened().await;
        drop(client);
        stream.outgoing.gone().await;
        assert_eq!(stream.incoming.recv().await, None);
        assert!(stream.outgoing.send(Bytes::new()).await.is_err());
        assert!(session.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_needs_says_goodbye_and_ends() {
        let (mut client, session, stream) = opened().await;
        drop((session, stream));
        let mut all = Vec::new();
        // The client does not hang up, and the socket is closed all the same.
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all[all.len() - 16..], [0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[tokio::test]
    async fn nonsense_ends_the_connection_with_an_error() {
        let (mut client, _session, stream) = opened().await;
        client.write_all(&[0x80, 9, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let mut all = Vec::new();
        client.write_all(&vec![0xff; 2048]).await.unwrap();
        let ending = tokio::time::timeout(FAREWELL * 2, client.read_to_end(&mut all)).await;
        ending.expect("an end").unwrap();
        stream.outgoing.gone().await;
        assert!(all.windows(4).any(|window| window == [0x80, 3, 0, 7]));
    }
}
