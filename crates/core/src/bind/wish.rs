//! What a pod asks of the node that it is to run on.
//!
//! Invariant: two pods with the same wish fit a node alike, but for pods there that want them away.
//! Upstream: `component-helpers/resource/helpers.go` (`PodRequests`), `pkg/scheduler/util/utils.go` (`GetHostPorts`), v1.36.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, Container, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde::Serialize;

use super::claims::{self, Wanted};
use super::spread::Spread;
use crate::pod::{is_sidecar, lasting};
use crate::quantity;

/// Amounts by resource: thousandths of `cpu`, whole units of everything else.
pub type Amounts = BTreeMap<String, i128>;

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Port {
    /// `hostPort`.
    pub number: i32,
    /// `protocol`.
    pub protocol: String,
    /// `hostIP`; every address without one.
    pub address: String,
}

impl Port {
    /// Whether both can't be taken at once.
    pub fn clashes(&self, other: &Port) -> bool {
        let any = |port: &Port| port.address == EVERY_ADDRESS;
        self.number == other.number
            && self.protocol == other.protocol
            && (any(self) || any(other) || self.address == other.address)
    }
}

const EVERY_ADDRESS: &str = "0.0.0.0";

/// What a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Wish {
    /// What is set aside for it.
    pub requests: Amounts,
    /// The ports of the node that it takes.
    pub ports: Vec<Port>,
    /// The claims that it names.
    pub claims: Vec<Wanted>,
    /// `spec.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// `spec.affinity`.
    pub affinity: Option<Affinity>,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
    /// What of `spec.topologySpreadConstraints` must be met.
    pub spread: Vec<Spread>,
    /// Whether it may not push others away (`preemptionPolicy: Never`).
    pub is_polite: bool,
    /// Namespace and labels, where what it asks of other pods may be about itself.
    pub identity: Option<Identity>,
}

/// What others select a pod by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Whether it is being deleted.
    pub is_leaving: bool,
}

impl Identity {
    /// That of `pod`.
    pub fn of(pod: &Pod) -> Identity {
        Identity {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            is_leaving: pod.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Wish {
    /// What `pod` asks for.
    pub fn of(pod: &Pod) -> Wish {
        let Some(spec) = &pod.spec else { return Wish::default() };
        let affinity = spec.affinity.clone();
        let spread = Spread::of(pod);
        let is_sociable =
            affinity.as_ref().is_some_and(|it| it.pod_affinity.is_some() || it.pod_anti_affinity.is_some());
        Wish {
            requests: requests(spec),
            ports: ports(spec),
            claims: claims::wanted(pod),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            affinity,
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            is_polite: spec.preemption_policy.as_deref() == Some("Never"),
            identity: (is_sociable || !spread.is_empty()).then(|| Identity::of(pod)),
            spread,
        }
    }

    /// A text that is the same for the same wish.
    pub(super) fn key(&self) -> Arc<str> {
        serde_json::to_string(self).expect("a wish is texts and numbers").into()
    }
}

/// What is set aside for a pod: its containers and sidecars together, or as much as its init containers need at their worst
/// moment, with the sidecars that have started before; the whole pod's own figure where it gives one; and its overhead.
pub fn requests(spec: &PodSpec) -> Amounts {
    let mut sidecars = Amounts::new();
    let mut worst = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = sidecars.clone();
        add(&mut moment, &of_container(container));
        if is_sidecar(container) {
            sidecars.clone_from(&moment);
        }
        raise(&mut worst, &moment);
    }
    let mut total = sidecars;
    spec.containers.iter().for_each(|container| add(&mut total, &of_container(container)));
    raise(&mut total, &worst);
    let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    total.extend(whole.map(amounts).unwrap_or_default());
    add(&mut total, &spec.overhead.as_ref().map(amounts).unwrap_or_default());
    total.retain(|_, amount| *amount > 0);
    total
}

/// The amounts of a resource list.
pub fn amounts(list: &BTreeMap<String, Text>) -> Amounts {
    let amount = |name: &str, text: &Text| {
        let quantity = quantity::parse(&text.0).unwrap_or(quantity::Quantity::ZERO);
        if name == "cpu" { quantity.milli() } else { quantity.value() }
    };
    list.iter().map(|(name, text)| (name.clone(), amount(name, text))).collect()
}

/// Adds `more` to `sum`.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += amount;
    }
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let known = most.entry(name.clone()).or_default();
        *known = (*known).max(*amount);
    }
}

fn of_container(container: &Container) -> Amounts {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    requests.map(amounts).unwrap_or_default()
}

fn ports(spec: &PodSpec) -> Vec<Port> {
    let ports = lasting(spec).flat_map(|container| container.ports.iter().flatten());
    let mut taken: Vec<Port> = ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let address = port.host_ip.clone().filter(|ip| !ip.is_empty());
            Some(Port {
                number,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                address: address.unwrap_or_else(|| EVERY_ADDRESS.to_owned()),
            })
        })
        .collect();
    taken.sort();
    taken
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: &Value) -> PodSpec {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn container(cpu: &str, restart: Option<&str>) -> Value {
        json!({ "name": "c", "restartPolicy": restart, "resources": { "requests": { "cpu": cpu } } })
    }

    #[test]
    fn a_pod_needs_its_containers_together_or_its_hungriest_moment_before() {
        let always = Some("Always");
        for (init, main, cpu) in [
            (json!([]), json!([container("100m", None), container("0.2", None)]), Some(300)),
            (json!([container("1", None), container("2", None)]), json!([container("1500m", None)]), Some(2000)),
            (json!([container("1", always)]), json!([container("1", None)]), Some(2000)),
            (json!([container("1", always), container("2", None)]), json!([container("1", None)]), Some(3000)),
            (json!([container("2", None), container("1", always)]), json!([container("500m", None)]), Some(2000)),
            (json!([]), json!([container("0", None)]), None),
        ] {
            let spec = spec(&json!({ "initContainers": init, "containers": main }));
            assert_eq!(requests(&spec).get("cpu").copied(), cpu, "{init} {main}");
        }
    }

    #[test]
    fn the_whole_pods_figure_counts_instead_and_overhead_is_added() {
        let spec = spec(&json!({
            "containers": [container("100m", None)],
            "resources": { "requests": { "cpu": "1" } },
            "overhead": { "cpu": "10m", "memory": "1Ki" },
        }));
        assert_eq!(requests(&spec), Amounts::from([("cpu".to_owned(), 1010), ("memory".to_owned(), 1024)]));
    }

    #[test]
    fn ports_clash_by_number_protocol_and_address() {
        let port = |number, protocol: &str, address: &str| Port {
            number,
            protocol: protocol.to_owned(),
            address: address.to_owned(),
        };
        let first = port(80, "TCP", "127.0.0.1");
        for (other, clashes) in [
            (port(80, "TCP", "127.0.0.1"), true),
            (port(80, "TCP", EVERY_ADDRESS), true),
            (port(80, "TCP", "127.0.0.2"), false),
            (port(80, "UDP", "127.0.0.1"), false),
            (port(81, "TCP", "127.0.0.1"), false),
        ] {
            assert_eq!((first.clashes(&other), other.clashes(&first)), (clashes, clashes), "{other:?}");
        }
    }
}
