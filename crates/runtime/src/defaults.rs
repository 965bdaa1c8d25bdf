//! The defaults of the container world: what containerd and Docker give a container that asks for nothing special.
//!
//! Invariant: [`default_spec`] is accepted and applied in full by [`Native`](crate::Native).
#![allow(clippy::missing_panics_doc)] // the builders get all the fields that they insist on
#![allow(clippy::implicit_hasher)] // oci-spec's sets are plain ones

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources, Mount, MountBuilder, Process, Root, Spec, User,
};

use crate::rootless::{self, Ids};

/// The capabilities that a container has by default.
pub fn default_capabilities() -> HashSet<Capability> {
    HashSet::from([
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fsetid,
        Capability::Fowner,
        Capability::Mknod,
        Capability::NetRaw,
        Capability::Setgid,
        Capability::Setuid,
        Capability::Setfcap,
        Capability::Setpcap,
        Capability::NetBindService,
        Capability::SysChroot,
        Capability::Kill,
        Capability::AuditWrite,
    ])
}

/// The capabilities of this process: it can give no others to anybody who is not in a user namespace of their own.
pub fn held_capabilities() -> HashSet<Capability> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    crate::prepare::all_capabilities().filter(|(_, number)| mask & (1 << number) != 0).map(|(name, _)| name).collect()
}

/// `set` as bounding, effective and permitted capabilities; nothing inheritable, nothing ambient.
pub fn capability_sets(set: &HashSet<Capability>) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()));
    sets.set_effective(Some(set.clone()));
    sets.set_permitted(Some(set.clone()));
    sets.set_inheritable(None);
    sets.set_ambient(None);
    sets
}

/// Paths that a container may not see into.
pub fn default_masked_paths() -> Vec<String> {
    [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Paths that a container may not write to.
pub fn default_readonly_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(str::to_owned).to_vec()
}

/// `/proc`, `/dev` and its parts, and `/sys` read-only. `/dev` is filled with the standard devices.
///
/// In a user namespace `/sys` is the machine's own, and terminals are of no group if it has none of theirs.
pub fn default_mounts() -> Vec<Mount> {
    let terminals = if Ids::here().groups.has(5) { ",gid=5" } else { "" };
    let terminals = format!("nosuid,noexec,newinstance,ptmxmode=0666,mode=0620{terminals}");
    let sys = if rootless::is_confined() {
        ("bind", "/sys", "rbind,rslave,rnosuid,rnoexec,rnodev,rro")
    } else {
        ("sysfs", "sysfs", "nosuid,noexec,nodev,ro")
    };
    [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "devpts", terminals.as_str()),
        ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", sys.0, sys.1, sys.2),
    ]
    .map(|(destination, kind, source, options)| {
        MountBuilder::default()
            .destination(destination)
            .typ(kind)
            .source(source)
            .options(options.split(',').map(str::to_owned).collect::<Vec<_>>())
            .build()
            .expect("destination is the one field that must be set")
    })
    .to_vec()
}

/// Deny all devices, allow the standard ones, and making (not opening) any node.
///
/// In a user namespace none: no device can be made there.
pub fn default_device_rules() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{A, B, C};
    if rootless::is_confined() {
        return Vec::new();
    }
    let rule = |allow: bool, kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access);
        if let Some(major) = major {
            rule = rule.major(major);
        }
        if let Some(minor) = minor {
            rule = rule.minor(minor);
        }
        rule.build().expect("allow is the one field that must be set")
    };
    let mut rules =
        vec![rule(false, A, None, None, "rwm"), rule(true, C, None, None, "m"), rule(true, B, None, None, "m")];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule(true, C, Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(true, C, Some(136), None, "rwm"));
    rules
}

/// New namespaces of every kind but user and time; the network one only if asked for.
pub fn default_namespaces() -> Vec<LinuxNamespace> {
    use LinuxNamespaceType as Ns;
    [Ns::Pid, Ns::Mount, Ns::Uts, Ns::Ipc, Ns::Cgroup]
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().expect("typ is the one field that must be set"))
        .to_vec()
}

/// A spec with all of these defaults and the default seccomp profile, on the host's network. The caller sets the process (arguments,
/// environment, user), the hostname, limits, `cgroupsPath` (needed: the device rules are in a cgroup) and mounts of its own.
pub fn default_spec() -> Spec {
    let capabilities = default_capabilities();
    let mut process = Process::default();
    process.set_terminal(None).set_user(User::default()).set_args(Some(vec!["sh".to_owned()]));
    process.set_env(Some(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()]));
    process.set_cwd(PathBuf::from("/")).set_rlimits(None).set_no_new_privileges(None);
    process.set_capabilities(Some(capability_sets(&capabilities)));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(default_device_rules()));
    let mut linux = Linux::default();
    linux
        .set_resources(Some(resources))
        .set_namespaces(Some(default_namespaces()))
        .set_masked_paths(Some(default_masked_paths()))
        .set_readonly_paths(Some(default_readonly_paths()))
        .set_cgroups_path(Some(PathBuf::from("/stint/container")))
        .set_seccomp(Some(crate::seccomp::default_profile()));
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(false));
    let mut spec = Spec::default();
    spec.set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_hostname(None)
        .set_mounts(Some(default_mounts()))
        .set_process(Some(process))
        .set_linux(Some(linux))
        .set_annotations(None);
    spec
}
