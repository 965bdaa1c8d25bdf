//! WebSockets without kubectl: which subprotocol is chosen, what goes over which channel, and what happens when one
//! side leaves or does not read.

use std::sync::Arc;
use std::time::Duration;

use crate::node::TestNode;
use crate::support::{api, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use serde_json::{Value, json};
use stint_server::streaming::node::TerminalSize;
use stint_server::{Api, router};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

const PODS: &str = "/api/v1/namespaces/default/pods";

struct World {
    address: std::net::SocketAddr,
    router: axum::Router,
    node: Arc<TestNode>,
}

impl World {
    /// A server with a pod `p` of one container, `c`, and a pod `unbound`.
    async fn new() -> Self {
        let node = Arc::new(TestNode::default());
        let router = router(Api { node: Some(node.clone()), ..api() });
        for (name, node) in [("p", Some("n")), ("unbound", None)] {
            let pod = json!({
                "metadata": {"name": name},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "busybox:1"}]},
            });
            assert_eq!(post(&router, PODS, &pod).await.code, 201);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = router.clone();
        tokio::spawn(async move { axum::serve(listener, served).await });
        Self { address, router, node }
    }

    /// Asks for a WebSocket; gives it and the chosen subprotocol, or the answer's code and text.
    async fn connect(
        &self,
        path: &str,
        protocols: &str,
    ) -> Result<(WebSocketStream<TcpStream>, String), (StatusCode, String)> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        connect(stream, path, protocols).await
    }

    async fn exec(&self, protocol: &str, streams: &str, script: &str) -> WebSocketStream<TcpStream> {
        let script: String = form_urlencoded::byte_serialize(script.as_bytes()).collect();
        let path = format!("p/exec?command=sh&command=-c&command={script}&{streams}");
        let (socket, chosen) = self.connect(&path, protocol).await.unwrap();
        assert_eq!(chosen, protocol);
        socket
    }
}

async fn connect<S>(
    stream: S,
    path: &str,
    protocols: &str,
) -> Result<(WebSocketStream<S>, String), (StatusCode, String)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = format!("ws://localhost{PODS}/{path}").into_client_request().unwrap();
    if !protocols.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    }
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, response)) => {
            let chosen = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
            Ok((socket, chosen.unwrap_or_default().to_owned()))
        }
        Err(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            Err((response.status(), String::from_utf8(body).unwrap()))
        }
        Err(other) => panic!("{other}"),
    }
}

/// How long a test waits for what has to happen: a machine may be busy with much else.
const PATIENCE: Duration = Duration::from_mins(2);

/// All messages up to the close, by channel, and the close's code.
async fn rest(socket: &mut WebSocketStream<TcpStream>) -> ([Vec<u8>; 4], Option<CloseCode>) {
    let mut channels = [const { Vec::new() }; 4];
    while let Some(message) = timeout(PATIENCE, socket.next()).await.expect("an end in time") {
        match message.unwrap() {
            Message::Binary(bytes) => channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            Message::Close(close) => return (channels, close.map(|close| close.code)),
            other => panic!("{other:?}"),
        }
    }
    (channels, None)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_clients_first_subprotocol_that_is_served_is_chosen() {
    let world = World::new().await;
    let rows = [
        ("v5.channel.k8s.io,v4.channel.k8s.io", Ok("v5.channel.k8s.io")),
        ("v4.channel.k8s.io, v5.channel.k8s.io", Ok("v4.channel.k8s.io")),
        ("v9.channel.k8s.io,v4.base64.channel.k8s.io", Ok("v4.base64.channel.k8s.io")),
        (
            "v5.channel.k8s.io,v4.channel.k8s.io,v3.channel.k8s.io,v2.channel.k8s.io,channel.k8s.io",
            Ok("v5.channel.k8s.io"),
        ),
        ("v3.channel.k8s.io,v2.channel.k8s.io,channel.k8s.io", Ok("channel.k8s.io")),
        ("base64.channel.k8s.io", Ok("base64.channel.k8s.io")),
        ("v3.channel.k8s.io", Err(403)),
        ("SPDY/3.1+portforward.k8s.io", Err(403)),
    ];
    for (offered, chosen) in rows {
        let got = world.connect("p/exec?command=true&stdout=1", offered).await;
        let got = got.as_ref().map(|(_, chosen)| chosen.as_str()).map_err(|(code, _)| code.as_u16());
        assert_eq!(got, chosen, "{offered}");
    }
    let (_, chosen) = world.connect("p/exec?command=true&stdout=1", "").await.unwrap();
    assert_eq!(chosen, "", "a client that offers none gets the oldest");
}

#[tokio::test]
async fn what_is_wrong_is_said_before_the_connection_changes() {
    let world = World::new().await;
    let rows = [
        ("none/exec?command=true&stdout=1", 404, "pods \"none\" not found"),
        ("unbound/exec?command=true&stdout=1", 400, "pod unbound does not have a host assigned"),
        ("unbound/portforward?ports=80", 400, "pod unbound does not have a host assigned"),
        ("p/exec?command=true&stdout=1&container=zz", 400, "container zz is not valid for pod p"),
        ("p/exec?command=true", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("p/attach?stderr=1&tty=1", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("p/portforward", 400, "query parameter \"ports\" is required"),
        ("p/portforward?ports=0", 400, "unable to parse \"0\" as a port: it must be 1 to 65535"),
    ];
    for (path, code, message) in rows {
        let (status, body) = world.connect(path, "v4.channel.k8s.io").await.expect_err(path);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status.as_u16(), body["message"].as_str().unwrap()), (code, message), "{path}");
    }
    let plain = crate::support::get(&world.router, &format!("{PODS}/p/exec?command=true&stdout=1")).await;
    assert_eq!((plain.code, plain.message().as_str()), (400, "Upgrade request required"));
    assert_eq!(crate::support::send(&world.router, "PUT", &format!("{PODS}/p/exec"), "", "").await.code, 405);
}

#[tokio::test]
async fn spdy_is_refused_without_a_protocol_that_is_served() {
    let world = World::new().await;
    for (offered, code, message, accepted) in [
        ("", 400, "unable to upgrade: X-Stream-Protocol-Version is required", 0),
        (
            "X-Stream-Protocol-Version: v9\r\n",
            403,
            "unable to upgrade: unable to negotiate protocol: client supports [\"v9\"]",
            4,
        ),
        ("X-Stream-Protocol-Version: v9\r\nX-Stream-Protocol-Version: v3.channel.k8s.io\r\n", 101, "", 0),
    ] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let request = format!(
            "POST {PODS}/p/exec?command=true&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
             Upgrade: SPDY/3.1\r\n{offered}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut bytes, mut answer) = (Vec::new(), String::new());
        while !(answer.contains("\r\n\r\n") && answer.contains(message)) {
            let size = timeout(PATIENCE, stream.read_buf(&mut bytes)).await.unwrap().unwrap();
            assert_ne!(size, 0, "{answer}");
            answer = String::from_utf8_lossy(&bytes).replace('\\', "");
        }
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
        assert_eq!(answer.to_lowercase().matches("x-accepted-stream-protocol-versions").count(), accepted, "{answer}");
    }
}

#[tokio::test]
async fn output_and_the_end_have_channels_of_their_own() {
    let world = World::new().await;
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let mut socket = world.exec(protocol, "stdout=1&stderr=1", "echo out; echo err >&2; exit 7").await;
        let ([stdin, out, err, end], close) = rest(&mut socket).await;
        assert_eq!((text(&stdin), text(&out), text(&err)), ("", "out\n", "err\n"), "{protocol}");
        let end: Value = serde_json::from_slice(&end).unwrap();
        assert_eq!((&end["status"], &end["reason"]), (&json!("Failure"), &json!("NonZeroExitCode")));
        assert_eq!(end["details"]["causes"], json!([{"reason": "ExitCode", "message": "7"}]));
        assert_eq!(close, Some(CloseCode::Normal));
        let mut socket = world.exec(protocol, "stdout=1", "true").await;
        let end: Value = serde_json::from_slice(&rest(&mut socket).await.0[3]).unwrap();
        assert_eq!(end["status"], "Success");
    }
    // The oldest form: nothing after success, and a failure in words.
    let mut socket = world.exec("channel.k8s.io", "stdout=1", "exit 7").await;
    let ([.., end], _) = rest(&mut socket).await;
    assert_eq!(text(&end), "command terminated with non-zero exit code: exit status 7");
    let mut socket = world.exec("channel.k8s.io", "stdout=1", "true").await;
    assert_eq!(text(&rest(&mut socket).await.0[3]), "");
}

#[tokio::test]
async fn a_command_that_can_not_start_is_told_as_its_end() {
    let world = World::new().await;
    let (mut socket, _) = world.connect("p/exec?command=/no/such&stdout=1", "v5.channel.k8s.io").await.unwrap();
    let end: Value = serde_json::from_slice(&rest(&mut socket).await.0[3]).unwrap();
    assert_eq!((&end["reason"], &end["code"]), (&json!("InternalError"), &json!(500)));
    let message = end["message"].as_str().unwrap();
    assert!(message.starts_with("Internal error occurred: error executing command in container: "), "{message}");
}

#[tokio::test]
async fn base64_channels_are_text() {
    let world = World::new().await;
    let mut socket = world.exec("v4.base64.channel.k8s.io", "stdin=1&stdout=1", "head -c 3").await;
    socket.send(Message::text(format!("0{}", STANDARD.encode("abc")))).await.unwrap();
    let mut channels: [Vec<u8>; 4] = Default::default();
    while let Some(Ok(Message::Text(message))) = socket.next().await {
        let channel = usize::from(message.as_bytes()[0] - b'0');
        channels[channel].extend(STANDARD.decode(&message.as_bytes()[1..]).unwrap());
    }
    assert_eq!(text(&channels[1]), "abc");
    assert!(text(&channels[3]).contains("Success"));
}

#[tokio::test]
async fn version_5_can_end_the_input() {
    let world = World::new().await;
    let mut socket = world.exec("v5.channel.k8s.io", "stdin=1&stdout=1", "cat; echo done").await;
    socket.send(Message::binary(&b"\0some "[..])).await.unwrap();
    socket.send(Message::text("\0text")).await.unwrap();
    socket.send(Message::binary(&b"\xff\0"[..])).await.unwrap();
    let ([_, out, ..], _) = rest(&mut socket).await;
    assert_eq!(text(&out), "some textdone\n");
}

#[tokio::test]
async fn a_terminal_is_told_its_sizes_and_strange_channels_are_ignored() {
    let world = World::new().await;
    let mut socket = world.exec("v4.channel.k8s.io", "stdin=1&stdout=1&stderr=1&tty=1", "head -c 1").await;
    for message in
        [&b"\x04{\"Width\":80,\"Height\":24}"[..], b"\x04{\"Width\":81,", b"\x04\"Height\":25}", b"\x09x", b"\x01x"]
    {
        socket.send(Message::binary(message)).await.unwrap();
    }
    socket.send(Message::Ping((&b"are you there"[..]).into())).await.unwrap();
    socket.send(Message::binary(&b""[..])).await.unwrap();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Pong(bytes) => break assert_eq!(text(&bytes), "are you there"),
            Message::Binary(bytes) => assert_eq!(&bytes[..], b"\x01"),
            other => panic!("{other:?}"),
        }
    }
    while world.node.sizes.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    socket.send(Message::binary(&b"\0y"[..])).await.unwrap();
    rest(&mut socket).await;
    let size = |width, height| TerminalSize { width, height };
    assert_eq!(*world.node.sizes.lock().unwrap(), [size(80, 24), size(81, 25)]);
}

/// The process id that the script printed first.
async fn pid(socket: &mut WebSocketStream<TcpStream>) -> u32 {
    loop {
        if let Message::Binary(bytes) = socket.next().await.unwrap().unwrap()
            && bytes.len() > 1
        {
            return text(&bytes[1..]).lines().next().unwrap().trim().parse().unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_its_process() {
    let world = World::new().await;
    for streams in ["stdout=1", "stdin=1&stdout=1"] {
        let mut socket = world.exec("v5.channel.k8s.io", streams, "echo $$; exec sleep 1000").await;
        let pid = pid(&mut socket).await;
        assert!(std::fs::exists(format!("/proc/{pid}/exe")).unwrap());
        drop(socket);
        let gone = async {
            // What is killed but not yet waited for has no executable.
            while std::fs::read_link(format!("/proc/{pid}/exe")).is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("the process is killed");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_process_up() {
    let world = World::new().await;
    let mut socket = world.exec("v5.channel.k8s.io", "stdout=1", "echo $$; exec head -c 500000000 /dev/zero").await;
    let pid = pid(&mut socket).await;
    let written = || {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
        written.parse::<u64>().unwrap()
    };
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = written();
        if now == before {
            break;
        }
        before = now;
    }
    // What lies in the two sockets' buffers, ours and the pipe's.
    assert!(before < 30_000_000, "{before} bytes were written");
    let mut size = 0;
    while size < 500_000_000 - 100_000 {
        let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() else { continue };
        size += bytes.len() - 1;
    }
}

#[tokio::test]
async fn a_process_that_does_not_read_holds_the_client_up() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let sign = folder.path().join("go");
    let script = format!("until test -e {}; do sleep 0.05; done; wc -c", sign.display());
    let mut socket = world.exec("v5.channel.k8s.io", "stdin=1&stdout=1", &script).await;
    let piece = [vec![0], vec![b'x'; 1 << 20]].concat();
    let mut sent: u64 = 0;
    // As soon as one does not get through, all that there is to buffer is full.
    while timeout(Duration::from_millis(300), socket.send(Message::binary(piece.clone()))).await.is_ok() {
        sent += 1;
        assert!(sent < 40, "{sent} MiB were taken in by nobody");
    }
    std::fs::write(sign, "").unwrap();
    let ended = async {
        socket.flush().await.unwrap();
        socket.send(Message::binary(&b"\xff\0"[..])).await.unwrap();
        rest(&mut socket).await
    };
    let ([_, out, ..], _) = timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(text(&out).trim().parse::<u64>().unwrap(), (sent + 1) << 20);
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_connection() {
    let world = World::new().await;
    let mut socket = world.exec("v5.channel.k8s.io", "stdin=1&stdout=1", "echo $$; exec cat >/dev/null").await;
    pid(&mut socket).await;
    // It may be refused while it is still being sent.
    let _ = socket.send(Message::binary(vec![0; (32 << 20) + 1])).await;
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    timeout(PATIENCE, ended).await.expect("the connection ends");
}

/// A server that sends back what it gets, and its port.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = connection.split();
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    port
}

#[tokio::test]
async fn ports_have_pairs_of_channels_that_begin_with_their_numbers() {
    let world = World::new().await;
    let (one, two) = (echo().await, echo().await);
    for query in [format!("ports={one},{two}"), format!("ports={one}&ports={two}")] {
        let path = format!("p/portforward?{query}");
        let (mut socket, _) = world.connect(&path, "v5.channel.k8s.io,v4.channel.k8s.io").await.unwrap();
        socket.send(Message::binary(&b"\x02second"[..])).await.unwrap();
        socket.send(Message::binary(&b"\0first"[..])).await.unwrap();
        let mut channels: [Vec<u8>; 4] = Default::default();
        while channels.iter().map(Vec::len).sum::<usize>() < 8 + 11 {
            let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() else { panic!() };
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
        let with = |port: u16, rest: &[u8]| [&port.to_le_bytes(), rest].concat();
        assert_eq!(channels, [with(one, b"first"), with(one, b""), with(two, b"second"), with(two, b"")]);
    }
}

#[tokio::test]
async fn a_unix_socket_can_be_upgraded_too() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let router = world.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let stream = UnixStream::connect(&path).await.unwrap();
    let (mut socket, _) =
        connect(stream, "p/exec?command=echo&command=hi&stdout=1", "v5.channel.k8s.io").await.unwrap();
    let Some(Ok(Message::Binary(first))) = socket.next().await else { panic!() };
    assert_eq!(&first[..], b"\x01hi\n");
}
