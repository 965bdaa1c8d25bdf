//! Watchers that do not read.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::client::unix;
use crate::support::{CONFIG_MAPS, Daemon, PATIENCE, config_map};

/// Enough that neither the history of 64 MiB nor what sockets hold could keep it.
const UPDATES: usize = 160;
/// The size of the object that is updated.
const BYTES: usize = 800_000;

#[test]
fn watchers_that_do_not_read_cost_bounded_memory_and_are_told_that_they_were_too_slow() {
    let daemon = Daemon::start(&["--no-agent"]);
    let mut large = config_map("large");
    large["data"]["a"] = "x".repeat(BYTES).into();
    daemon.create(CONFIG_MAPS, &large);
    let mut watchers: Vec<_> = (0..20).map(|_| unix(&daemon)).collect();
    let path = format!("{CONFIG_MAPS}/large");
    let update = |at: usize| {
        let patch = format!(r#"[{{"op":"add","path":"/metadata/labels","value":{{"at":"{at}"}}}}]"#);
        let mut socket = unix(&daemon);
        write!(
            socket,
            "PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json-patch+json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{patch}",
            patch.len()
        )
        .unwrap();
        let mut line = String::new();
        let mut answer = BufReader::new(socket);
        answer.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        // To its end: it is written as fast as it is read.
        std::io::copy(&mut answer, &mut std::io::sink()).unwrap();
    };
    let before = daemon.memory();
    for at in 0..UPDATES {
        // One watcher begins at a time, so that each stops reading at another place.
        if let Some(watcher) = watchers.get_mut(at) {
            write!(watcher, "GET {CONFIG_MAPS}?watch=true HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            watcher.read_exact(&mut [0; 12]).unwrap(); // it has begun
        }
        update(at);
    }
    let after = daemon.memory();
    eprintln!("{} watchers that do not read: {before} MiB before, {after} MiB after", watchers.len());
    assert!(after < before + 300, "{before} MiB before, {after} MiB after");
    for watcher in &mut watchers {
        watcher.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut events: Vec<(String, u64)> = Vec::new();
        for line in whole(watcher).lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let revision = event["object"]["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            events.push((event["type"].as_str().unwrap().to_owned(), revision.parse().unwrap_or_default()));
            if event["type"] == "ERROR" {
                assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&410.into(), &"Expired".into()));
            }
        }
        assert_eq!(events.pop().unwrap().0, "ERROR", "the last of {} events", events.len());
        assert!(events.len() < UPDATES / 2, "{} events were kept for who did not read them", events.len());
        assert!(events.is_sorted_by_key(|event| event.1) && !events.is_empty());
    }
}

/// The body of an answer in chunks, up to its end.
fn whole(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (mut rest, mut body) = (text.split_once("\r\n\r\n").unwrap().1, String::new());
    loop {
        let (length, after) = rest.split_once("\r\n").expect("a chunk has its length");
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body += &after[..length];
        rest = &after[length + 2..];
    }
}
