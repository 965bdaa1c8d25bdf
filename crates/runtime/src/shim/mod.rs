//! One small process per container: it starts the container, holds its input and output, writes its log, reaps it and
//! records its end.
//!
//! ```text
//! plan ─▶ cgroups ─▶ init born ─▶ state.json ─▶ daemon still there? ─▶ go ─▶ exec ─▶ Started
//!                                                     │ no: undo                      │ init ends
//!                                                     ▼                               ▼
//!                                                   exit        cgroups gone ◀─ exit.json, Exited
//! ```
//!
//! Invariants: the container is on record before its program runs, and a program runs only if the daemon that asked
//! for it was still there after that (so a new daemon that finds no record may start another). From `Started` on, the
//! shim needs nothing and nobody. It has one thread, and stays outside of the container's cgroups.

mod cgroup;
mod exec;
mod init;
mod input;
mod inside;
mod interpreter;
mod log;
mod mounts;
mod net;
mod program;
mod rotate;
mod stub;
mod users;

pub(crate) use cgroup::remove as remove_cgroups;
pub(crate) use exec::{Given, run as run_command, take_descriptor};
pub(crate) use input::address as input_address;
pub(crate) use mounts::become_nursery;
pub(crate) use net::loopback_up;

use std::ffi::{CStr, CString};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus};

use crate::ContainerId;
use crate::plan::{Cgroups, Confinement, Failure, FailureKind, Input, Launch, Plan, Report, Step, Users};
use crate::record::{self, ExitRecord, Process, StateRecord};
use crate::sys::{self, Fork};
use input::Door;
use log::{Log, Stream};
use rotate::Rotation;

/// A line's start is logged without its end after this long.
const PARTIAL_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How much is read from a pipe at once.
const READ: usize = 16 * 1024;

/// What the shim holds once its container runs.
struct Running {
    pidfd: OwnedFd,
    started_at: u64,
    stdout: OwnedFd,
    stderr: OwnedFd,
    log: Log,
    /// Its input, for those who ask for it.
    door: Option<Door>,
    oom: Option<OwnedFd>,
    dir: OwnedFd,
    cgroups: Vec<CString>,
    /// The cgroup folder whose processes do not end with the first by themselves.
    kill: Option<CString>,
    _mounts: Option<OwnedFd>,
    /// A runc-compatible program that has to be asked to tidy up.
    program: Option<program::Program>,
}

/// The shim's life. `plan` is the memfd with the plan, `daemon` a connection to the daemon, `nursery` an empty mount
/// namespace.
pub(crate) fn run(plan: OwnedFd, daemon: &OwnedFd, nursery: Option<OwnedFd>) -> ! {
    let _ = rustix::thread::set_name(c"stint-shim");
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    match start(plan, daemon, nursery) {
        Ok(running) => watch(running, daemon),
        Err(failure) => {
            send(daemon, &Report::Failed(failure), &[]);
            sys::exit(1)
        }
    }
}

fn start(fd: OwnedFd, daemon: &OwnedFd, nursery: Option<OwnedFd>) -> Result<Running, Failure> {
    let plan: Plan = read_plan(&fd).map_err(|e| failed("read the plan".into(), &e))?;
    drop(fd);
    let dir = record::open_dir(&plan.dir).map_err(|e| failed(format!("open {}", text(&plan.dir)), &e))?;
    let open = |e: io::Error| failed(format!("open the log {}", text(&plan.log)), &e);
    let file = rotate::open(&plan.log).map_err(|e| open(e.into()))?;
    let rotation = plan.rotation.map(|wanted| Rotation::new(&plan.log, wanted)).transpose().map_err(open)?;
    let log = Log::new(file, rotation);
    match &plan.launch {
        Launch::Native { namespaces, processes, users, detached, cgroups, steps } => {
            let nursery = nursery.filter(|_| *detached);
            let cradle =
                Cradle { namespaces: *namespaces, processes: processes.as_deref(), users: users.as_ref(), nursery };
            start_native(&plan, cradle, cgroups, steps, dir, log, daemon)
        }
        Launch::Program { program, root, staged, uid, oom, above, enable, remove } => {
            cgroup::limit_above(above, enable).map_err(|(step, errno)| Failure {
                kind: FailureKind::Step,
                step,
                errno: errno.raw_os_error(),
            })?;
            let started = program::start(&plan.id, program, (root, staged), &plan.dir, *uid)?;
            let oom = oom.as_deref().and_then(|path| open_counter(path).ok());
            let pid = started.pid;
            let state = || write_state(&plan, &dir, pid, remove);
            let stand_down = |failure| {
                let _ = rustix::process::pidfd_send_signal(&started.pidfd, rustix::process::Signal::KILL);
                started.program.delete();
                let _ = rustix::fs::unlinkat(&dir, record::STATE, rustix::fs::AtFlags::empty());
                failure
            };
            let started_at = state().map_err(stand_down)?;
            if init::hung_up(daemon.as_fd()) {
                return Err(stand_down(abandoned()));
            }
            started.program.start().map_err(stand_down)?;
            let report = Report::Started { pid, at: started_at };
            announce(daemon, &report, &started.pidfd, None);
            let (stdout, stderr) = started.output;
            Ok(Running {
                pidfd: started.pidfd,
                started_at,
                stdout,
                stderr,
                log,
                door: None,
                oom,
                dir,
                cgroups: remove.clone(),
                kill: None,
                _mounts: None,
                program: Some(started.program),
            })
        }
    }
}

/// What a container is born into.
struct Cradle<'a> {
    /// `CLONE_NEW*`.
    namespaces: u64,
    /// Another container's PID namespace, by path.
    processes: Option<&'a CStr>,
    /// Who is who in its user namespace.
    users: Option<&'a Users>,
    /// An empty mount namespace.
    nursery: Option<OwnedFd>,
}

impl Cradle<'_> {
    /// Makes its user namespace, and has this process's next child born into the PID namespace.
    fn prepare(&self) -> Result<Option<OwnedFd>, Failure> {
        if let Some(path) = self.processes {
            let step = || format!("join the PID namespace {}", text(path));
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, path, flags, Mode::empty())
                .and_then(|namespace| sys::setns(namespace.as_fd(), libc::CLONE_NEWPID.cast_unsigned()))
                .map_err(|e| failed(step(), &e.into()))?;
        }
        let made = self.users.map(users::make).transpose();
        made.map_err(|e| failed("make a user namespace (user.max_user_namespaces must allow it)".into(), &e.into()))
    }
}

fn start_native(
    plan: &Plan,
    cradle: Cradle<'_>,
    cgroups: &Cgroups,
    steps: &[Step],
    dir: OwnedFd,
    log: Log,
    daemon: &OwnedFd,
) -> Result<Running, Failure> {
    let undo = |failure: Failure| {
        for name in [record::PROCESS, record::STATE] {
            let _ = rustix::fs::unlinkat(&dir, name, rustix::fs::AtFlags::empty());
        }
        let _ = cgroup::remove(&cgroups.remove);
        remove_scratch(&plan.scratch);
        failure
    };
    let into = cgroup::make(cgroups)
        .map_err(|(step, errno)| undo(Failure { kind: FailureKind::Step, step, errno: errno.raw_os_error() }))?;
    let oom = match cgroups.oom.as_deref().map(|path| (path, open_counter(path))) {
        None => None,
        Some((_, Ok(fd))) => Some(fd),
        Some((path, Err(e))) => return Err(undo(failed(format!("open {}", text(path)), &e))),
    };
    let (pipes, mut ours) = pipes(plan.stdin).map_err(|e| undo(failed("make the container's pipes".into(), &e)))?;
    let users = cradle.prepare().map_err(undo)?;
    let Cradle { namespaces, nursery, .. } = cradle;
    let mount_namespace = u64::from(libc::CLONE_NEWNS.cast_unsigned());
    let namespaces = if nursery.is_some() { namespaces & !mount_namespace } else { namespaces };
    let (pid, pidfd) = match sys::fork(namespaces, into.as_ref().map(AsFd::as_fd)) {
        Ok(Fork::Child) => {
            drop(ours); // or init would hold both ends
            init::run(steps, &pipes, nursery.as_ref().map(AsFd::as_fd), users.as_ref().map(AsFd::as_fd))
        }
        Ok(Fork::Parent(pid, pidfd)) => (pid, pidfd),
        Err(e) => return Err(undo(failed("create the container's namespaces".into(), &e.into()))),
    };
    drop((pipes, nursery, users));
    let end = |failure: Failure| {
        let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        undo(failure)
    };
    // Recorded while init is busy mounting; it waits for `go` before its last steps.
    write_confinement(&dir, cgroups, steps)
        .map_err(|e| end(failed(format!("write {}/{}", text(&plan.dir), record::PROCESS), &e)))?;
    let started_at = write_state(plan, &dir, pid, &cgroups.remove).map_err(end)?;
    if init::hung_up(daemon.as_fd()) {
        return Err(end(abandoned()));
    }
    // A failed write means that init is gone: it says why on the status pipe. Only now, lest init inherit it.
    sys::survive_broken_pipes();
    let _ = rustix::io::write(&ours.go, b"g");
    let mut message = Vec::new();
    read_to_end(&ours.status, &mut message).map_err(|e| end(failed("hear from the first process".into(), &e)))?;
    if !message.is_empty() {
        let failure = postcard::from_bytes(&message)
            .unwrap_or_else(|_| failed("understand the first process".into(), &io::Error::from(Errno::PROTO)));
        return Err(end(failure));
    }
    let door = ours.take_input(&dir).map_err(|e| end(failed("take the container's input".into(), &e)))?;
    announce(daemon, &Report::Started { pid, at: started_at }, &pidfd, None);
    // As long as somebody holds its mount namespace, init's end does not wait for all of it to be unmounted.
    let mounts = rustix::fs::open(format!("/proc/{pid}/ns/mnt"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
    Ok(Running {
        pidfd,
        started_at,
        stdout: ours.stdout,
        stderr: ours.stderr,
        log,
        door,
        oom,
        dir,
        cgroups: cgroups.remove.clone(),
        kill: cgroups.kill.clone(),
        _mounts: mounts,
        program: None,
    })
}

/// Pumps output until init is dead, then records its end.
fn watch(mut running: Running, daemon: &OwnedFd) -> ! {
    sys::trim_heap();
    let status = pump(&mut running);
    let oom_killed = running.oom.as_ref().is_some_and(|counter| cgroup::oom_kills(counter) > 0);
    let (exit_code, signal) = verdict(status.as_ref());
    let exit = ExitRecord {
        exit_code,
        signal,
        oom_killed,
        lost: false,
        started_at: running.started_at,
        finished_at: sys::now().max(running.started_at),
    };
    // Without the record a later daemon would take the shim for killed: try until the disk has room. If somebody has
    // removed the folder, nobody will look for it.
    while record::write(&running.dir, record::EXIT, &exit).is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    send(daemon, &Report::Exited(exit), &[]);
    if let Some(program) = &running.program {
        program.delete();
    }
    let _ = cgroup::remove(&running.cgroups);
    sys::exit(0)
}

/// A process's exit code and the signal that ended it.
fn verdict(status: Option<&WaitIdStatus>) -> (i32, Option<i32>) {
    match status.map(|status| (status.terminating_signal(), status.exit_status())) {
        Some((Some(signal), _)) => (128 + signal, Some(signal)),
        Some((None, Some(code))) => (code, None),
        _ => (255, None),
    }
}

fn pump(running: &mut Running) -> Option<WaitIdStatus> {
    let mut streams = [Stream::new("stdout"), Stream::new("stderr")];
    let mut open = [true, true];
    let mut buffer = Vec::with_capacity(READ);
    loop {
        let fds = [&running.stdout, &running.stderr];
        let mut polled = Vec::with_capacity(4);
        polled.push(PollFd::new(&running.pidfd, PollFlags::IN));
        let mut which = [0; 2];
        let mut count = 0;
        for n in 0..2 {
            if open[n] {
                polled.push(PollFd::new(fds[n], PollFlags::IN));
                which[count] = n;
                count += 1;
            }
        }
        let door = running.door.as_ref().map(|door| {
            polled.push(PollFd::new(door.listener(), PollFlags::IN));
            polled.len() - 1
        });
        let wait = streams.iter().any(Stream::is_pending).then_some(&PARTIAL_WAIT);
        match poll(&mut polled, wait) {
            Ok(0) => {
                for stream in &mut streams {
                    running.log.flush_pending(stream, sys::now());
                }
                continue;
            }
            Ok(_) => {}
            Err(_) => continue,
        }
        let ended = !polled[0].revents().is_empty();
        let mut ready = [false; 2];
        let asked = door.is_some_and(|at| !polled[at].revents().is_empty());
        for (slot, fd) in polled[1..=count].iter().enumerate() {
            ready[which[slot]] = !fd.revents().is_empty();
        }
        drop(polled);
        if ended && let Some(group) = &running.kill {
            cgroup::kill_all(group);
        }
        if asked {
            running.door = running.door.take().and_then(Door::answer);
        }
        let shows_at_once = running.door.as_ref().is_some_and(Door::is_terminal);
        for n in 0..2 {
            // Once init is dead, so is everything in the container: what is in the pipes now is all there will be.
            while open[n] && (ready[n] || ended) {
                let fd = if n == 0 { &running.stdout } else { &running.stderr };
                buffer.clear();
                match rustix::io::read(fd, rustix::buffer::spare_capacity(&mut buffer)) {
                    Ok(0) => open[n] = false,
                    Ok(_) => {
                        running.log.write(&mut streams[n], &buffer, sys::now());
                        if shows_at_once {
                            running.log.flush_pending(&mut streams[n], sys::now()); // somebody may be typing
                        }
                    }
                    Err(Errno::INTR) => continue,
                    Err(_) => break, // empty for now
                }
                if !ended {
                    break;
                }
            }
        }
        if ended {
            for stream in &mut streams {
                running.log.flush_pending(stream, sys::now());
            }
            return rustix::process::waitid(WaitId::PidFd(running.pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
        }
    }
}

/// The shim's ends of the pipes.
struct Ours {
    go: OwnedFd,
    status: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    input: input::Ours,
}

impl Ours {
    /// What hands over the container's input, if it has any. A terminal is its output as well.
    fn take_input(&mut self, dir: &OwnedFd) -> io::Result<Option<Door>> {
        let (door, terminal) = std::mem::take(&mut self.input).open(dir)?;
        if let Some(terminal) = terminal {
            self.stdout = terminal;
        }
        Ok(door)
    }
}

fn pipes(input: Input) -> io::Result<(init::Pipes, Ours)> {
    let (go_read, go_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (status_read, status_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stdout_read, stdout_write) = output_pipe()?;
    let (stderr_read, stderr_write) = output_pipe()?;
    let (stdin, terminal, input) = input::streams(input)?;
    let stdio = [stdin, stdout_write, stderr_write];
    let theirs = init::Pipes { go: go_read, status: status_write, stdio, terminal };
    Ok((theirs, Ours { go: go_write, status: status_read, stdout: stdout_read, stderr: stderr_read, input }))
}

/// A pipe whose reading end does not block; the writing end does, as programs expect.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
    Ok((read, write))
}

fn read_plan<T: serde::Deserialize<'static>>(fd: &OwnedFd) -> io::Result<T> {
    let len = usize::try_from(rustix::fs::fstat(fd)?.st_size).map_err(io::Error::other)?;
    let bytes = sys::map(fd.as_fd(), len)?;
    postcard::from_bytes(bytes).map_err(io::Error::other)
}

/// Keeps what a command that is run in the container later must submit to.
fn write_confinement(dir: &OwnedFd, cgroups: &Cgroups, steps: &[Step]) -> io::Result<()> {
    // On cgroup v2 the container was born into its cgroup.
    let born = match cgroups.groups.first() {
        Some(group) if cgroups.clone_into => {
            let procs = [group.path.to_bytes(), b"/cgroup.procs"].concat();
            Some(Step::JoinCgroup(CString::new(procs).map_err(io::Error::other)?))
        }
        _ => None,
    };
    let steps = born.iter().chain(steps.iter().filter(|step| step.is_for_each_process())).collect();
    record::write(dir, record::PROCESS, &Confinement { steps })
}

fn write_state(plan: &Plan, dir: &OwnedFd, pid: i32, cgroups: &[CString]) -> Result<u64, Failure> {
    let write = || {
        let started_at = sys::now();
        let state = StateRecord {
            id: ContainerId::new(plan.id.as_str()).map_err(io::Error::other)?,
            shim: Process::read(rustix::process::getpid().as_raw_pid())?,
            init: Process::read(pid)?,
            started_at,
            cgroups: cgroups.to_vec(),
            scratch: plan.scratch.clone(),
        };
        record::write(dir, record::STATE, &state)?;
        Ok(started_at)
    };
    write().map_err(|e: io::Error| failed(format!("write {}/{}", text(&plan.dir), record::STATE), &e))
}

/// Tells the daemon of a process that runs, with pidfds of it and of this process, and with its terminal.
fn announce(daemon: &OwnedFd, report: &Report, process: &OwnedFd, terminal: Option<&OwnedFd>) {
    if let Ok(own) = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()) {
        let fds: Vec<_> = [process, &own].into_iter().chain(terminal).map(AsFd::as_fd).collect();
        send(daemon, report, &fds);
    }
}

/// Tells the daemon; that it may be gone is no matter.
fn send(daemon: &OwnedFd, report: &Report, fds: &[BorrowedFd<'_>]) {
    let Ok(text) = postcard::to_allocvec(report) else { return };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let _ = sendmsg(daemon, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL);
}

/// Removes what a failed start has made on disk. No mount of it is visible here.
fn remove_scratch(folders: &[CString]) {
    use std::os::unix::ffi::OsStrExt;
    for folder in folders {
        let _ = crate::scratch::remove(std::path::Path::new(std::ffi::OsStr::from_bytes(folder.to_bytes())));
    }
}

fn open_counter(path: &CStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn read_to_end(fd: &OwnedFd, into: &mut Vec<u8>) -> io::Result<()> {
    loop {
        into.reserve(512);
        match rustix::io::read(fd, rustix::buffer::spare_capacity(into)) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn failed(step: String, error: &io::Error) -> Failure {
    Failure { kind: FailureKind::Step, step, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn abandoned() -> Failure {
    failed("find the daemon that asked for it".into(), &Errno::CANCELED.into())
}

fn text(path: &CStr) -> String {
    path.to_string_lossy().into_owned()
}
