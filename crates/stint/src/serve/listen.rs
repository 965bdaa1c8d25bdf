//! Sockets: those that systemd hands over, or our own; and who is at the other end of each connection.
//!
//! Invariant: a failure to take one connection ends nothing but that connection. The two kinds of sockets have rooms of
//! their own, so that nobody on the network keeps out who is on this machine.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use stint_network::Place;
use stint_server::Peer;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::http::Http;
use super::pki;
use super::room::Room;
use super::tls::Tls;

/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many connections over TLS there may be at once, and over unix sockets; fewer if the system gives fewer descriptors.
const CONNECTIONS: (usize, usize) = (16_384, 4_096);
/// How many clients may wait to be taken, as far as the system lets them. Who finds no place there tries again a second
/// later only.
const WAITING: i32 = 4_096;
/// How long a client's machine may be silent before it is asked whether it is still there, how often that is repeated, and
/// after how many of them without an answer the connection ends.
const SILENCE: (Duration, Duration, u32) = (Duration::from_mins(1), Duration::from_secs(15), 4);
/// How long nothing is taken after the system had no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// The sockets that the daemon listens on.
pub struct Sockets {
    /// For TLS.
    pub tcp: Vec<TcpListener>,
    /// For local clients.
    pub unix: Vec<UnixListener>,
}

impl Sockets {
    /// Takes what systemd hands over; what it does not hand over of either kind is opened here.
    pub fn open(listen: &[SocketAddr], socket: &Path, for_everybody: bool) -> anyhow::Result<Sockets> {
        let (mut tcp, mut unix) = handed_over()?;
        if tcp.is_empty() {
            for address in listen {
                let failed = || format!("can't listen on {address}; choose another address with --listen");
                // Sets SO_REUSEADDR, so that a restart need not wait for old connections.
                tcp.push(std::net::TcpListener::bind(address).with_context(failed)?);
            }
        }
        if unix.is_empty() {
            let failed = || format!("can't listen on {}; choose another path with --socket", socket.display());
            unix.push(bind(socket, for_everybody).with_context(failed)?);
        }
        let failed = "can't use a socket";
        for listener in &tcp {
            listener.set_nonblocking(true).context(failed)?;
            rustix::net::listen(listener, WAITING).context(failed)?;
        }
        for listener in &unix {
            listener.set_nonblocking(true).context(failed)?;
            rustix::net::listen(listener, WAITING).context(failed)?;
        }
        Ok(Sockets {
            tcp: tcp.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>().context(failed)?,
            unix: unix.into_iter().map(UnixListener::from_std).collect::<io::Result<_>>().context(failed)?,
        })
    }

    /// Listens at this machine's address on the pods' network too, at the port of the first TLS socket, and returns where pods
    /// reach the API. `None`: it is not served over TLS.
    pub fn listen_for_pods(&mut self, gate: Ipv4Addr, place: &Place) -> anyhow::Result<Option<SocketAddr>> {
        let addresses = self.addresses();
        let Some(first) = addresses.first() else { return Ok(None) };
        let at = SocketAddr::from((gate, first.port()));
        // Who listens at every address of the machine does so at this one, unless it is none of the machine's.
        let is_listened_at = |address: &SocketAddr| address.ip().is_unspecified() && address.port() == at.port();
        if place.is_apart() || !addresses.iter().any(is_listened_at) {
            let failed = || format!("can't listen on {at}, where pods are to reach the API");
            let listener = place.now(|| std::net::TcpListener::bind(at)).with_context(failed)?;
            listener.set_nonblocking(true).with_context(failed)?;
            rustix::net::listen(&listener, WAITING).with_context(failed)?;
            self.tcp.push(TcpListener::from_std(listener).with_context(failed)?);
        }
        Ok(Some(at))
    }

    /// The addresses of the TLS sockets.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Takes connections until the task is dropped.
    pub fn serve(self, tls: &Tls, http: &Arc<Http>) -> JoinSet<()> {
        let (remote, local) = rooms();
        let mut tasks = JoinSet::new();
        for listener in self.tcp {
            tasks.spawn(serve_tcp(listener, tls.clone(), Arc::clone(http), Arc::clone(&remote)));
        }
        for listener in self.unix {
            tasks.spawn(serve_unix(listener, Arc::clone(http), Arc::clone(&local)));
        }
        tasks
    }
}

type Std = (Vec<std::net::TcpListener>, Vec<std::os::unix::net::UnixListener>);

/// What systemd's socket units hand over (sd_listen_fds(3)).
fn handed_over() -> anyhow::Result<Std> {
    let mut sockets = ListenFd::from_env();
    let (mut tcp, mut unix) = (Vec::new(), Vec::new());
    for at in 0..sockets.len() {
        match sockets.take_unix_listener(at) {
            Ok(listener) => unix.extend(listener),
            Err(_) => tcp.extend(sockets.take_tcp_listener(at).context("a socket of systemd's can't be listened on")?),
        }
    }
    Ok((tcp, unix))
}

/// Opens the unix socket. A daemon that was killed leaves its own; nobody can be listening on it, as the data folder is
/// locked.
fn bind(path: &Path, for_everybody: bool) -> io::Result<std::os::unix::net::UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it"));
        }
        fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    // Everybody may connect where the folder lets them: each is then who it is.
    fs::set_permissions(path, fs::Permissions::from_mode(if for_everybody { 0o666 } else { 0o600 }))?;
    Ok(listener)
}

/// The rooms for TLS and for unix sockets. Some descriptors are left for the store, the images and the pods.
fn rooms() -> (Arc<Room>, Arc<Room>) {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    (Room::new(CONNECTIONS.0.min(limit / 2)), Room::new(CONNECTIONS.1.min(limit / 8)))
}

/// Makes a connection end whose other end is gone without a word, as when a machine loses its power.
fn ask_when_silent(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
    let (silence, again, times) = SILENCE;
    set_tcp_keepidle(stream, silence)?;
    set_tcp_keepintvl(stream, again)?;
    set_tcp_keepcnt(stream, times)?;
    set_socket_keepalive(stream, true)?;
    Ok(())
}

async fn serve_tcp(listener: TcpListener, tls: Tls, http: Arc<Http>, room: Arc<Room>) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                refused(&error).await;
                continue;
            }
        };
        let guest = room.enter().await;
        let (tls, connection) = (tls.current(), http.connection());
        tokio::spawn(async move {
            // Only slower without.
            let _ = stream.set_nodelay(true);
            // Only later noticed without.
            let _ = ask_when_silent(&stream);
            let agreed = tokio::select! {
                agreed = timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream)) => agreed,
                () = guest.has_to_leave() => return,
            };
            let stream = match agreed {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%address, %error, "a client failed to agree on TLS"),
                Err(_) => return tracing::debug!(%address, "a client took too long to agree on TLS"),
            };
            let ip = Some(address.ip());
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let peer = match shown.and_then(|certificate| pki::subject_of(certificate)) {
                Some((name, groups)) => Peer::ClientCertificate { name, groups, address: ip },
                None => Peer::Tcp { address: ip },
            };
            connection.serve(stream, peer, guest).await;
        });
    }
}

async fn serve_unix(listener: UnixListener, http: Arc<Http>, room: Arc<Room>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                refused(&error).await;
                continue;
            }
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        let peer = Peer::UnixSocket { uid: peer.uid(), gid: peer.gid() };
        let (guest, connection) = (room.enter().await, http.connection());
        tokio::spawn(connection.serve(stream, peer, guest));
    }
}

/// A connection could not be taken. A client that went away costs nothing; without room, waiting is all that helps.
async fn refused(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "a connection can't be taken");
    sleep(NO_ROOM).await;
}
