//! Names for pods: a small DNS server on the bridge. It answers for the names that somebody knows, and passes every other
//! question on to the machine's own resolvers.
//!
//! ```text
//!  pod ── UDP, TCP ──► question ──► known to the directory? ── yes, or never there ──► answer
//!                                        └── not its business ──► the machine's resolvers ──► their answer, as it is
//! ```
//!
//! Invariants: a question costs a bounded time and one of a bounded number of places; what is no question gets no answer; the
//! resolvers are read anew for each question, as DHCP and VPNs change them.
//! Left out: caching, which the machine's resolvers do; IPv6, which pods do not have.

mod message;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use message::Question;

const PORT: u16 = 53;
/// How many questions are being answered at once; those beyond are dropped, and asked again by who asked.
const PLACES: usize = 512;
/// How long one resolver may take. A pod's resolver asks again after 5 s.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// The longest message by UDP that anybody asks for, and the longest at all.
const DATAGRAM: usize = 4096;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It has these addresses; none, if it has something else only.
    Addresses(Vec<Ipv4Addr>),
    /// There is no such name, and there is nobody else to ask.
    Nothing,
    /// Others know.
    Elsewhere,
}

/// Knows names.
pub trait Directory: Send + Sync + 'static {
    /// What is known of a name, which is in lower case and without the dot at its end.
    fn find<'a>(&'a self, name: &'a str) -> stint_runtime::BoxFuture<'a, Known>;
}

/// A server that listens. It answers as long as [`Server::run`] is polled.
pub struct Server {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    directory: Box<dyn Directory>,
    own: Ipv4Addr,
    /// Where the machine's resolvers are written down, as in resolv.conf(5).
    resolvers: String,
    places: Arc<Semaphore>,
}

impl Server {
    /// Listens at an address of this machine; `resolvers` is the machine's resolv.conf(5).
    pub async fn bind(address: Ipv4Addr, resolvers: &str, directory: Box<dyn Directory>) -> io::Result<Server> {
        let at = SocketAddr::from((address, PORT));
        let (udp, tcp) = (UdpSocket::bind(at).await?, TcpListener::bind(at).await?);
        let places = Arc::new(Semaphore::new(PLACES));
        let shared = Shared { directory, own: address, resolvers: resolvers.to_owned(), places };
        Ok(Server { udp: Arc::new(udp), tcp, shared: Arc::new(shared) })
    }

    /// Answers.
    pub async fn run(self) {
        let Server { udp, tcp, shared } = self;
        tokio::join!(datagrams(&udp, &shared), connections(&tcp, &shared));
    }
}

async fn datagrams(socket: &Arc<UdpSocket>, shared: &Arc<Shared>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Such as that an earlier answer found nobody.
                tracing::debug!(%error, "a question by name could not be received");
                sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else { continue };
        let (socket, shared, question) = (Arc::clone(socket), Arc::clone(shared), buffer[..length].to_vec());
        tokio::spawn(async move {
            if let Some(answer) = shared.answer(&question, Way::Datagram).await {
                let _ = socket.send_to(&answer, from).await;
            }
            drop(place);
        });
    }
}

async fn connections(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else { continue };
        tokio::spawn(converse(stream, Arc::clone(shared), place));
    }
}

/// Answers questions on a connection until it is closed or silent.
async fn converse(mut stream: TcpStream, shared: Arc<Shared>, _place: OwnedSemaphorePermit) {
    while let Ok(Ok(question)) = timeout(IDLE, read(&mut stream)).await {
        let Some(answer) = shared.answer(&question, Way::Connection).await else { return };
        if write(&mut stream, &answer).await.is_err() {
            return;
        }
    }
}

/// How a question came.
#[derive(Clone, Copy)]
enum Way {
    Datagram,
    Connection,
}

impl Shared {
    async fn answer(&self, text: &[u8], way: Way) -> Option<Vec<u8>> {
        let question = Question::parse(text)?;
        match self.directory.find(&question.name).await {
            Known::Addresses(addresses) => Some(question.addresses(&addresses)),
            Known::Nothing => Some(question.no_such_name()),
            Known::Elsewhere => Some(self.pass_on(text, way).await.unwrap_or_else(|| question.failure())),
        }
    }

    /// What the first of the machine's resolvers says that says anything.
    async fn pass_on(&self, question: &[u8], way: Way) -> Option<Vec<u8>> {
        let text = fs::read_to_string(&self.resolvers).unwrap_or_default();
        for resolver in resolvers(&text).filter(|address| *address != IpAddr::V4(self.own)) {
            let at = SocketAddr::new(resolver, PORT);
            let asked = async {
                match way {
                    Way::Datagram => ask_by_datagram(at, question).await,
                    Way::Connection => ask_by_connection(at, question).await,
                }
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "a resolver of this machine failed"),
                Err(_) => tracing::debug!(%resolver, "a resolver of this machine took too long"),
            }
        }
        None
    }
}

/// Where names are looked up, by resolv.conf(5).
fn resolvers(text: &str) -> impl Iterator<Item = IpAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|address| address.trim().parse().ok())
}

async fn ask_by_datagram(at: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    // A port of its own, which nobody can guess who would forge an answer.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(at).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer[..length].get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_by_connection(at: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(at).await?;
    write(&mut stream, question).await?;
    read(&mut stream).await
}

/// On a connection each message comes after its length.
async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_c_library_does() {
        let text =
            "# nameserver 192.0.2.1\nnameserver 127.0.0.53\nnameserver\tfd00::1 \nsearch example\nnameserver x\n";
        let found: Vec<String> = resolvers(text).map(|address| address.to_string()).collect();
        assert_eq!(found, ["127.0.0.53", "fd00::1"]);
    }
}
