//! Host ports of pods behind a router: listened at on the machine's network, and passed on to the pod.
//!
//! Invariants: a port is free again once it is closed, and who is connected by it is cut off; what one port costs is bounded.
//! Left out: SCTP, which would need a way of its own; the client's address, in whose place the pod sees the node's.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::Router;
use crate::filter::{HostPort, Protocol};

/// How many connections, or clients by datagrams, a port has at once.
const CLIENTS: usize = 1024;
/// How many datagrams of one client wait; those beyond are lost.
const WAITING: usize = 64;
/// A datagram is no longer.
const DATAGRAM: usize = 65_536;
/// How long a client by datagrams may be silent, and be told nothing.
const IDLE: Duration = Duration::from_mins(2);
/// How long a connection to a pod may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// The ports that are open, each with what passes on.
#[derive(Debug, Default)]
pub(crate) struct Forwards(HashMap<(Ipv4Addr, HostPort), JoinHandle<()>>);

impl Forwards {
    /// Opens ports of the network of this thread; those that are open are no error. All or none.
    pub(crate) fn open(&mut self, router: &Router, pod: Ipv4Addr, ports: &[HostPort]) -> io::Result<()> {
        let mut opened = Vec::new();
        for port in ports.iter().filter(|port| !self.0.contains_key(&(pod, **port))).copied().collect::<Vec<_>>() {
            match listen(router, pod, port) {
                Ok(task) => {
                    self.0.insert((pod, port), task);
                    opened.push(port);
                }
                Err(error) => {
                    self.close(router, pod, &opened);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Closes ports; those that are closed are no error.
    pub(crate) fn close(&mut self, router: &Router, pod: Ipv4Addr, ports: &[HostPort]) {
        for port in ports {
            if let Some(task) = self.0.remove(&(pod, *port)) {
                task.abort();
                // The next pod may ask for the same port at once.
                let (tell, told) = std::sync::mpsc::channel();
                router.inside().spawn(async move {
                    let _ = task.await;
                    let _ = tell.send(());
                });
                let _ = told.recv();
            }
        }
    }
}

fn listen(router: &Router, pod: Ipv4Addr, port: HostPort) -> io::Result<JoinHandle<()>> {
    let at = SocketAddrV4::new(port.address.unwrap_or(Ipv4Addr::UNSPECIFIED), port.host);
    let to = SocketAddr::from((pod, port.pod));
    let listened = match port.protocol {
        Protocol::Tcp => std::net::TcpListener::bind(at).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(router.inside().spawn(connections(listener, to)))
        }),
        Protocol::Udp => std::net::UdpSocket::bind(at).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(router.inside().spawn(datagrams(socket, to)))
        }),
        Protocol::Sctp => Err(io::Error::new(io::ErrorKind::Unsupported, "without root there are none for SCTP")),
    };
    listened.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                ": ports below net.ipv4.ip_unprivileged_port_start, 1024 as a rule, are root's"
            }
            _ => "",
        };
        let kind = error.kind();
        io::Error::new(kind, format!("can't listen at {at} ({}): {error}{hint}", port.protocol.as_str()))
    })
}

async fn connections(listener: std::net::TcpListener, to: SocketAddr) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS => match accepted {
                Ok((client, _)) => drop(clients.spawn(pass_on(client, to))),
                Err(error) => {
                    tracing::debug!(%error, "a connection to a host port could not be taken");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn pass_on(mut client: TcpStream, to: SocketAddr) {
    let Ok(Ok(mut pod)) = timeout(CONNECT, TcpStream::connect(to)).await else {
        // As near as can be to that nobody listens: the client's connection is reset.
        let _ = set_socket_linger(&client, Some(Duration::ZERO));
        return;
    };
    for stream in [&client, &pod] {
        let _ = stream.set_nodelay(true); // only slower without
    }
    let _ = copy_bidirectional(&mut client, &mut pod).await;
}

async fn datagrams(socket: std::net::UdpSocket, to: SocketAddr) {
    let Ok(socket) = UdpSocket::from_std(socket).map(Arc::new) else { return };
    let mut clients: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Such as that an earlier answer found nobody.
                tracing::debug!(%error, "a datagram for a host port could not be received");
                sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if clients.get(&from).is_none_or(mpsc::Sender::is_closed) {
            clients.retain(|_, client| !client.is_closed());
            while tasks.try_join_next().is_some() {}
            if clients.len() >= CLIENTS {
                continue;
            }
            let (sender, receiver) = mpsc::channel(WAITING);
            clients.insert(from, sender);
            tasks.spawn(converse(Arc::clone(&socket), from, receiver, to));
        }
        if let Some(client) = clients.get(&from) {
            let _ = client.try_send(buffer[..length].to_vec());
        }
    }
}

/// Passes on what one client sends, and the answers, until there are none.
async fn converse(socket: Arc<UdpSocket>, client: SocketAddr, mut sent: mpsc::Receiver<Vec<u8>>, to: SocketAddr) {
    let Ok(pod) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else { return };
    if pod.connect(to).await.is_err() {
        return;
    }
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // What is said of earlier datagrams, as that nobody listens, is no reason not to send others.
        tokio::select! {
            datagram = sent.recv() => match datagram {
                Some(datagram) => drop(pod.send(&datagram).await),
                None => return,
            },
            received = pod.recv(&mut buffer) => match received {
                Ok(length) => drop(socket.send_to(&buffer[..length], client).await),
                Err(error) => tracing::debug!(%error, "a pod takes no datagrams at its host port"),
            },
            () = sleep(IDLE) => return,
        }
    }
}
