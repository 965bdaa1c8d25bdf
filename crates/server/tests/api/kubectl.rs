//! Sessions of real kubectls with a pod whose containers are this machine: exec, attach, cp, logs, port-forward.
//!
//! Each test runs with every kubectl that is on the machine, and says that it is skipped where there is none.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::node::TestNode;
use crate::support::{api, post, send};
use serde_json::json;
use stint_server::{Api, router};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, pki_types::PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// Where kubectls of several versions lie side by side on machines with a cloud SDK.
const FOLDER: &str = "/usr/lib/google-cloud-sdk/bin";

fn kubectls() -> Vec<PathBuf> {
    let found = std::fs::read_dir(FOLDER).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let mut found: Vec<PathBuf> = found
        .iter()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("kubectl.1."))
        .map(std::fs::DirEntry::path)
        .collect();
    found.sort();
    if found.is_empty() {
        println!("skipped: no kubectl.1.* in {FOLDER}");
    }
    found
}

/// TLS as a server for kubectl has it: HTTP/2 for what has an answer, HTTP/1.1 for what is upgraded.
struct Tls {
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
}

impl Tls {
    async fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, acceptor: Arc::new(config).into() }
    }
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<tokio::net::TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

struct World {
    address: std::net::SocketAddr,
    home: tempfile::TempDir,
    node: Arc<TestNode>,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    /// A server with one running pod, `p`, of containers `c` and `d`.
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let node = Arc::new(TestNode::default());
        let router = router(Api { node: Some(node.clone()), ..api() });
        let address = runtime.block_on(async {
            let pods = "/api/v1/namespaces/default/pods";
            let container = |name: &str| json!({"name": name, "image": "busybox:1"});
            let state = |name: &str| {
                json!({
                    "name": name, "image": "busybox:1", "imageID": "", "ready": true, "restartCount": 0,
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                })
            };
            let pod = json!({
                "metadata": {"name": "p"},
                "spec": {"nodeName": "n", "containers": [container("c"), container("d")]},
            });
            let made = post(&router, pods, &pod).await;
            assert_eq!(made.code, 201, "{}", made.text);
            let mut pod = made.json();
            pod["status"] = json!({"phase": "Running", "containerStatuses": [state("c"), state("d")]});
            let path = format!("{pods}/p/status");
            let running = send(&router, "PUT", &path, "application/json", pod.to_string()).await;
            assert_eq!(running.code, 200, "{}", running.text);
            let listener = Tls::new().await;
            let address = listener.listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, router).await });
            address
        });
        Self { address, home: tempfile::tempdir().unwrap(), node, _runtime: runtime }
    }

    fn command(&self, kubectl: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(kubectl);
        command
            .arg(format!("--server=https://{}", self.address))
            .args(["--insecure-skip-tls-verify", "--token=any"]) // without, it asks for a name
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home.path())
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, kubectl: &Path, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(kubectl, arguments).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A command that reads no input closes it early.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// What it printed and its exit code, in a form that tells everything when it is not as expected.
    fn told(&self, kubectl: &Path, arguments: &[&str], input: &[u8]) -> String {
        let output = self.run(kubectl, arguments, input);
        let mut told = String::from_utf8(output.stdout).unwrap();
        if !output.stderr.is_empty() {
            write!(told, "[{}]", String::from_utf8(output.stderr).unwrap()).unwrap();
        }
        write!(told, "({})", output.status.code().unwrap_or(-1)).unwrap();
        told
    }
}

#[test]
fn exec_carries_output_input_and_exit_codes() {
    let world = World::new();
    for kubectl in kubectls() {
        let told = |arguments: &[&str], input: &[u8]| world.told(&kubectl, arguments, input);
        let name = kubectl.display();
        assert_eq!(told(&["exec", "p", "-c", "d", "--", "sh", "-c", "echo $CONTAINER"], b""), "d\n(0)", "{name}");
        assert_eq!(
            told(&["exec", "p", "-c", "c", "--", "sh", "-c", "echo out; echo err >&2; exit 3"], b""),
            "out\n[err\ncommand terminated with exit code 3\n](3)",
            "{name}"
        );
        assert_eq!(
            told(&["exec", "-i", "p", "-c", "c", "--", "wc", "-c"], &b"x".repeat(300_000)),
            "300000\n(0)",
            "{name}"
        );
        // The process ends before its input does. Some kubectls log a line about what they could not send any more.
        let early = told(&["exec", "-i", "p", "-c", "c", "--", "true"], &b"x".repeat(1 << 20));
        let is_told = early.starts_with("[E") && early.ends_with("\n](0)") && early.lines().count() == 2;
        assert!(early == "(0)" || is_told, "{name}: {early}");
        let missing = told(&["exec", "p", "-c", "c", "--", "/no/such/program"], b"");
        assert!(missing.contains("error executing command in container") && missing.ends_with("(1)"), "{missing}");
        let invalid = told(&["exec", "p", "-c", "zz", "--", "true"], b"");
        assert!(invalid.contains("container zz is not valid for pod p"), "{invalid}");
    }
}

#[test]
fn exec_carries_megabytes_unchanged() {
    let world = World::new();
    let bytes: Vec<u8> = (0..4_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for kubectl in kubectls() {
        let output = world.run(&kubectl, &["exec", "-i", "p", "-c", "c", "--", "cat"], &bytes);
        assert!(output.status.success(), "{}: {}", kubectl.display(), String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == bytes, "{}: {} bytes came back", kubectl.display(), output.stdout.len());
    }
}

#[test]
fn attach_joins_the_main_process() {
    let world = World::new();
    for kubectl in kubectls() {
        let told = world.told(&kubectl, &["attach", "-i", "p", "-c", "c"], b"to and fro\n");
        assert!(told.contains("to and fro\n") && told.ends_with("(0)"), "{}: {told}", kubectl.display());
    }
}

#[test]
fn cp_copies_files_both_ways() {
    let world = World::new();
    for kubectl in kubectls() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let bytes: Vec<u8> = (0..3_u32 << 20).map(|at| (at % 251) as u8).collect();
        std::fs::write(path("here"), &bytes).unwrap();
        let there = format!("p:{}", path("there"));
        let told = world.told(&kubectl, &["cp", "-c", "c", &path("here"), &there], b"");
        assert!(told.ends_with("(0)"), "{}: {told}", kubectl.display());
        assert!(std::fs::read(path("there")).unwrap() == bytes, "{}", kubectl.display());
        let told = world.told(&kubectl, &["cp", "-c", "c", &there, &path("back")], b"");
        assert!(told.ends_with("(0)"), "{}: {told}", kubectl.display());
        assert!(std::fs::read(path("back")).unwrap() == bytes, "{}", kubectl.display());
    }
}

#[test]
fn logs_follow_what_is_written() {
    let world = World::new();
    world.node.write("c", "first");
    for kubectl in kubectls() {
        assert_eq!(world.told(&kubectl, &["logs", "p", "-c", "c"], b""), "first\n(0)", "{}", kubectl.display());
        let waiting = world.told(&kubectl, &["logs", "p", "-c", "d"], b"");
        assert!(waiting.contains("container \"d\" in pod \"p\" is waiting to start: ContainerCreating"), "{waiting}");
    }
    let followers: Vec<_> = kubectls()
        .iter()
        .map(|kubectl| world.command(kubectl, &["logs", "-f", "p", "-c", "c"]).stdin(Stdio::null()).spawn().unwrap())
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    world.node.write("c", "second");
    world.node.end("c");
    for follower in followers {
        let output = follower.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "first\nsecond\n");
    }
}

/// A server that sends back what it gets, and its port.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // A client may leave as it likes.
                let _ = std::io::copy(&mut &connection, &mut &connection);
                let _ = connection.shutdown(Shutdown::Write);
            });
        }
    });
    port
}

/// A `kubectl port-forward` at work, which is killed in the end.
struct Forwarding {
    child: Child,
    port: u16,
    _stdout: BufReader<ChildStdout>,
}

impl Forwarding {
    fn start(world: &World, kubectl: &Path, port: u16) -> Self {
        let mut child = world.command(kubectl, &["port-forward", "p", &format!(":{port}")]).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let local = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split_once(' '));
        let Some((local, _)) = local else { panic!("{}: {line:?}", kubectl.display()) };
        Self { port: local.parse().unwrap(), child, _stdout: stdout }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(2))).unwrap();
        stream
    }

    /// Waits until it complains so.
    fn complains(&mut self, wanted: &str) {
        let (mut said, mut piece) = (Vec::new(), [0; 1 << 10]);
        while !String::from_utf8_lossy(&said).contains(wanted) {
            let size = self.child.stderr.as_mut().unwrap().read(&mut piece).unwrap();
            assert_ne!(size, 0, "not {wanted:?}, but {}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&piece[..size]);
        }
    }

    fn stop(mut self) -> String {
        self.child.kill().unwrap();
        String::from_utf8(self.child.wait_with_output().unwrap().stderr).unwrap()
    }
}

#[test]
fn port_forward_carries_many_connections_at_once() {
    let world = World::new();
    let port = echo();
    for kubectl in kubectls() {
        let forwarding = Forwarding::start(&world, &kubectl, port);
        std::thread::scope(|scope| {
            for n in 0..8_usize {
                let forwarding = &forwarding;
                scope.spawn(move || {
                    let bytes: Vec<u8> =
                        (0..500_000_usize).map(|at| (at * 31 + n * 17 + at / 251).to_le_bytes()[0]).collect();
                    let stream = forwarding.connect();
                    let sender = stream.try_clone().unwrap();
                    let sending = bytes.clone();
                    scope.spawn(move || {
                        (&sender).write_all(&sending).unwrap();
                        sender.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut back = Vec::new();
                    (&stream).read_to_end(&mut back).unwrap();
                    assert!(back == bytes, "connection {n}: {} of {} bytes came back", back.len(), bytes.len());
                });
            }
        });
        // One that is not read holds up no other that comes after it has gone.
        drop(forwarding.connect());
        let mut stream = forwarding.connect();
        stream.write_all(b"still there").unwrap();
        let mut back = [0; 11];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"still there");
        let complaints = forwarding.stop();
        assert!(!complaints.contains("error"), "{}: {complaints}", kubectl.display());
    }
}

#[test]
fn port_forward_tells_why_a_port_can_not_be_reached() {
    let world = World::new();
    // A port that is bound, so that nobody gets it, and on which nobody listens.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = held.local_addr().unwrap().port();
    for kubectl in kubectls() {
        let mut forwarding = Forwarding::start(&world, &kubectl, port);
        let mut back = Vec::new();
        // The connection may be reset, or ended.
        let _ = forwarding.connect().read_to_end(&mut back);
        assert!(back.is_empty());
        forwarding.complains(&format!("error forwarding port {port} to pod p, uid"));
        forwarding.stop();
    }
}
