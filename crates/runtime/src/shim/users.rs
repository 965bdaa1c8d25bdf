//! A user namespace for a container: made by the shim, which is the host's root, before the container is born.
//!
//! Invariant: it holds no process until the container's first enters it, and its ids are written once.

use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions};

use crate::plan::{Ids, Users};
use crate::sys::{self, Fork};

/// Makes the namespace. A child is born into it, and held until somebody has it open.
pub(crate) fn make(users: &Users) -> Result<OwnedFd> {
    let (hold, release) = pipe_with(PipeFlags::CLOEXEC)?;
    let (pid, pidfd) = match sys::fork(u64::from(libc::CLONE_NEWUSER.cast_unsigned()), None)? {
        Fork::Child => {
            drop(release);
            let _ = rustix::io::read(&hold, &mut [0]);
            sys::exit(0)
        }
        Fork::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(hold);
    let made =
        write_ids(pid, "uid_map", &users.uids).and_then(|()| write_ids(pid, "gid_map", &users.gids)).and_then(|()| {
            rustix::fs::open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        });
    drop(release);
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    made
}

fn write_ids(pid: i32, file: &str, all: &[Ids]) -> Result<()> {
    let mut text = String::new();
    for Ids { inside, outside, size } in all {
        let _ = writeln!(text, "{inside} {outside} {size}"); // a String takes everything
    }
    let path = format!("/proc/{pid}/{file}");
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel takes the whole map in one write.
    if rustix::io::write(&file, text.as_bytes())? == text.len() { Ok(()) } else { Err(Errno::IO) }
}
