//! Services.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`ValidateService`, `validateServicePort`), v1.36. Left out: node
//! ports, load balancers, external addresses, address families, traffic policies: nothing here routes to a Service.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use crate::field::{Fault, Path, Value};
use crate::names;
use crate::validate::{invalid_for, items, meta, text};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// What is wrong with a Service.
pub fn service(service: &Service) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    let path = root.field("spec");
    let spec = service.spec.clone().unwrap_or_default();
    let kind = text(spec.type_.as_ref());
    let headless = text(spec.cluster_ip.as_ref()) == "None";
    let ports = items(spec.ports.as_ref());
    if ports.is_empty() && !headless && kind != "ExternalName" {
        faults.push(Fault::required(&path.field("ports"), ""));
    }
    addresses(&spec, &path, &mut faults);
    let list = path.field("ports");
    let mut names = Vec::new();
    for (at, port) in ports.iter().enumerate() {
        self::port(port, ports.len() > 1, &mut names, &list.index(at), &mut faults);
    }
    meta::labels(spec.selector.as_ref(), &path.field("selector"), &mut faults);
    let field = path.field("sessionAffinity");
    match text(spec.session_affinity.as_ref()) {
        "" => faults.push(Fault::required(&field, "")),
        "ClientIP" | "None" => {}
        other => faults.push(Fault::not_supported(&field, other, &["ClientIP", "None"])),
    }
    let field = path.field("type");
    if kind.is_empty() {
        faults.push(Fault::required(&field, ""));
    } else if !TYPES.contains(&kind) {
        faults.push(Fault::not_supported(&field, kind, &TYPES));
    }
    let mut seen = Vec::new();
    for (at, port) in ports.iter().enumerate() {
        let key = (text(port.protocol.as_ref()), port.port);
        if seen.contains(&key) {
            faults.push(Fault::duplicate(&list.index(at), Value::json(&GoPort::of(port))));
        }
        seen.push(key);
    }
    faults
}

/// The address that clients use: of its own, none, or another's name.
fn addresses(spec: &ServiceSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let kind = text(spec.type_.as_ref());
    let address = text(spec.cluster_ip.as_ref());
    let list = path.field("clusterIPs");
    let shown = || Value::json(&items(spec.cluster_ips.as_ref()));
    match kind {
        "ExternalName" => {
            if !address.is_empty() {
                faults.push(Fault::invalid(&list, shown(), "may not be set for ExternalName services"));
            }
            let name = text(spec.external_name.as_ref());
            let field = path.field("externalName");
            match name.strip_suffix('.').unwrap_or(name) {
                "" => faults.push(Fault::required(&field, "")),
                name => invalid_for(names::dns_subdomain(name), &field, name, faults),
            }
            return;
        }
        "NodePort" | "LoadBalancer" if address == "None" => {
            let detail = format!("may not be set to 'None' for {kind} services");
            faults.push(Fault::invalid(&list.index(0), shown(), detail));
        }
        _ => {}
    }
    if !matches!(address, "" | "None") && address.parse::<IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        faults.push(Fault::invalid(&list.index(0), address, detail));
    }
}

fn port<'a>(
    port: &'a ServicePort,
    one_of_many: bool,
    names: &mut Vec<&'a str>,
    path: &Path<'_>,
    faults: &mut Vec<Fault>,
) {
    let name = text(port.name.as_ref());
    if !name.is_empty() {
        invalid_for(names::dns_label(name), &path.field("name"), name, faults);
        if names.contains(&name) {
            faults.push(Fault::duplicate(&path.field("name"), name));
        }
        names.push(name);
    } else if one_of_many {
        faults.push(Fault::required(&path.field("name"), ""));
    }
    port_number(port.port, &path.field("port"), faults);
    let field = path.field("protocol");
    match text(port.protocol.as_ref()) {
        "" => faults.push(Fault::required(&field, "")),
        protocol if !PROTOCOLS.contains(&protocol) => {
            faults.push(Fault::not_supported(&field, protocol, &PROTOCOLS));
        }
        _ => {}
    }
    let field = path.field("targetPort");
    match &port.target_port {
        Some(IntOrString::Int(number)) => port_number(*number, &field, faults),
        Some(IntOrString::String(name)) => invalid_for(names::port_name(name), &field, name, faults),
        None => {}
    }
}

fn port_number(number: i32, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if !(1..=65535).contains(&number) {
        faults.push(Fault::invalid(path, number, names::inclusive_range(1, 65535)));
    }
}

/// What two ports have in common, as messages print it: a Go struct without names for JSON.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GoPort<'a> {
    name: &'a str,
    protocol: &'a str,
    app_protocol: Option<&'a str>,
    port: i32,
    target_port: i32,
    node_port: i32,
}

impl<'a> GoPort<'a> {
    fn of(port: &'a ServicePort) -> Self {
        let protocol = text(port.protocol.as_ref());
        GoPort { name: "", protocol, app_protocol: None, port: port.port, target_port: 0, node_port: 0 }
    }
}

/// What is wrong with changing a Service, besides what is wrong with the new one: it keeps its address.
pub fn service_update(old: &Service, new: &Service) -> Vec<Fault> {
    let spec = |service: &Service| service.spec.clone().unwrap_or_default();
    let (old, new) = (spec(old), spec(new));
    let external = |spec: &ServiceSpec| text(spec.type_.as_ref()) == "ExternalName";
    if old.cluster_ip == new.cluster_ip || external(&old) || external(&new) {
        return Vec::new();
    }
    let root = Path::root();
    let path = root.field("spec");
    let path = path.field("clusterIPs");
    let shown = Value::json(&items(new.cluster_ips.as_ref()));
    vec![Fault::invalid(&path.index(0), shown, "may not change once set")]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::super::tests::{of, told};
    use super::*;

    fn faults(spec: &Json) -> Vec<String> {
        told(&service(&of(json!({ "spec": spec }))))
    }

    #[test]
    fn ports_of_a_service_are_told_apart() {
        let nothing: [&str; 0] = [];
        let good = json!({"type": "ClusterIP", "sessionAffinity": "None", "ports": [
            {"name": "a", "port": 80, "protocol": "TCP", "targetPort": "http"}, {"name": "b", "port": 80, "protocol": "UDP"},
        ]});
        assert_eq!(faults(&good), nothing);
        assert_eq!(
            faults(&json!({"type": "ClusterIP", "sessionAffinity": "None", "ports": [
                {"port": 0, "protocol": "TCP", "targetPort": 70000},
                {"name": "a", "port": 1, "protocol": "X"},
                {"name": "a", "port": 1, "protocol": "X"},
            ]})),
            [
                "spec.ports[0].name: Required value",
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ports[2].name: Duplicate value: \"a\"",
                "spec.ports[2].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ports[2]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"X\",\"AppProtocol\":null,\"Port\":1,\"TargetPort\":0,\"NodePort\":0}",
            ]
        );
    }

    #[test]
    fn a_service_has_ports_or_is_headless_or_is_another_name() {
        let nothing: [&str; 0] = [];
        assert_eq!(faults(&json!({"type": "ClusterIP", "sessionAffinity": "None", "clusterIP": "None"})), nothing);
        let named = json!({"type": "ExternalName", "sessionAffinity": "None", "externalName": "example.com."});
        assert_eq!(faults(&named), nothing);
        assert_eq!(
            faults(&json!({"type": "Tunnel", "sessionAffinity": "Sticky", "clusterIP": "1.2.3"})),
            [
                "spec.ports: Required value",
                "spec.clusterIPs[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "spec.sessionAffinity: Unsupported value: \"Sticky\": supported values: \"ClientIP\", \"None\"",
                "spec.type: Unsupported value: \"Tunnel\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ]
        );
        assert_eq!(
            faults(&json!({"type": "ExternalName", "sessionAffinity": "None"})),
            ["spec.externalName: Required value"]
        );
    }

    #[test]
    fn a_service_keeps_its_address() {
        let at = |address: &str| of::<Service>(json!({"spec": {"clusterIP": address, "clusterIPs": [address]}}));
        assert!(service_update(&at("10.96.0.9"), &at("10.96.0.9")).is_empty());
        assert_eq!(
            told(&service_update(&at("10.96.0.9"), &at("10.96.0.8"))),
            ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.8\"]: may not change once set"]
        );
    }
}
