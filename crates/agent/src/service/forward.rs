//! Connections to a pod's ports, as a process in the pod would make them.
//!
//! Invariant: the connection is made in the pod's network namespace, to its loopback address, so that a port which the pod
//! does not offer to others can be reached too. A pod on the host's network has the host's.
//!
//! Upstream: `pkg/kubelet/kubelet_pods.go` (`GetPortForward`), v1.36; like the container runtimes it tries IPv4 first.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{PodRef, Service, ServiceError};
use crate::folder::PodFolder;
use crate::network::Joined;

/// How long a connection may take to be made.
const LONGEST: Duration = Duration::from_secs(10);
/// Where a pod's ports are, in this order.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Both directions of a connection. Shutting it down for writing leaves it open for reading.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Whose network a pod is on.
#[derive(Debug)]
pub enum Network {
    /// The host's.
    Host,
    /// Its own: a network namespace.
    Namespace(OwnedFd),
}

impl Service {
    /// Connects to a TCP port of a running pod.
    pub async fn forward(&self, pod: &PodRef, port: u16) -> Result<Box<dyn Connection>, ServiceError> {
        let found = self.pod(pod).await?;
        let phase = found.status.and_then(|status| status.phase).unwrap_or_default();
        if phase != "Running" {
            let fault = format!("unable to forward port because pod is not running. Current status={phase}");
            return Err(ServiceError::BadRequest(fault));
        }
        let stream = self.network_of(pod)?.connect(port).await.map_err(|error| {
            let PodRef { namespace, name, .. } = pod;
            ServiceError::Internal(format!(
                "failed to connect to localhost:{port} inside pod {namespace}/{name}: {error}"
            ))
        })?;
        Ok(Box::new(stream))
    }

    /// The network that a pod is on.
    fn network_of(&self, pod: &PodRef) -> Result<Network, ServiceError> {
        let internal = |error: crate::Error| ServiceError::Internal(error.chain());
        let folder = PodFolder::new(&self.shared.config.folders, &pod.uid).map_err(internal)?;
        let Some(joined) = Joined::read(&folder) else { return Ok(Network::Host) };
        let path = joined.sandbox.path;
        let namespace = File::open(&path).map_err(crate::Error::io("open the network namespace", &path));
        Ok(Network::Namespace(namespace.map_err(internal)?.into()))
    }
}

impl Network {
    /// Connects to a TCP port on the loopback interface.
    pub async fn connect(self, port: u16) -> io::Result<TcpStream> {
        let connected = async {
            match self {
                Network::Host => anywhere(port).await,
                Network::Namespace(namespace) => within(namespace, port).await,
            }
        };
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {LONGEST:?}")));
        tokio::time::timeout(LONGEST, connected).await.unwrap_or_else(late)
    }
}

async fn anywhere(port: u16) -> io::Result<TcpStream> {
    let mut faults = Vec::new();
    for address in LOOPBACK {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => faults.push((address, error)),
        }
    }
    Err(together(&faults))
}

/// On a thread of its own, which moves into the namespace and ends there.
async fn within(namespace: OwnedFd, port: u16) -> io::Result<TcpStream> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("port-forward".into()).spawn(move || {
        let connect = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let mut faults = Vec::new();
            for address in LOOPBACK {
                match std::net::TcpStream::connect_timeout(&SocketAddr::new(address, port), LONGEST) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => faults.push((address, error)),
                }
            }
            Err(together(&faults))
        };
        let _ = tell.send(connect());
    })?;
    let stream = told.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// One error out of all: the kind is the first one's.
fn together(faults: &[(IpAddr, io::Error)]) -> io::Error {
    let kind = faults.first().map_or(io::ErrorKind::Other, |(_, error)| error.kind());
    let text = faults.iter().map(|(address, error)| format!("{address}: {error}")).collect::<Vec<_>>().join("; ");
    io::Error::new(kind, text)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_is_reached_at_either_loopback_address() {
        for address in LOOPBACK {
            let Ok(listener) = TcpListener::bind((address, 0)).await else { continue }; // a machine without IPv6
            let port = listener.local_addr().unwrap().port();
            let served = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
            });
            let mut stream = Network::Host.connect(port).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            served.await.unwrap();
            assert_eq!(text, "HELLO");
        }
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_told_with_what_was_tried() {
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = held.local_addr().unwrap().port();
        let fault = Network::Host.connect(port).await.unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::ConnectionRefused);
        assert!(fault.to_string().contains("127.0.0.1: ") && fault.to_string().contains("::1: "), "{fault}");
    }
}
