//! All other kinds in columns.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, ObjectReference, Secret, Service};
use k8s_openapi::api::events::v1 as events;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};

use super::{AGE, AnyObject, Cell, Column, NAME, age, column, count, docs, name, or_none, since, text, wide};

pub(super) const OTHER: &[Column] = &[NAME, AGE];

pub(super) fn other(object: &AnyObject, now: Timestamp) -> Vec<Cell> {
    vec![name(&object.metadata), age(&object.metadata, now)]
}

pub(super) const EVENT: &[Column] = &[
    text("Last Seen", docs::EVENT_LAST_SEEN),
    text("Type", docs::EVENT_TYPE),
    text("Reason", docs::EVENT_REASON),
    text("Object", docs::EVENT_OBJECT),
    wide("Subobject", docs::EVENT_FIELD),
    wide("Source", docs::EVENT_SOURCE),
    text("Message", docs::EVENT_MESSAGE),
    wide("First Seen", docs::EVENT_FIRST_SEEN),
    wide("Count", docs::EVENT_COUNT),
    Column { priority: 1, ..NAME },
];

/// What both groups' Events say of what has happened.
struct Happened<'a> {
    metadata: &'a ObjectMeta,
    object: &'a ObjectReference,
    kind: Option<&'a str>,
    reason: Option<&'a str>,
    message: Option<&'a str>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// When it was seen first, more precisely.
    time: Option<Timestamp>,
    count: Option<i32>,
    series: Option<(Option<Timestamp>, i32)>,
    component: Option<&'a str>,
    host: Option<&'a str>,
    controller: Option<&'a str>,
    instance: Option<&'a str>,
}

pub(super) fn event(event: &Event, now: Timestamp) -> Vec<Cell> {
    let series = event.series.as_ref();
    happened(
        &Happened {
            metadata: &event.metadata,
            object: &event.involved_object,
            kind: event.type_.as_deref(),
            reason: event.reason.as_deref(),
            message: event.message.as_deref(),
            first: at(event.first_timestamp.as_ref()),
            last: at(event.last_timestamp.as_ref()),
            time: event.event_time.as_ref().map(|MicroTime(at)| *at),
            count: event.count,
            series: series
                .map(|series| (series.last_observed_time.as_ref().map(|MicroTime(at)| *at), series.count.unwrap_or(0))),
            component: event.source.as_ref().and_then(|source| source.component.as_deref()),
            host: event.source.as_ref().and_then(|source| source.host.as_deref()),
            controller: event.reporting_component.as_deref(),
            instance: event.reporting_instance.as_deref(),
        },
        now,
    )
}

pub(super) fn new_event(event: &events::Event, now: Timestamp) -> Vec<Cell> {
    let nothing = ObjectReference::default();
    let source = event.deprecated_source.as_ref();
    happened(
        &Happened {
            metadata: &event.metadata,
            object: event.regarding.as_ref().unwrap_or(&nothing),
            kind: event.type_.as_deref(),
            reason: event.reason.as_deref(),
            message: event.note.as_deref(),
            first: at(event.deprecated_first_timestamp.as_ref()),
            last: at(event.deprecated_last_timestamp.as_ref()),
            time: event.event_time.as_ref().map(|MicroTime(at)| *at),
            count: event.deprecated_count,
            series: event.series.as_ref().map(|series| (Some(series.last_observed_time.0), series.count)),
            component: source.and_then(|source| source.component.as_deref()),
            host: source.and_then(|source| source.host.as_deref()),
            controller: event.reporting_controller.as_deref(),
            instance: event.reporting_instance.as_deref(),
        },
        now,
    )
}

fn at(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|Time(at)| *at)
}

fn happened(event: &Happened<'_>, now: Timestamp) -> Vec<Cell> {
    let first = event.first.or(event.time);
    let mut last = event.last.or(first);
    let mut times = event.count.unwrap_or(0);
    match event.series {
        Some((seen, count)) => (last, times) = (seen, count),
        // A single Event of the newer kind has no count.
        None if times == 0 => times = 1,
        None => {}
    }
    let kind = event.object.kind.as_deref().unwrap_or_default().to_lowercase();
    let object = match event.object.name.as_deref().unwrap_or_default() {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let some = |text: Option<&'_ str>| text.unwrap_or_default().to_owned();
    let component =
        Some(some(event.component)).filter(|text| !text.is_empty()).unwrap_or_else(|| some(event.controller));
    let host = Some(some(event.host)).filter(|text| !text.is_empty()).unwrap_or_else(|| some(event.instance));
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        since(last, now).into(),
        some(event.kind).into(),
        some(event.reason).into(),
        object.into(),
        some(event.object.field_path.as_deref()).into(),
        source.into(),
        some(event.message).trim().into(),
        since(first, now).into(),
        Cell::Number(times.into()),
        name(event.metadata),
    ]
}

pub(super) const NAMESPACE: &[Column] = &[NAME, text("Status", "The status of the namespace"), AGE];

pub(super) fn namespace(namespace: &Namespace, now: Timestamp) -> Vec<Cell> {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    vec![name(&namespace.metadata), phase.into(), age(&namespace.metadata, now)]
}

pub(super) const NODE: &[Column] = &[
    NAME,
    text("Status", "The status of the node"),
    text("Roles", "The roles of the node"),
    AGE,
    text("Version", docs::KUBELET_VERSION),
    wide("Internal-IP", docs::ADDRESSES),
    wide("External-IP", docs::ADDRESSES),
    wide("OS-Image", docs::OS_IMAGE),
    wide("Kernel-Version", docs::KERNEL_VERSION),
    wide("Container-Runtime", docs::CONTAINER_RUNTIME),
];

pub(super) fn node(node: &Node, now: Timestamp) -> Vec<Cell> {
    let status = node.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let mut word = match ready.map(|ready| ready.status.as_str()) {
        None => "Unknown",
        Some("True") => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        word.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = Vec::new();
    for (label, value) in node.metadata.labels.iter().flatten() {
        if let Some(role) = label.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty()) {
            roles.push(role);
        } else if label == "kubernetes.io/role" && !value.is_empty() {
            roles.push(value);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    let address = |type_: &str| {
        let mut addresses = status.addresses.iter().flatten();
        addresses.find(|address| address.type_ == type_).map_or_else(|| or_none(""), |address| address.address.clone())
    };
    let info = status.node_info.clone().unwrap_or_default();
    let known = |text: String| if text.is_empty() { Cell::from("<unknown>") } else { text.into() };
    vec![
        name(&node.metadata),
        word.into(),
        or_none(&roles.join(",")).into(),
        age(&node.metadata, now),
        info.kubelet_version.into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        known(info.os_image),
        known(info.kernel_version),
        known(info.container_runtime_version),
    ]
}

pub(super) const CONFIG_MAP: &[Column] = &[NAME, text("Data", docs::CONFIG_MAP_DATA), AGE];

pub(super) fn config_map(map: &ConfigMap, now: Timestamp) -> Vec<Cell> {
    let texts = map.data.as_ref().map_or(0, std::collections::BTreeMap::len);
    let bytes = map.binary_data.as_ref().map_or(0, std::collections::BTreeMap::len);
    vec![name(&map.metadata), count(texts + bytes), age(&map.metadata, now)]
}

pub(super) const SECRET: &[Column] = &[NAME, text("Type", docs::SECRET_TYPE), text("Data", docs::SECRET_DATA), AGE];

pub(super) fn secret(secret: &Secret, now: Timestamp) -> Vec<Cell> {
    let data = secret.data.as_ref().map_or(0, std::collections::BTreeMap::len);
    let type_ = secret.type_.clone().unwrap_or_default();
    vec![name(&secret.metadata), type_.into(), count(data), age(&secret.metadata, now)]
}

pub(super) const SERVICE: &[Column] = &[
    NAME,
    text("Type", docs::SERVICE_TYPE),
    text("Cluster-IP", docs::CLUSTER_IP),
    text("External-IP", docs::EXTERNAL_IPS),
    text("Port(s)", docs::SERVICE_PORTS),
    AGE,
    wide("Selector", docs::SERVICE_SELECTOR),
];

pub(super) fn service(service: &Service, now: Timestamp) -> Vec<Cell> {
    let spec = service.spec.clone().unwrap_or_default();
    let type_ = spec.type_.unwrap_or_else(|| "ClusterIP".into());
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let mut external: Vec<String> = Vec::new();
    if type_ == "LoadBalancer" {
        for ingress in balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default() {
            external.extend(ingress.ip.clone().or_else(|| ingress.hostname.clone()));
        }
    }
    external.extend(spec.external_ips.into_iter().flatten());
    let external = match (type_.as_str(), external.join(",")) {
        ("ExternalName", _) => spec.external_name.unwrap_or_default(),
        ("LoadBalancer", none) if none.is_empty() => "<pending>".into(),
        (_, addresses) => or_none(&addresses),
    };
    let ports = spec.ports.iter().flatten().map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        match port.node_port.unwrap_or(0) {
            0 => format!("{}/{protocol}", port.port),
            node => format!("{}:{node}/{protocol}", port.port),
        }
    });
    let ports: Vec<String> = ports.collect();
    let selector: Vec<String> =
        spec.selector.iter().flatten().map(|(label, value)| format!("{label}={value}")).collect();
    let cluster = spec.cluster_ips.and_then(|ips| ips.into_iter().next()).or(spec.cluster_ip).unwrap_or_default();
    vec![
        name(&service.metadata),
        type_.into(),
        or_none(&cluster).into(),
        external.into(),
        or_none(&ports.join(",")).into(),
        age(&service.metadata, now),
        or_none(&selector.join(",")).into(),
    ]
}

pub(super) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    column("Value", "integer", docs::PRIORITY_VALUE),
    column("Global-Default", "boolean", docs::GLOBAL_DEFAULT),
    AGE,
    text("PreemptionPolicy", docs::PREEMPTION_POLICY),
];

pub(super) fn priority_class(class: &PriorityClass, now: Timestamp) -> Vec<Cell> {
    vec![
        name(&class.metadata),
        Cell::Number(class.value.unwrap_or(0).into()),
        Cell::Flag(class.global_default == Some(true)),
        age(&class.metadata, now),
        class.preemption_policy.as_deref().unwrap_or("PreemptLowerPriority").into(),
    ]
}

pub(super) const LEASE: &[Column] = &[NAME, text("Holder", docs::LEASE_HOLDER), AGE];

pub(super) fn lease(lease: &Lease, now: Timestamp) -> Vec<Cell> {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
    vec![name(&lease.metadata), holder.into(), age(&lease.metadata, now)]
}

pub(super) const ROLE: &[Column] = &[NAME, column("Created At", "date", docs::CREATED)];

pub(super) fn role(role: &AnyObject, _now: Timestamp) -> Vec<Cell> {
    let created = at(role.metadata.creation_timestamp.as_ref()).map(|at| at.to_string()).unwrap_or_default();
    vec![name(&role.metadata), created.into()]
}

pub(super) const ROLE_BINDING: &[Column] = &[
    NAME,
    text("Role", docs::ROLE_REF),
    AGE,
    wide("Users", "Users in the roleBinding"),
    wide("Groups", "Groups in the roleBinding"),
    wide("ServiceAccounts", "ServiceAccounts in the roleBinding"),
];

pub(super) const CLUSTER_ROLE_BINDING: &[Column] = &[
    NAME,
    text("Role", docs::CLUSTER_ROLE_REF),
    AGE,
    wide("Users", "Users in the clusterRoleBinding"),
    wide("Groups", "Groups in the clusterRoleBinding"),
    wide("ServiceAccounts", "ServiceAccounts in the clusterRoleBinding"),
];

pub(super) fn role_binding(bound: &RoleBinding, now: Timestamp) -> Vec<Cell> {
    binding(&bound.metadata, &bound.role_ref, bound.subjects.as_deref().unwrap_or_default(), now)
}

pub(super) fn cluster_role_binding(bound: &ClusterRoleBinding, now: Timestamp) -> Vec<Cell> {
    binding(&bound.metadata, &bound.role_ref, bound.subjects.as_deref().unwrap_or_default(), now)
}

fn binding(meta: &ObjectMeta, role: &RoleRef, subjects: &[Subject], now: Timestamp) -> Vec<Cell> {
    let of = |kind: &str| {
        let subjects = subjects.iter().filter(|subject| subject.kind == kind);
        let names = subjects.map(|subject| match &subject.namespace {
            Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{}", subject.name),
            _ => subject.name.clone(),
        });
        Cell::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        name(meta),
        format!("{}/{}", role.kind, role.name).into(),
        age(meta, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}
