//! Cgroup folders, as the shim makes and removes them.
//!
//! Invariant: whatever was made for a container is removed after it, also when the start fails half-way; folders that a
//! class of containers shares stay.

use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use std::{ffi::CString, io};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::plan::{Cgroups, Group};

/// A step that failed and why.
pub(crate) type Failed = (String, Errno);

/// Makes the folders and writes the limits; returns the folder to be born into, for cgroup v2.
pub(crate) fn make(plan: &Cgroups) -> std::result::Result<Option<OwnedFd>, Failed> {
    let mut first = None;
    for group in &plan.groups {
        let failed = |e| (format!("make cgroup {}", text(&group.path)), e);
        if group.shared {
            share(group)?;
            continue;
        }
        let made = folder(&group.path).map_err(failed)?;
        if first.is_none() {
            enable(&plan.enable)?;
        }
        write_files(group, &made)?;
        first.get_or_insert(made);
    }
    limit_above(&plan.above, &[])?;
    if let (Some(filter), Some(group)) = (&plan.device_filter, &first) {
        crate::device_filter::attach(filter, group.as_fd()).map_err(|e| ("attach the device filter".into(), e))?;
    }
    Ok(if plan.clone_into { first } else { None })
}

/// Writes limits of folders that neighbours share. With a folder of ours in them nobody can remove them meanwhile.
///
/// The controllers to enable before are those that nobody has enabled yet.
pub(crate) fn limit_above(groups: &[Group], controllers: &[(CString, String)]) -> std::result::Result<(), Failed> {
    let made =
        groups.iter().map(|group| folder(&group.path).map_err(|e| (format!("make cgroup {}", text(&group.path)), e)));
    let made = made.collect::<std::result::Result<Vec<_>, _>>()?;
    enable(controllers)?;
    groups.iter().zip(&made).try_for_each(|(group, made)| write_files(group, made))
}

/// Kills every process in a cgroup folder until there is none. Those that are too busy to die are waited for a second.
pub(crate) fn kill_all(path: &CStr) {
    let Ok(group) = folder_if_there(path) else { return };
    if write(&group, c"cgroup.kill", "1").is_ok() {
        return; // cgroup v2: the kernel sees to it
    }
    for wait in [0, 1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
        let found = processes(&group);
        if found.is_empty() {
            return;
        }
        let opened: Vec<_> =
            found.iter().filter_map(|pid| Some((*pid, pidfd_open(*pid, PidfdFlags::empty()).ok()?))).collect();
        // A number could have been given to another process before it was opened.
        let still = processes(&group);
        for (_, pidfd) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(wait));
    }
}

fn processes(group: &OwnedFd) -> Vec<Pid> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(group, c"cgroup.procs", flags, Mode::empty()) else { return Vec::new() };
    let mut text = String::new();
    let _ = std::fs::File::from(file).read_to_string(&mut text);
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

fn folder_if_there(path: &CStr) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a folder that a class of containers shares, unless it is there. It appears under its name with everything
/// written: nobody ever joins a half-made one.
fn share(group: &Group) -> std::result::Result<(), Failed> {
    let failed = |e| (format!("make cgroup {}", text(&group.path)), e);
    if rustix::fs::access(&group.path, rustix::fs::Access::EXISTS).is_ok() {
        return Ok(());
    }
    let own = format!("{}-{}", text(&group.path), rustix::process::getpid().as_raw_pid());
    let own = CString::new(own).map_err(|_| failed(Errno::INVAL))?;
    let made = folder(&own).map_err(failed)?;
    let written = write_files(group, &made);
    drop(made);
    let moved = written.and_then(|()| match rustix::fs::rename(&own, &group.path) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false), // another shim was faster
        Err(error) => Err(failed(error)),
    });
    if !matches!(moved, Ok(true)) {
        let _ = remove_one(&own);
    }
    moved.map(drop)
}

fn enable(all: &[(CString, String)]) -> std::result::Result<(), Failed> {
    for (path, controllers) in all {
        write(CWD, path, controllers)
            .map_err(|e| (format!("enable the controllers {controllers:?} in {}", text(path)), e))?;
    }
    Ok(())
}

fn write_files(group: &Group, folder: &OwnedFd) -> std::result::Result<(), Failed> {
    for (name, value) in &group.files {
        write(folder, name, value)
            .map_err(|e| (format!("write {value:?} to {}/{}", text(&group.path), text(name)), e))?;
    }
    Ok(())
}

fn write(at: impl AsFd, path: &CStr, value: &str) -> Result<()> {
    let file = rustix::fs::openat(at, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

/// Opens a folder, made with its parents where missing.
fn folder(path: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Another container's shim may remove the empty parent between our two calls: try again then.
    for _ in 0..16 {
        match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => {
                let parent = parent(path).ok_or(Errno::NOENT)?;
                folder(&parent)?;
                continue;
            }
            Err(error) => return Err(error),
        }
        match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
    }
    Err(Errno::NOENT)
}

fn parent(path: &CStr) -> Option<CString> {
    let bytes = path.to_bytes();
    let slash = bytes.iter().rposition(|&b| b == b'/').filter(|&s| s > 0)?;
    CString::new(&bytes[..slash]).ok()
}

/// Removes folders whose processes are gone, and parents that thereby become empty.
pub(crate) fn remove(folders: &[CString]) -> io::Result<()> {
    let mut first_error = None;
    for folder in folders {
        if let Err(error) = remove_one(folder) {
            first_error.get_or_insert(error);
            continue;
        }
        let mut above = parent(folder);
        while let Some(path) = above {
            // Stop below the folder that holds all of ours, e.g. /sys/fs/cgroup/memory/stint.
            if depth(&path) <= depth_of_top(folder)
                || rustix::fs::unlinkat(CWD, &path, rustix::fs::AtFlags::REMOVEDIR).is_err()
            {
                break;
            }
            above = parent(&path);
        }
    }
    first_error.map_or(Ok(()), |error| Err(error.into()))
}

/// A dying process leaves its cgroup a moment after it was reaped.
fn remove_one(folder: &CStr) -> Result<()> {
    const PATIENCE: u64 = 8;
    for wait in [0, 0, 1, 2, 4, 8, 16, 32, 64, 128] {
        match rustix::fs::unlinkat(CWD, folder, rustix::fs::AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => {
                if wait == PATIENCE {
                    kill_all(folder); // what shares its processes with others, and whose shim is gone
                }
                std::thread::sleep(Duration::from_millis(wait));
            }
            Err(error) => return Err(error),
        }
    }
    Err(Errno::BUSY)
}

fn depth(path: &CStr) -> usize {
    Path::new(text(path).as_str()).components().count()
}

/// `/sys/fs/cgroup/<controller>/<top>` on v1, `/sys/fs/cgroup/<top>` on v2: the container's own parts are the last two,
/// or the last one. A cgroup that is delegated to a user may lie deeper; the shim's own is in it, so that it is never empty.
fn depth_of_top(folder: &CStr) -> usize {
    let root = Path::new("/sys/fs/cgroup").components().count();
    let v1 = !crate::host::is_unified();
    (root + 1 + usize::from(v1)).min(depth(folder) - 1)
}

/// How many processes were killed because a memory limit was reached.
pub(crate) fn oom_kills(counter: &OwnedFd) -> u64 {
    let mut buffer = [0; 512];
    let len = rustix::io::pread(counter, &mut buffer, 0).unwrap_or(0);
    parse_oom_kills(&buffer[..len])
}

fn parse_oom_kills(text: &[u8]) -> u64 {
    text.split(|&b| b == b'\n')
        .find_map(|line| std::str::from_utf8(line.strip_prefix(b"oom_kill ")?).ok()?.trim().parse().ok())
        .unwrap_or(0)
}

fn text(path: &CStr) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kills_are_read_from_both_versions() {
        assert_eq!(parse_oom_kills(b"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(parse_oom_kills(b"low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(parse_oom_kills(b""), 0);
    }

    #[test]
    fn parents_are_found() {
        assert_eq!(parent(c"/a/b").as_deref(), Some(c"/a"));
        assert_eq!(parent(c"/a"), None);
    }
}
