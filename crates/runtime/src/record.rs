//! The records in a container's folder: `state.json` while it is there, `process.json` with what a later command in it
//! must submit to, `exit.json` once it has ended.
//!
//! Invariant: a record is written whole or not at all (temporary file and rename); the shim writes `state.json` before
//! the program runs and `exit.json` exactly once. There is no fsync: records outlive processes, and a container does
//! not outlive its machine.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::{ContainerId, Error, Exit};

pub(crate) const STATE: &str = "state.json";
pub(crate) const EXIT: &str = "exit.json";
pub(crate) const PROCESS: &str = "process.json";
/// Where the shim hands over the container's input: a socket.
pub(crate) const INPUT: &str = "stdin";

/// A process, told apart from later ones of the same number by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Process id in the host's namespace.
    pub(crate) pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub(crate) start_time: u64,
}

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StateRecord {
    pub(crate) id: ContainerId,
    pub(crate) shim: Process,
    pub(crate) init: Process,
    /// Nanoseconds since the epoch.
    pub(crate) started_at: u64,
    /// Cgroup folders to remove at the end.
    pub(crate) cgroups: Vec<CString>,
    /// Folders to delete when the container is removed.
    pub(crate) scratch: Vec<CString>,
}

/// `exit.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExitRecord {
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: bool,
    pub(crate) lost: bool,
    /// Nanoseconds since the epoch.
    pub(crate) started_at: u64,
    /// Nanoseconds since the epoch.
    pub(crate) finished_at: u64,
}

/// A time from a record.
pub(crate) fn time(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

impl From<ExitRecord> for Exit {
    fn from(record: ExitRecord) -> Self {
        Self {
            code: record.exit_code,
            signal: record.signal,
            oom_killed: record.oom_killed,
            lost: record.lost,
            started_at: time(record.started_at),
            finished_at: time(record.finished_at),
        }
    }
}

impl Process {
    /// Reads a living (or unreaped) process's start time.
    pub(crate) fn read(pid: i32) -> io::Result<Self> {
        let mut buffer = [0_u8; 512];
        let mut path = [0_u8; 32];
        let path = stat_path(pid, &mut path);
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let len = rustix::io::read(&file, &mut buffer)?;
        let start_time = start_time(&buffer[..len]).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, start_time })
    }

    /// The session of a process, as the host numbers it.
    pub(crate) fn session(pid: i32) -> Option<i32> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        field(&stat, 6)
    }

    /// Whether this very process still exists.
    pub(crate) fn exists(self) -> bool {
        Self::read(self.pid).is_ok_and(|found| found == self)
    }
}

fn stat_path(pid: i32, buffer: &mut [u8; 32]) -> &CStr {
    use std::io::Write;
    let mut rest = &mut buffer[..];
    let _ = write!(rest, "/proc/{pid}/stat\0");
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"/")
}

fn start_time(stat: &[u8]) -> Option<u64> {
    field(stat, 22)
}

/// A field by its number, from the third on; the second is in parentheses and may hold anything.
fn field<T: std::str::FromStr>(stat: &[u8], number: usize) -> Option<T> {
    let end = stat.iter().rposition(|&b| b == b')')?;
    let field = stat[end + 1..].split(|&b| b == b' ').filter(|f| !f.is_empty()).nth(number.checked_sub(3)?)?;
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

/// Writes a record into the folder `dir`.
pub(crate) fn write<T: Serialize>(dir: impl rustix::fd::AsFd, name: &str, record: &T) -> io::Result<()> {
    const NEW: &CStr = c".new";
    let text = serde_json::to_vec(record).map_err(io::Error::from)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, NEW, flags, Mode::from_raw_mode(0o600))?;
    let mut rest = &text[..];
    while !rest.is_empty() {
        let n = rustix::io::write(&file, rest)?;
        rest = &rest[n..];
    }
    rustix::fs::renameat(&dir, NEW, &dir, name)?;
    Ok(())
}

/// Opens a folder for [`write`].
pub(crate) fn open_dir(path: impl rustix::path::Arg) -> io::Result<std::os::fd::OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Reads a record; `None` when there is none.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(
    id: Option<&ContainerId>,
    dir: &Path,
    name: &str,
) -> Result<Option<T>, Error> {
    let path = dir.join(name);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let fallback = || ContainerId::new("unknown").expect("a fixed valid name");
            let container = id.cloned().unwrap_or_else(fallback);
            return Err(Error::Failed { container, step: format!("read {}", path.display()), source });
        }
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::Record { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = b"42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 0 0";
        assert_eq!(start_time(stat), Some(123_456));
        assert_eq!(start_time(b"42 (x"), None);
    }

    #[test]
    fn this_process_exists_and_an_older_namesake_does_not() {
        let own = Process::read(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.exists());
        assert!(!Process { start_time: own.start_time + 1, ..own }.exists());
    }
}
