//! The rules of `baseline`: what would give a pod the node, or a way to it.
//!
//! Upstream: `staging/src/k8s.io/pod-security-admission/policy/check_*.go`, v1.36.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{LifecycleHandler, Probe, SELinuxOptions};

use super::checks::Violation;
use super::subject::{Member, Subject, containers, plural, quoted, setters};
use crate::field::quote;

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// The capabilities that containers usually have, and may ask for.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Settings of the kernel that are a pod's own, in the order in which they became so: the first 5 always, 6 since 1.27, 10
/// since 1.29, all since 1.32.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Types of SELinux that containers may have; the last since 1.31.
const SE_LINUX: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

/// Whether a profile, of seccomp or AppArmor, confines.
pub(super) fn confines(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

pub(super) fn app_armor(subject: &Subject<'_>) -> Option<Violation> {
    let mut bad = BTreeSet::new();
    let mut is_bad = |kind: Option<&str>| {
        let kind = kind.filter(|kind| !confines(kind));
        bad.extend(kind.map(str::to_owned));
        kind.is_some()
    };
    let pod = is_bad(subject.security().and_then(|own| own.app_armor_profile.as_ref()).map(|it| it.type_.as_str()));
    let names = subject.those(|member| {
        is_bad(member.security.and_then(|own| own.app_armor_profile.as_ref()).map(|it| it.type_.as_str()))
    });
    let annotations = subject.meta.annotations.iter().flatten().filter(|(key, profile)| {
        let confines = matches!(profile.as_str(), "" | "runtime/default") || profile.starts_with("localhost/");
        key.starts_with(APP_ARMOR) && !confines
    });
    let annotations: Vec<String> = annotations.map(|(key, value)| format!("{key}={}", quote(value))).collect();
    let by_annotation =
        (!annotations.is_empty()).then(|| plural("annotation", "annotations", annotations.len()).to_owned());
    let who: Vec<String> = setters(pod, &names).into_iter().chain(by_annotation).collect();
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = bad.into_iter().chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    Some(Violation::new(
        reason,
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)),
    ))
}

pub(super) fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let mut bad = BTreeSet::new();
    let names = subject.those(|member| {
        let added: Vec<&String> = added(member).filter(|name| !CAPABILITIES.contains(&name.as_str())).collect();
        bad.extend(added.iter().copied().cloned());
        !added.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(bad));
    Some(Violation::new("non-default capabilities", detail))
}

/// The capabilities that a container asks for.
pub(super) fn added<'a>(member: &Member<'a>) -> impl Iterator<Item = &'a String> {
    let capabilities = member.security.and_then(|own| own.capabilities.as_ref());
    capabilities.into_iter().flat_map(|capabilities| capabilities.add.iter().flatten())
}

pub(super) fn host_namespaces(subject: &Subject<'_>) -> Option<Violation> {
    let spec = subject.spec;
    let all = [("hostIPC", spec.host_ipc), ("hostNetwork", spec.host_network), ("hostPID", spec.host_pid)];
    let used: Vec<&str> = all.iter().filter(|(_, is_used)| *is_used == Some(true)).map(|(name, _)| *name).collect();
    if used.is_empty() { None } else { Some(Violation::new("host namespaces", used.join(", "))) }
}

pub(super) fn host_paths(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = subject.spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some());
    let names: Vec<&str> = volumes.map(|volume| volume.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    Some(Violation::new("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(names))))
}

pub(super) fn host_ports(subject: &Subject<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let names = subject.those(|member| {
        let own: Vec<String> = member
            .ports
            .iter()
            .filter_map(|port| port.host_port.filter(|port| *port != 0))
            .map(|port| port.to_string())
            .collect();
        let any = !own.is_empty();
        ports.extend(own);
        any
    });
    if names.is_empty() {
        return None;
    }
    let (who, uses) = (containers(&names), plural("uses", "use", names.len()));
    let what = plural("hostPort", "hostPorts", ports.len());
    let ports: Vec<String> = ports.into_iter().collect();
    Some(Violation::new("hostPort", format!("{who} {uses} {what} {}", ports.join(", "))))
}

pub(super) fn hosts_of_handlers(subject: &Subject<'_>) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let names: BTreeSet<&str> = subject
        .those(|member| {
            let hooks = member.lifecycle.map(|hooks| [hooks.post_start.as_ref(), hooks.pre_stop.as_ref()]);
            let of_hooks = hooks.into_iter().flatten().flatten().flat_map(hosts_of_hook);
            let own: Vec<&String> =
                member.probes.iter().flatten().flat_map(|probe| hosts_of_probe(probe)).chain(of_hooks).collect();
            hosts.extend(own.iter().copied().cloned());
            !own.is_empty()
        })
        .into_iter()
        .collect();
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    let (who, uses) = (containers(&names), plural("uses", "use", names.len()));
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    Some(Violation::new("probe or lifecycle host", format!("{who} {uses} {what} {}", quoted(hosts))))
}

fn hosts_of_probe(probe: &Probe) -> impl Iterator<Item = &String> {
    let http = probe.http_get.as_ref().and_then(|get| get.host.as_ref());
    let tcp = probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref());
    http.into_iter().chain(tcp).filter(|host| !host.is_empty())
}

fn hosts_of_hook(hook: &LifecycleHandler) -> impl Iterator<Item = &String> {
    let http = hook.http_get.as_ref().and_then(|get| get.host.as_ref());
    let tcp = hook.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref());
    http.into_iter().chain(tcp).filter(|host| !host.is_empty())
}

pub(super) fn privileged(subject: &Subject<'_>) -> Option<Violation> {
    let names = subject.those(|member| member.security.is_some_and(|own| own.privileged == Some(true)));
    if names.is_empty() {
        return None;
    }
    Some(Violation::new("privileged", format!("{} must not set securityContext.privileged=true", containers(&names))))
}

pub(super) fn proc_mount(subject: &Subject<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let names = subject.those(|member| {
        let kind = member.security.and_then(|own| own.proc_mount.clone()).filter(|kind| kind != "Default");
        let any = kind.is_some();
        kinds.extend(kind);
        any
    });
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(kinds));
    Some(Violation::new("procMount", detail))
}

pub(super) fn proc_mount_of_the_nodes_users(subject: &Subject<'_>) -> Option<Violation> {
    if subject.has_own_users() { None } else { proc_mount(subject) }
}

pub(super) fn se_linux(subject: &Subject<'_>) -> Option<Violation> {
    se_linux_of(subject, &SE_LINUX[..4])
}

pub(super) fn se_linux_1_31(subject: &Subject<'_>) -> Option<Violation> {
    se_linux_of(subject, &SE_LINUX)
}

fn se_linux_of(subject: &Subject<'_>, allowed: &[&str]) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |options: &SELinuxOptions| {
        let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let kind = options.type_.as_deref().filter(|kind| !allowed.contains(kind));
        types.extend(kind.map(str::to_owned));
        user |= is_set(&options.user);
        role |= is_set(&options.role);
        kind.is_some() || is_set(&options.user) || is_set(&options.role)
    };
    let pod = subject.security().and_then(|own| own.se_linux_options.as_ref()).is_some_and(&mut is_bad);
    let names =
        subject.those(|member| member.security.and_then(|own| own.se_linux_options.as_ref()).is_some_and(&mut is_bad));
    let who = setters(pod, &names)?;
    let kinds = (!types.is_empty()).then(|| format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    let user = user.then(|| "user may not be set".to_owned());
    let role = role.then(|| "role may not be set".to_owned());
    let what: Vec<String> = kinds.into_iter().chain(user).chain(role).collect();
    Some(Violation::new(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")),
    ))
}

/// Before 1.19 profiles of seccomp were named in annotations.
pub(super) fn seccomp_annotations(subject: &Subject<'_>) -> Option<Violation> {
    let own = subject.containers.iter().map(|member| format!("{SECCOMP}{}", member.name));
    let keys: BTreeSet<String> = own.chain([SECCOMP_POD.to_owned()]).collect();
    let annotation = |key: &String| subject.meta.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    let confines =
        |profile: &str| matches!(profile, "runtime/default" | "docker/default") || profile.starts_with("localhost/");
    let bad: BTreeSet<String> = keys
        .iter()
        .filter_map(|key| Some((key, annotation(key).filter(|profile| !confines(profile))?)))
        .map(|(key, profile)| format!("{key}={}", quote(&profile)))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", bad.len());
    Some(Violation::new(
        "seccompProfile",
        format!("forbidden {what} {}", bad.into_iter().collect::<Vec<_>>().join(", ")),
    ))
}

pub(super) fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let mut is_bad = |kind: Option<&str>| {
        let bad = kind.filter(|kind| !confines(kind));
        kinds.extend(bad.map(str::to_owned));
        bad.is_some()
    };
    let pod = is_bad(subject.security().and_then(|own| own.seccomp_profile.as_ref()).map(|it| it.type_.as_str()));
    let names = subject.those(|member| is_bad(seccomp_of(member)));
    let who = setters(pod, &names)?;
    Some(Violation::new(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(kinds)),
    ))
}

/// The sort of profile that a container itself asks for.
pub(super) fn seccomp_of<'a>(member: &Member<'a>) -> Option<&'a str> {
    member.security.and_then(|own| own.seccomp_profile.as_ref()).map(|profile| profile.type_.as_str())
}

pub(super) fn sysctls(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_of(subject, &SYSCTLS[..5])
}

pub(super) fn sysctls_1_27(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_of(subject, &SYSCTLS[..6])
}

pub(super) fn sysctls_1_29(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_of(subject, &SYSCTLS[..10])
}

pub(super) fn sysctls_1_32(subject: &Subject<'_>) -> Option<Violation> {
    sysctls_of(subject, &SYSCTLS)
}

fn sysctls_of(subject: &Subject<'_>, safe: &[&str]) -> Option<Violation> {
    let asked = subject.security().into_iter().flat_map(|own| own.sysctls.iter().flatten());
    let bad: Vec<&str> = asked.map(|sysctl| sysctl.name.as_str()).filter(|name| !safe.contains(name)).collect();
    if bad.is_empty() { None } else { Some(Violation::new("forbidden sysctls", bad.join(", "))) }
}

pub(super) fn windows_host_process(subject: &Subject<'_>) -> Option<Violation> {
    let is_set = |host_process: Option<bool>| host_process == Some(true);
    let pod = subject.security().and_then(|own| own.windows_options.as_ref());
    let names = subject.those(|member| {
        let own = member.security.and_then(|own| own.windows_options.as_ref());
        is_set(own.and_then(|options| options.host_process))
    });
    let who = setters(is_set(pod.and_then(|options| options.host_process)), &names)?;
    Some(Violation::new("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true")))
}
