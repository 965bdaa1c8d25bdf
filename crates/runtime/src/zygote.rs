//! A copy of this program from before it had threads, that forks shims on request.
//!
//! A program with threads can't fork safely: the child may inherit a lock that nobody will ever release. Hence
//! [`spawn`] is called first thing in `main`. Invariant: the zygote allocates nothing per request and looks into no
//! plan; a request is one packet with descriptors, which it hands to the shim (or to the helper of a command). It ends when the daemon does;
//! the shims live on.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::rootless::Member;
use crate::shim;
use crate::sys::{self, Fork};

/// How many descriptors come with a request at most.
const DESCRIPTORS: usize = 6;

/// The daemon's end of its zygote. The zygote ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct ZygoteHandle {
    socket: Arc<OwnedFd>,
}

/// Forks the zygote, and makes this process adopt orphaned containers (`PR_SET_CHILD_SUBREAPER`).
///
/// Call it while the process has one thread: before tokio, before anything that might start a thread. It is an error
/// otherwise.
pub fn spawn() -> io::Result<ZygoteHandle> {
    spawn_as(None)
}

/// The same of an ordinary user's: the zygote and its shims are members of the user's namespaces, which thereby last as long as
/// any container.
pub fn spawn_as(member: Option<&Member>) -> io::Result<ZygoteHandle> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the zygote must be forked before the process has a second thread"));
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    match sys::fork(0, None)? {
        Fork::Child => {
            drop(ours);
            // A panic must not unwind into the daemon's code, in what is no daemon.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(theirs, member)));
            sys::exit(70)
        }
        Fork::Parent(..) => Ok(ZygoteHandle { socket: Arc::new(ours) }),
    }
}

impl ZygoteHandle {
    /// Has a shim forked that obeys `plan` (a sealed memfd) and reports on `report`.
    pub(crate) fn request(&self, plan: &OwnedFd, report: &OwnedFd) -> io::Result<()> {
        self.send(b"s", &[plan.as_fd(), report.as_fd()])
    }

    /// Has a helper forked that runs a command (a sealed memfd) in the container whose first process is behind a pidfd,
    /// with these as its standard streams, and reports on `report`.
    pub(crate) fn request_command(
        &self,
        command: &OwnedFd,
        report: &OwnedFd,
        container: &OwnedFd,
        [stdin, stdout, stderr]: &[OwnedFd; 3],
    ) -> io::Result<()> {
        let fds = [command, report, container, stdin, stdout, stderr].map(AsFd::as_fd);
        self.send(b"x", &fds)
    }

    fn send(&self, word: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds));
        loop {
            match sendmsg(&*self.socket, &[IoSlice::new(word)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn run(socket: OwnedFd, member: Option<&Member>) {
    let socket = settle(socket, member).unwrap_or_else(|_| sys::exit(1));
    let nursery = nursery().ok();
    loop {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) if message.bytes > 0 => {}
            Err(Errno::INTR) => continue,
            _ => sys::exit(0), // the daemon is gone
        }
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let Some(mut fds) = fds.next() else { continue };
        let (Some(plan), Some(report)) = (fds.next(), fds.next()) else { continue };
        let given = match (fds.next(), fds.next(), fds.next(), fds.next()) {
            (Some(container), Some(stdin), Some(stdout), Some(stderr)) => {
                Some(shim::Given { container, stdio: [stdin, stdout, stderr] })
            }
            _ => None,
        };
        // When the fork fails, dropping `report` tells the daemon.
        if let Ok(Fork::Child) = sys::fork(0, None) {
            drop(socket);
            sys::reap_children_automatically(false);
            match (byte, given) {
                ([b'x'], Some(given)) => shim::run_command(&plan, &report, given),
                _ => shim::run(plan, &report, nursery),
            }
        }
    }
}

/// An empty mount namespace, of which containers get a copy: cheaper than a copy of the host's that must be emptied.
/// Where it can't be had, they get the latter.
fn nursery() -> io::Result<OwnedFd> {
    let (wait, done) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (hold, release) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match sys::fork(0, None)? {
        Fork::Child => {
            drop((wait, release));
            let word: &[u8] = if shim::become_nursery().is_ok() { b"y" } else { b"n" };
            let _ = rustix::io::write(&done, word);
            let _ = rustix::io::read(&hold, &mut [0]); // until the namespace was opened
            sys::exit(0)
        }
        Fork::Parent(pid, _) => {
            drop((done, hold));
            let mut word = [0];
            rustix::io::read(&wait, &mut word)?;
            if word != *b"y" {
                return Err(io::ErrorKind::Unsupported.into());
            }
            let path = format!("/proc/{pid}/ns/mnt");
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            let namespace = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
            drop(release);
            Ok(namespace)
        }
    }
}

/// Lets go of everything that the daemon had: descriptors, terminal, signals, working directory. A member stays one.
fn settle(socket: OwnedFd, member: Option<&Member>) -> io::Result<OwnedFd> {
    use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
    let _ = rustix::thread::set_name(c"stint-zygote");
    sys::default_signals();
    sys::reap_children_automatically(true);
    rustix::process::setsid()?;
    rustix::process::chdir(c"/")?;
    let null = rustix::fs::open(c"/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
    for target in 0..3 {
        sys::dup2(null.as_fd(), target)?;
    }
    drop(null);
    let mut keep: Vec<BorrowedFd<'_>> = member.into_iter().map(Member::as_fd).chain([socket.as_fd()]).collect();
    if keep.iter().any(|fd| fd.as_raw_fd() < 3) {
        return Err(io::Error::other("standard input, output and error must be open"));
    }
    sys::close_all_but(&mut keep)?;
    // Descriptor numbers of the daemon's are closed now; none of its Rust objects is used or dropped in this process.
    let socket = socket.into_raw_fd();
    // SAFETY: `socket` was just released by its owner and is still open.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}
