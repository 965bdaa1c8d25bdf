//! The spec's resources as cgroup folders and files, for v1 (and hybrid) and v2.
//!
//! Invariant: only controllers that have something to say are joined. On v1, containers with the same device rules
//! share one folder of the devices controller, which stays: making one per container costs more than all of its rules
//! are worth, and it counts nothing.

use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, Spec};

use super::{Result, c_path, c_string, inside, invalid, unsupported};
use crate::host::{self, CGROUPS};
use crate::plan::{Cgroups, Group};

type Files = Vec<(CString, String)>;
/// Which controllers are to be written to which `cgroup.subtree_control`.
type Enable = Vec<(CString, String)>;

/// By what all processes of a container are reached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// They end with their PID namespace.
    Namespace,
    /// They share that, so that the container needs a cgroup of its own.
    Cgroup,
}

/// The controllers that limits can be of, and how their files are written.
type Writer = fn(&LinuxResources) -> Result<Files>;
const V1: [(&str, Writer); 4] = [
    ("memory", memory_v1),
    ("cpu", cpu_v1),
    ("pids", |limits| Ok(pids(limits))),
    ("hugetlb", |limits| huge_pages(limits, "limit_in_bytes")),
];
const V2: [(&str, Writer); 4] = [
    ("memory", memory_v2),
    ("cpu", cpu_v2),
    ("pids", |limits| Ok(pids(limits))),
    ("hugetlb", |limits| huge_pages(limits, "max")),
];

/// The cgroups to make, and on v1 the `tasks` files to join by. `together` are limits of the cgroup above.
pub(super) fn plan(spec: &Spec, together: Option<&LinuxResources>, reach: Reach) -> Result<(Cgroups, Vec<CString>)> {
    let own = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    if own.is_none() && together.is_none() && reach == Reach::Namespace {
        return Ok(Default::default());
    }
    let (nothing, relative) = (LinuxResources::default(), path(spec)?);
    let (own, together) = (own.unwrap_or(&nothing), together.unwrap_or(&nothing));
    check_together(together)?;
    let version = if host::is_unified() { v2 } else { v1 };
    version(own, together, reach, relative.as_deref())
}

/// The cgroups above that of a container which a runc-compatible program starts, and what is to be enabled for them.
pub(super) fn above_program(spec: &Spec, together: Option<&LinuxResources>) -> Result<(Vec<Group>, Enable)> {
    let Some(together) = together else { return Ok(Default::default()) };
    check_together(together)?;
    let relative = path(spec)?;
    let relative = need_path(relative.as_deref())?;
    let (mut all, mut controllers) = (Vec::new(), Vec::new());
    for (controller, files) in if host::is_unified() { V2 } else { V1 } {
        let files = files(together)?;
        if !files.is_empty() {
            need_controller(controller)?;
            controllers.push(controller);
            all.push(above(&folder_of(controller, relative)?, files)?);
        }
    }
    match relative.parent() {
        Some(above) if host::is_unified() => Ok((all, enable(above, &controllers)?)),
        _ => Ok((all, Vec::new())),
    }
}

/// On v2 every folder above one must pass its controllers on, top down.
fn enable(relative: &Path, controllers: &[&str]) -> Result<Enable> {
    if controllers.is_empty() {
        return Ok(Vec::new());
    }
    let all = controllers.iter().map(|c| format!("+{c}")).collect::<Vec<_>>().join(" ");
    let mut enable = Vec::new();
    let mut above = top()?.to_owned();
    for component in relative.components() {
        enable.push((c_path(&above.join("cgroup.subtree_control"), "cgroupsPath")?, all.clone()));
        above.push(component);
    }
    Ok(enable)
}

/// Limits of a shared cgroup are limits, and nothing that only one of those in it could have.
fn check_together(together: &LinuxResources) -> Result<()> {
    let unified = together.unified().as_ref().is_some_and(|unified| !unified.is_empty());
    if unified || together.devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return unsupported("device rules or unified limits of several containers together", "set them on each");
    }
    Ok(())
}

/// A container's cgroup folder of one controller.
fn folder_of(controller: &str, relative: &Path) -> Result<PathBuf> {
    let top = top()?;
    Ok(if host::is_unified() { top.join(relative) } else { top.join(controller).join(relative) })
}

/// What all cgroups of containers are below.
fn top() -> Result<&'static Path> {
    let advice = "no cgroup is delegated to this user; docs/rootless.md says how to have one";
    host::cgroups().map_or_else(|| unsupported("a cgroup", advice), Ok)
}

/// The folder above `folder`, with limits.
fn above(folder: &Path, files: Files) -> Result<Group> {
    let Some(path) = folder.parent() else { return invalid("linux.cgroupsPath has nothing above it") };
    Ok(Group { path: c_path(path, "cgroupsPath")?, files, shared: true })
}

/// `cgroupsPath` without its leading slash, checked.
fn path(spec: &Spec) -> Result<Option<PathBuf>> {
    let Some(path) = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref()) else { return Ok(None) };
    let clean = inside(path, "linux.cgroupsPath")?;
    if clean.is_empty() {
        return invalid("linux.cgroupsPath is the root cgroup");
    }
    Ok(Some(PathBuf::from(clean.to_string_lossy().into_owned())))
}

fn need_path(path: Option<&Path>) -> Result<&Path> {
    path.map_or_else(|| invalid("linux.resources has limits and linux.cgroupsPath is missing"), Ok)
}

fn v1(
    resources: &LinuxResources,
    together: &LinuxResources,
    reach: Reach,
    relative: Option<&Path>,
) -> Result<(Cgroups, Vec<CString>)> {
    if resources.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        return unsupported("linux.resources.unified", "leave it out: this machine uses cgroup v1");
    }
    let mut plan = Cgroups::default();
    let mut join = Vec::new();
    for (controller, files) in V1 {
        let (files, limits) = (files(resources)?, files(together)?);
        let reaches = controller == "pids" && reach == Reach::Cgroup;
        if files.is_empty() && limits.is_empty() && !reaches {
            continue;
        }
        need_controller(controller)?;
        let folder = folder_of(controller, need_path(relative)?)?;
        if !limits.is_empty() {
            plan.above.push(above(&folder, limits)?);
        }
        if reaches {
            plan.kill = Some(c_path(&folder, "cgroupsPath")?);
        }
        if controller == "memory" {
            plan.oom = Some(c_path(&folder.join("memory.oom_control"), "cgroupsPath")?);
        }
        join.push(c_path(&folder.join("tasks"), "cgroupsPath")?);
        let path = c_path(&folder, "cgroupsPath")?;
        plan.remove.push(path.clone());
        plan.groups.push(Group { path, files, shared: false });
    }
    let rules = resources.devices().as_deref().unwrap_or_default();
    if !rules.is_empty() {
        need_controller("devices")?;
        let files = devices_v1(rules)?;
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        // "/stint/pod/container" shares "/stint/devices-<hash>" with its likes.
        let first = need_path(relative)?.components().next().map_or(PathBuf::new(), |c| PathBuf::from(c.as_os_str()));
        let folder = folder_of("devices", &first)?.join(format!("devices-{:016x}", hasher.finish()));
        join.push(c_path(&folder.join("tasks"), "cgroupsPath")?);
        plan.groups.push(Group { path: c_path(&folder, "cgroupsPath")?, files, shared: true });
    }
    Ok((plan, join))
}

fn v2(
    resources: &LinuxResources,
    together: &LinuxResources,
    reach: Reach,
    relative: Option<&Path>,
) -> Result<(Cgroups, Vec<CString>)> {
    let (mut files, mut limits) = (Files::new(), Files::new());
    let mut controllers = Vec::new();
    for (controller, write) in V2 {
        let (own, above) = (write(resources)?, write(together)?);
        if !own.is_empty() || !above.is_empty() {
            need_controller(controller)?;
            controllers.push(controller);
            files.extend(own);
            limits.extend(above);
        }
    }
    if let Some(unified) = resources.unified() {
        let mut unified: Vec<_> = unified.iter().collect();
        unified.sort();
        for (name, value) in unified {
            let controller = name.split('.').next().unwrap_or_default();
            if name.contains('/') || controller == "cgroup" {
                return invalid(format!("linux.resources.unified has {name:?}, which is no limit"));
            }
            need_controller(controller)?;
            if !controllers.contains(&controller) {
                controllers.push(controller);
            }
            files.push((c_string(name, "linux.resources.unified")?, value.clone()));
        }
    }
    let rules = resources.devices().as_deref().unwrap_or_default();
    if files.is_empty() && limits.is_empty() && rules.is_empty() && reach == Reach::Namespace {
        return Ok(Default::default());
    }
    let relative = need_path(relative)?;
    let mut plan = Cgroups { clone_into: true, ..Cgroups::default() };
    let folder = top()?.join(relative);
    if !limits.is_empty() {
        plan.above.push(above(&folder, limits)?);
    }
    if reach == Reach::Cgroup {
        plan.kill = Some(c_path(&folder, "cgroupsPath")?);
    }
    plan.enable = enable(relative, &controllers)?;
    if controllers.contains(&"memory") {
        plan.oom = Some(c_path(&folder.join("memory.events"), "cgroupsPath")?);
    }
    if !rules.is_empty() {
        plan.device_filter = Some(crate::device_filter::compile(rules)?);
    }
    let path = c_path(&folder, "cgroupsPath")?;
    plan.remove.push(path.clone());
    plan.groups.push(Group { path, files, shared: false });
    Ok((plan, Vec::new()))
}

/// For a runc-compatible program: the file that counts OOM kills, and the folders it makes.
pub(super) fn of_program(spec: &Spec) -> Result<(Option<CString>, Vec<CString>)> {
    let Some(relative) = path(spec)? else { return Ok((None, Vec::new())) };
    if host::is_unified() {
        let folder = Path::new(CGROUPS).join(relative);
        let events = c_path(&folder.join("memory.events"), "cgroupsPath")?;
        return Ok((Some(events), vec![c_path(&folder, "cgroupsPath")?]));
    }
    let mut remove = Vec::new();
    for hierarchy in std::fs::read_dir(CGROUPS).into_iter().flatten().flatten() {
        remove.push(c_path(&hierarchy.path().join(&relative), "cgroupsPath")?);
    }
    let oom = Path::new(CGROUPS).join("memory").join(&relative).join("memory.oom_control");
    Ok((Some(c_path(&oom, "cgroupsPath")?), remove))
}

fn need_controller(name: &str) -> Result<()> {
    if host::has_controller(name) {
        return Ok(());
    }
    let advice = format!("{} does not offer it: enable it, or leave the limit out", top()?.display());
    unsupported(format!("a limit of the cgroup controller {name}"), advice)
}

fn file(name: &str, value: impl std::fmt::Display) -> (CString, String) {
    (CString::new(name).expect("cgroup file names are constants"), value.to_string())
}

/// -1 is the spec's word for no limit.
fn max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn memory_v1(resources: &LinuxResources) -> Result<Files> {
    let Some(memory) = resources.memory() else { return Ok(Files::new()) };
    let mut files = Files::new();
    if let Some(limit) = memory.limit() {
        files.push(file("memory.limit_in_bytes", limit));
    }
    if let Some(swap) = memory.swap() {
        if Path::new(CGROUPS).join("memory/memory.memsw.limit_in_bytes").exists() {
            files.push(file("memory.memsw.limit_in_bytes", swap));
        } else if memory.limit() != Some(swap)
            || std::fs::read_to_string("/proc/swaps").is_ok_and(|s| s.lines().count() > 1)
        {
            // Without swap accounting, "no more memory and swap than memory" still holds on a machine without swap.
            return unsupported("linux.resources.memory.swap", "this kernel does not account for swap (swapaccount=1)");
        }
    }
    if let Some(reservation) = memory.reservation() {
        files.push(file("memory.soft_limit_in_bytes", reservation));
    }
    if let Some(swappiness) = memory.swappiness() {
        files.push(file("memory.swappiness", swappiness));
    }
    if memory.disable_oom_killer() == Some(true) {
        files.push(file("memory.oom_control", 1));
    }
    Ok(files)
}

fn memory_v2(resources: &LinuxResources) -> Result<Files> {
    let Some(memory) = resources.memory() else { return Ok(Files::new()) };
    let mut files = Files::new();
    if memory.swappiness().is_some() || memory.disable_oom_killer() == Some(true) {
        return unsupported(
            "linux.resources.memory.swappiness or disableOOMKiller",
            "leave it out: cgroup v2 has no such control",
        );
    }
    if let Some(limit) = memory.limit() {
        files.push(file("memory.max", max(limit)));
    }
    if let Some(swap) = memory.swap() {
        // The spec's swap is memory and swap together; v2 counts swap alone.
        let only = match (swap, memory.limit()) {
            (s, _) if s < 0 => s,
            (s, Some(limit)) if limit >= 0 && s >= limit => s - limit,
            _ => return invalid("linux.resources.memory.swap is less than memory.limit, or has none beside it"),
        };
        files.push(file("memory.swap.max", max(only)));
    }
    if let Some(reservation) = memory.reservation() {
        files.push(file("memory.low", max(reservation)));
    }
    Ok(files)
}

fn cpu_v1(resources: &LinuxResources) -> Result<Files> {
    let Some(cpu) = resources.cpu() else { return Ok(Files::new()) };
    let mut files = Files::new();
    if let Some(shares) = cpu.shares() {
        files.push(file("cpu.shares", shares));
    }
    if let Some(period) = cpu.period() {
        files.push(file("cpu.cfs_period_us", period));
    }
    if let Some(quota) = cpu.quota() {
        files.push(file("cpu.cfs_quota_us", quota));
    }
    if let Some(burst) = cpu.burst() {
        files.push(file("cpu.cfs_burst_us", burst));
    }
    if let Some(idle) = cpu.idle() {
        files.push(file("cpu.idle", idle));
    }
    realtime(cpu.realtime_runtime().is_some() || cpu.realtime_period().is_some())?;
    Ok(files)
}

fn cpu_v2(resources: &LinuxResources) -> Result<Files> {
    let Some(cpu) = resources.cpu() else { return Ok(Files::new()) };
    let mut files = Files::new();
    if let Some(shares) = cpu.shares().filter(|&s| s != 0) {
        files.push(file("cpu.weight", weight(shares)));
    }
    if cpu.quota().is_some() || cpu.period().is_some() {
        let quota = cpu.quota().filter(|&q| q > 0).map_or("max".into(), |q| q.to_string());
        files.push(file("cpu.max", format!("{quota} {}", cpu.period().unwrap_or(100_000))));
    }
    if let Some(burst) = cpu.burst() {
        files.push(file("cpu.max.burst", burst));
    }
    if let Some(idle) = cpu.idle() {
        files.push(file("cpu.idle", idle));
    }
    realtime(cpu.realtime_runtime().is_some() || cpu.realtime_period().is_some())?;
    Ok(files)
}

fn realtime(asked: bool) -> Result<()> {
    if asked { unsupported("linux.resources.cpu.realtimeRuntime", "leave it out") } else { Ok(()) }
}

/// v1's 2..=262144 on v2's 1..=10000, as everybody maps it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn pids(resources: &LinuxResources) -> Files {
    let limit = resources.pids().as_ref().map(oci_spec::runtime::LinuxPids::limit);
    let files = limit.map(|limit| file("pids.max", if limit <= 0 { "max".into() } else { limit.to_string() }));
    files.into_iter().collect()
}

/// One file for each size of pages: `hugetlb.2MB.` and `what`.
fn huge_pages(resources: &LinuxResources, what: &str) -> Result<Files> {
    let mut files = Files::new();
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return invalid(format!("linux.resources.hugepageLimits.pageSize is {size:?}"));
        }
        files.push(file(&format!("hugetlb.{size}.{what}"), limit.limit()));
    }
    Ok(files)
}

fn devices_v1(rules: &[LinuxDeviceCgroup]) -> Result<Files> {
    let mut files = Files::new();
    for rule in rules {
        let name = if rule.allow() { "devices.allow" } else { "devices.deny" };
        let access = rule.access().as_deref().unwrap_or("rwm");
        if access.is_empty() || access.chars().any(|c| !"rwm".contains(c)) {
            return invalid(format!("linux.resources.devices.access is {access:?}"));
        }
        let number = |n: Option<i64>| n.filter(|&n| n >= 0).map_or("*".to_owned(), |n| n.to_string());
        let (major, minor) = (number(rule.major()), number(rule.minor()));
        let text = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A if (major.as_str(), minor.as_str(), access.len()) == ("*", "*", 3) => "a".to_owned(),
            LinuxDeviceType::A => {
                return unsupported("a device rule for all types with numbers", "write one for c and one for b");
            }
            LinuxDeviceType::B => format!("b {major}:{minor} {access}"),
            LinuxDeviceType::C | LinuxDeviceType::U => format!("c {major}:{minor} {access}"),
            LinuxDeviceType::P => return invalid("linux.resources.devices.type is \"p\""),
        };
        files.push(file(name, text));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_limited_by_their_size() {
        let limits = |size: &str| {
            let spec = serde_json::json!({"hugepageLimits": [{"pageSize": size, "limit": 4096}]});
            huge_pages(&serde_json::from_value(spec).unwrap(), "max")
        };
        assert_eq!(limits("2MB").unwrap(), [(c"hugetlb.2MB.max".to_owned(), "4096".to_owned())]);
        assert!(limits("../memory").is_err());
        assert!(huge_pages(&LinuxResources::default(), "max").unwrap().is_empty());
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected);
        }
    }
}
