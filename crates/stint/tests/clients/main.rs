//! Sessions of real clients with the real program: every kubectl of the machine, Helm, the Python and the JavaScript client,
//! kube-rs, and schemathesis with whatever it makes up.
//!
//! All of them share one daemon, as users of one machine do; each has a namespace of its own. A client that is not there is
//! said to be skipped (`scripts/clients` installs those that can be). Left out: what a command does inside the server, which
//! the crates' own tests check.

mod edges;
mod fuzz;
mod helm;
mod kube_rs;
mod kubectl;
mod libraries;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Where `scripts/clients` puts kubectls, each with a Helm.
const GO_CLIENTS: [&str; 4] = ["go-32", "go-34", "go-35", "go-36"];

/// A daemon on a data folder of its own.
struct Daemon {
    data: tempfile::TempDir,
    address: String,
    child: Child,
}

impl Daemon {
    /// With an agent that may run pods on this machine's root; `None`, with a notice, where there can be none.
    fn with_agent() -> Option<Daemon> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: containers need root");
            return None;
        }
        Some(Daemon::start(&["--allow-host-rootfs"]))
    }

    fn start(args: &[&str]) -> Daemon {
        let data = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_stint"))
            .arg("--data")
            .arg(data.path())
            .args(["serve", "--listen", "127.0.0.1:0", "--pod-network", "host"])
            .args(args)
            // How full the disk of the machine is that tests run on is no part of them.
            .env("STINT_EVICTION_HARD", "none")
            .env("STINT_IMAGE_GC_HIGH_THRESHOLD", "100")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("serving at") {
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "the daemon ended:\n{said}");
        }
        let address = said.split_once("serving at ").unwrap().1.split(' ').next().unwrap().to_owned();
        // Somebody has to read what else it says; a panic is what a session would not show.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if line.contains("panicked") || line.contains("ERROR") {
                    eprintln!("the daemon: {line}");
                }
            }
        });
        Daemon { data, address, child }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.data.path().join("kubeconfig")
    }

    /// Whether it still runs.
    fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What its containers left behind goes by the folder's id.
        let Ok(id) = std::fs::read_to_string(self.data.path().join("id")) else { return };
        for parent in ["/run", "/dev/shm"] {
            let uid = rustix::process::geteuid().as_raw();
            let _ = std::fs::remove_dir_all(Path::new(parent).join(format!("stint-{uid}")).join(id.trim()));
        }
    }
}

/// A program that is killed when it takes longer than `seconds`; its exit code is 124 then.
fn limited(seconds: u32, program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &seconds.to_string()]).arg(program).stdin(Stdio::null());
    command
}

/// All that it printed.
fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Where the repository is.
fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Where `scripts/clients` installs clients: `None`, with a notice, if `file` is not there even after it has run.
fn installed(file: &str) -> Option<PathBuf> {
    static INSTALLED: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    let folder = Path::new(env!("CARGO_BIN_EXE_stint")).ancestors().nth(2).unwrap().join("clients");
    INSTALLED.get_or_init(|| {
        let script = repository().join("scripts/clients");
        let output = limited(300, &script).arg(&folder).output().unwrap();
        eprint!("{}", text(&output));
    });
    let path = folder.join(file);
    if !path.exists() {
        eprintln!("skipped: there is no {file} below {}", folder.display());
        return None;
    }
    Some(path)
}
