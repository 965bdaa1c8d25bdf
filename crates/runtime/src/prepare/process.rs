//! The spec's process: who it is, what it may do, and what is executed.
//!
//! Invariant: the order of the last steps. Without `noNewPrivileges` the seccomp filter is loaded while init still has
//! `CAP_SYS_ADMIN`; with it, after everything else, so that a tight profile need not allow what the steps before need.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Capability, PosixRlimitType, Spec};

use super::{Filter, Result, c_path, c_string, inside, invalid};
use crate::plan::{Capabilities, Step};

/// The process's steps, by when they happen.
pub(super) struct Steps {
    /// Before any mount.
    pub(super) early: Option<Step>,
    /// After the mounts.
    pub(super) folder: Option<Step>,
    /// In the container's root, the last of all.
    pub(super) late: Vec<Step>,
}

pub(super) fn steps(spec: &Spec, filter: Option<Filter>) -> Result<Steps> {
    let Some(process) = spec.process() else { return invalid("process is missing") };
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return invalid("process.args is empty");
    }
    let early = process.oom_score_adj().map(Step::OomScore);
    let cwd = if process.cwd().as_os_str().is_empty() { Path::new("/") } else { process.cwd() };
    let folder = Some(Step::Folder(inside(cwd, "process.cwd")?));

    let mut late = Vec::new();
    let mut seen = HashSet::new();
    for limit in process.rlimits().iter().flatten() {
        if !seen.insert(resource(limit.typ())) {
            return invalid(format!("process.rlimits has {} twice", limit.typ()));
        }
        late.push(Step::Rlimit(resource(limit.typ()), limit.typ().to_string(), limit.soft(), limit.hard()));
    }
    late.push(Step::Cwd(c_path(cwd, "process.cwd")?));
    late.push(Step::Go);

    let user = process.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    let become_user = Step::Become(user.uid(), user.gid(), groups, user.umask(), capabilities(spec));
    let filter = filter.map(|(bytes, flags)| Step::Seccomp(bytes, flags));
    if process.no_new_privileges() == Some(true) {
        late.extend([Step::NoNewPrivileges, become_user]);
        late.extend(filter);
    } else {
        late.extend(filter);
        late.push(become_user);
    }
    let args = args.iter().map(|a| c_string(a, "process.args")).collect::<Result<_>>()?;
    let env = process.env().as_deref().unwrap_or_default();
    let env = env.iter().map(|e| c_string(e, "process.env")).collect::<Result<_>>()?;
    late.push(Step::Exec(args, env));
    Ok(Steps { early, folder, late })
}

/// No capabilities in the spec means none.
fn capabilities(spec: &Spec) -> Capabilities {
    let Some(sets) = spec.process().as_ref().and_then(|p| p.capabilities().as_ref()) else {
        return Capabilities::default();
    };
    let mask = |set: &Option<HashSet<Capability>>| set.iter().flatten().fold(0, |all, &c| all | 1 << number(c));
    Capabilities {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    }
}

/// `linux/capability.h`.
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

fn resource(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType as R;
    #[allow(clippy::unnecessary_cast)] // libc's type differs between C libraries
    let number = match kind {
        R::RlimitCpu => libc::RLIMIT_CPU,
        R::RlimitFsize => libc::RLIMIT_FSIZE,
        R::RlimitData => libc::RLIMIT_DATA,
        R::RlimitStack => libc::RLIMIT_STACK,
        R::RlimitCore => libc::RLIMIT_CORE,
        R::RlimitRss => libc::RLIMIT_RSS,
        R::RlimitNproc => libc::RLIMIT_NPROC,
        R::RlimitNofile => libc::RLIMIT_NOFILE,
        R::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        R::RlimitAs => libc::RLIMIT_AS,
        R::RlimitLocks => libc::RLIMIT_LOCKS,
        R::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        R::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        R::RlimitNice => libc::RLIMIT_NICE,
        R::RlimitRtprio => libc::RLIMIT_RTPRIO,
        R::RlimitRttime => libc::RLIMIT_RTTIME,
    } as u32;
    number
}
