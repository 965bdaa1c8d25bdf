//! Floods within one connection of HTTP/2: whatever one client sends, others are answered, and memory stays small.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::client::{tcp, unix};
use crate::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, answer, field, frame,
    get, next,
};
use crate::support::{CONFIG_MAPS, Daemon, PATIENCE, config_map, until};

/// How much memory more a flood may take, in MiB.
const MEMORY: u64 = 64;

fn connect(daemon: &Daemon) -> UnixStream {
    let mut stream = unix(daemon);
    stream.write_all(PREFACE).unwrap();
    stream
}

/// Others are answered soon.
fn answers(daemon: &Daemon) {
    let began = Instant::now();
    assert_eq!(daemon.ask("GET", CONFIG_MAPS, "").0, 200);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

/// Sends `frame` again and again, reading nothing: whether the connection has ended before `times`.
fn pour(stream: &mut UnixStream, frame: &[u8], times: usize) -> bool {
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    for _ in 0..times {
        if let Err(error) = stream.write_all(frame) {
            // A server that takes no more is as good as one that closes.
            let full = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            return full || matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
        }
    }
    false
}

#[test]
fn streams_that_are_reset_at_once_do_not_keep_others_waiting() {
    let mut daemon = Daemon::start(&["--no-agent"]);
    daemon.create(CONFIG_MAPS, &config_map("one"));
    answers(&daemon);
    let before = daemon.memory();
    for _ in 0..5 {
        let mut stream = connect(&daemon);
        for number in 0..4_000_u32 {
            let id = 1 + 2 * number;
            let open = frame(HEADERS, END_HEADERS | END_STREAM, id, &get(CONFIG_MAPS));
            let reset = frame(RST_STREAM, 0, id, &8_u32.to_be_bytes());
            if stream.write_all(&[open, reset].concat()).is_err() {
                break;
            }
        }
        answers(&daemon);
    }
    until("nothing of it is being answered", || {
        let (_, metrics) = daemon.ask("GET", "/metrics", "");
        // The question itself is one.
        metrics.contains("apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1\n")
    });
    let after = daemon.memory();
    assert!(after < before + MEMORY, "{before} MiB before, {after} MiB after");
    daemon.stop();
}

#[test]
fn a_head_without_an_end_ends_the_connection() {
    let daemon = Daemon::start(&["--no-agent"]);
    answers(&daemon);
    let before = daemon.memory();
    let fields: Vec<u8> = (0..160).flat_map(|at| field(&format!("x-{at}"), &"v".repeat(90))).collect();
    for (what, piece) in [("fields", fields), ("nothing", Vec::new())] {
        let mut stream = connect(&daemon);
        stream.write_all(&frame(HEADERS, END_STREAM, 1, &get("/"))).unwrap();
        // 160 MB of fields, or a million frames without any.
        let times = if piece.is_empty() { 1_000_000 } else { 10_000 };
        assert!(pour(&mut stream, &frame(CONTINUATION, 0, 1, &piece), times), "{what}: all of it was taken");
        answers(&daemon);
    }
    let after = daemon.memory();
    assert!(after < before + MEMORY, "{before} MiB before, {after} MiB after");
}

#[test]
fn pings_and_settings_whose_answers_nobody_reads_are_not_kept() {
    let daemon = Daemon::start(&["--no-agent"]);
    answers(&daemon);
    let before = daemon.memory();
    for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])] {
        pour(&mut connect(&daemon), &flood.repeat(1_000), 1_000);
        answers(&daemon);
    }
    let after = daemon.memory();
    assert!(after < before + MEMORY, "{before} MiB before, {after} MiB after");
}

#[test]
fn a_head_that_is_too_large_is_refused_and_the_connection_goes_on() {
    let daemon = Daemon::start(&["--no-agent"]);
    let mut stream = connect(&daemon);
    let head: Vec<u8> = [get("/livez"), field("x-long", &"v".repeat(300_000))].concat();
    let mut pieces = head.chunks(16_000);
    let mut all = frame(HEADERS, END_STREAM, 1, pieces.next().unwrap());
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        all.extend(frame(CONTINUATION, flags, 1, piece));
    }
    stream.write_all(&all).unwrap();
    assert_eq!(answer(&mut stream, 1).as_deref(), Some(&b""[..]), "431 has no body here");
    stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &get("/livez"))).unwrap();
    assert_eq!(answer(&mut stream, 3).as_deref(), Some(&b"ok"[..]));
    // A long selector is no attack.
    let path = format!("{CONFIG_MAPS}?labelSelector=a+in+({})", vec!["some-value"; 2_000].join(","));
    stream.write_all(&frame(HEADERS, END_STREAM, 5, &get(&path)[..16_000])).unwrap();
    stream.write_all(&frame(CONTINUATION, END_HEADERS, 5, &get(&path)[16_000..])).unwrap();
    let list = answer(&mut stream, 5).unwrap();
    assert!(list.starts_with(b"{\"kind\":\"ConfigMapList\""), "{}", String::from_utf8_lossy(&list));
}

#[test]
fn what_is_not_http_2_at_all_ends_the_connection() {
    let daemon = Daemon::start(&["--no-agent"]);
    for (what, bytes) in [
        ("a frame that is too long", frame(HEADERS, END_HEADERS, 1, &vec![0x82; 1 << 20])),
        ("an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &get("/livez"))),
        ("data for no stream", frame(0, 0, 7, b"x")),
        ("a broken head", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 64])),
    ] {
        let mut stream = connect(&daemon);
        let _ = stream.write_all(&bytes);
        let mut farewell = false;
        while let Some((kind, ..)) = next(&mut stream) {
            farewell |= kind == GOAWAY || kind == RST_STREAM;
        }
        assert!(farewell, "{what}");
        answers(&daemon);
    }
    // Nor is it TLS.
    let mut plain = tcp(&daemon);
    plain.write_all(PREFACE).unwrap();
    while next(&mut plain).is_some() {}
    answers(&daemon);
}
