//! The container's first process, from its birth in new namespaces to exec.
//!
//! Invariant: it obeys the plan's steps in order, and stops at the first that fails with a word about it to the shim.
//! It has one thread and inherits one pipe end each way; nothing else of the shim survives exec.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use super::stub::{ATTRIBUTES, STATUS};
use super::{inside, interpreter, mounts};
use crate::plan::{Capabilities, Failure, FailureKind, Ids, Mount, Source, Step, Users};
use crate::sys;

/// Where an executable is looked for when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const PR_SET_PDEATHSIG: i32 = 1;
const PR_SET_DUMPABLE: i32 = 4;
const PR_SET_KEEPCAPS: i32 = 8;
const PR_CAPBSET_DROP: i32 = 24;
const PR_SET_NO_NEW_PRIVS: i32 = 38;
const PR_CAP_AMBIENT: i32 = 47;

/// The pipes that init holds.
pub(crate) struct Pipes {
    /// The shim's word to go on; stays open as long as the shim lives.
    pub(crate) go: OwnedFd,
    /// Closed by a successful exec; carries a [`Failure`] otherwise.
    pub(crate) status: OwnedFd,
    /// The container's stdin, stdout and stderr.
    pub(crate) stdio: [OwnedFd; 3],
    /// Where the other end of the container's terminal goes, if it is to have one.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Runs the steps; comes back only by exit.
///
/// With a `nursery` it was born into the host's mount namespace and moves out by that; without, into a copy of its own.
/// `users` is the user namespace that it is to enter.
pub(crate) fn run(steps: &[Step], pipes: &Pipes, nursery: Option<BorrowedFd<'_>>, users: Option<BorrowedFd<'_>>) -> ! {
    let mut init = Init::new(steps, pipes, nursery);
    init.users = users;
    let failure = init.obey();
    if let Ok(text) = postcard::to_allocvec(&failure) {
        let _ = rustix::io::write(&pipes.status, &text);
    }
    sys::exit(1)
}

/// A command's process, born into the pid namespace of a running container; comes back only by exit.
///
/// With a socket as `terminal` its streams are a new terminal, whose other end is sent there.
pub(crate) fn join(
    container: OwnedFd,
    steps: &[Step],
    mut pipes: Pipes,
    terminal: Option<OwnedFd>,
    stub: &OwnedFd,
) -> ! {
    // Cgroups, the OOM score and what AppArmor is told are files of the host's.
    let is_outside = |step: &&Step| matches!(step, Step::JoinCgroup(_) | Step::OomScore(_) | Step::AppArmor(_));
    let outside = steps.iter().take_while(is_outside).count();
    let (before, after) = steps.split_at(outside);
    let (owner, after) = match after.split_first() {
        Some((Step::EnterUsers { owner, .. }, after)) => (Some(*owner), after),
        _ => (None, after),
    };
    let given_away = owner.is_some() && terminal.is_none();
    let failure = match enter(container, before, owner, &mut pipes, terminal, stub) {
        Ok(profile) => {
            let mut init = Init::new(after, &pipes, None);
            init.stub = Some(Stub { program: stub, status: &pipes.status, profile });
            init.given_away = given_away;
            init.go_through()
        }
        Err(failure) => failure,
    };
    if let Ok(text) = postcard::to_allocvec(&failure) {
        let _ = rustix::io::write(&pipes.status, &text);
    }
    sys::exit(1)
}

/// Enters the container. With an `owner` that has a user namespace, whose root the process becomes. Returns the AppArmor
/// profile that the command is to have.
fn enter(
    container: OwnedFd,
    before: &[Step],
    owner: Option<u32>,
    pipes: &mut Pipes,
    terminal: Option<OwnedFd>,
    stub: &OwnedFd,
) -> std::result::Result<Option<Profile>, Failure> {
    let fail = |step: &'static str| move |errno: Errno| failed(step.into(), errno);
    rustix::process::setsid().map_err(fail("make a session"))?;
    rustix::process::umask(Mode::empty());
    let mut profile = None;
    for step in before {
        let taken = match step {
            Step::AppArmor(name) => Profile::open(name).map(|opened| profile = Some(opened)),
            other => Init::new(before, pipes, None).step(other),
        };
        taken.map_err(|errno| failed(step.to_string(), errno))?;
    }
    let namespaces = others_of(&container).map_err(fail("look at the container's namespaces"))?;
    sys::setns(container.as_fd(), namespaces).map_err(fail("enter the container's namespaces"))?;
    if let Some(owner) = owner {
        if terminal.is_none() {
            give(&pipes.stdio, owner).map_err(fail("give its streams to the container's user"))?;
        }
        become_root_of(container.as_fd()).map_err(fail("enter the container's user namespace"))?;
    }
    drop(container);
    if let Some(socket) = &terminal {
        let (master, peer) = super::exec::open_terminal()
            .map_err(fail("open a terminal of the container's (mount devpts at /dev/pts)"))?;
        super::exec::hand_over(socket, &master).map_err(fail("hand over the terminal"))?;
        let again = || rustix::io::fcntl_dupfd_cloexec(&peer, 3).map_err(fail("duplicate the terminal"));
        pipes.stdio = [again()?, again()?, peer];
    }
    for (target, fd) in pipes.stdio.iter().enumerate() {
        let target = i32::try_from(target).unwrap_or(-1);
        sys::dup2(fd.as_fd(), target).map_err(fail("set its standard streams"))?;
    }
    if terminal.is_some() {
        rustix::process::ioctl_tiocsctty(&pipes.stdio[0]).map_err(fail("make the terminal its own"))?;
    }
    drop(terminal);
    // A path of the container's could lead through any descriptor that is still open when it is looked at.
    let [stdin, stdout, stderr] = &pipes.stdio;
    let mut keep = [&pipes.go, &pipes.status, stdin, stdout, stderr, stub].map(AsFd::as_fd).to_vec();
    keep.extend(profile.as_ref().map(|profile| profile.attributes.as_fd()));
    sys::close_all_but(&mut keep).map_err(fail("close the host's descriptors"))?;
    pipes.status = out_of_the_way(&pipes.status).map_err(fail("duplicate a pipe"))?;
    Ok(profile)
}

/// Another descriptor for the same, none of those that the stub has by their numbers.
fn out_of_the_way(fd: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, ATTRIBUTES + 1)
}

/// Becomes root of a user namespace, which the host's root may. The kernel then has the process hidden from others.
fn become_root_of(users: BorrowedFd<'_>) -> Result<()> {
    sys::setns(users, libc::CLONE_NEWUSER.cast_unsigned())?;
    sys::set_ids(0, 0, Some(&[]))
}

/// Gives streams to a user, who may reopen them, e.g. as /dev/stdout. One that is neither pipe nor terminal is the host's
/// `/dev/null`.
fn give<'a>(streams: impl IntoIterator<Item = &'a OwnedFd>, owner: u32) -> Result<()> {
    for stream in streams {
        let found = rustix::fs::fstat(stream)?;
        if rustix::fs::FileType::from_raw_mode(found.st_mode).is_fifo() || rustix::termios::isatty(stream) {
            rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(owner)), None)?;
        }
    }
    Ok(())
}

/// Which namespaces of a container this process is not in already: the host's that it shares may only be entered by the host's
/// root, even by who is there.
///
/// Should the container end meanwhile, and its number be given to another process, then entering its namespaces fails.
fn others_of(container: &OwnedFd) -> Result<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", container.as_raw_fd()));
    let info = info.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok()).ok_or(Errno::SRCH)?;
    let of = |process: &str, kind: &str| {
        let found = rustix::fs::stat(format!("/proc/{process}/ns/{kind}"))?;
        Ok::<_, Errno>((found.st_dev, found.st_ino))
    };
    let mut others = libc::CLONE_NEWNS;
    for (kind, flag) in [
        ("uts", libc::CLONE_NEWUTS),
        ("ipc", libc::CLONE_NEWIPC),
        ("net", libc::CLONE_NEWNET),
        ("cgroup", libc::CLONE_NEWCGROUP),
    ] {
        if of(&pid.to_string(), kind)? != of("self", kind)? {
            others |= flag;
        }
    }
    Ok(others.cast_unsigned())
}

/// Has nobody but the host's root look into this process: not at its memory, nor at its executable.
pub(crate) fn hide() -> Result<()> {
    sys::prctl(PR_SET_DUMPABLE, 0, 0)
}

fn failed(step: String, errno: Errno) -> Failure {
    Failure { kind: FailureKind::Step, step, errno: errno.raw_os_error() }
}

struct Init<'a> {
    steps: &'a [Step],
    root: Option<OwnedFd>,
    /// What the bind mounts show, in their order.
    sources: VecDeque<OwnedFd>,
    nursery: Option<BorrowedFd<'a>>,
    /// The user namespace that it is to enter.
    users: Option<BorrowedFd<'a>>,
    /// What the user namespace may not make, in the order of the mounts.
    made: VecDeque<OwnedFd>,
    /// Whether the standard streams were given to the user already.
    given_away: bool,
    masks: mounts::Masks,
    pipes: &'a Pipes,
    /// The container's terminal, once it is open.
    terminal: Option<OwnedFd>,
    /// What executes the program in this process's place.
    stub: Option<Stub<'a>>,
}

/// What executes a program in a process's place.
struct Stub<'a> {
    program: &'a OwnedFd,
    /// The pipe where it says what went wrong.
    status: &'a OwnedFd,
    /// The AppArmor profile that it is to ask for.
    profile: Option<Profile>,
}

/// An AppArmor profile for a process that executes twice: whoever asks for it has it from the next exec on, so that the second
/// program must ask.
struct Profile {
    /// The folder where the process asks, as a mount of its own: no `..` leads from there to the host's `/proc`.
    attributes: OwnedFd,
    name: CString,
}

impl Profile {
    fn open(name: &CStr) -> Result<Profile> {
        let folder = match mounts::clone_tree(CWD, c"/proc/thread-self/attr/apparmor") {
            Err(Errno::NOENT) => mounts::clone_tree(CWD, c"/proc/thread-self/attr"), // before Linux 5.8
            other => other,
        };
        Ok(Profile { attributes: folder?, name: name.to_owned() })
    }
}

impl<'a> Init<'a> {
    fn new(steps: &'a [Step], pipes: &'a Pipes, nursery: Option<BorrowedFd<'a>>) -> Self {
        let masks = mounts::Masks::default();
        Self {
            steps,
            root: None,
            sources: VecDeque::new(),
            masks,
            pipes,
            nursery,
            users: None,
            made: VecDeque::new(),
            given_away: false,
            terminal: None,
            stub: None,
        }
    }

    fn obey(&mut self) -> Failure {
        // Before mounts here are kept from spreading: what a container shares with the host, it shares by this.
        for step in self.steps {
            if let Step::Mount(Mount { source: Source::Bind(bind), .. }) = step {
                match mounts::open_source(bind) {
                    Ok(source) => self.sources.push_back(source),
                    Err(errno) => return failed(step.to_string(), errno),
                }
            }
        }
        if let Err(errno) = self.prepare() {
            return failed("set up its first process".into(), errno);
        }
        self.go_through()
    }

    fn go_through(&mut self) -> Failure {
        for step in self.steps {
            if let Step::Hold = step {
                return failed(step.to_string(), hold());
            }
            if let Step::Exec(args, env) = step {
                let (kind, errno) = execute(args, env, self.stub.as_ref());
                return Failure { kind, step: step.to_string(), errno: errno.raw_os_error() };
            }
            if let Err(errno) = self.step(step) {
                return failed(step.to_string(), errno);
            }
        }
        failed("find a program to execute in the plan".into(), Errno::INVAL)
    }

    fn prepare(&mut self) -> Result<()> {
        rustix::process::setsid()?;
        rustix::process::umask(Mode::empty());
        for (target, fd) in self.pipes.stdio.iter().enumerate() {
            sys::dup2(fd.as_fd(), i32::try_from(target).unwrap_or(-1))?;
        }
        if self.nursery.is_none() {
            mounts::isolate()?;
        }
        if self.steps.iter().any(|s| matches!(s, Step::Mask(_))) {
            self.masks = mounts::Masks::prepare()?;
        }
        Ok(())
    }

    fn root(&self) -> Result<&OwnedFd> {
        self.root.as_ref().ok_or(Errno::BADF)
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::JoinCgroup(tasks) => write_file(CWD, tasks, b"0"),
            Step::JoinNamespace(path, kind) => {
                let fd = rustix::fs::openat(CWD, &**path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
                sys::setns(fd.as_fd(), *kind)
            }
            Step::Loopback => loopback_up(),
            Step::OomScore(score) => write_file(CWD, c"/proc/self/oom_score_adj", score.to_string().as_bytes()),
            Step::AppArmor(profile) => confine_from_exec_on(profile),
            Step::Root(root) => {
                self.root = Some(match self.nursery {
                    Some(nursery) => mounts::enter(nursery, mounts::build_root(root, self.users)?)?,
                    None => mounts::mount_root(root)?,
                });
                Ok(())
            }
            Step::Mount(mount) => {
                let source = match mount.source {
                    Source::Bind(..) => self.sources.pop_front(),
                    Source::New(..) if self.users.is_some() && mounts::is_for_host(mount) => self.made.pop_front(),
                    Source::New(..) => None,
                };
                mounts::mount_one(self.root()?, mount, source)
            }
            Step::EnterUsers { users, namespaces, owner } => self.enter_users(users, *namespaces, *owner),
            Step::Node(node) => inside::make_node(self.root()?, &node.path, node.mode, node.rdev, (node.uid, node.gid)),
            Step::Sysctl(path, value) => {
                let flags = OFlags::WRONLY | OFlags::TRUNC;
                let file = match &self.root {
                    Some(root) => inside::open(root, path, flags, ResolveFlags::NO_SYMLINKS)?,
                    // The host's: it shows those of the network that this process is in.
                    None => rustix::fs::open(c"/", OFlags::PATH, Mode::empty())
                        .and_then(|host| inside::open(host, path, flags, ResolveFlags::NO_SYMLINKS))?,
                };
                write_all(&file, value.as_bytes())
            }
            Step::Folder(path) => inside::make_folder(self.root()?, path).map(drop),
            Step::Mask(path) => {
                let root = self.root.as_ref().ok_or(Errno::BADF)?;
                self.masks.mask(root, path)
            }
            Step::Protect(path) => mounts::protect(self.root()?, path),
            Step::ProtectRoot => sys::mount_setattr(self.root()?.as_fd(), false, sys::attr::RDONLY, 0, 0),
            Step::Pivot if self.nursery.is_some() => Ok(()), // has happened with the first mount
            Step::Pivot => mounts::pivot(self.root()?),
            Step::Terminal => self.open_terminal(),
            Step::Hostname(name) => rustix::system::sethostname(name.to_bytes()),
            Step::Domainname(name) => rustix::system::setdomainname(name.to_bytes()),
            Step::Go => self.wait_for_shim(),
            Step::HideCgroups => sys::unshare(libc::CLONE_NEWCGROUP),
            Step::Rlimit(resource, _, soft, hard) => sys::set_rlimit(*resource, *soft, *hard),
            Step::NoNewPrivileges => sys::prctl(PR_SET_NO_NEW_PRIVS, 1, 0),
            Step::Seccomp(filter, flags) => sys::load_seccomp(filter, *flags),
            Step::Cwd(path) => change_folder(path),
            Step::Become(uid, gid, groups, umask, capabilities) => {
                self.become_user(*uid, *gid, groups.as_deref(), *umask, *capabilities)
            }
            Step::Exec(..) | Step::Hold => Ok(()),
        }
    }

    /// Becomes root of the container's user namespace, in mount and further namespaces that are its.
    fn enter_users(&mut self, users: &Users, namespaces: i32, owner: u32) -> Result<()> {
        let namespace = self.users.filter(|_| self.nursery.is_some()).ok_or(Errno::NOSYS)?;
        let root =
            (Ids::outside(&users.uids, 0).ok_or(Errno::INVAL)?, Ids::outside(&users.gids, 0).ok_or(Errno::INVAL)?);
        for step in self.steps {
            if let Step::Mount(mount) = step
                && mounts::is_for_host(mount)
            {
                self.made.push_back(mounts::make_for_users(mount, root)?);
            }
        }
        // The sources of bind mounts are in the order of the mounts too.
        let binds = self.steps.iter().filter_map(|step| match step {
            Step::Mount(mount @ Mount { source: Source::Bind(_), .. }) => Some(mount),
            _ => None,
        });
        for (source, _) in self.sources.iter().zip(binds).filter(|(_, mount)| mount.mapped) {
            sys::map_ids(source.as_fd(), namespace)?;
        }
        give(&self.pipes.stdio, owner)?;
        self.given_away = true;
        become_root_of(namespace)?;
        sys::unshare(namespaces)?;
        // Descriptors are of the mount namespace that was left; this process's root was taken along.
        self.root = Some(rustix::fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
        Ok(())
    }

    /// The standard streams become a terminal of the container's own, which is that of its session.
    fn open_terminal(&mut self) -> Result<()> {
        let socket = self.pipes.terminal.as_ref().ok_or(Errno::BADF)?;
        let (master, peer) = super::exec::open_terminal()?;
        super::exec::hand_over(socket, &master)?;
        for target in 0..3 {
            sys::dup2(peer.as_fd(), target)?;
        }
        rustix::process::ioctl_tiocsctty(&peer)?;
        self.terminal = Some(peer);
        Ok(())
    }

    /// The shim writes a byte once the container is on record, and keeps the pipe open as long as it lives.
    fn wait_for_shim(&self) -> Result<()> {
        let mut byte = [0];
        loop {
            match rustix::io::read(&self.pipes.go, &mut byte) {
                Ok(1) => return Ok(()),
                Ok(_) => return Err(Errno::CANCELED), // the shim, or the daemon, is gone
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn become_user(
        &self,
        uid: u32,
        gid: u32,
        groups: Option<&[u32]>,
        umask: Option<u32>,
        sets: Capabilities,
    ) -> Result<()> {
        if uid != 0 {
            if !self.given_away {
                give(&self.pipes.stdio, uid)?;
            }
            if let Some(terminal) = &self.terminal {
                rustix::fs::fchown(terminal, Some(rustix::fs::Uid::from_raw(uid)), None)?;
            }
        }
        for capability in 0..64 {
            if sets.bounding & (1 << capability) == 0 {
                match sys::prctl(PR_CAPBSET_DROP, capability, 0) {
                    Err(Errno::INVAL) => break, // beyond the kernel's last capability
                    other => other?,
                }
            }
        }
        rustix::process::umask(Mode::from_raw_mode(umask.unwrap_or(0o022)));
        sys::prctl(PR_SET_KEEPCAPS, 1, 0)?;
        sys::set_ids(uid, gid, groups)?;
        sys::prctl(PR_SET_KEEPCAPS, 0, 0)?;
        sys::capset(sets.effective, sets.permitted, sets.inheritable)?;
        for capability in 0..64 {
            if sets.ambient & (1 << capability) != 0 {
                sys::prctl(PR_CAP_AMBIENT, 2, capability)?;
            }
        }
        // The container dies with its shim. A change of user clears this, hence here, and hence the second look at the
        // pipe that the shim holds: it may have died just before.
        sys::prctl(PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)?;
        if hung_up(self.pipes.go.as_fd()) {
            return Err(Errno::CANCELED);
        }
        // So does it make the process visible again, where `fs.suid_dumpable` says so.
        hide()?;
        sys::close_range(3, u32::MAX, true)
    }
}

/// Whether nobody holds the other end.
pub(crate) fn hung_up(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

fn change_folder(path: &CStr) -> Result<()> {
    rustix::process::chdir(path)?;
    // A working directory outside the root would show as "(unreachable)…".
    let found = rustix::process::getcwd(Vec::new())?;
    if found.to_bytes().starts_with(b"/") { Ok(()) } else { Err(Errno::XDEV) }
}

fn write_file(at: impl AsFd, path: &CStr, text: &[u8]) -> Result<()> {
    let file = rustix::fs::openat(at, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write_all(&file, text)
}

/// Kernel files take a value in one write or not at all.
fn write_all(file: &OwnedFd, text: &[u8]) -> Result<()> {
    if rustix::io::write(file, text)? == text.len() { Ok(()) } else { Err(Errno::IO) }
}

/// Asks the kernel for an AppArmor profile at the next exec.
fn confine_from_exec_on(profile: &CStr) -> Result<()> {
    let open = |path: &CStr| rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let file = match open(c"/proc/thread-self/attr/apparmor/exec") {
        Err(Errno::NOENT) => open(c"/proc/thread-self/attr/exec")?, // before Linux 5.8
        other => other?,
    };
    write_all(&file, request(profile).to_bytes())
}

/// The words by which a profile is asked for.
fn request(profile: &CStr) -> CString {
    CString::new([b"exec ", profile.to_bytes()].concat()).expect("of two texts without a NUL byte")
}

/// `ip link set lo up`.
fn loopback_up() -> Result<()> {
    super::net::loopback_up()
}

/// Becomes the program that holds the container's namespaces; comes back if that fails.
fn hold() -> Errno {
    sys::ignore_children();
    let ends = std::ptr::null();
    match super::stub::make_holder() {
        Ok(holder) => sys::execve_file(holder.as_fd(), &[c"stint-holder".as_ptr(), ends], &[ends]),
        Err(errno) => errno,
    }
}

fn execute(args: &[CString], env: &[CString], stub: Option<&Stub<'_>>) -> (FailureKind, Errno) {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let Some(command) = args.first() else { return (FailureKind::NotFound, Errno::NOENT) };
    let (argv, envp) = (pointers(args), pointers(env));
    if command.to_bytes().contains(&b'/') {
        return try_to_execute(command, &argv, &envp, stub);
    }
    let path = env.iter().find_map(|e| e.to_bytes().strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH.as_bytes());
    let mut refused = None;
    for folder in path.split(|&b| b == b':').filter(|f| f.starts_with(b"/")) {
        let Ok(candidate) = CString::new([folder, b"/", command.to_bytes()].concat()) else { continue };
        match try_to_execute(&candidate, &argv, &envp, stub) {
            (FailureKind::NotFound, _) => {}
            other => refused = refused.or(Some(other)),
        }
    }
    refused.unwrap_or((FailureKind::NotFound, Errno::NOENT))
}

fn try_to_execute(
    path: &CStr,
    argv: &[*const c_char],
    envp: &[*const c_char],
    stub: Option<&Stub<'_>>,
) -> (FailureKind, Errno) {
    // A program on procfs would be this very binary of the host (/proc/self/exe), and so would an interpreter there.
    if on_procfs(path) || interpreter::leads_to(path, on_procfs) {
        return (FailureKind::NotExecutable, Errno::ACCESS);
    }
    let errno = match stub {
        None => sys::execve(path, argv, envp),
        Some(stub) => by_stub(path, argv, envp, stub),
    };
    (kind_of(errno, exists(path)), errno)
}

/// Becomes the stub, which executes the path; comes back if that would fail for a reason that can be told before.
fn by_stub(path: &CStr, argv: &[*const c_char], envp: &[*const c_char], stub: &Stub<'_>) -> Errno {
    // The stub can't come back to have the next folder of PATH looked at.
    // What a seccomp filter says about looking says nothing about the file: then the stub finds out.
    let seen = rustix::fs::accessat(CWD, path, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::empty());
    if let Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP)) = seen {
        return errno;
    }
    let stat = rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty());
    if stat.is_ok_and(|stat| !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()) {
        return Errno::ACCESS; // as execve has it
    }
    let program = match hand_down(stub) {
        Ok(program) => program,
        Err(errno) => return errno,
    };
    let request = stub.profile.as_ref().map(|profile| request(&profile.name)).unwrap_or_default();
    let all: Vec<*const c_char> = [request.as_ptr(), path.as_ptr()].into_iter().chain(argv.iter().copied()).collect();
    sys::execve_file(program.as_fd(), &all, envp)
}

/// Gives the stub's descriptors the numbers that it knows them by; returns the stub.
fn hand_down(stub: &Stub<'_>) -> Result<OwnedFd> {
    let program = out_of_the_way(stub.program)?;
    let attributes = stub.profile.as_ref().map(|profile| out_of_the_way(&profile.attributes)).transpose()?;
    sys::dup2(stub.status.as_fd(), STATUS)?;
    if let Some(attributes) = attributes {
        sys::dup2(attributes.as_fd(), ATTRIBUTES)?;
    }
    Ok(program)
}

/// What kind of failure it is that a file, which exists or not, was not executed.
pub(crate) fn kind_of(errno: Errno, exists: bool) -> FailureKind {
    match errno {
        // "Not found" of a file that is there means its interpreter.
        Errno::NOENT if exists => FailureKind::NotExecutable,
        Errno::NOENT | Errno::NOTDIR => FailureKind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::NOEXEC | Errno::ISDIR | Errno::LOOP | Errno::TXTBSY => {
            FailureKind::NotExecutable
        }
        _ => FailureKind::Step,
    }
}

fn exists(path: &CStr) -> bool {
    rustix::fs::accessat(CWD, path, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty()).is_ok()
}

fn on_procfs(path: &CStr) -> bool {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    // Only a symlink leads to procfs from elsewhere, and procfs' links are magic: statfs of the link's own path tells
    // the target's filesystem, so look at where the path goes without magic links.
    let plain =
        rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
    match plain {
        Ok(fd) => rustix::fs::fstatfs(&fd).is_ok_and(|s| u64::try_from(s.f_type).unwrap_or(0) == PROC_SUPER_MAGIC),
        Err(Errno::LOOP) => true,
        Err(_) => false,
    }
}
