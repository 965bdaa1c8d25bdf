//! A way to the daemon's API on which things go wrong: answers come late, twice asked for, half, or not at all; or the API has
//! too much to do, and says so.
//!
//! It speaks HTTP/1.1 without TLS, one request for each connection, and asks over the daemon's unix socket. What goes wrong
//! follows from the number of the request, so that no two runs have the same luck only because of threads.
//! Left out: creations that are performed twice. A connection does not do that, and no controller could tell.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The proxy. It goes on until the process ends.
pub struct Proxy {
    /// Its kubeconfig.
    pub kubeconfig: PathBuf,
    /// Whether things go wrong.
    pub trouble: Arc<AtomicBool>,
    /// How often they did.
    pub troubles: Arc<AtomicU64>,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    Late,
    Twice,
    CutBefore,
    CutAfter,
    /// After so many bytes of the answer.
    CutWithin(usize),
    /// With this code, and not performed.
    Refused(u16),
}

impl Proxy {
    /// Before the daemon of a data folder.
    pub fn before(data: &Path) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
            "clusters": [{ "name": "c", "cluster": { "server": server } }],
            "users": [{ "name": "u", "user": {} }],
        });
        let kubeconfig = data.join("proxy");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let (trouble, troubles) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let proxy = Proxy { kubeconfig, trouble: Arc::clone(&trouble), troubles: Arc::clone(&troubles) };
        let socket = data.join("stint.sock");
        thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let socket = socket.clone();
                let luck = if trouble.load(Ordering::Relaxed) { scrambled(number as u64) } else { 0 };
                let troubles = Arc::clone(&troubles);
                // A broken connection is what this is about.
                thread::spawn(move || drop(pass(stream, &socket, luck, &troubles)));
            }
        });
        proxy
    }
}

/// A number that looks like chance (splitmix64).
fn scrambled(number: u64) -> u64 {
    let mut z = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) | 1
}

fn fate(luck: u64, method: &str) -> Fate {
    match (luck / 2) % 16 {
        _ if luck == 0 => Fate::Answered,
        0 | 1 => Fate::Late,
        2 | 3 if method != "POST" => Fate::Twice,
        4 => Fate::CutBefore,
        5 => Fate::CutAfter,
        6 => Fate::CutWithin(usize::try_from(luck >> 40).unwrap_or(0) % 4000),
        7 => Fate::Refused(429),
        8 => Fate::Refused(503),
        _ => Fate::Answered,
    }
}

/// Passes one request on, and its answer back.
fn pass(mut client: TcpStream, socket: &Path, luck: u64, troubles: &AtomicU64) -> io::Result<()> {
    let request = request(&mut client)?;
    let method =
        String::from_utf8_lossy(&request[..request.iter().position(|byte| *byte == b' ').unwrap_or(0)]).into_owned();
    let is_watch = request.windows(10).take(2000).any(|bytes| bytes == b"watch=true");
    let fate = fate(luck, &method);
    if fate != Fate::Answered {
        troubles.fetch_add(1, Ordering::Relaxed);
    }
    match fate {
        Fate::CutBefore => return client.shutdown(Shutdown::Both),
        Fate::Refused(code) => return refuse(client, code),
        Fate::Late => thread::sleep(Duration::from_millis(luck >> 54)),
        Fate::Twice if !is_watch => drop(ask(socket, &request)?.read_to_end(&mut Vec::new())?),
        _ => {}
    }
    let mut daemon = ask(socket, &request)?;
    if fate == Fate::CutAfter {
        daemon.read_exact(&mut [0; 12])?;
        return client.shutdown(Shutdown::Both);
    }
    let mut left = if let Fate::CutWithin(bytes) = fate { bytes } else { usize::MAX };
    let mut buffer = [0; 8192];
    loop {
        let read = daemon.read(&mut buffer)?.min(left);
        if read == 0 {
            return client.shutdown(Shutdown::Both);
        }
        client.write_all(&buffer[..read])?;
        left -= read;
    }
}

/// As an API does that has too much to do.
fn refuse(mut client: TcpStream, code: u16) -> io::Result<()> {
    let reason = if code == 429 { "TooManyRequests" } else { "ServiceUnavailable" };
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "try again later",
        "reason": reason, "code": code, "details": { "retryAfterSeconds": 1 },
    });
    let body = body.to_string();
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {code} {reason}\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )?;
    client.shutdown(Shutdown::Both)
}

/// Asks the daemon, which closes the connection behind its answer.
fn ask(socket: &Path, request: &[u8]) -> io::Result<UnixStream> {
    let mut daemon = UnixStream::connect(socket)?;
    daemon.write_all(request)?;
    Ok(daemon)
}

/// Reads one request, and makes it the last one of its connection.
fn request(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..read]);
        let Some(head) = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        let length =
            text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
        if bytes.len() >= head + 4 + length {
            bytes.splice(head..head, *b"\r\nConnection: close");
            return Ok(bytes);
        }
    }
}
