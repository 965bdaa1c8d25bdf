//! A program that works beside this user's containers: it needs no daemon, and does not outlive the last of the user's processes.
//!
//! ```text
//! holder, first process of a PID namespace ◄── ends with the last member; the kernel then kills what is in the namespace
//!    └── companion                         ◄── started in it by a daemon, found again by the next one
//! ```
//!
//! Invariant: whoever is found by a record is the very process that was started, by number and start time.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::holder;
use crate::record::Process;
use crate::sys;

/// A program that goes on when this process ends, and is killed once none of the user's processes is left.
#[derive(Debug)]
pub struct Companion {
    pidfd: OwnedFd,
    /// `None`: an earlier daemon started it.
    child: Option<Child>,
}

impl Companion {
    /// Starts a program beside the processes that [`enter`](super::enter) found by `folder`, and writes into the file
    /// `record` who it is. It starts in this thread's network namespace.
    pub fn start(folder: &Path, record: &Path, command: &mut Command) -> io::Result<Companion> {
        let holder = fs::read_to_string(folder.join("holder"))?;
        let holder = holder::parse(&holder).filter(|holder| holder.exists());
        let holder = holder.ok_or_else(|| io::Error::other("nobody holds this user's namespaces any more"))?;
        let namespace = fs::File::open(format!("/proc/{}/ns/pid", holder.pid))?;
        // Ctrl-C in a terminal is not meant for it.
        command.process_group(0);
        let spawn = || {
            sys::setns(namespace.as_fd(), libc::CLONE_NEWPID.cast_unsigned())?;
            command.spawn()
        };
        // Children of a thread that did this are born there; the thread could not have threads any more.
        let spawned = std::thread::scope(|scope| scope.spawn(spawn).join());
        let mut child = spawned.unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let written = Process::read(pid).and_then(|process| {
            fs::write(record, holder::line(process))?;
            open(process)
        });
        match written {
            Ok(pidfd) => Ok(Companion { pidfd, child: Some(child) }),
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    /// The one that a record tells of, if it still runs.
    pub fn find(record: &Path) -> Option<Companion> {
        let process = holder::parse(&fs::read_to_string(record).ok()?)?;
        let pidfd = open(process).ok()?;
        // Looked at after it was opened: so it is that one.
        process.exists().then_some(Companion { pidfd, child: None })
    }

    /// Kills it, and returns when it has ended.
    pub fn end(mut self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ended = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
        while rustix::event::poll(&mut ended, None) == Err(rustix::io::Errno::INTR) {}
        self.reap();
        Ok(())
    }

    /// Lets go of one that has ended.
    pub fn reap(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.try_wait();
        }
    }
}

impl AsFd for Companion {
    /// Readable once it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn open(process: Process) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(process.pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
