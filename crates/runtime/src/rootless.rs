//! Containers for an ordinary user: this process becomes root of a user namespace, and everything after goes on as before.
//!
//! ```text
//! first process of a user ─▶ unshare user, mounts ─▶ ids mapped ─▶ holder forked ─▶ exec anew: member
//! every other one         ─▶ setns into the holder's ─────────────────────────────▶ exec anew: member
//! ```
//!
//! It executes itself anew there, since to the kernel what is in a process's `/proc` belongs to where it was executed: else a process that
//! hides from a container could not write even its own files.
//!
//! All processes of a user, with whatever folder, share one user namespace and one mount namespace: a daemon that is started
//! again must be able to signal, enter and clean up the containers of the one before, and only who is in their namespace may.
//! A small process, the holder, keeps the two alive between them. Members hold a lock (`flock`, shared) on the holder's file,
//! shims among them; the holder waits for that lock alone, and ends when it gets it: with the last member.
//!
//! Invariant: [`enter`] changes nothing of a process that is root already. What it makes is the user's own: no program of
//! the system's is asked but `newuidmap` and `newgidmap`, for ids beyond the user's own.
#![allow(unsafe_code)]

mod companion;
mod delegation;
mod holder;
mod ids;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use thiserror::Error;

use crate::record::Process;
use crate::sys;
pub use companion::Companion;
pub(crate) use delegation::taken;
pub use delegation::{can_have_cgroup, has_cgroup, take_cgroup};
pub(crate) use ids::Ids;

/// Why this user can't have containers here.
#[derive(Debug, Error)]
pub enum RootlessError {
    /// The folder of the holder's file can't be used.
    #[error("can't use {path} to find this user's containers again")]
    Folder {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel, or its settings, allow no user namespaces to this user.
    #[error("can't make a user namespace, which containers need without root; {advice}")]
    Refused {
        /// Which setting is in the way, as far as it can be seen.
        advice: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// `newuidmap` or `newgidmap` did half of the work.
    #[error("{program} refused the ranges of {file}; correct the file, or take this user's lines out of it")]
    Map {
        /// The program.
        program: &'static str,
        /// The file.
        file: &'static str,
    },
    /// This program can't be executed there.
    #[error("can't execute {program} anew in this user's namespace")]
    Again {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The namespaces of this user's other processes can't be entered.
    #[error("can't enter the namespaces of this user's other containers, which process {pid} holds")]
    Join {
        /// The holder.
        pid: i32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A place among the processes that share this user's namespaces; these last while anybody has one.
#[derive(Debug)]
pub struct Member(OwnedFd);

impl Member {
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How the program that is executed anew learns who it is: its user's number outside, and the descriptor of its membership.
const MARK: &str = "_STINT_MEMBER";

/// What the mark says, once it is looked at.
static MARKED: OnceLock<Option<(u32, RawFd)>> = OnceLock::new();

fn marked() -> Option<(u32, RawFd)> {
    *MARKED.get_or_init(|| {
        let (user, fd) = std::env::var(MARK).ok()?.split_once(':').map(|(user, fd)| (user.parse(), fd.parse()))?;
        // Root of the machine is nobody else, whatever is in its environment.
        (rustix::process::geteuid().is_root() && is_confined()).then_some((user.ok()?, fd.ok()?))
    })
}

/// The user that started this program, as the machine numbers it.
pub fn caller() -> u32 {
    marked().map_or_else(|| rustix::process::geteuid().as_raw(), |(user, _)| user)
}

/// Whether this process is in a user namespace of its own, and so has no more rights on the machine than some user.
pub fn is_confined() -> bool {
    !Ids::here().users.is_whole()
}

/// How many user ids containers can have here. One is the user's own.
pub fn user_ids() -> u64 {
    Ids::here().users.count()
}

/// Makes this process root of the user's namespace, with `folder` as the place where that is found again. `None`: it is root
/// as it is. Of another user's process it comes back in the program that is executed anew, with the same arguments.
///
/// Call it while the process has one thread, before the [zygote](crate::zygote), and before it has done anything that must not
/// be done twice. The namespaces are those of this user's other
/// processes, if there are any.
pub fn enter(folder: &Path) -> Result<Option<Member>, RootlessError> {
    if let Some((_, fd)) = marked() {
        // SAFETY: there is one thread, so nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(MARK) };
        return member(fd).map(Some);
    }
    let user = rustix::process::geteuid();
    if user.is_root() {
        return Ok(None);
    }
    let path = folder.join("holder");
    let of_folder = |source: io::Error| RootlessError::Folder { path: path.clone(), source };
    // Two processes that start at once must not make two namespaces.
    let starting = open(&folder.join("holder.lock")).map_err(of_folder)?;
    starting.lock().map_err(of_folder)?;
    let mut file = open(&path).map_err(of_folder)?;
    // While the holder of before is on its way out it has the lock alone.
    file.lock_shared().map_err(of_folder)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(of_folder)?;
    if let Some(holder) = holder::parse(&text).filter(|holder| holder.exists()) {
        join(holder).map_err(|source| RootlessError::Join { pid: holder.pid, source })?;
    } else {
        create(user.as_raw(), rustix::process::getegid().as_raw())?;
        holder::spawn(&path, &file).map_err(of_folder)?;
    }
    // It stays open in what is executed.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).map_err(|errno| of_folder(errno.into()))?;
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let mut again = Command::new(&program);
    again.arg0(name).args(args).env(MARK, format!("{}:{}", user.as_raw(), file.as_raw_fd()));
    let source = again.exec();
    Err(RootlessError::Again { program, source })
}

/// Takes over the membership of the program before.
fn member(fd: RawFd) -> Result<Member, RootlessError> {
    // SAFETY: F_GETFD takes any number; the mark's was left open by the program before, in which nothing else had it.
    let fd = unsafe {
        if fd < 3 || libc::fcntl(fd, libc::F_GETFD) < 0 {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(RootlessError::Folder { path: PathBuf::from(MARK), source });
        }
        OwnedFd::from_raw_fd(fd)
    };
    let kept = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
    kept.map_err(|errno| RootlessError::Folder { path: PathBuf::from(MARK), source: errno.into() })?;
    Ok(Member(fd))
}

/// Whether no process of this user's is a member; for tests and diagnosis.
#[doc(hidden)]
pub fn is_deserted(folder: &Path) -> bool {
    open(&folder.join("holder")).is_ok_and(|file| !matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Becomes root of a new user namespace, with a mount namespace of its own.
fn create(user: u32, group: u32) -> Result<(), RootlessError> {
    let ranges = ids::Ranges::of(user);
    let helper = match &ranges {
        Some(ranges) => ids::Helper::spawn(ranges, user, group).ok(),
        None => None,
    };
    sys::unshare(libc::CLONE_NEWUSER).map_err(|errno| refused(errno.into()))?;
    let mapped = match helper {
        Some(helper) => helper.map()?,
        None => false,
    };
    if !mapped {
        ids::map_own(user, group).map_err(refused)?;
    }
    sys::unshare(libc::CLONE_NEWNS).map_err(|errno| refused(errno.into()))
}

fn join(holder: Process) -> io::Result<()> {
    let here = rustix::process::getcwd(Vec::new())?;
    let open = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", holder.pid));
    let (user, mounts) = (open("user")?, open("mnt")?);
    sys::setns(user.as_fd(), libc::CLONE_NEWUSER.cast_unsigned())?;
    sys::setns(mounts.as_fd(), libc::CLONE_NEWNS.cast_unsigned())?;
    // Where relative paths begin was in the other mount namespace.
    rustix::process::chdir(here.as_c_str())?;
    Ok(())
}

fn refused(source: io::Error) -> RootlessError {
    let says = |file: &str, value: &str| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == value);
    let advice = if says("/proc/sys/user/max_user_namespaces", "0") {
        "the setting user.max_user_namespaces is 0: raise it, or run as root"
    } else if says("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "the setting kernel.unprivileged_userns_clone is 0: set it to 1, or run as root"
    } else if says("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "the setting kernel.apparmor_restrict_unprivileged_userns is 1: give this program an AppArmor profile with \
         `userns,`, or set it to 0, or run as root"
    } else {
        "run as root, or outside of a container that forbids it"
    };
    RootlessError::Refused { advice: advice.to_owned(), source }
}
