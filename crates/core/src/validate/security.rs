//! Security contexts of pods and containers, and the annotations that once stood for them.
//!
//! Left out: the rules of Windows options.
//! Upstream: `pkg/apis/core/validation/validation.go` (`ValidateSecurityContext`, `validatePodSpecSecurityContext`,
//! `ValidatePodSpecificAnnotations`), v1.36. Privileged containers are allowed.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, PodSpec, SeccompProfile, SecurityContext, Sysctl};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::volume::local_descending_path;
use super::{entries, items, pod, text};
use crate::field::{Fault, Path, Value, quote};
use crate::names;

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";
pub(super) const MIRROR_POD: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const MAX_ID: i64 = i32::MAX as i64;

/// Annotations that Kubernetes gives a meaning on pods.
pub(super) fn pod_annotations(meta: &ObjectMeta, spec: &PodSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key));
    if let Some(value) = annotation(MIRROR_POD)
        && text(spec.node_name.as_ref()).is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        faults.push(Fault::invalid(&path.key(MIRROR_POD), value, detail));
    }
    if let Some(cost) = annotation(DELETION_COST)
        && (cost.parse::<i32>().is_err() || cost.starts_with('+') || (cost.starts_with('0') && cost.len() > 1))
    {
        faults.push(Fault::invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer"));
    }
    if let Some(profile) = annotation(SECCOMP_POD) {
        seccomp_annotation(profile, &path.field(SECCOMP_POD), faults);
    }
    for (key, profile) in entries(meta.annotations.as_ref()).filter(|(k, _)| k.starts_with(SECCOMP_CONTAINER)) {
        seccomp_annotation(profile, &path.field(key), faults);
    }
    for (key, profile) in entries(meta.annotations.as_ref()) {
        let Some(container) = key.strip_prefix(APP_ARMOR_CONTAINER) else {
            continue;
        };
        if !pod::visit(spec).any(|(_, _, c)| c.name == container) {
            faults.push(Fault::invalid(&path.key(key), container, "container not found"));
        }
        let known = matches!(profile.as_str(), "" | "runtime/default" | "unconfined");
        if !known && !profile.starts_with("localhost/") {
            let detail = format!("invalid AppArmor profile name: {}", quote(profile));
            faults.push(Fault::invalid(&path.key(key), profile, detail));
        }
    }
}

fn seccomp_annotation(profile: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        _ => match profile.strip_prefix("localhost/") {
            Some(file) => local_descending_path(file, path, faults),
            None => faults.push(Fault::invalid(path, profile, "must be a valid seccomp profile")),
        },
    }
}

/// Where both the old annotation and the field are set, they must say the same.
pub(super) fn annotations_match_fields(meta: &ObjectMeta, spec: &PodSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Some(annotations) = &meta.annotations else {
        return;
    };
    let pod = spec.security_context.as_ref();
    let mut check = |what: &str, annotation: &str, kind: &str, file: Option<&String>, field: &str| {
        let (member, noun) = match kind {
            "Unconfined" if annotation != "unconfined" => ("type", "type"),
            "RuntimeDefault" if !matches!(annotation, "runtime/default" | "docker/default") => ("type", "type"),
            "Localhost" => match annotation.strip_prefix("localhost/") {
                None => ("type", "type"),
                Some(name) if Some(name) != file.map(String::as_str) => ("localhostProfile", "profile"),
                Some(_) => return,
            },
            _ => return,
        };
        let detail = format!("{what} {noun} in annotation and field must match");
        faults.push(Fault::forbidden(&path.field(&format!("{field}.{member}")), &detail));
    };
    if let (Some(profile), Some(annotation)) =
        (pod.and_then(|c| c.seccomp_profile.as_ref()), annotations.get(SECCOMP_POD))
    {
        let file = profile.localhost_profile.as_ref();
        check("seccomp", annotation, &profile.type_, file, "securityContext.seccompProfile");
    }
    for (list, i, container) in pod::visit(spec) {
        let own = container.security_context.as_ref();
        let field = format!("{list}[{i}].securityContext.seccompProfile");
        if let (Some(profile), Some(annotation)) = (
            own.and_then(|c| c.seccomp_profile.as_ref()),
            annotations.get(&format!("{SECCOMP_CONTAINER}{}", container.name)),
        ) {
            check("seccomp", annotation, &profile.type_, profile.localhost_profile.as_ref(), &field);
        }
    }
    for (list, i, container) in pod::visit(spec) {
        let own = container.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
        let profile = own.or(pod.and_then(|c| c.app_armor_profile.as_ref()));
        let field = format!("{list}[{i}].securityContext.appArmorProfile");
        if let (Some(profile), Some(annotation)) =
            (profile, annotations.get(&format!("{APP_ARMOR_CONTAINER}{}", container.name)))
        {
            check("apparmor", annotation, &profile.type_, profile.localhost_profile.as_ref(), &field);
        }
    }
}

/// A pod's security context.
pub(super) fn pod(spec: &PodSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Some(context) = &spec.security_context else {
        return;
    };
    id(context.fs_group, &path.field("fsGroup"), faults);
    id(context.run_as_user, &path.field("runAsUser"), faults);
    id(context.run_as_group, &path.field("runAsGroup"), faults);
    let groups = path.field("supplementalGroups");
    for (i, group) in items(context.supplemental_groups.as_ref()).iter().enumerate() {
        id(Some(*group), &groups.index(i), faults);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        faults.push(Fault::invalid(&path.field("shareProcessNamespace"), true, detail));
    }
    sysctls(spec, items(context.sysctls.as_ref()), &path.field("sysctls"), faults);
    let one_of = |value: &Option<String>, supported: &[&str], field: &str, faults: &mut Vec<Fault>| {
        if let Some(value) = value.as_deref().filter(|v| !supported.contains(v)) {
            faults.push(Fault::not_supported(&path.field(field), value, supported));
        }
    };
    one_of(&context.fs_group_change_policy, &["Always", "OnRootMismatch"], "fsGroupChangePolicy", faults);
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), faults);
    app_armor(context.app_armor_profile.as_ref(), &path.field("appArmorProfile"), faults);
    one_of(&context.supplemental_groups_policy, &["Merge", "Strict"], "supplementalGroupsPolicy", faults);
    one_of(&context.se_linux_change_policy, &["MountOption", "Recursive"], "seLinuxChangePolicy", faults);
}

fn id(id: Option<i64>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if let Some(id) = id.filter(|id| !(0..=MAX_ID).contains(id)) {
        faults.push(Fault::invalid(path, id, names::inclusive_range(0, MAX_ID)));
    }
}

fn sysctls(spec: &PodSpec, sysctls: &[Sysctl], path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(i);
        let path = path.field("name");
        let name = sysctl.name.as_str();
        let duplicate = !seen.insert(name);
        if name.is_empty() {
            faults.push(Fault::required(&path, ""));
        } else if !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            faults.push(Fault::invalid(&path, name, detail));
        } else if duplicate {
            faults.push(Fault::duplicate(&path, name));
        }
        let dotted = name.replace('/', ".");
        let ipc = dotted.starts_with("kernel.shm")
            || dotted.starts_with("kernel.msg")
            || dotted == "kernel.sem"
            || dotted.starts_with("fs.mqueue.");
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            faults.push(Fault::invalid(&path, name, "may not be specified when 'hostNetwork' is true"));
        } else if spec.host_ipc == Some(true) && ipc {
            faults.push(Fault::invalid(&path, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let bytes = part.as_bytes();
            matches!((bytes.first(), bytes.last()), (Some(&a), Some(&z)) if alnum(a) && alnum(z))
                && bytes.iter().all(|&b| alnum(b) || b == b'-' || b == b'_')
        })
}

fn seccomp(profile: Option<&SeccompProfile>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Some(profile) = profile else {
        return;
    };
    let kind = profile.type_.as_str();
    let file_path = path.field("localhostProfile");
    if kind.is_empty() {
        faults.push(Fault::required(&path.field("type"), "type is required when seccompProfile is set"));
    } else if !PROFILE_TYPES.contains(&kind) {
        faults.push(Fault::not_supported(&path.field("type"), kind, &PROFILE_TYPES));
    }
    match (kind, &profile.localhost_profile) {
        ("Localhost", Some(file)) => local_descending_path(file, &file_path, faults),
        ("Localhost", None) => {
            faults.push(Fault::required(&file_path, "must be set when seccomp type is Localhost"));
        }
        (_, Some(file)) => {
            let value = Value::json(&GoProfile { kind, file: Some(file) });
            faults.push(Fault::invalid(&file_path, value, "can only be set when seccomp type is Localhost"));
        }
        (_, None) => {}
    }
}

fn app_armor(profile: Option<&AppArmorProfile>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Some(profile) = profile else {
        return;
    };
    let file_path = path.field("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", file) => {
            let file = text(file.as_ref());
            if file.trim() != file {
                faults.push(Fault::invalid(&file_path, file, "must not be padded with whitespace"));
            } else if file.is_empty() {
                faults.push(Fault::required(&file_path, "must be set when AppArmor type is Localhost"));
            }
            if file.len() > 4095 {
                faults.push(Fault::too_long(&file_path, 4095));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(file)) => {
            faults.push(Fault::invalid(&file_path, file, "can only be set when AppArmor type is Localhost"));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            faults.push(Fault::required(&path.field("type"), "type is required when appArmorProfile is set"));
        }
        (other, _) => faults.push(Fault::not_supported(&path.field("type"), other, &PROFILE_TYPES)),
    }
}

/// A container's security context. `host_users` is false for a pod in a user namespace of its own.
pub(super) fn container(container: &Container, host_users: bool, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Some(context) = &container.security_context else {
        return;
    };
    id(context.run_as_user, &path.field("runAsUser"), faults);
    id(context.run_as_group, &path.field("runAsGroup"), faults);
    if let Some(mount) = context.proc_mount.as_deref() {
        let path = path.field("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            faults.push(Fault::not_supported(&path, mount, &["Default", "Unmasked"]));
        }
        if host_users && mount == "Unmasked" {
            faults.push(Fault::invalid(&path, mount, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), faults);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            faults.push(Fault::invalid(path, shown(context), detail));
        }
        let added = context.capabilities.as_ref().and_then(|c| c.add.as_ref());
        for _ in items(added).iter().filter(|c| *c == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            faults.push(Fault::invalid(path, shown(context), detail));
        }
    }
    app_armor(context.app_armor_profile.as_ref(), &path.field("appArmorProfile"), faults);
}

#[derive(Serialize)]
struct GoProfile<'a> {
    #[serde(rename = "Type")]
    kind: &'a str,
    #[serde(rename = "LocalhostProfile")]
    file: Option<&'a String>,
}

/// The context as messages print it: upstream's internal struct.
fn shown(context: &SecurityContext) -> Value {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct GoCapabilities<'a> {
        add: Option<&'a Vec<String>>,
        drop: Option<&'a Vec<String>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Go<'a> {
        capabilities: Option<GoCapabilities<'a>>,
        privileged: Option<bool>,
        #[serde(rename = "SELinuxOptions")]
        se_linux_options: Option<serde_json::Value>,
        windows_options: Option<serde_json::Value>,
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        read_only_root_filesystem: Option<bool>,
        allow_privilege_escalation: Option<bool>,
        proc_mount: Option<&'a String>,
        seccomp_profile: Option<GoProfile<'a>>,
        app_armor_profile: Option<GoProfile<'a>>,
    }
    Value::json(&Go {
        capabilities: context
            .capabilities
            .as_ref()
            .map(|c| GoCapabilities { add: c.add.as_ref(), drop: c.drop.as_ref() }),
        privileged: context.privileged,
        se_linux_options: context.se_linux_options.as_ref().and_then(|o| serde_json::to_value(o).ok()),
        windows_options: context.windows_options.as_ref().and_then(|o| serde_json::to_value(o).ok()),
        run_as_user: context.run_as_user,
        run_as_group: context.run_as_group,
        run_as_non_root: context.run_as_non_root,
        read_only_root_filesystem: context.read_only_root_filesystem,
        allow_privilege_escalation: context.allow_privilege_escalation,
        proc_mount: context.proc_mount.as_ref(),
        seccomp_profile: context
            .seccomp_profile
            .as_ref()
            .map(|p| GoProfile { kind: &p.type_, file: p.localhost_profile.as_ref() }),
        app_armor_profile: context
            .app_armor_profile
            .as_ref()
            .map(|p| GoProfile { kind: &p.type_, file: p.localhost_profile.as_ref() }),
    })
}
