//! The spec's process: who it is, what it may do, and what is executed.
//!
//! Invariant: the order of the last steps. Without `noNewPrivileges` the seccomp filter is loaded while init still has
//! `CAP_SYS_ADMIN`; with it, after everything else, so that a tight profile need not allow what the steps before need.
//! The AppArmor profile is named while the host's `/proc` is there, and holds from exec on, so that no step is subject to it.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Capability, LinuxNamespaceType, PosixRlimitType, Process, Spec, User};

use super::{Filter, Result, c_path, c_string, has_namespace, inside, invalid, unsupported};
use crate::plan::{Capabilities, Step};
use crate::rootless::Ids;
use crate::{Rootfs, app_armor};

/// The process's steps, by when they happen.
pub(super) struct Steps {
    /// Before any mount.
    pub(super) early: Vec<Step>,
    /// After the mounts.
    pub(super) folder: Option<Step>,
    /// In the container's root, the last of all.
    pub(super) late: Vec<Step>,
}

pub(super) fn steps(spec: &Spec, rootfs: &Rootfs, filter: Option<Filter>) -> Result<Steps> {
    let Some(process) = spec.process() else { return invalid("process is missing") };
    let args = process.args().as_deref().unwrap_or_default();
    let holds = *rootfs == Rootfs::Nothing;
    if args.first().is_none_or(String::is_empty) != holds {
        return invalid(if holds { "process.args is not empty" } else { "process.args is empty" });
    }
    let mut early: Vec<Step> = process.oom_score_adj().map(Step::OomScore).into_iter().collect();
    early.extend(app_armor(process)?);
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
    let groups = if has_namespace(spec, LinuxNamespaceType::User) {
        Some(user.additional_gids().clone().unwrap_or_default())
    } else {
        groups(user, Ids::here())?
    };
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
    late.push(if holds { Step::Hold } else { Step::Exec(args, env) });
    Ok(Steps { early, folder, late })
}

/// The AppArmor profile, where the kernel has any.
fn app_armor(process: &Process) -> Result<Option<Step>> {
    match process.apparmor_profile().as_deref() {
        None | Some("") => Ok(None),
        Some(_) if !app_armor::is_enabled() => unsupported(
            "process.apparmorProfile",
            "leave it out, or run a kernel with AppArmor turned on (/sys/module/apparmor/parameters/enabled says Y)",
        ),
        Some(profile) => Ok(Some(Step::AppArmor(c_string(profile, "process.apparmorProfile")?))),
    }
}

/// The groups beside its own that the process gets, once it is sure that it can be this user at all.
fn groups(user: &User, ids: &Ids) -> Result<Option<Vec<u32>>> {
    const RANGES: &str = "install uidmap, and give this user ranges of ids in /etc/subuid and /etc/subgid";
    let groups = user.additional_gids().clone().unwrap_or_default();
    let strange = [("user", &ids.users, user.uid()), ("group", &ids.groups, user.gid())]
        .into_iter()
        .chain(groups.iter().map(|&group| ("group", &ids.groups, group)))
        .find(|(_, map, id)| !map.has(*id));
    match strange {
        Some((kind, _, id)) => {
            unsupported(format!("to run as {kind} {id}, which this user's namespace does not have"), RANGES)
        }
        None if ids.groups_can_be_set => Ok(Some(groups)),
        None if groups.is_empty() => Ok(None),
        None => unsupported("supplementary groups", RANGES),
    }
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

/// `linux/capability.h`, by number.
const CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Every capability, with its number.
pub(crate) fn all_capabilities() -> impl Iterator<Item = (Capability, usize)> {
    CAPABILITIES.into_iter().zip(0..)
}

fn number(capability: Capability) -> usize {
    CAPABILITIES.iter().position(|known| *known == capability).expect("the table has every capability")
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
