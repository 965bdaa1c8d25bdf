//! Connections that want to be many, slow, huge or wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Who, address, answer, ask, config, request, tcp, tls, unix};
use crate::support::{CONFIG_MAPS, Daemon, PATIENCE, config_map, until};

/// Reads until the connection ends: what came.
fn ends(stream: &mut impl Read) -> Vec<u8> {
    let (mut all, mut bytes) = (Vec::new(), [0; 1 << 10]);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return all,
            Ok(read) => all.extend_from_slice(&bytes[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => panic!("it goes on"),
            Err(_) => return all,
        }
    }
}

#[test]
fn who_does_not_agree_on_tls_is_let_go_within_seconds() {
    let daemon = Daemon::start(&["--no-agent"]);
    let mut silent = tcp(&daemon);
    // The beginning of a ClientHello, which never goes on.
    let mut half = tcp(&daemon);
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc]).unwrap();
    let mut plain = tcp(&daemon);
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(ends(&mut plain).first(), Some(&21), "it is told so, by an alert");
    let waited = Instant::now();
    assert_eq!(ends(&mut silent), b"");
    assert_eq!(ends(&mut half), b"");
    // Who agrees may be idle for 90 s.
    assert!(waited.elapsed() < Duration::from_secs(80), "{:?}", waited.elapsed());
    assert_eq!(daemon.ask("GET", "/livez", "").0, 200);
}

#[test]
fn a_body_of_more_than_3_mib_is_refused_as_a_cluster_does() {
    let daemon = Daemon::start(&["--no-agent"]);
    let admin = config(&daemon, Who::Admin, "http/1.1");
    let head = |how: &str| {
        format!("POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{how}\r\n\r\n")
    };
    let large = vec![b' '; 4 << 20];
    let mut chunked = head("Transfer-Encoding: chunked").into_bytes();
    for piece in large.chunks(1 << 16) {
        chunked.extend(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend(piece);
        chunked.extend(b"\r\n");
    }
    let announced = head("Content-Length: 4194304").into_bytes();
    let rows = [("chunked", chunked), ("announced", [&announced[..], &large].concat()), ("only announced", announced)];
    for (what, bytes) in rows {
        let mut stream = tls(&daemon, &admin);
        // The answer comes before all is sent.
        let sent = stream.write_all(&bytes).and_then(|()| stream.flush());
        let mut said = Vec::new();
        let mut buffer = [0; 1 << 12];
        while let Ok(length) = stream.read(&mut buffer)
            && length > 0
        {
            said.extend(&buffer[..length]);
            if said.windows(9).any(|end| end == b"\"code\":413") || said.ends_with(b"413}") {
                break;
            }
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.starts_with("HTTP/1.1 413"), "{what}: {sent:?}: {said:?}");
        let body: Value = serde_json::from_str(said.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["reason"], "RequestEntityTooLarge", "{what}");
        assert_eq!(body["message"], "Request entity too large: limit is 3145728", "{what}");
    }
    daemon.create(CONFIG_MAPS, &config_map("still"));
}

#[test]
fn a_head_that_is_too_large_is_431_and_garbage_is_400() {
    let daemon = Daemon::start(&["--no-agent"]);
    let stranger = config(&daemon, Who::Stranger, "http/1.1");
    let fields = |count: usize| (0..count).map(|at| format!("x-{at}: y\r\n")).collect::<Vec<_>>().concat();
    let rows = [
        ("a long field", request("GET", "/livez", &format!("X-Long: {}\r\n", "v".repeat(1 << 20)), ""), 431),
        ("many fields", request("GET", "/livez", &fields(5_000), ""), 431),
        ("many short fields", request("GET", "/livez", &fields(101), ""), 431),
        ("as many as there may be", request("GET", "/livez", &fields(90), ""), 200),
        ("a long path", request("GET", &format!("/{}", "p".repeat(1 << 17)), "", ""), 414),
        ("garbage", "\u{1}\u{2}\u{3}\r\n\r\n".to_owned(), 400),
        ("no version", "GET /livez\r\n\r\n".to_owned(), 400),
        ("two lengths", request("GET", "/livez", "Content-Length: 5\r\n", ""), 400),
        ("a negative length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(), 400),
        ("a space before the colon", "GET /livez HTTP/1.1\r\nHost : x\r\n\r\n".to_owned(), 400),
    ];
    for (what, request, code) in rows {
        for mut stream in [Box::new(tls(&daemon, &stranger)) as Box<dyn Both>, Box::new(unix(&daemon))] {
            // It may be refused before all of it is sent, and yet the answer can be read.
            let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.flush());
            assert_eq!(answer(&mut stream).0, code, "{what}");
        }
    }
    // Garbage behind a good request gets its own answer, and the end.
    let (code, _, rest) = ask(&mut unix(&daemon), "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n\u{7f}\u{7f}\r\n\r\n");
    assert!(code == 200 && rest.contains("HTTP/1.1 400"), "{code} {rest}");
    // A body that says two lengths must not become a second request.
    let smuggled = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
         GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    let (code, _, rest) = ask(&mut unix(&daemon), &smuggled);
    assert!(code >= 400 && !rest.ends_with("ok"), "{code} {rest}");
}

trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

#[test]
fn thousands_of_idle_connections_keep_nobody_out() {
    let connections = room_for(10_000);
    // Room for a thousand over TLS.
    let daemon = Daemon::with_descriptors(2_048);
    let admin = config(&daemon, Who::Admin, "http/1.1");
    let stranger = config(&daemon, Who::Stranger, "http/1.1");
    let mut watch = tls(&daemon, &admin);
    write!(watch, "GET {CONFIG_MAPS}?watch=true HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    watch.flush().unwrap();
    // Some agree on TLS and ask once, some agree and ask nothing, most do not even agree.
    let mut idle: Vec<_> = (0..200).map(|_| tls(&daemon, &stranger)).collect();
    for stream in &mut idle[..100] {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_ne!(stream.read(&mut [0; 1 << 10]).unwrap(), 0);
    }
    let (mut silent, address) = (Vec::new(), address(&daemon));
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while silent.len() < connections {
        for _ in 0..1_000 {
            silent.push(TcpStream::connect(address).unwrap());
        }
        let asked = Instant::now();
        assert_eq!(ask(&mut tls(&daemon, &admin), &request("GET", CONFIG_MAPS, "", "")).0, 200);
        slowest = slowest.max(asked.elapsed());
        // This machine's own clients do not even notice.
        let asked = Instant::now();
        daemon.ask("GET", "/livez", "");
        assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
    }
    let (took, memory) = (began.elapsed(), daemon.memory());
    eprintln!("{} connections in {took:.1?}; the slowest answer took {slowest:.1?}; {memory} MiB", silent.len());
    assert!(slowest < PATIENCE, "{slowest:?}");
    assert!(memory < 200, "{memory} MiB");
    // Who follows something is not idle.
    daemon.create(CONFIG_MAPS, &config_map("seen"));
    let mut said = String::new();
    while !said.contains("\"name\":\"seen\"") {
        let mut bytes = [0; 1 << 12];
        let length = watch.read(&mut bytes).unwrap();
        assert_ne!(length, 0, "the watch ended: {said}");
        said += &String::from_utf8_lossy(&bytes[..length]);
    }
    drop((silent, idle));
    until("all is as before", || ask(&mut tls(&daemon, &admin), &request("GET", CONFIG_MAPS, "", "")).0 == 200);
}

/// As many connections as this process may have, at most `wanted`.
fn room_for(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let most = limit.maximum.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let room = wanted.min(most.saturating_sub(1_000) / 1_000 * 1_000);
    if room < wanted {
        eprintln!("only {room} connections are tried: this process may not have more descriptors");
    }
    room
}
