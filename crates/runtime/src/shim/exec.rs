//! One small process per command that is run in a container: it starts the command there and tells how it ended.
//!
//! ```text
//!   zygote ─fork─▶ helper ─fork into the pid namespace─▶ child: cgroups ─▶ the other namespaces ─▶ terminal ─▶ exec
//!                    │  Started ◀──────────────────────── status pipe closed ◀─────────────────────────────────┘
//!                    │  Exited  ◀──────────────────────── reaped
//!                    └─ the daemon hangs up: the command and its session are killed
//! ```
//!
//! Invariants: a command gets no more than the container's first process got, by the very steps that were taken then; a
//! step that fails ends it. The helper itself never enters the container: nothing there can see it. The child can be
//! seen, so that it is not dumpable (nobody in there can look into it or open its executable, which is the host's) and
//! has closed every descriptor of the host's before a path of the container is looked at. What executes the command is a
//! `stub`, no longer the host's executable.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, fstatfs, major, minor, openat2};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use rustix::pty::OpenptFlags;

use super::{announce, failed, init, program, read_to_end, send, stub, text};
use crate::plan::{Command, Failure, FailureKind, Report};
use crate::record::{ExitRecord, Process};
use crate::sys::{self, Fork};

/// What the daemon hands over, in this order.
pub(crate) struct Given {
    /// A pidfd of the container's first process.
    pub(crate) container: OwnedFd,
    /// The command's ends of its pipes. With a terminal they are not used.
    pub(crate) stdio: [OwnedFd; 3],
}

/// A command that runs.
struct Running {
    pid: i32,
    pidfd: OwnedFd,
    /// Held so that the child learns of this process's death.
    _go: Option<OwnedFd>,
}

/// The helper's life. `plan` is the memfd with the command, `daemon` a connection to the daemon.
pub(crate) fn run(plan: &OwnedFd, daemon: &OwnedFd, given: Given) -> ! {
    let _ = rustix::thread::set_name(c"stint-exec");
    let started = read(plan).and_then(|command| match command {
        Command::Native { steps, terminal } => native(&steps, terminal, given),
        Command::Program { program, args, dir, terminal } => by_program(&program, &args, &dir, terminal, given),
    });
    match started {
        Ok((running, terminal)) => {
            let report = Report::Started { pid: running.pid, at: sys::now() };
            announce(daemon, &report, &running.pidfd, terminal.as_ref());
            drop(terminal);
            watch(&running, daemon)
        }
        Err(failure) => {
            send(daemon, &Report::Failed(failure), &[]);
            sys::exit(1)
        }
    }
}

fn read(plan: &OwnedFd) -> Result<Command, Failure> {
    super::read_plan(plan).map_err(|e| failed("read what to execute".into(), &e))
}

fn native(steps: &[crate::plan::Step], terminal: bool, given: Given) -> Result<(Running, Option<OwnedFd>), Failure> {
    let fail = |step: &'static str| move |e: Errno| failed(step.into(), &e.into());
    let Given { container, stdio } = given;
    // The child's memory is a copy of this process's, and so is this.
    init::hide().map_err(fail("hide from the container's processes"))?;
    sys::setns(container.as_fd(), libc::CLONE_NEWPID.cast_unsigned())
        .map_err(fail("enter the pid namespace of a container that has ended"))?;
    let stub = stub::make().map_err(fail("make an executable file in memory (vm.memfd_noexec must be below 2)"))?;
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (go_read, go_write) = pipe().map_err(fail("make a pipe"))?;
    let (status_read, status_write) = pipe().map_err(fail("make a pipe"))?;
    let mut sockets = None;
    if terminal {
        let (flags, kind) = (SocketFlags::CLOEXEC, SocketType::SEQPACKET);
        let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None);
        sockets = Some(pair.map_err(fail("make a socket for the terminal"))?);
    }
    let (ours, theirs) = sockets.unzip();
    match sys::fork(0, None).map_err(fail("fork into the container"))? {
        Fork::Child => {
            drop((go_write, status_read, ours));
            let pipes = init::Pipes { go: go_read, status: status_write, stdio, terminal: None };
            init::join(container, steps, pipes, theirs, &stub)
        }
        Fork::Parent(pid, pidfd) => {
            drop((container, stdio, go_read, status_write, theirs, stub));
            let running = Running { pid, pidfd, _go: Some(go_write) };
            let heard = hear(&status_read).and_then(|()| {
                let master = ours.map(|socket| take_descriptor(&socket)).transpose();
                master.map_err(|e| failed("take the terminal".into(), &e))
            });
            let master = heard.inspect_err(|_| {
                // Unreaped it would keep the container's namespace, and with it the container, from ending.
                let _ = rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::KILL);
                let _ = rustix::process::waitid(WaitId::PidFd(running.pidfd.as_fd()), WaitIdOptions::EXITED);
            })?;
            Ok((running, master))
        }
    }
}

/// Waits until the child has executed the command, or says why not.
fn hear(status: &OwnedFd) -> Result<(), Failure> {
    let mut message = Vec::new();
    read_to_end(status, &mut message).map_err(|e| failed("hear from the command's process".into(), &e))?;
    if message.is_empty() {
        return Ok(());
    }
    // What its process says is longer.
    if let Ok(errno) = <[u8; 4]>::try_from(&*message).map(i32::from_ne_bytes) {
        if errno & stub::OF_PROFILE != 0 {
            let step = "apply the container's AppArmor profile to the command (it must be loaded)".into();
            return Err(Failure { kind: FailureKind::Step, step, errno: errno & !stub::OF_PROFILE });
        }
        let kind = init::kind_of(Errno::from_raw_os_error(errno), true);
        return Err(Failure { kind, step: "execute the command".into(), errno });
    }
    let unclear = |_| failed("understand the command's process".into(), &Errno::PROTO.into());
    Err(postcard::from_bytes(&message).unwrap_or_else(unclear))
}

/// By a runc-compatible program's `exec --detach`, whose process becomes this subreaper's child.
fn by_program(
    path: &CStr,
    args: &[CString],
    dir: &CStr,
    terminal: bool,
    given: Given,
) -> Result<(Running, Option<OwnedFd>), Failure> {
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let fail = |step: &'static str| move |e: Errno| failed(step.into(), &e.into());
    // A socket's path must be short: it is relative to here.
    rustix::process::chdir(dir).map_err(fail("enter the container's folder"))?;
    let own = |kind: &str| CString::new(format!("exec-{}.{kind}", rustix::process::getpid().as_raw_pid()));
    let name = |kind| own(kind).map_err(|e| failed("name a file".into(), &io::Error::other(e)));
    let (pid_file, log, socket) = (name("pid")?, name("log")?, name("socket")?);
    let listener = if terminal { Some(listen(&socket).map_err(fail("listen for the terminal"))?) } else { None };
    let mut all: Vec<&CStr> = vec![c"--log", &log, c"exec", c"--detach", c"--pid-file", &pid_file];
    if terminal {
        all.extend([c"--tty", c"--console-socket", &socket]);
    }
    all.extend(args.iter().map(CString::as_c_str));
    let called = program::call(path, &all, [&given.stdio[0], &given.stdio[1], &given.stdio[2]]);
    drop(given);
    let message = program::read(&log).unwrap_or_default();
    let pid = program::read(&pid_file).ok();
    for file in [&pid_file, &log, &socket] {
        let _ = rustix::fs::unlink(&**file);
    }
    match called {
        Ok(0) => {}
        Ok(_) => return Err(program::understand(&text(path), "execute a command", &message)),
        Err(e) => return Err(failed(format!("run {}", text(path)), &e)),
    }
    let pid = pid.and_then(|text| String::from_utf8_lossy(&text).trim().parse().ok()).and_then(Pid::from_raw);
    let opened = pid.ok_or(Errno::SRCH).and_then(|pid| {
        Ok(Running { pid: pid.as_raw_pid(), pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty())?, _go: None })
    });
    let running = opened.map_err(fail("find the process that the program made"))?;
    let master = match listener {
        None => None,
        Some(listener) => {
            let socket = rustix::net::accept(&listener).map_err(fail("accept the terminal"))?;
            Some(take_descriptor(&socket).map_err(|e| failed("take the terminal".into(), &e))?)
        }
    };
    Ok((running, master))
}

fn listen(path: &CStr) -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 1)?;
    Ok(socket)
}

/// The one descriptor that was sent along with a message.
pub(crate) fn take_descriptor(socket: &OwnedFd) -> io::Result<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 4096];
    recvmsg(socket, &mut [io::IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let found = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    found.ok_or_else(|| Errno::PROTO.into())
}

/// Waits for the command, or for the daemon to hang up.
fn watch(running: &Running, daemon: &OwnedFd) -> ! {
    sys::trim_heap();
    loop {
        let mut fds = [PollFd::new(&running.pidfd, PollFlags::IN), PollFd::new(daemon, PollFlags::empty())];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[0].revents().is_empty() {
            break;
        }
        if !fds[1].revents().is_empty() {
            end_session(running);
            break;
        }
    }
    let status = rustix::process::waitid(WaitId::PidFd(running.pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
    let (exit_code, signal) = super::verdict(status.as_ref());
    let now = sys::now();
    let exit = ExitRecord { exit_code, signal, oom_killed: false, lost: false, started_at: now, finished_at: now };
    send(daemon, &Report::Exited(exit), &[]);
    sys::exit(0)
}

/// Kills the command and whatever it started that is still in its session.
///
/// Its number can't be given to another session: it is not reaped yet.
fn end_session(running: &Running) {
    // Found processes may fork while they are looked for: until there is none.
    for _ in 0..16 {
        let mut found = false;
        let _ = rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::KILL);
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if pid == running.pid || Process::session(pid) != Some(running.pid) {
                continue;
            }
            let Some(number) = Pid::from_raw(pid) else { continue };
            let Ok(pidfd) = rustix::process::pidfd_open(number, PidfdFlags::empty()) else { continue };
            // The number could have been given to another process before it was opened.
            if Process::session(pid) == Some(running.pid) {
                found = true;
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            }
        }
        if !found {
            break;
        }
    }
}

/// Opens a new terminal of this mount namespace, which is the container's: the daemon's end and the command's end.
///
/// What lies at `/dev/pts/ptmx` is the container's doing, so that it is looked at before it is used, and the other end is
/// asked of the kernel rather than looked up by its name.
pub(super) fn open_terminal() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
    let open = |flags: OFlags| loop {
        match openat2(CWD, c"/dev/pts/ptmx", flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Err(Errno::AGAIN | Errno::INTR) => {} // the kernel saw a rename on the way
            other => break other,
        }
    };
    let is_ptmx = |fd: &OwnedFd| -> rustix::io::Result<bool> {
        let (kind, device) = (fstatfs(fd)?.f_type, fstat(fd)?.st_rdev);
        Ok(u64::try_from(kind).is_ok_and(|kind| kind == DEVPTS_SUPER_MAGIC) && (major(device), minor(device)) == (5, 2))
    };
    // Opening alone can have effects where it is another device.
    if !is_ptmx(&open(OFlags::PATH)?)? {
        return Err(Errno::NOTTY);
    }
    let master = open(OFlags::RDWR | OFlags::NOCTTY)?;
    if !is_ptmx(&master)? {
        return Err(Errno::NOTTY);
    }
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let peer = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, peer))
}

/// Sends a descriptor along with a byte.
pub(super) fn hand_over(socket: &OwnedFd, fd: &OwnedFd) -> rustix::io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[io::IoSlice::new(b"t")], &mut control, SendFlags::NOSIGNAL).map(drop)
}
