//! The container world's default profile (that of Docker and containerd), for given capabilities.
//!
//! Invariant: an allow list. Leaves out names that exist on neither x86-64 nor 64-bit Arm; the list follows
//! `seccomp/default_linux.go` of github.com/moby/profiles as of 2026.
#![allow(clippy::missing_panics_doc)] // the builders get all the fields that they insist on
#![allow(clippy::implicit_hasher)] // oci-spec's sets are plain ones

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// System calls that every container may make.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown clock_adjtime clock_getres
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
    epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve
    execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
    fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync
    ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu
    getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid
    getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
    getuid getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
    io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listmount listxattr listxattrat
    llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore
    mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at
    nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev
    pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg
    remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
    semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address
    setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit
    setsid setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4
    socketpair splice stat statfs statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime times tkill truncate umask uname unlink unlinkat uretprobe utime utimensat utimes vfork vmsplice
    wait4 waitid write writev
";

/// System calls that come with a capability.
const WITH: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
         sethostname setns syslog umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime settimeofday"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Personalities that a container may set: Linux, 32-bit, with and without the old uname; and asking.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The flags of clone(2) that make namespaces.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// The default profile for the default capabilities.
pub fn default_profile() -> LinuxSeccomp {
    default_profile_with(&crate::default_capabilities())
}

/// The default profile for a container with these capabilities: some system calls come with one.
pub fn default_profile_with(capabilities: &HashSet<Capability>) -> LinuxSeccomp {
    let mut allowed: Vec<String> = ALWAYS.split_whitespace().map(str::to_owned).collect();
    for (capability, names) in WITH {
        if capabilities.contains(capability) {
            allowed.extend(names.split_whitespace().map(str::to_owned));
        }
    }
    #[cfg(target_arch = "x86_64")]
    allowed.extend(["arch_prctl", "modify_ldt"].map(str::to_owned));
    allowed.sort_unstable();
    allowed.dedup();

    let mut rules = vec![rule(allowed, LinuxSeccompAction::ScmpActAllow, None, Vec::new())];
    // Sockets between virtual machines and their host know no network namespaces, and the kernel's own cryptography
    // has no business with containers.
    let denied = [40 /* AF_VSOCK */, 38 /* AF_ALG */];
    rules.extend((0..46).filter(|family| !denied.contains(family)).map(|family| allow_if("socket", 0, family)));
    rules.extend(PERSONALITIES.map(|personality| allow_if("personality", 0, personality)));
    if !capabilities.contains(&Capability::SysAdmin) {
        let plain = argument(0, NAMESPACE_FLAGS, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq);
        rules.push(rule(vec!["clone".to_owned()], LinuxSeccompAction::ScmpActAllow, None, vec![plain]));
        // Its flags are in memory, out of a filter's sight: libraries fall back to clone.
        let nosys = u32::try_from(libc::ENOSYS).unwrap_or(38);
        rules.push(rule(vec!["clone3".to_owned()], LinuxSeccompAction::ScmpActErrno, Some(nosys), Vec::new()));
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(u32::try_from(libc::EPERM).unwrap_or(1))
        .architectures(vec![if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 }])
        .syscalls(rules)
        .build()
        .expect("the default action is the one field that must be set")
}

fn allow_if(name: &str, index: usize, value: u64) -> LinuxSyscall {
    let equal = argument(index, value, None, LinuxSeccompOperator::ScmpCmpEq);
    rule(vec![name.to_owned()], LinuxSeccompAction::ScmpActAllow, None, vec![equal])
}

fn argument(index: usize, value: u64, two: Option<u64>, op: LinuxSeccompOperator) -> LinuxSeccompArg {
    let mut argument = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
    if let Some(two) = two {
        argument = argument.value_two(two);
    }
    argument.build().expect("index, value and op are set")
}

fn rule(
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        rule = rule.errno_ret(errno);
    }
    if !args.is_empty() {
        rule = rule.args(args);
    }
    rule.build().expect("names and action are set")
}
