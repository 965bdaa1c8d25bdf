//! The process that keeps a user's namespaces while its daemons come and go.
//!
//! Invariant: it needs nothing and does nothing but wait for the lock on its file; when it gets it nobody is left, and nobody
//! new can join until it is gone, since they wait for the same lock. It is the first process of a PID namespace, so that its
//! end is that of its [companions](super::companion) too.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::record::Process;
use crate::sys::{self, Fork};

/// What its file says: number and start time.
pub(super) fn parse(text: &str) -> Option<Process> {
    let (pid, start_time) = text.trim().split_once(' ')?;
    Some(Process { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
}

/// What [`parse`] reads.
pub(super) fn line(process: Process) -> String {
    format!("{} {}\n", process.pid, process.start_time)
}

/// Forks it, nobody's child; when this returns its file tells of it. `file` is that file, with this process's shared lock.
pub(super) fn spawn(path: &Path, mut file: &File) -> io::Result<()> {
    let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match sys::fork(0, None)? {
        Fork::Child => {
            // Its parent ends at once, so that whoever forked that need not reap it.
            if let Ok(Fork::Child) = sys::fork(u64::from(libc::CLONE_NEWPID.cast_unsigned()), None) {
                let own = File::options().read(true).write(true).open(path);
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| hold(own, &tell)));
            }
            sys::exit(0)
        }
        Fork::Parent(_, child) => {
            drop(tell);
            let mut pid = [0; 4];
            let heard = rustix::io::read(&told, &mut pid);
            let options = rustix::process::WaitIdOptions::EXITED;
            let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(child.as_fd()), options);
            if heard != Ok(pid.len()) {
                return Err(io::Error::other("the process that is to hold this user's namespaces ended at once"));
            }
            let holder = Process::read(i32::from_ne_bytes(pid))?;
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(line(holder).as_bytes())
        }
    }
}

fn hold(file: io::Result<File>, tell: &std::os::fd::OwnedFd) {
    let Ok(file) = file else { return };
    let _ = rustix::thread::set_name(c"stint-userns");
    sys::default_signals();
    // Companions whose daemon has ended are its children.
    sys::ignore_children();
    // Ctrl-C in a terminal is not meant for it, nor is the terminal's end.
    let settled = rustix::process::setsid().and_then(|_| rustix::process::chdir(c"/"));
    if settled.is_err() || sys::close_all_but(&mut [file.as_fd(), tell.as_fd()]).is_err() {
        return;
    }
    let null = rustix::fs::open(c"/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
    for target in 0..3 {
        if !null.as_ref().is_ok_and(|null| sys::dup2(null.as_fd(), target).is_ok()) {
            return;
        }
    }
    // As the machine numbers it, whose processes `/proc` shows: to itself it is the first.
    let own = std::fs::read_link("/proc/self").ok().and_then(|pid| pid.to_str()?.parse::<i32>().ok());
    let Some(pid) = own.map(i32::to_ne_bytes) else { return };
    if rustix::io::write(tell, &pid) != Ok(pid.len()) {
        return;
    }
    // Its own, no copy of it may stay with this process: the reader waits for nothing more.
    let tell = rustix::fd::AsRawFd::as_raw_fd(tell).cast_unsigned();
    let _ = sys::close_range(tell, tell, false);
    sys::trim_heap();
    while rustix::fs::flock(&file, FlockOperation::LockExclusive).is_err() {}
    // Who waits for the lock now finds nobody.
    let _ = file.set_len(0);
    sys::exit(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_record_of_a_process_is_none() {
        let process = Process { pid: 12, start_time: 345 };
        assert_eq!((parse("12 345\n"), parse(&line(process))), (Some(process), Some(process)));
        for text in ["", "12", "12 x", "\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
