//! The real program as a daemon, for the tests of this folder.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod leftovers;
pub mod machine;
pub mod user;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A daemon on a data folder of its own. What it leaves behind is ended when it is dropped.
pub struct Daemon {
    pub data: tempfile::TempDir,
    pub child: Option<Child>,
    /// The program that is started.
    pub program: PathBuf,
}

impl Daemon {
    /// A data folder, and no daemon yet.
    pub fn folder() -> Daemon {
        Daemon { data: tempfile::tempdir().unwrap(), child: None, program: env!("CARGO_BIN_EXE_stint").into() }
    }

    pub fn start(args: &[&str]) -> Daemon {
        let mut daemon = Daemon::folder();
        daemon.start_again(args);
        daemon
    }

    /// With an agent, for containers; `None`, with a notice, where there can be none.
    pub fn with_agent() -> Option<Daemon> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: containers need root");
            return None;
        }
        Some(Daemon::start(&["--allow-host-rootfs"]))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--data").arg(self.data.path()).args(args).stdin(Stdio::null());
        // Networks of pods are tested where they touch nothing of this machine; see network.rs.
        command.env("STINT_POD_NETWORK", "host");
        // How full the disk of the machine is that tests run on is no part of them.
        command.env("STINT_EVICTION_HARD", "none").env("STINT_IMAGE_GC_HIGH_THRESHOLD", "100");
        command
    }

    /// With so many descriptors at most, without an agent.
    pub fn with_descriptors(most: u32) -> Daemon {
        let mut daemon = Daemon::folder();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_stint"), "--data"]);
        command.arg(daemon.data.path()).args(["serve", "--listen", "127.0.0.1:0", "--no-agent"]).stdin(Stdio::null());
        daemon.spawn(command);
        daemon
    }

    /// Starts the program, and waits for nothing.
    pub fn begin(&mut self, args: &[&str]) {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        self.child = Some(command.args(args).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Starts the program and waits until it says that it is ready; returns how long that took.
    pub fn start_again(&mut self, args: &[&str]) -> Duration {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(args);
        self.spawn(command)
    }

    fn spawn(&mut self, mut command: Command) -> Duration {
        let began = Instant::now();
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("serving at") {
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "the daemon ended:\n{said}");
        }
        let took = began.elapsed();
        // Somebody has to read what else it says.
        std::thread::spawn(move || drop(std::io::copy(&mut log, &mut std::io::sink())));
        self.child = Some(child);
        took
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.take().unwrap().wait().unwrap();
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.child.take().unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
    }

    /// One request over the unix socket, as HTTP/1.1; returns the code and the body.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut answer = String::new();
        self.send(method, path, body).read_to_string(&mut answer).unwrap();
        taken_apart(&answer)
    }

    /// Asks for something whose answer goes on, and does `then` when `awaited` has come of it; returns the code and all of it.
    pub fn follow(&self, path: &str, awaited: &str, then: impl FnOnce()) -> (u16, String) {
        let mut socket = self.send("GET", path, "");
        let (mut answer, mut piece) = (Vec::new(), [0; 1 << 12]);
        while !String::from_utf8_lossy(&answer).contains(awaited) {
            let read = socket.read(&mut piece).unwrap();
            assert_ne!(read, 0, "it ended without {awaited:?}: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
        }
        then();
        socket.read_to_end(&mut answer).unwrap();
        taken_apart(&String::from_utf8(answer).unwrap())
    }

    fn send(&self, method: &str, path: &str, body: &str) -> UnixStream {
        let mut socket = UnixStream::connect(self.data.path().join("stint.sock")).unwrap();
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: stint\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
        .unwrap();
        socket
    }

    /// Creates an object; a pod as soon as its namespace has its account, which the API waits for no longer than a second.
    pub fn create(&self, path: &str, object: &serde_json::Value) {
        let mut answer = (0, String::new());
        until("the namespace has its account", || {
            answer = self.ask("POST", path, &object.to_string());
            !(answer.0 == 403 && answer.1.contains("error looking up service account"))
        });
        assert_eq!(answer.0, 201, "{}", answer.1);
    }

    pub fn get(&self, path: &str) -> serde_json::Value {
        let (code, body) = self.ask("GET", path, "");
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    /// How much memory it has, in MiB.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.as_ref().unwrap().id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    }

    /// Where its agent has its records, in memory.
    pub fn memory_folders(&self) -> Vec<PathBuf> {
        let Ok(id) = fs::read_to_string(self.data.path().join("id")) else { return Vec::new() };
        let ours = format!("stint-{}", rustix::process::geteuid().as_raw());
        let folders = ["/run", "/dev/shm"].map(|parent| Path::new(parent).join(&ours).join(id.trim()));
        folders.into_iter().filter(|folder| folder.exists()).collect()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data.path().join("kubeconfig")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Their containers outlive daemons by design.
        for memory in self.memory_folders() {
            leftovers::end_containers(&memory);
            leftovers::unmount_below(&memory);
            let _ = fs::remove_dir_all(memory);
        }
        leftovers::unmount_below(self.data.path());
    }
}

/// The code and the body of an answer.
fn taken_apart(answer: &str) -> (u16, String) {
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let is_in_chunks = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (code, if is_in_chunks { joined(body) } else { body.to_owned() })
}

/// A body that came in chunks.
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&rest[..size]);
        chunks = &rest[size + 2..];
    }
    body
}

/// How long a test waits for what has to happen: a machine may be busy with much else.
pub const PATIENCE: Duration = Duration::from_mins(2);

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn config_map(name: &str) -> serde_json::Value {
    serde_json::json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "a": "b" } })
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
