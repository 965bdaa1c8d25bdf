//! Containers: what all kinds have in common, and what each kind may not have.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`validateContainerCommon`, `validateContainers`,
//! `validateInitContainers`, `validateEphemeralContainers`), v1.36.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EphemeralContainer, PodSpec, ResourceRequirements, VolumeDevice, VolumeMount,
};

use super::pod::enumerated;
use super::volume::{Volumes, local_descending_path, path_without_backsteps};
use super::{env, invalid_for, items, probe, resources, security, text};
use crate::field::{Fault, Path, Value};
use crate::names;
use crate::pod::is_sidecar;

const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];

/// What a container's rules need to know of its pod.
pub(super) struct Context<'a> {
    spec: &'a PodSpec,
    volumes: &'a Volumes<'a>,
    claims: BTreeSet<&'a str>,
}

impl<'a> Context<'a> {
    pub(super) fn new(spec: &'a PodSpec, volumes: &'a Volumes<'a>) -> Context<'a> {
        let claims = items(spec.resource_claims.as_ref()).iter();
        Context { spec, volumes, claims: claims.map(|c| c.name.as_str()).filter(|n| !n.is_empty()).collect() }
    }

    fn grace(&self) -> Option<i64> {
        self.spec.termination_grace_period_seconds
    }
}

pub(super) fn regular(containers: &[Container], context: &Context<'_>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if containers.is_empty() {
        faults.push(Fault::required(path, ""));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        common(container, context, &path, faults);
        if !seen.insert(&container.name) {
            faults.push(Fault::duplicate(&path.field("name"), &container.name));
        }
        probe::lifecycle(container, context.grace(), &path, faults);
        probe::all(container, context.grace(), &path, faults);
        restart_policy(container, &path, faults);
    }
    host_port_conflicts(containers, path, faults);
}

pub(super) fn init(containers: &[Container], context: &Context<'_>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut seen: BTreeSet<&str> = context.spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (i, container) in containers.iter().enumerate() {
        let list = path;
        let path = path.index(i);
        common(container, context, &path, faults);
        restart_policy(container, &path, faults);
        if seen.contains(container.name.as_str()) {
            faults.push(Fault::duplicate(&path.field("name"), &container.name));
        } else if !container.name.is_empty() {
            seen.insert(&container.name);
        }
        // One by one, since they run one by one; upstream counts each from index 0.
        host_port_conflicts(std::slice::from_ref(container), list, faults);
        if is_sidecar(container) {
            probe::lifecycle(container, context.grace(), &path, faults);
            probe::all(container, context.grace(), &path, faults);
        } else {
            for (field, set) in [
                ("lifecycle", container.lifecycle.is_some()),
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
            ] {
                if set {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    faults.push(Fault::forbidden(&path.field(field), detail));
                }
            }
        }
    }
}

/// Ephemeral containers, which are for looking at a pod, and no part of what it does.
pub(super) fn ephemeral(
    containers: &[EphemeralContainer],
    context: &Context<'_>,
    path: &Path<'_>,
    faults: &mut Vec<Fault>,
) {
    let spec = context.spec;
    let others: BTreeSet<&str> =
        spec.containers.iter().chain(items(spec.init_containers.as_ref())).map(|c| c.name.as_str()).collect();
    let mut seen = others.clone();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        common(&as_container(container), context, &path, faults);
        if !seen.insert(&container.name) {
            faults.push(Fault::duplicate(&path.field("name"), &container.name));
        }
        let target = text(container.target_container_name.as_ref());
        if !target.is_empty() && !others.contains(target) {
            faults.push(Fault::not_found(&path.field("targetContainerName"), target));
        }
        for (field, set) in [
            ("ports", container.ports.is_some()),
            ("resources", container.resources.as_ref().is_some_and(|r| *r != ResourceRequirements::default())),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
            ("lifecycle", container.lifecycle.is_some()),
        ] {
            if set {
                faults.push(Fault::forbidden(&path.field(field), "cannot be set for an Ephemeral Container"));
            }
        }
        let mounts = path.field("volumeMounts");
        for (j, mount) in items(container.volume_mounts.as_ref()).iter().enumerate() {
            let path = mounts.index(j);
            for (field, set) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if !text(set.as_ref()).is_empty() {
                    faults.push(Fault::forbidden(&path.field(field), "cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
}

fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let ephemeral = ephemeral.clone();
    Container {
        name: ephemeral.name,
        image: ephemeral.image,
        termination_message_policy: ephemeral.termination_message_policy,
        ports: ephemeral.ports,
        env: ephemeral.env,
        env_from: ephemeral.env_from,
        volume_mounts: ephemeral.volume_mounts,
        volume_devices: ephemeral.volume_devices,
        image_pull_policy: ephemeral.image_pull_policy,
        resources: ephemeral.resources,
        security_context: ephemeral.security_context,
        ..Container::default()
    }
}

fn common(container: &Container, context: &Context<'_>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let name_path = path.field("name");
    if container.name.is_empty() {
        faults.push(Fault::required(&name_path, ""));
    } else {
        invalid_for(names::dns_label(&container.name), &name_path, &container.name, faults);
    }
    if text(container.image.as_ref()).is_empty() {
        faults.push(Fault::required(&path.field("image"), ""));
    }
    let messages = ["File", "FallbackToLogsOnError"];
    let message_path = path.field("terminationMessagePolicy");
    enumerated(container.termination_message_policy.as_ref(), &messages, &message_path, faults);
    let mounts = items(container.volume_mounts.as_ref());
    let devices = items(container.volume_devices.as_ref());
    ports(items(container.ports.as_ref()), &path.field("ports"), faults);
    env::vars(items(container.env.as_ref()), context.volumes, &path.field("env"), faults);
    env::sources(items(container.env_from.as_ref()), &path.field("envFrom"), faults);
    volume_mounts(container, devices, context.volumes, &path.field("volumeMounts"), faults);
    volume_devices(devices, mounts, context.volumes, &path.field("volumeDevices"), faults);
    let pull_policies = ["Always", "IfNotPresent", "Never"];
    enumerated(container.image_pull_policy.as_ref(), &pull_policies, &path.field("imagePullPolicy"), faults);
    if let Some(requirements) = &container.resources {
        resources::requirements(requirements, &context.claims, &path.field("resources"), faults);
    }
    resize_policy(container, context, &path.field("resizePolicy"), faults);
    let host_users = context.spec.host_users != Some(false);
    security::container(container, host_users, &path.field("securityContext"), faults);
}

fn restart_policy(container: &Container, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let rules = items(container.restart_policy_rules.as_ref());
    match container.restart_policy.as_deref() {
        None if rules.is_empty() => {}
        None => {
            let detail = "must specify restartPolicy when restart rules are used";
            faults.push(Fault::required(&path.field("restartPolicy"), detail));
        }
        Some(policy) if RESTART_POLICIES.contains(&policy) => {}
        Some(policy) => {
            faults.push(Fault::not_supported(&path.field("restartPolicy"), policy, &RESTART_POLICIES));
        }
    }
    let path = path.field("restartPolicyRules");
    if rules.len() > 20 {
        faults.push(Fault::too_many(&path, rules.len(), 20));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        if !matches!(rule.action.as_str(), "Restart" | "RestartAllContainers") {
            let supported = ["Restart", "RestartAllContainers"];
            faults.push(Fault::not_supported(&path.field("action"), &rule.action, &supported));
        }
        match &rule.exit_codes {
            None => faults.push(Fault::required(&path.field("exitCodes"), "must be specified")),
            Some(codes) if !matches!(codes.operator.as_str(), "In" | "NotIn") => {
                let path = path.field("exitCodes");
                faults.push(Fault::not_supported(&path.field("operator"), &codes.operator, &["In", "NotIn"]));
            }
            Some(_) => {}
        }
    }
}

fn resize_policy(container: &Container, context: &Context<'_>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (i, policy) in items(container.resize_policy.as_ref()).iter().enumerate() {
        if !seen.insert(&policy.resource_name) {
            faults.push(Fault::duplicate(&path.index(i), &policy.resource_name));
        }
        enumerated(Some(&policy.resource_name), &["cpu", "memory"], path, faults);
        enumerated(Some(&policy.restart_policy), &["NotRequired", "RestartContainer"], path, faults);
        let never = context.spec.restart_policy.as_deref() == Some("Never");
        if never && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            faults.push(Fault::invalid(path, &policy.restart_policy, detail));
        }
    }
}

fn ports(ports: &[ContainerPort], path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port.name.as_ref());
        if !name.is_empty() {
            let reasons = names::port_name(name);
            if !reasons.is_empty() {
                invalid_for(reasons, &path.field("name"), name, faults);
            } else if !seen.insert(name) {
                faults.push(Fault::duplicate(&path.field("name"), name));
            }
        }
        if port.container_port == 0 {
            faults.push(Fault::required(&path.field("containerPort"), ""));
        } else {
            port_number(port.container_port, &path.field("containerPort"), faults);
        }
        if let Some(host_port) = port.host_port.filter(|p| *p != 0) {
            port_number(host_port, &path.field("hostPort"), faults);
        }
        enumerated(port.protocol.as_ref(), &["SCTP", "TCP", "UDP"], &path.field("protocol"), faults);
    }
}

pub(super) fn port_number(port: i32, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if !(1..=65535).contains(&port) {
        faults.push(Fault::invalid(path, port, names::inclusive_range(1, 65535)));
    }
}

fn host_port_conflicts(containers: &[Container], path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        let path = path.field("ports");
        for (j, port) in items(container.ports.as_ref()).iter().enumerate() {
            let Some(host_port) = port.host_port.filter(|p| *p != 0) else {
                continue;
            };
            let protocol = text(port.protocol.as_ref());
            let key = format!("{protocol}/{}/{host_port}", text(port.host_ip.as_ref()));
            if seen.contains(&key) {
                faults.push(Fault::duplicate(&path.index(j).field("hostPort"), &key));
            }
            seen.insert(key);
        }
    }
}

fn volume_mounts(
    container: &Container,
    devices: &[VolumeDevice],
    volumes: &Volumes<'_>,
    path: &Path<'_>,
    faults: &mut Vec<Fault>,
) {
    let mut seen = BTreeSet::new();
    for (i, mount) in items(container.volume_mounts.as_ref()).iter().enumerate() {
        let list = path;
        let path = path.index(i);
        let name_path = path.field("name");
        let mount_path = path.field("mountPath");
        if mount.name.is_empty() {
            faults.push(Fault::required(&name_path, ""));
        }
        if !volumes.contains_key(mount.name.as_str()) {
            faults.push(Fault::not_found(&name_path, &mount.name));
        }
        if mount.mount_path.is_empty() {
            faults.push(Fault::required(&mount_path, ""));
        }
        if !seen.insert(&mount.mount_path) {
            faults.push(Fault::invalid(&mount_path, &mount.mount_path, "must be unique"));
        }
        if devices.iter().any(|d| d.name == mount.name) {
            let detail = "must not already exist in volumeDevices";
            faults.push(Fault::invalid(&name_path, &mount.name, detail));
        }
        if devices.iter().any(|d| d.device_path == mount.mount_path) {
            let detail = "must not already exist as a path in volumeDevices";
            faults.push(Fault::invalid(&mount_path, &mount.mount_path, detail));
        }
        // From here on upstream names the list, not the item.
        let sub_path = text(mount.sub_path.as_ref());
        let expression = text(mount.sub_path_expr.as_ref());
        local_descending_path(sub_path, &list.field("subPath"), faults);
        if !expression.is_empty() && !sub_path.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            faults.push(Fault::invalid(&path.field("subPathExpr"), expression, detail));
        }
        local_descending_path(expression, &list.field("subPathExpr"), faults);
        propagation(mount, container, &list.field("mountPropagation"), faults);
        recursive_read_only(mount, &list.field("recursiveReadOnly"), faults);
    }
}

fn propagation(mount: &VolumeMount, container: &Container, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Some(mode) = mount.mount_propagation.as_deref() else {
        return;
    };
    let supported = ["Bidirectional", "HostToContainer", "None"];
    if !supported.contains(&mode) {
        faults.push(Fault::not_supported(path, mode, &supported));
    }
    let privileged = container.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
    if mode == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        faults.push(Fault::forbidden(path, detail));
    }
}

fn recursive_read_only(mount: &VolumeMount, path: &Path<'_>, faults: &mut Vec<Fault>) {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                faults.push(Fault::forbidden(path, "may only be specified when readOnly is true"));
            }
            if !matches!(mount.mount_propagation.as_deref(), None | Some("None")) {
                let detail = "may only be specified when mountPropagation is None or not specified";
                faults.push(Fault::forbidden(path, detail));
            }
        }
        Some(other) => {
            faults.push(Fault::not_supported(path, other, &["Disabled", "Enabled", "IfPossible"]));
        }
    }
}

fn volume_devices(
    devices: &[VolumeDevice],
    mounts: &[VolumeMount],
    volumes: &Volumes<'_>,
    path: &Path<'_>,
    faults: &mut Vec<Fault>,
) {
    let mounted: BTreeMap<_, _> = mounts.iter().map(|m| (&m.name, &m.mount_path)).collect();
    let mut names_seen = BTreeSet::new();
    let mut paths_seen = BTreeSet::new();
    for (i, device) in devices.iter().enumerate() {
        let path = path.index(i);
        let name_path = path.field("name");
        let device_path = path.field("devicePath");
        let name = &device.name;
        if name.is_empty() {
            faults.push(Fault::required(&name_path, ""));
        }
        if names_seen.contains(name) {
            faults.push(Fault::invalid(&name_path, name, "must be unique"));
        }
        match volumes.get(name.as_str()) {
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                faults.push(Fault::invalid(&name_path, name, detail));
            }
            Some(_) => {}
            None => faults.push(Fault::not_found(&name_path, name)),
        }
        if device.device_path.is_empty() {
            faults.push(Fault::required(&device_path, ""));
        }
        if paths_seen.contains(&device.device_path) {
            faults.push(Fault::invalid(&device_path, &device.device_path, "must be unique"));
        }
        let mut backsteps = Vec::new();
        path_without_backsteps(&device.device_path, &device_path, &mut backsteps);
        if backsteps.is_empty() {
            paths_seen.insert(&device.device_path);
        } else {
            let shown = Value::from(&device.device_path);
            faults.push(Fault::invalid(&device_path, shown, "can not contain backsteps ('..')"));
        }
        if mounted.contains_key(name) {
            faults.push(Fault::invalid(&name_path, name, "must not already exist in volumeMounts"));
        }
        if mounted.values().any(|p| **p == device.device_path) {
            let detail = "must not already exist as a path in volumeMounts";
            faults.push(Fault::invalid(&device_path, &device.device_path, detail));
        }
        if !name.is_empty() {
            names_seen.insert(name);
        }
    }
}
