//! An ordinary user with a daemon, for the tests that are run without root: by root they are run as a user that nobody is, by
//! another user as that one.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::until;

/// Numbers that no user of a machine has, one for each test: all processes of a user share their namespaces.
static NEXT: AtomicU32 = AtomicU32::new(1_234_500_000);

/// A user, its folders, and the program where it may read it.
pub struct User {
    pub uid: u32,
    pub home: tempfile::TempDir,
    /// In memory, as a session's is.
    pub session: tempfile::TempDir,
}

impl User {
    /// `None`, with a notice, where users can have no namespaces.
    pub fn new() -> Option<User> {
        let is_root = rustix::process::geteuid().is_root();
        let uid = if is_root { NEXT.fetch_add(1, Ordering::Relaxed) } else { rustix::process::geteuid().as_raw() };
        let user = User { uid, home: tempfile::tempdir().unwrap(), session: tempfile::tempdir_in("/dev/shm").unwrap() };
        // By another process: while this one has it open for writing, a fork of another test's would keep it busy.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_stint")).arg(user.path("stint")).status();
        assert!(copied.unwrap().success());
        for folder in [user.home.path(), user.session.path()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
            if is_root {
                chown(folder, Some(uid), Some(uid)).unwrap();
            }
        }
        let mut tried = user.as_user("unshare");
        if !tried.args(["--user", "--map-root-user", "--mount", "true"]).status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: this machine lets users make no namespaces");
            return None;
        }
        Some(user)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn as_user(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            command.uid(self.uid).gid(self.uid);
        }
        command.current_dir(self.home.path()).stdin(Stdio::null());
        command
    }

    pub fn stint(&self, args: &[&str]) -> Command {
        let mut command = self.as_user(self.path("stint"));
        command.env("STINT_DATA", self.path("data")).env("XDG_RUNTIME_DIR", self.session.path()).args(args);
        command
    }

    /// Writes a file of the user's.
    pub fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(self.path(name), Some(self.uid), Some(self.uid)).unwrap();
        }
    }

    /// `stint run` of these objects, in a file in the folder that it is started in.
    pub fn run(&self, args: &[&str], objects: &[Value]) -> Output {
        self.write("job.json", &json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
        self.stint(&["run", "job.json"]).args(args).output().unwrap()
    }

    /// The processes of the user's that have a name of Stint's.
    pub fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            if entry.metadata().is_ok_and(|meta| meta.uid() == self.uid)
                && let Ok(name) = fs::read_to_string(entry.path().join("comm"))
                && name.starts_with("stint")
            {
                found.push(name.trim().to_owned());
            }
        }
        found
    }
}

/// A daemon of the user's.
pub struct Daemon<'a> {
    pub user: &'a User,
    pub child: Child,
    /// What it said until it served.
    pub said: String,
}

impl<'a> Daemon<'a> {
    pub fn start(user: &'a User) -> Daemon<'a> {
        let mut command = user.stint(&[]);
        // Networks of pods are tested where they touch nothing of this machine; see rootless_network.rs.
        command.env("STINT_POD_NETWORK", "host");
        Daemon::start_by(user, command)
    }

    /// By a command that runs `stint` with further arguments.
    pub fn start_by(user: &'a User, mut command: Command) -> Daemon<'a> {
        command.args(["serve", "--listen", "127.0.0.1:0", "--allow-host-rootfs"]);
        // How full this machine's disk is is no matter here.
        command.env("STINT_EVICTION_HARD", "none").env("STINT_IMAGE_GC_HIGH_THRESHOLD", "100");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("serving at") {
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "the daemon ended:\n{said}");
        }
        assert!(said.contains("without root:"), "{said}");
        std::thread::spawn(move || drop(std::io::copy(&mut log, &mut std::io::sink())));
        let daemon = Daemon { user, child, said };
        // Pods need it; the API waits a second for it, which a busy machine may not keep.
        until("there is an account", || {
            daemon.ask("GET", "/api/v1/namespaces/default/serviceaccounts/default", "").0 == 200
        });
        daemon
    }

    /// One request over the unix socket, as the user: whoever that is, the daemon sees it as its own.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        let (socket, uid) = (self.user.path("data/stint.sock"), self.user.uid);
        // Who a thread is holds for that thread alone.
        let answer = std::thread::spawn(move || {
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_res_gid(id_of_group(uid), id_of_group(uid), id_of_group(uid)).unwrap();
                rustix::thread::set_thread_res_uid(id_of_user(uid), id_of_user(uid), id_of_user(uid)).unwrap();
            }
            let mut socket = UnixStream::connect(socket).unwrap();
            socket.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = answer.join().unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    pub fn status(&self, pod: &str) -> Value {
        let (_, body) = self.ask("GET", &format!("{PODS}/{pod}"), "");
        let start = body.find('{').unwrap_or(0);
        let end = body.rfind('}').map_or(0, |at| at + 1);
        let pod: Value = serde_json::from_str(&body[start..end]).unwrap_or_default();
        pod["status"].clone()
    }

    pub fn phase(&self, pod: &str) -> String {
        self.status(pod)["phase"].as_str().unwrap_or_default().to_owned()
    }

    pub fn is_ready(&self, pod: &str) -> bool {
        self.status(pod)["containerStatuses"][0]["ready"] == true
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub const PODS: &str = "/api/v1/namespaces/default/pods";

pub fn id_of_user(uid: u32) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(uid)
}

pub fn id_of_group(gid: u32) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(gid)
}
