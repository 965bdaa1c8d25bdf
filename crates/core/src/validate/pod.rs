//! Pods and pod templates: the spec's own fields and the order in which its parts are looked at.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`ValidatePodCreate`, `ValidatePodTemplateSpec`,
//! `ValidatePodSpec`), v1.36.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, PodDNSConfig, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    Holder, NameRule, container, invalid_for, items, meta, object_meta, object_meta_update, resources, scheduling,
    security, text, volume,
};
use crate::field::{Fault, Path, Value, quote};
use crate::names;

const MAX_SECONDS: i64 = i32::MAX as i64;

pub(super) fn create(pod: &Pod, faults: &mut Vec<Fault>) {
    let root = Path::root();
    let absent = PodSpec::default();
    let pod_spec = pod.spec.as_ref().unwrap_or(&absent);
    let path = root.field("spec");
    object_meta(&pod.metadata, NameRule::DnsSubdomain, faults);
    let annotations = root.field("metadata").field("annotations").to_string();
    security::pod_annotations(&pod.metadata, pod_spec, &root.field(&annotations), faults);
    spec(pod_spec, Holder::Pod, &path, faults);
    // A template may hold such an image; upstream keeps that for old clients.
    for (field, containers) in
        [("containers", pod_spec.containers.as_slice()), ("initContainers", items(pod_spec.init_containers.as_ref()))]
    {
        let path = path.field(field);
        for (i, container) in containers.iter().enumerate() {
            let image = text(container.image.as_ref());
            if image.trim() != image {
                let detail = "must not have leading or trailing whitespace";
                faults.push(Fault::invalid(&path.index(i).field("image"), image, detail));
            }
        }
    }
    if !items(pod_spec.ephemeral_containers.as_ref()).is_empty() {
        faults.push(Fault::forbidden(&path.field("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(pod_spec.node_name.as_ref()).is_empty() && !items(pod_spec.scheduling_gates.as_ref()).is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        faults.push(Fault::forbidden(&path.field("nodeName"), detail));
    }
    security::annotations_match_fields(&pod.metadata, pod_spec, &path, faults);
}

pub(super) fn template(template: &PodTemplateSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let no_meta = ObjectMeta::default();
    let no_spec = PodSpec::default();
    let metadata = template.metadata.as_ref().unwrap_or(&no_meta);
    let pod_spec = template.spec.as_ref().unwrap_or(&no_spec);
    let spec_path = path.field("spec");
    // Not under `metadata`: upstream's paths leave it out here.
    meta::labels(metadata.labels.as_ref(), &path.field("labels"), faults);
    meta::annotations(metadata.annotations.as_ref(), &path.field("annotations"), faults);
    security::pod_annotations(metadata, pod_spec, &path.field("annotations"), faults);
    spec(pod_spec, Holder::Template, &spec_path, faults);
    security::annotations_match_fields(metadata, pod_spec, &spec_path, faults);
    if !items(pod_spec.ephemeral_containers.as_ref()).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        faults.push(Fault::forbidden(&spec_path.field("ephemeralContainers"), detail));
    }
}

/// Ephemeral containers may be added, and stay as they are.
///
/// Upstream: `ValidatePodEphemeralContainersUpdate`, v1.36.
pub(super) fn ephemeral_update(old: &Pod, new: &Pod, faults: &mut Vec<Fault>) {
    object_meta_update(&old.metadata, &new.metadata, faults);
    let root = Path::root();
    if new.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(security::MIRROR_POD)) {
        *faults = vec![Fault::forbidden(&root, "static pods do not support ephemeral containers")];
        return;
    }
    let nothing = PodSpec::default();
    let (old, new) = (old.spec.as_ref().unwrap_or(&nothing), new.spec.as_ref().unwrap_or(&nothing));
    let path = root.field("spec.ephemeralContainers");
    // The volumes were looked at when the pod was made.
    let volumes = volume::validate(items(new.volumes.as_ref()), &root.field("spec.volumes"), &mut Vec::new());
    let wanted = items(new.ephemeral_containers.as_ref());
    container::ephemeral(wanted, &container::Context::new(new, &volumes), &path, faults);
    for known in items(old.ephemeral_containers.as_ref()) {
        let kept = wanted.iter().find(|container| container.name == known.name);
        if kept != Some(known) {
            let what = if kept.is_none() { "removed" } else { "changed" };
            let detail = format!("existing ephemeral containers {} may not be {what}", quote(&known.name));
            faults.push(Fault::forbidden(&path, &detail));
        }
    }
}

fn spec(spec: &PodSpec, holder: Holder, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if spec.termination_grace_period_seconds.is_none() {
        faults.push(Fault::required(&path.field("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volume::validate(items(spec.volumes.as_ref()), &path.field("volumes"), faults);
    resource_claims(spec, &path.field("resourceClaims"), faults);
    let context = container::Context::new(spec, &volumes);
    container::regular(&spec.containers, &context, &path.field("containers"), faults);
    let init = items(spec.init_containers.as_ref());
    container::init(init, &context, &path.field("initContainers"), faults);
    let ephemeral = items(spec.ephemeral_containers.as_ref());
    container::ephemeral(ephemeral, &context, &path.field("ephemeralContainers"), faults);
    if let Some(requirements) = &spec.resources {
        resources::requirements(requirements, &BTreeSet::new(), &path.field("resources"), faults);
    }
    host_network_ports(spec, holder, &path.field("containers"), faults);
    enumerated(spec.restart_policy.as_ref(), &["Always", "OnFailure", "Never"], &path.field("restartPolicy"), faults);
    let dns_policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    enumerated(spec.dns_policy.as_ref(), &dns_policies, &path.field("dnsPolicy"), faults);
    meta::labels(spec.node_selector.as_ref(), &path.field("nodeSelector"), faults);
    security::pod(spec, &path.field("securityContext"), faults);
    if let Some(affinity) = &spec.affinity {
        scheduling::affinity(affinity, &path.field("affinity"), faults);
    }
    dns_config(spec, &path.field("dnsConfig"), faults);
    let gates = path.field("readinessGates");
    for (i, gate) in items(spec.readiness_gates.as_ref()).iter().enumerate() {
        let reasons = names::qualified_name(&gate.condition_type);
        invalid_for(reasons, &gates.index(i).field("conditionType"), &gate.condition_type, faults);
    }
    scheduling_gates(spec, &path.field("schedulingGates"), faults);
    let spread = items(spec.topology_spread_constraints.as_ref());
    scheduling::topology_spread(spread, &path.field("topologySpreadConstraints"), faults);
    host_users(spec, path, faults);
    subdomain(spec.service_account_name.as_ref(), &path.field("serviceAccountName"), faults);
    subdomain(spec.node_name.as_ref(), &path.field("nodeName"), faults);
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| !(1..=MAX_SECONDS).contains(s)) {
        let detail = names::inclusive_range(1, MAX_SECONDS);
        faults.push(Fault::invalid(&path.field("activeDeadlineSeconds"), seconds, detail));
    }
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        let name = text(name.as_ref());
        if !name.is_empty() {
            invalid_for(names::dns_label(name), &path.field(field), name, faults);
        }
    }
    scheduling::tolerations(items(spec.tolerations.as_ref()), &path.field("tolerations"), faults);
    host_aliases(spec, &path.field("hostAliases"), faults);
    subdomain(spec.priority_class_name.as_ref(), &path.field("priorityClassName"), faults);
    if let Some(class) = &spec.runtime_class_name {
        invalid_for(names::dns_subdomain(class), &path.field("runtimeClassName"), class, faults);
    }
    if let Some(policy) = &spec.preemption_policy {
        enumerated(Some(policy), &["PreemptLowerPriority", "Never"], &path.field("preemptionPolicy"), faults);
    }
    if let Some(overhead) = &spec.overhead {
        resources::limits(overhead, &path.field("overhead").field("limits"), faults);
    }
    if let Some(os) = &spec.os {
        let path = path.field("os");
        match os.name.as_str() {
            "linux" | "windows" => {}
            "" => faults.push(Fault::required(&path.field("name"), "cannot be empty")),
            other => faults.push(Fault::not_supported(&path, other, &["linux", "windows"])),
        }
    }
}

/// Required when empty, not supported when not one of `supported`.
pub(super) fn enumerated(value: Option<&String>, supported: &[&str], path: &Path<'_>, faults: &mut Vec<Fault>) {
    match text(value) {
        "" => faults.push(Fault::required(path, "")),
        value if supported.contains(&value) => {}
        value => faults.push(Fault::not_supported(path, value, supported)),
    }
}

fn subdomain(name: Option<&String>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let name = text(name);
    if !name.is_empty() {
        invalid_for(names::dns_subdomain(name), path, name, faults);
    }
}

fn resource_claims(spec: &PodSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (i, claim) in items(spec.resource_claims.as_ref()).iter().enumerate() {
        let path = path.index(i);
        let name_path = path.field("name");
        if claim.name.is_empty() {
            faults.push(Fault::required(&name_path, ""));
        } else if !seen.insert(&claim.name) {
            faults.push(Fault::duplicate(&name_path, &claim.name));
        } else {
            invalid_for(names::dns_label(&claim.name), &name_path, &claim.name, faults);
        }
        let detail = match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            (None, None) => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => continue,
        };
        faults.push(Fault::invalid(&path, Value::json(claim), detail));
    }
}

fn host_network_ports(spec: &PodSpec, holder: Holder, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if spec.host_network != Some(true) {
        return;
    }
    for (i, container) in spec.containers.iter().enumerate() {
        let path = path.index(i);
        let path = path.field("ports");
        for (j, port) in items(container.ports.as_ref()).iter().enumerate() {
            let host_port = port.host_port.unwrap_or_default();
            // A template may leave the port open; it is filled in when the pod is made.
            let checked = holder == Holder::Pod || host_port != 0;
            if checked && host_port != port.container_port {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                faults.push(Fault::invalid(&path.index(j).field("hostPort"), host_port, detail));
            }
        }
    }
}

fn host_users(spec: &PodSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if spec.host_users != Some(false) {
        return;
    }
    // Upstream spells the latter two with capitals.
    for (field, set) in [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)] {
        if set == Some(true) {
            faults.push(Fault::forbidden(&path.field(field), "when `pod.Spec.HostUsers` is false"));
        }
    }
}

fn scheduling_gates(spec: &PodSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (i, gate) in items(spec.scheduling_gates.as_ref()).iter().enumerate() {
        let path = path.index(i);
        invalid_for(names::qualified_name(&gate.name), &path, &gate.name, faults);
        if !seen.insert(&gate.name) {
            faults.push(Fault::duplicate(&path, &gate.name));
        }
    }
}

fn ip(address: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if address.parse::<IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        faults.push(Fault::invalid(path, address, detail));
    }
}

fn host_aliases(spec: &PodSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    for (i, alias) in items(spec.host_aliases.as_ref()).iter().enumerate() {
        let path = path.index(i);
        ip(&alias.ip, &path.field("ip"), faults);
        let path = path.field("hostnames");
        for (j, name) in items(alias.hostnames.as_ref()).iter().enumerate() {
            invalid_for(names::dns_subdomain(name), &path.index(j), name, faults);
        }
    }
}

fn dns_config(spec: &PodSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let absent = PodDNSConfig::default();
    let servers_path = path.field("nameservers");
    let searches_path = path.field("searches");
    if spec.dns_policy.as_deref() == Some("None") {
        match &spec.dns_config {
            None => {
                faults.push(Fault::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
                return;
            }
            Some(config) if items(config.nameservers.as_ref()).is_empty() => {
                let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
                faults.push(Fault::required(&servers_path, detail));
                return;
            }
            Some(_) => {}
        }
    }
    let config = spec.dns_config.as_ref().unwrap_or(&absent);
    let servers = items(config.nameservers.as_ref());
    let searches = items(config.searches.as_ref());
    if servers.len() > 3 {
        let detail = "must not have more than 3 nameservers";
        faults.push(Fault::invalid(&servers_path, Value::json(&servers), detail));
    }
    for (i, server) in servers.iter().enumerate() {
        ip(server, &servers_path.index(i), faults);
    }
    if searches.len() > 32 {
        let detail = "must not have more than 32 search paths";
        faults.push(Fault::invalid(&searches_path, Value::json(&searches), detail));
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        faults.push(Fault::invalid(&searches_path, Value::json(&searches), detail));
    }
    for (i, search) in searches.iter().enumerate() {
        let search = search.strip_suffix('.').unwrap_or(search);
        // A lone dot is the root, and may stand for the whole search list.
        if search.is_empty() && searches.len() > i && searches[i] == "." {
            continue;
        }
        let labels = search.replace('_', "-");
        if !names::dns_subdomain(&labels).is_empty() {
            invalid_for(names::dns_subdomain(search), &searches_path.index(i), search, faults);
        }
    }
    let path = path.field("options");
    for (i, option) in items(config.options.as_ref()).iter().enumerate() {
        if text(option.name.as_ref()).is_empty() {
            faults.push(Fault::required(&path.index(i), "must not be empty"));
        }
    }
}

/// All containers of a spec with their paths' field names, init containers first: upstream's `VisitContainers`.
pub(super) fn visit(spec: &PodSpec) -> impl Iterator<Item = (&'static str, usize, &Container)> {
    let init = items(spec.init_containers.as_ref()).iter().enumerate();
    let main = spec.containers.iter().enumerate();
    init.map(|(i, c)| ("initContainers", i, c)).chain(main.map(|(i, c)| ("containers", i, c)))
}
