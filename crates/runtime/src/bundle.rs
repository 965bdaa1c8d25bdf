//! What a caller hands over to have a container started, and what it gets back.
//!
//! Invariant: a [`ContainerId`] is safe as a file name and as a cgroup name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci_spec::runtime::{LinuxResources, Spec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A container's name: 1 to 200 characters of `A-Z a-z 0-9 _ . -`, not starting with a dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// The text is no container name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no container name: use 1 to 200 of A-Z a-z 0-9 _ . - and no leading dot")]
pub struct InvalidId(String);

impl ContainerId {
    /// Checks and wraps a name.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidId> {
        let name = name.into();
        let fits = (1..=200).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if fits { Ok(Self(name)) } else { Err(InvalidId(name)) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidId;

    fn try_from(name: String) -> Result<Self, InvalidId> {
        Self::new(name)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container to start.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Its name, unique among the containers of this daemon.
    pub id: ContainerId,
    /// The OCI runtime spec. `root.path` is ignored, `root.readonly` is honoured.
    pub spec: Spec,
    /// What the container sees as `/`.
    pub rootfs: Rootfs,
    /// The container's own folder; exists, mode 0700. The runtime keeps `state.json` and `exit.json` in it.
    pub dir: PathBuf,
    /// The log file, appended to in CRI format; its folder exists.
    pub log: PathBuf,
    /// When the next log file is begun; never, if not said.
    pub rotation: Option<LogRotation>,
    /// What the container reads from its standard input. With `process.terminal` in the spec it is the terminal.
    pub stdin: Stdin,
    /// Limits of the cgroup right above the container's, which it shares with its neighbours. All of them say the same.
    pub together: Option<LinuxResources>,
}

/// How much of a container's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRotation {
    /// How many bytes a file of the log has at most before the next is begun; the size of a few records at least.
    pub max_size: u64,
    /// How many files there are at most, with the one that is written to.
    pub max_files: u32,
}

/// Where the full files of a log are, once there are any: in the order of their names, the oldest first.
pub fn older_logs(log: &Path) -> PathBuf {
    let mut folder = log.as_os_str().to_owned();
    folder.push(".older");
    folder.into()
}

/// A container's standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Empty,
    /// What [`Runtime::join`](crate::Runtime::join) hands over a way to; it has no end while the container lives.
    Open,
    /// The same, for the first who joins: it ends when that one closes it.
    Once,
}

/// What a container sees as `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// Read-only layers below a writable one, by overlayfs in the container's own mount namespace.
    Overlay {
        /// The layers' folders, topmost first; at least one.
        lower: Vec<PathBuf>,
        /// Where writes go.
        writable: Writable,
    },
    /// This machine's own root filesystem, and the disks mounted below it, under a throw-away overlay in memory.
    /// The host's `/proc`, `/sys`, `/dev` and `/run` are not shown.
    /// `Overlay { lower: ["/"], writable: Tmpfs }` means the same.
    Host {
        /// The most that the container may write, in bytes; the kernel's default is half of the memory.
        size: Option<u64>,
    },
    /// An empty folder. Nothing of the spec's is executed in it: the container holds its namespaces for others to join,
    /// and reaps what they leave behind, until it is killed.
    Nothing,
}

/// Where a container's writes to its root filesystem go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writable {
    /// `upper/` and `work/` are made in this folder; it must not be on overlayfs nor below a layer. A new folder for each container.
    Directory(PathBuf),
    /// Memory, gone with the container.
    Tmpfs {
        /// The most that the container may write, in bytes; the kernel's default is half of the memory.
        size: Option<u64>,
    },
}

/// A container's program was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The host's process id of the container's PID 1.
    pub pid: i32,
    /// When.
    pub at: SystemTime,
}

/// A container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0..=255; 128 + n when signal n ended it; 255 when its shim was killed and the result is unknown.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed at least one of its processes because the container's memory limit was reached.
    pub oom_killed: bool,
    /// The shim died before it could record the end: `code` is 255, and the container was killed.
    pub lost: bool,
    /// When its program was executed.
    pub started_at: SystemTime,
    /// When it was reaped.
    pub finished_at: SystemTime,
}

/// What [`Runtime::recover`](crate::Runtime::recover) found in a container's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// It runs; wait, signal, kill and remove work for it again.
    Running {
        /// Its name.
        id: ContainerId,
        /// Its process.
        started: Started,
    },
    /// It has ended; wait answers and remove works.
    Exited {
        /// Its name.
        id: ContainerId,
        /// How.
        exit: Exit,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_are_safe_file_names() {
        for good in ["a", "job-1.x_Y", &"x".repeat(200)] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ä", "a\0", &"x".repeat(201)] {
            assert!(ContainerId::new(bad).is_err(), "{bad}");
        }
    }
}
