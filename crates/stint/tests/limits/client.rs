//! Raw connections to a daemon: over its unix socket, and over TLS with or without a certificate.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::{Daemon, PATIENCE};

/// A connection over TLS.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Where the daemon serves TLS.
pub fn address(daemon: &Daemon) -> SocketAddr {
    let kubeconfig = std::fs::read_to_string(daemon.kubeconfig()).unwrap();
    let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: https://")).unwrap();
    server.parse().unwrap()
}

/// A plain TCP connection to where TLS is served.
pub fn tcp(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(address(daemon)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A connection over the unix socket.
pub fn unix(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.data.path().join("stint.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Who a client over TLS is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The administrator, by certificate.
    Admin,
    /// Nobody.
    Stranger,
}

/// How to agree on TLS with the daemon.
pub fn config(daemon: &Daemon, who: Who, protocol: &str) -> Arc<ClientConfig> {
    let read = |name: &str| std::fs::read(daemon.data.path().join("pki").join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match who {
        Who::Stranger => builder.with_no_client_auth(),
        Who::Admin => {
            let chain = vec![CertificateDer::from_pem_slice(&read("admin.crt")).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&read("admin.key")).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config)
}

/// A connection over TLS that will speak `protocol`.
pub fn tls(daemon: &Daemon, config: &Arc<ClientConfig>) -> Tls {
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, tcp(daemon));
    stream.flush().unwrap();
    stream
}

/// The text of a request with a body, as HTTP/1.1, and no other after it.
pub fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: stint\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n{headers}\r\n{body}"
    )
}

/// Sends a request and reads until the connection ends: the code, the head, and the body.
pub fn ask(stream: &mut (impl Read + Write), request: &str) -> (u16, String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    answer(stream)
}

/// What comes until the connection ends.
pub fn answer(stream: &mut impl Read) -> (u16, String, String) {
    let mut bytes = Vec::new();
    // That a connection ends without TLS's own farewell is no matter here.
    let ended = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.unwrap_or_else(|| panic!("no answer: {ended:?}: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (code, head.to_owned(), body.to_owned())
}
