//! Whether a node takes a pod that was bound to it, by what the pod asks of its kernel.
//!
//! Left out: whether there is room, which who binds it has decided.
//! Upstream: `pkg/kubelet/sysctl/{allowlist,safe_sysctls}.go`, `pkg/security/apparmor/validate.go`,
//! `component-helpers/node/util/sysctl/namespace.go`, v1.36.

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodSpec, SecurityContext};

/// Sysctls that concern nobody but the pod that sets them.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What a node answers for.
#[derive(Clone, Copy, Debug)]
pub struct Grounds<'a> {
    /// Sysctls beside the safe ones, by name or, with a `*` at the end, by how they begin.
    pub unsafe_sysctls: &'a [String],
    /// Whether the pod has no network of its own here, whatever it says.
    pub on_host_network: bool,
    /// Whether the kernel confines by AppArmor.
    pub has_app_armor: bool,
}

/// Why a node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `status.reason`, one of [`REASONS`].
    pub reason: &'static str,
    /// What is said of it.
    pub message: String,
}

/// Why a pod can be rejected.
pub(super) const REASONS: [&str; 2] = ["SysctlForbidden", "AppArmor"];

/// Whether the node takes the pod.
pub fn admit(pod: &Pod, grounds: &Grounds<'_>) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    sysctls(spec, grounds)
        .map_err(|fault| Rejection { reason: "SysctlForbidden", message: format!("forbidden sysctl: {fault}") })?;
    if !grounds.has_app_armor && wants_app_armor(pod, spec) {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned();
        return Err(Rejection { reason: "AppArmor", message });
    }
    Ok(())
}

fn sysctls(spec: &PodSpec, grounds: &Grounds<'_>) -> Result<(), String> {
    let asked = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    for name in asked.map(|sysctl| dotted(&sysctl.name)) {
        let allowed = |rule: &str| match rule.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == rule,
        };
        let mut rules =
            SAFE.into_iter().map(str::to_owned).chain(grounds.unsafe_sysctls.iter().map(|rule| dotted(rule)));
        if !rules.any(|rule| allowed(&rule)) {
            return Err(format!("{name:?} not allowlisted"));
        }
        let on_host = |namespace: &str| Err(format!("{name:?} not allowed with host {namespace} enabled"));
        match Namespace::of(&name) {
            Some(Namespace::Net) if grounds.on_host_network => return on_host("Net"),
            Some(Namespace::Ipc) if spec.host_ipc == Some(true) => return on_host("IPC"),
            _ => {}
        }
    }
    Ok(())
}

/// The namespace that has its own value of a sysctl.
enum Namespace {
    Net,
    Ipc,
}

impl Namespace {
    fn of(name: &str) -> Option<Namespace> {
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."];
        match name {
            _ if name.starts_with("net.") => Some(Namespace::Net),
            "kernel.sem" => Some(Namespace::Ipc),
            _ if ipc.iter().any(|beginning| name.starts_with(beginning)) => Some(Namespace::Ipc),
            _ => None,
        }
    }
}

/// `net/ipv4/conf/eth0.1/x` with dots for slashes and the other way round, if its first separator is a slash.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn wants_app_armor(pod: &Pod, spec: &PodSpec) -> bool {
    let confines = |profile: Option<&AppArmorProfile>| profile.is_some_and(|profile| profile.type_ != "Unconfined");
    let of_container =
        |context: Option<&SecurityContext>| confines(context.and_then(|own| own.app_armor_profile.as_ref()));
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let annotations = pod.metadata.annotations.iter().flatten();
    confines(spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref()))
        || all.into_iter().any(|container| of_container(container.security_context.as_ref()))
        || annotations.filter(|(key, _)| key.starts_with(APP_ARMOR_ANNOTATION)).any(|(_, value)| value != "unconfined")
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value)] // `json!` reads best by value
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PLAIN: Grounds<'_> = Grounds { unsafe_sysctls: &[], on_host_network: false, has_app_armor: false };

    fn asked(spec: Value, grounds: &Grounds<'_>) -> Result<(), String> {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        admit(&pod, grounds).map_err(|no| format!("{}: {}", no.reason, no.message))
    }

    fn sysctl(name: &str, grounds: &Grounds<'_>) -> Result<(), String> {
        let context = json!({"sysctls": [{"name": name, "value": "1"}]});
        asked(json!({"containers": [], "securityContext": context}), grounds)
    }

    #[test]
    fn sysctls_are_safe_or_allowed() {
        let allowed = ["kernel.msg*".to_owned(), "net/core/somaxconn".to_owned()];
        let lax = Grounds { unsafe_sysctls: &allowed, ..PLAIN };
        for (name, plain, with) in [
            ("kernel.shm_rmid_forced", true, true),
            ("net.ipv4.tcp_syncookies", true, true),
            ("net/ipv4/tcp_syncookies", true, true),
            ("net.core.somaxconn", false, true),
            ("kernel.msgmax", false, true),
            ("kernel.sem", false, false),
            ("kernel.panic", false, false),
        ] {
            assert_eq!((sysctl(name, &PLAIN).is_ok(), sysctl(name, &lax).is_ok()), (plain, with), "{name}");
        }
        assert_eq!(
            sysctl("kernel.panic", &PLAIN).unwrap_err(),
            "SysctlForbidden: forbidden sysctl: \"kernel.panic\" not allowlisted"
        );
        assert_eq!(
            sysctl("net.ipv4.tcp_rmem", &Grounds { on_host_network: true, ..PLAIN }).unwrap_err(),
            "SysctlForbidden: forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowed with host Net enabled"
        );
    }

    #[test]
    fn who_wants_app_armor_is_rejected_where_there_is_none() {
        let with = |pod: Value, own: Value| json!({"securityContext": pod, "containers": [{"name": "c", "securityContext": own}]});
        let profile = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        for (spec, taken) in [
            (with(json!({}), json!({})), true),
            (with(profile("Unconfined"), profile("Unconfined")), true),
            (with(profile("RuntimeDefault"), json!({})), false),
            (with(json!({}), profile("Localhost")), false),
        ] {
            assert_eq!(asked(spec.clone(), &PLAIN).is_ok(), taken, "{spec}");
            assert!(asked(spec, &Grounds { has_app_armor: true, ..PLAIN }).is_ok());
        }
        assert_eq!(
            asked(with(profile("RuntimeDefault"), json!({})), &PLAIN).unwrap_err(),
            "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host"
        );
    }
}
