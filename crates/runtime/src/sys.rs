//! The system calls that rustix does not offer, each as one small safe function.
//!
//! Invariant: nothing here allocates or takes a lock, so all of it may be called between fork and exec.
//! Leaves out whatever rustix has.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};

/// `mount_setattr` flags and attributes (`linux/mount.h`).
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    pub(crate) const ATIME_MASK: u64 = 0x70;
    pub(crate) const RELATIME: u64 = 0x0;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    pub(crate) const IDMAP: u64 = 0x10_0000;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

fn check(result: c_long) -> Result<c_long> {
    if result < 0 {
        // SAFETY: errno is a thread-local integer that libc's syscall() has just set.
        Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
    } else {
        Ok(result)
    }
}

fn own(fd: c_long) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor and nobody else owns it; descriptors fit an int.
    #[allow(clippy::cast_possible_truncation)]
    unsafe {
        OwnedFd::from_raw_fd(fd as RawFd)
    }
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The child.
    Child,
    /// The parent: the child's pid, and its pidfd.
    Parent(i32, OwnedFd),
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks with `clone3`: `flags` are namespaces, `cgroup` a cgroup v2 folder that the child is born into.
///
/// The caller must have one thread: the child goes on with a copy of this address space, allocator included.
pub(crate) fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork> {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | CLONE_PIDFD,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX);
    }
    // SAFETY: args is a valid clone_args of the size given, pidfd outlives the call. No CLONE_VM and no stack: like
    // fork(), the child gets a copy of the memory and returns here; the process has one thread, so no lock is held.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    // SAFETY: on success the kernel has stored a new descriptor in pidfd.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Fork::Parent(i32::try_from(pid).unwrap_or(i32::MAX), pidfd))
}

/// Ends this process at once: no destructors, no buffers flushed.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit takes any integer and does not return.
    unsafe { libc::_exit(code) }
}

/// `mount_setattr(2)` on what `fd` refers to; `recursive` takes the mounts below it along.
pub(crate) fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, set: u64, clear: u64, propagation: u64) -> Result<()> {
    set_mount(fd, recursive, [set, clear, propagation, 0])
}

/// Has a mount that is not attached yet, and those below it, show files with the ids of a user namespace.
pub(crate) fn map_ids(fd: BorrowedFd<'_>, users: BorrowedFd<'_>) -> Result<()> {
    let users = u64::try_from(users.as_raw_fd()).map_err(|_| Errno::BADF)?;
    set_mount(fd, true, [attr::IDMAP, 0, 0, users])
}

fn set_mount(fd: BorrowedFd<'_>, recursive: bool, args: [u64; 4]) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { 0x8000 } else { 0 };
    // SAFETY: an empty C string and a struct mount_attr (four u64) of the size given.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, args.as_ptr(), size_of_val(&args))
    })
    .map(drop)
}

/// `prctl(2)` with integer arguments.
pub(crate) fn prctl(option: c_int, arg2: u64, arg3: u64) -> Result<()> {
    // SAFETY: only called with options whose arguments are integers.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, arg2, arg3, 0_u64, 0_u64) }).map(drop)
}

/// Sets the calling process's capability sets; each is a bit mask by capability number.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    #[allow(clippy::cast_possible_truncation)]
    let data: [u32; 6] = [
        effective as u32,
        permitted as u32,
        inheritable as u32,
        (effective >> 32) as u32,
        (permitted >> 32) as u32,
        (inheritable >> 32) as u32,
    ];
    // SAFETY: version 3 header and its two data elements of three u32.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Becomes a user: supplementary groups where given, group and user, in this order (of this one thread).
pub(crate) fn set_ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<()> {
    // SAFETY: groups is an array of as many gid_t as its length says; the other calls take integers.
    unsafe {
        if let Some(groups) = groups {
            check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        }
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Sets one resource limit of this process.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    // SAFETY: limit is a struct rlimit64; no old value is asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), 0_usize) }).map(drop)
}

/// Loads a seccomp filter (an array of `struct sock_filter`, as bytes).
pub(crate) fn load_seccomp(filter: &[u8], flags: u32) -> Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const u8,
    }
    let len = u16::try_from(filter.len() / 8).map_err(|_| Errno::TOOBIG)?;
    let program = Program { len, filter: filter.as_ptr() };
    // SAFETY: program describes len instructions of eight bytes each that outlive the call; the kernel copies them
    // and asks for no alignment.
    check(unsafe { libc::syscall(libc::SYS_seccomp, 1_u32, flags, &raw const program) }).map(drop)
}

/// `execve(2)`; returns only when it failed. Both arrays end with a null pointer.
pub(crate) fn execve(path: &CStr, args: &[*const c_char], env: &[*const c_char]) -> Errno {
    debug_assert!(args.last().is_some_and(|p| p.is_null()) && env.last().is_some_and(|p| p.is_null()));
    // SAFETY: the arrays end with null and their strings outlive the call.
    let result = check(unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), args.as_ptr(), env.as_ptr()) });
    result.err().unwrap_or(Errno::IO)
}

/// `execveat(2)` of the file itself; returns only when it failed. Both arrays end with a null pointer.
pub(crate) fn execve_file(file: BorrowedFd<'_>, args: &[*const c_char], env: &[*const c_char]) -> Errno {
    debug_assert!(args.last().is_some_and(|p| p.is_null()) && env.last().is_some_and(|p| p.is_null()));
    let (fd, empty) = (file.as_raw_fd(), c"".as_ptr());
    // SAFETY: an open descriptor and an empty C string; the arrays end with null and their strings outlive the call.
    let result = check(unsafe {
        libc::syscall(libc::SYS_execveat, fd, empty, args.as_ptr(), env.as_ptr(), libc::AT_EMPTY_PATH)
    });
    result.err().unwrap_or(Errno::IO)
}

/// Closes, or marks to be closed by exec, all descriptors from `first` to `last`.
pub(crate) fn close_range(first: u32, last: u32, on_exec: bool) -> Result<()> {
    // SAFETY: in the zygote, shim and init, which use no descriptor of that range afterwards; no memory is touched.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, if on_exec { 4_u32 } else { 0 }) }).map(drop)
}

/// Closes every descriptor from 3 on, except for these.
pub(crate) fn close_all_but(keep: &mut [BorrowedFd<'_>]) -> Result<()> {
    keep.sort_by_key(AsRawFd::as_raw_fd);
    let mut from = 3;
    for fd in keep {
        let fd = u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF)?;
        if fd > from {
            close_range(from, fd - 1, false)?;
        }
        from = from.max(fd + 1);
    }
    close_range(from, u32::MAX, false)
}

/// Makes `fd` also known as `target`, which survives exec.
pub(crate) fn dup2(fd: BorrowedFd<'_>, target: RawFd) -> Result<()> {
    if fd.as_raw_fd() == target {
        // SAFETY: F_SETFD on a borrowed, thus open, descriptor.
        return check(unsafe { libc::syscall(libc::SYS_fcntl, target, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: replaces a descriptor (0 to 4) of a process of ours that uses it in no other way from here on, and that
    // ends by exec or exit without dropping an object that may own it.
    check(unsafe { libc::syscall(libc::SYS_dup3, fd.as_raw_fd(), target, 0) }).map(drop)
}

/// Gives every signal its default disposition and unblocks all of them.
///
/// By bare system calls: libc refuses to touch the two signals that it keeps for itself, and they may be ignored too.
pub(crate) fn default_signals() {
    /// The kernel's `struct sigaction` is no larger than this; all-zero is `SIG_DFL` without flags.
    const DEFAULT: [u64; 8] = [0; 8];
    for signal in 1..=64 {
        // SAFETY: a valid struct and mask size; refusals (SIGKILL, SIGSTOP) do not matter.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), 0_usize, 8_usize) };
    }
    let none = 0_u64;
    // SAFETY: an empty 64-bit signal mask of the size given.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0_usize, 8_usize) };
}

/// Makes a write to a pipe that nobody reads an error (`EPIPE`) rather than this process's death.
pub(crate) fn survive_broken_pipes() {
    // SAFETY: SIG_IGN; no handler is installed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_IGN;
        libc::sigaction(libc::SIGPIPE, &raw const action, std::ptr::null_mut());
    }
}

/// Ignores the death of children, which has the kernel reap them, and goes on after exec.
pub(crate) fn ignore_children() {
    // SAFETY: SIG_IGN; no handler is installed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_IGN;
        libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut());
    }
}

/// Has the kernel reap this process's children (`true`), or keeps them for waiting.
pub(crate) fn reap_children_automatically(yes: bool) {
    // SAFETY: SIG_DFL with or without SA_NOCLDWAIT; no handler is installed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_flags = if yes { libc::SA_NOCLDWAIT } else { 0 };
        libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut());
    }
}

/// `pidfd_send_signal(2)`, with any signal number.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a borrowed, thus open, descriptor; no siginfo is passed.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0_usize, 0_u32) }).map(drop)
}

/// `setns(2)`: enters the namespace that `fd` refers to, which must be of this kind (`CLONE_NEW*`).
pub(crate) fn setns(fd: BorrowedFd<'_>, kind: u32) -> Result<()> {
    // SAFETY: a borrowed, thus open, descriptor and an integer.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kind) }).map(drop)
}

/// `unshare(2)` of a namespace.
pub(crate) fn unshare(namespace: c_int) -> Result<()> {
    // SAFETY: only called with namespace flags: memory and descriptors stay what they are.
    check(unsafe { libc::syscall(libc::SYS_unshare, namespace) }).map(drop)
}

/// Has tokio tell when a descriptor becomes readable, or writable.
pub(crate) fn watch(fd: OwnedFd, interest: tokio::io::Interest) -> std::io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor for as long as it lives, and the AsyncFd owns it.
    unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// `bpf(2)`; the result is a descriptor for `BPF_PROG_LOAD`, else zero.
pub(crate) fn bpf(command: u32, attr: &[u64]) -> Result<c_long> {
    // SAFETY: attr is a union bpf_attr prefix of the size given; addresses in it are of live buffers of the caller.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) })
}

/// Takes ownership of a descriptor that [`bpf`] has returned.
pub(crate) fn own_bpf(fd: c_long) -> OwnedFd {
    own(fd)
}

/// Maps a memfd's content for reading, for the rest of this process's life.
pub(crate) fn map(fd: BorrowedFd<'_>, len: usize) -> Result<&'static [u8]> {
    // SAFETY: a fresh private mapping that is never unmapped; the memfd is sealed against shrinking, so the bytes stay.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, fd.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return Err(Errno::from_raw_os_error(*libc::__errno_location()));
        }
        Ok(std::slice::from_raw_parts(at.cast(), len))
    }
}

/// Forgets the memory that libc's allocator holds and does not use.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// `clock_gettime(CLOCK_REALTIME)` in nanoseconds since the epoch.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
