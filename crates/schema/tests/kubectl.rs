//! What a real client writes: kubectl 1.33 sends its Jobs as protobuf. Skipped where there is none.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use stint_schema::protobuf::{MAGIC, decode_object};

/// The kubectl of that version: on the path, or where the Google Cloud SDK keeps it.
fn client() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/lib/google-cloud-sdk/bin")]);
    folders.map(|folder| folder.join("kubectl.1.33")).find(|file| file.exists())
}

/// How long the test waits for what has to happen: a machine may be busy with much else.
const PATIENCE: Duration = Duration::from_mins(2);

/// Reads one request and answers it with 404; the body if there is one.
fn answer(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    let head = loop {
        if let Some(at) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(Vec::new()),
            read => request.extend_from_slice(&chunk[..read]),
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    while request.len() < head + length {
        match stream.read(&mut chunk)? {
            0 => break,
            read => request.extend_from_slice(&chunk[..read]),
        }
    }
    stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(request.split_off(head))
}

#[test]
fn a_job_that_kubectl_sends_is_read() {
    let Some(client) = client() else {
        println!("skipped: there is no kubectl.1.33");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let server = format!("http://{}", listener.local_addr().expect("a listener has an address"));
    let (bodies, received) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let body = answer(stream).unwrap_or_default();
            if body.starts_with(&MAGIC) && bodies.send(body).is_err() {
                break;
            }
        }
    });
    let output = Command::new(client)
        .args(["--server", &server, "--kubeconfig", "/dev/null", "--namespace", "here", "--request-timeout=120s"])
        .args(["create", "job", "pi", "--image=busybox:1", "--dry-run=server", "--", "echo", "pi"])
        .output()
        .expect("kubectl runs");
    let body = received.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        panic!("kubectl sent no protobuf: {}", String::from_utf8_lossy(&output.stderr));
    });
    let wanted = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": "pi", "namespace": "here" },
        "spec": { "template": { "spec": {
            "containers": [{ "name": "pi", "image": "busybox:1", "command": ["echo", "pi"] }],
            "restartPolicy": "Never",
        } } },
    });
    assert_eq!(decode_object(&body).expect("kubectl writes protobuf"), wanted);
}
