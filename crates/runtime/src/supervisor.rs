//! The daemon's side of its containers: asks for shims, and follows what becomes of them.
//!
//! ```text
//! start ─▶ zygote ─▶ shim ─▶ Started ─────────▶ Exited (exit.json) ─▶ removed
//!                      │        ▲                  ▲
//!                      ▼        │ recover          │ shim killed: kill the container, write exit.json as lost
//!                    Failed   state.json ──────────┘
//! ```
//!
//! Invariant: one entry per container that was started or recovered and not removed; its exit is told once `exit.json`
//! says so, and from then on always the same. When a shim is killed, its container is killed too (the kernel does it for
//! the native launcher, we make sure), and its exit is `lost` with code 255: nobody saw the real one.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::exec::{self, ExecExit, ExecHandle, Joined, Stdio, Terminal};
use crate::plan::{Command, FailureKind, Plan, Report};
use crate::record::{self, ExitRecord, Process, StateRecord};
use crate::zygote::ZygoteHandle;
use crate::{ContainerId, ContainerState, Error, ExecError, Exit, StartError, Started, shim, sys};

/// All containers of this daemon.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    zygote: ZygoteHandle,
    entries: Arc<Mutex<HashMap<ContainerId, Arc<Entry>>>>,
}

/// One container.
#[derive(Debug)]
struct Entry {
    id: ContainerId,
    dir: PathBuf,
    /// Held while the container may run.
    init: Option<OwnedFd>,
    /// Readable once the shim has tidied up and ended.
    shim: Option<OwnedFd>,
    cgroups: Vec<CString>,
    scratch: Vec<CString>,
    started_at: u64,
    exit: watch::Sender<Option<Exit>>,
}

impl Supervisor {
    pub(crate) fn new(zygote: ZygoteHandle) -> Self {
        Self { zygote, entries: Arc::default() }
    }

    /// Has a plan carried out. `command` is for the error's text.
    pub(crate) async fn start(
        &self,
        id: ContainerId,
        dir: PathBuf,
        plan: Plan,
        command: String,
    ) -> Result<Started, StartError> {
        let failed =
            |step: &str, source: io::Error| StartError::Failed { container: id.clone(), step: step.to_owned(), source };
        if self.lock().contains_key(&id) {
            return Err(StartError::Invalid {
                container: id,
                fault: "a container of this name was started before; remove it first".into(),
            });
        }
        let cgroups = match &plan.launch {
            crate::plan::Launch::Native { cgroups, .. } => cgroups.remove.clone(),
            crate::plan::Launch::Program { remove, .. } => remove.clone(),
        };
        let memfd = seal(&plan).map_err(|e| failed("hand over the plan", e))?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
                .map_err(|e| failed("make a socket to its shim", e.into()))?;
        self.zygote
            .request(&memfd, &theirs)
            .map_err(|e| failed("reach the zygote that forks shims: restart this process", e))?;
        drop((memfd, theirs));
        let socket = sys::watch(ours, Interest::READABLE).map_err(|e| failed("watch the socket to its shim", e))?;
        let (report, fds) = receive(&socket).await.map_err(|e| failed("hear from its shim, which died", e))?;
        let (pid, at) = match report {
            Report::Started { pid, at } => (pid, at),
            Report::Failed(failure) => return Err(failure_of(id, failure, command)),
            Report::Exited(_) => return Err(failed("understand its shim", Errno::PROTO.into())),
        };
        let mut fds = fds.into_iter();
        let entry = Arc::new(Entry {
            id: id.clone(),
            dir,
            init: fds.next(),
            shim: fds.next(),
            cgroups,
            scratch: plan.scratch,
            started_at: at,
            exit: watch::Sender::new(None),
        });
        self.lock().insert(id, entry.clone());
        tokio::spawn(async move {
            let exit = if let Ok((Report::Exited(record), _)) = receive(&socket).await {
                record
            } else {
                entry.shim_ended().await;
                entry.conclude().await
            };
            entry.exit.send_replace(Some(exit.into()));
        });
        Ok(Started { pid, at: record::time(at) })
    }

    /// The folder of a container that may run.
    pub(crate) fn running(&self, id: &ContainerId) -> Result<PathBuf, ExecError> {
        let entry = self.get(id).ok().filter(|entry| entry.may_run());
        entry.map(|entry| entry.dir.clone()).ok_or_else(|| ExecError::NotRunning(id.clone()))
    }

    /// Has a command run in a container. `name` is the command's, for the error's text.
    pub(crate) async fn exec(
        &self,
        id: &ContainerId,
        command: Command,
        stdio: Stdio,
        name: String,
    ) -> Result<ExecHandle, ExecError> {
        let failed =
            |step: &str, source: io::Error| ExecError::Failed { container: id.clone(), step: step.to_owned(), source };
        let not_running = || ExecError::NotRunning(id.clone());
        let entry = self.get(id).map_err(|_| not_running())?;
        let init = entry.init.as_ref().filter(|_| entry.may_run()).ok_or_else(not_running)?;
        let (theirs, streams) = exec::streams(stdio).map_err(|e| failed("make its pipes", e))?;
        let memfd = seal(&command).map_err(|e| failed("hand over what to do", e))?;
        let (ours, report) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
                .map_err(|e| failed("make a socket to its helper", e.into()))?;
        self.zygote
            .request_command(&memfd, &report, init, &theirs)
            .map_err(|e| failed("reach the zygote that forks helpers: restart this process", e))?;
        drop((memfd, report, theirs));
        let socket = sys::watch(ours, Interest::READABLE).map_err(|e| failed("watch the socket to its helper", e))?;
        let (report, fds) = receive(&socket).await.map_err(|e| failed("hear from its helper, which died", e))?;
        let pid = match report {
            Report::Started { pid, .. } => pid,
            Report::Failed(_) if !entry.may_run() => return Err(not_running()),
            Report::Failed(failure) => return Err(refusal_of(id.clone(), failure, name)),
            Report::Exited(_) => return Err(failed("understand its helper", Errno::PROTO.into())),
        };
        let exec::Ours { mut stdin, mut stdout, stderr } = streams;
        let mut terminal = None;
        let mut fds = fds.into_iter();
        let process = fds.next();
        let helper = fds.next();
        if let Some(master) = fds.next() {
            let master = Terminal::new(master).map_err(|e| failed("watch its terminal", e))?;
            stdin = Some(Box::new(master.clone()));
            stdout = Some(Box::new(master.clone()));
            terminal = Some(master);
        }
        let id = id.clone();
        let exit = Box::pin(async move {
            match receive(&socket).await {
                Ok((Report::Exited(record), _)) => Ok(ExecExit { code: record.exit_code, signal: record.signal }),
                Ok(_) => Err(Errno::PROTO.into()),
                Err(error) => {
                    // Having hung up is not having ended: only then the command is this process's to reap.
                    if let Some(helper) = &helper {
                        let _ = ended(helper).await;
                    }
                    if let Some(process) = &process {
                        end_orphan(process).await;
                    }
                    Err(error)
                }
            }
            .map_err(|source| {
                let step = "hear from a command's helper, which died,".to_owned();
                Error::Failed { container: id, step, source }
            })
        });
        Ok(ExecHandle { pid, stdin, stdout, stderr, terminal, exit })
    }

    /// The way to a container's input, if it has one that nobody else was given for himself.
    pub(crate) async fn join(&self, id: &ContainerId) -> Result<Option<Joined>, Error> {
        let entry = self.get(id)?;
        let failed = |source: io::Error| entry.failed("join its input".into(), source);
        let dir = record::open_dir(&entry.dir).map_err(failed)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connected = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .and_then(|socket| rustix::net::connect(&socket, &shim::input_address(&dir)?).map(|()| socket));
        let socket = match connected {
            Ok(socket) => socket,
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        let socket = sys::watch(socket, Interest::READABLE).map_err(failed)?;
        loop {
            let mut ready = socket.readable().await.map_err(failed)?;
            match ready.try_io(|socket| shim::take_descriptor(socket.get_ref())) {
                Ok(Ok(fd)) => return exec::joined(fd).map(Some).map_err(failed),
                // Another was faster, or the container has just ended.
                Ok(Err(_)) => return Ok(None),
                Err(_would_block) => {}
            }
        }
    }

    pub(crate) async fn wait(&self, id: &ContainerId) -> Result<Exit, Error> {
        let entry = self.get(id)?;
        let mut exit = entry.exit.subscribe();
        let known = exit.wait_for(Option::is_some).await.map(|exit| *exit);
        known.ok().flatten().ok_or_else(|| Error::NotFound(id.clone()))
    }

    pub(crate) fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Error> {
        let entry = self.get(id)?;
        let Some(init) = &entry.init else { return Ok(()) };
        match sys::pidfd_send_signal(init.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(entry.failed(format!("send signal {signal}"), e.into())),
        }
    }

    /// Kills what is left, and removes what the runtime made.
    pub(crate) async fn remove(&self, id: &ContainerId) -> Result<(), Error> {
        let Ok(entry) = self.get(id) else { return Ok(()) };
        self.signal(id, libc::SIGKILL)?;
        self.wait(id).await?;
        if let Some(shim) = &entry.shim {
            ended(shim).await.map_err(|e| entry.failed("wait for its shim".into(), e))?;
        }
        let tidy = entry.clone();
        let removed = tokio::task::spawn_blocking(move || tidy.remove_files()).await;
        removed.unwrap_or_else(|e| Err(entry.failed("remove its files".into(), io::Error::other(e))))?;
        self.lock().remove(id);
        Ok(())
    }

    pub(crate) fn recover(&self, dir: &Path) -> Result<Option<ContainerState>, Error> {
        let Some(state) = record::read::<StateRecord>(None, dir, record::STATE)? else { return Ok(None) };
        let id = state.id.clone();
        if let Ok(entry) = self.get(&id) {
            return Ok(Some(entry.state(state.init.pid)));
        }
        let shim = open_process(state.shim);
        let init = open_process(state.init);
        let running = shim.is_some() || init.is_some();
        let entry = Arc::new(Entry {
            id: id.clone(),
            dir: dir.to_owned(),
            init,
            shim,
            cgroups: state.cgroups,
            scratch: state.scratch,
            started_at: state.started_at,
            exit: watch::Sender::new(None),
        });
        // After the look at the shim: a shim that is gone has written its last word.
        let recorded = record::read::<ExitRecord>(Some(&id), dir, record::EXIT)?;
        match recorded {
            Some(exit) => drop(entry.exit.send_replace(Some(exit.into()))),
            None if running => {
                let entry = entry.clone();
                tokio::spawn(async move {
                    entry.shim_ended().await;
                    let exit = entry.conclude().await;
                    entry.exit.send_replace(Some(exit.into()));
                });
            }
            None => {
                let exit = entry.lost();
                entry.exit.send_replace(Some(exit.into()));
            }
        }
        let found = entry.state(state.init.pid);
        self.lock().insert(id, entry);
        Ok(Some(found))
    }

    fn get(&self, id: &ContainerId) -> Result<Arc<Entry>, Error> {
        self.lock().get(id).cloned().ok_or_else(|| Error::NotFound(id.clone()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn failed(&self, step: String, source: io::Error) -> Error {
        Error::Failed { container: self.id.clone(), step, source }
    }

    /// Whether nothing is known of its end.
    fn may_run(&self) -> bool {
        self.exit.borrow().is_none() && self.init.as_ref().is_some_and(|init| !exec::has_ended(init))
    }

    fn state(&self, pid: i32) -> ContainerState {
        let id = self.id.clone();
        match *self.exit.borrow() {
            Some(exit) => ContainerState::Exited { id, exit },
            None => ContainerState::Running { id, started: Started { pid, at: record::time(self.started_at) } },
        }
    }

    /// Resolves once the shim has ended, and not just hung up: only then its container is this process's to reap.
    async fn shim_ended(&self) {
        if let Some(shim) = &self.shim {
            let _ = ended(shim).await;
        }
    }

    /// What the shim recorded, now that it is gone; if nothing, makes an end of the container.
    async fn conclude(&self) -> ExitRecord {
        if let Ok(Some(exit)) = record::read(Some(&self.id), &self.dir, record::EXIT) {
            return exit;
        }
        if let Some(init) = &self.init {
            end_orphan(init).await;
        }
        let _ = shim::remove_cgroups(&self.cgroups);
        self.lost()
    }

    /// Records an end that nobody saw.
    fn lost(&self) -> ExitRecord {
        let finished_at = sys::now().max(self.started_at);
        let exit = ExitRecord {
            exit_code: 255,
            signal: None,
            oom_killed: false,
            lost: true,
            started_at: self.started_at,
            finished_at,
        };
        // Without the record the next daemon comes to the same conclusion.
        if let Ok(dir) = record::open_dir(&self.dir) {
            let _ = record::write(&dir, record::EXIT, &exit);
        }
        exit
    }

    fn remove_files(&self) -> Result<(), Error> {
        use std::os::unix::ffi::OsStrExt;
        shim::remove_cgroups(&self.cgroups).map_err(|e| self.failed("remove its cgroups".into(), e))?;
        for folder in &self.scratch {
            let path = Path::new(std::ffi::OsStr::from_bytes(folder.to_bytes()));
            crate::scratch::remove(path).map_err(|e| self.failed(format!("remove {}", path.display()), e))?;
        }
        // The state goes last: as long as it is there, removing can be taken up again.
        for name in [record::PROCESS, record::EXIT, record::STATE] {
            match std::fs::remove_file(self.dir.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed(format!("remove {name}"), e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn refusal_of(container: ContainerId, failure: crate::plan::Failure, command: String) -> ExecError {
    match failure_of(container, failure, command) {
        StartError::CommandNotFound { container, command } => ExecError::CommandNotFound { container, command },
        StartError::CommandNotExecutable { container, command, reason } => {
            ExecError::CommandNotExecutable { container, command, reason }
        }
        StartError::Failed { container, step, source } => ExecError::Failed { container, step, source },
        StartError::Unsupported { container, control, .. } => ExecError::Invalid { container, fault: control },
        StartError::Invalid { container, fault } => ExecError::Invalid { container, fault },
    }
}

fn failure_of(container: ContainerId, failure: crate::plan::Failure, command: String) -> StartError {
    let source = io::Error::from_raw_os_error(failure.errno);
    match failure.kind {
        FailureKind::NotFound => StartError::CommandNotFound { container, command },
        FailureKind::NotExecutable => {
            let reason = match failure.errno {
                libc::ENOENT => "it exists, but the interpreter that it needs does not".to_owned(),
                _ => source.to_string(),
            };
            StartError::CommandNotExecutable { container, command, reason }
        }
        FailureKind::Step => StartError::Failed { container, step: failure.step, source },
    }
}

/// Puts a plan into memory that the shim can read and nobody can change.
fn seal<T: serde::Serialize>(plan: &T) -> io::Result<OwnedFd> {
    let bytes = postcard::to_allocvec(plan).map_err(io::Error::other)?;
    let memfd = rustix::fs::memfd_create(c"stint-plan", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let n = rustix::io::write(&memfd, rest)?;
        rest = &rest[n..];
    }
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(memfd)
}

/// The next report of a shim, with the descriptors that came along.
async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<(Report, Vec<OwnedFd>)> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| receive_now(socket.get_ref())) {
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

fn receive_now(socket: &OwnedFd) -> io::Result<(Report, Vec<OwnedFd>)> {
    let mut buffer = vec![0; 64 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let len = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if len == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let report = postcard::from_bytes(&buffer[..len]).map_err(io::Error::other)?;
    Ok((report, fds))
}

/// Resolves when the process behind a pidfd has ended.
async fn ended(pidfd: &OwnedFd) -> io::Result<()> {
    let pidfd = sys::watch(pidfd.try_clone()?, Interest::READABLE)?;
    pidfd.readable().await.map(drop)
}

/// Kills and reaps a process whose shim or helper has died.
async fn end_orphan(process: &OwnedFd) {
    let _ = sys::pidfd_send_signal(process.as_fd(), libc::SIGKILL);
    let _ = ended(process).await;
    // It became ours then, if this process is its nearest subreaper.
    let _ = rustix::process::waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

/// A pidfd of exactly this process, if it still exists, if only as a zombie.
fn open_process(process: Process) -> Option<OwnedFd> {
    let pid = Pid::from_raw(process.pid)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // The number could have been given to another process before it was opened; it can't change any more.
    process.exists().then_some(pidfd)
}
