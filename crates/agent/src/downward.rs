//! What a container may learn of its own pod: `fieldRef` and `resourceFieldRef`, in the environment and in volumes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use stint_core::quantity;

use crate::error::Error;

/// A pod and what its node knows of it.
#[derive(Clone, Copy, Debug)]
pub struct Downward<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The node.
    pub node: &'a Machine,
    /// The pod's addresses.
    pub addresses: &'a [IpAddr],
}

/// The machine, as far as pods may learn of it or are limited by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The node's name.
    pub name: String,
    /// `status.hostIP`, and `status.podIP` of pods on the host's network.
    pub ip: Option<String>,
    /// Thousandths of a CPU.
    pub cpu_milli: i128,
    /// Bytes of memory.
    pub memory: i128,
    /// The lowest `oom_score_adj` that may be set without privilege.
    pub lowest_oom_score: i32,
    /// What can be made to hold of what pods ask for.
    pub limits: Limits,
    /// Whether that goes for huge pages, too.
    pub limits_huge_pages: bool,
}

/// Which limits can be made to hold on a machine. Those that can't be are left out of containers, which is said when the program
/// starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Limits and weights of CPU.
    pub cpu: bool,
    /// Limits of memory.
    pub memory: bool,
    /// How many processes a pod may have.
    pub processes: bool,
}

impl Limits {
    /// All hold.
    pub const ALL: Limits = Limits { cpu: true, memory: true, processes: true };
}

#[cfg(test)]
impl Machine {
    /// A machine that nothing depends on.
    pub(crate) fn of_tests() -> Machine {
        Machine {
            name: "n".into(),
            ip: None,
            cpu_milli: 1,
            memory: 1,
            lowest_oom_score: 0,
            limits: Limits::ALL,
            limits_huge_pages: true,
        }
    }
}

impl Downward<'_> {
    /// The text of a field.
    pub fn field(&self, selector: &ObjectFieldSelector) -> Result<String, Error> {
        let meta = &self.pod.metadata;
        let path = selector.field_path.as_str();
        if let Some((map, key)) = subscript(path) {
            let map = match map {
                "metadata.labels" => &meta.labels,
                "metadata.annotations" => &meta.annotations,
                _ => return Err(unknown(path)),
            };
            return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
        }
        let spec = self.pod.spec.as_ref();
        let text = |text: Option<&String>| text.cloned().unwrap_or_default();
        Ok(match path {
            "metadata.name" => text(meta.name.as_ref()),
            "metadata.namespace" => text(meta.namespace.as_ref()),
            "metadata.uid" => text(meta.uid.as_ref()),
            "metadata.labels" => lines(meta.labels.as_ref()),
            "metadata.annotations" => lines(meta.annotations.as_ref()),
            "spec.nodeName" => self.node.name.clone(),
            "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
            "status.hostIP" | "status.hostIPs" => text(self.node.ip.as_ref()),
            "status.podIP" => self.addresses.first().map(IpAddr::to_string).unwrap_or_default(),
            "status.podIPs" => self.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(","),
            _ => return Err(unknown(path)),
        })
    }

    /// The amount of a resource of a container, in units of the divisor, rounded up. A limit that is not set is what the
    /// node has; a request that is not set is 0.
    pub fn resource(&self, selector: &ResourceFieldSelector, own: Option<&Container>) -> Result<String, Error> {
        let spec = self.pod.spec.as_ref();
        let named = |name: &String| {
            let all = spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
            all.into_iter().find(|c| c.name == *name)
        };
        let container = match &selector.container_name {
            Some(name) => named(name),
            None => own,
        };
        let container = container.ok_or_else(|| {
            Error::config(format!("resourceFieldRef {} names no container of the pod", selector.resource))
        })?;
        let resources = container.resources.clone().unwrap_or_default();
        let (kind, resource) = selector.resource.split_once('.').unwrap_or(("", ""));
        let amounts = match kind {
            "limits" => resources.limits.unwrap_or_default(),
            "requests" => resources.requests.unwrap_or_default(),
            _ => return Err(unknown(&selector.resource)),
        };
        let divisor = selector.divisor.as_ref().map_or("1", |d| d.0.as_str());
        let milli = |text: &str| {
            quantity::parse(text).map(|q| q.milli()).map_err(|fault| Error::config(format!("{text:?}: {fault}")))
        };
        let amount = match (amounts.get(resource), kind, resource) {
            (Some(amount), _, _) => milli(&amount.0)?,
            (None, "limits", "cpu") => self.node.cpu_milli,
            (None, "limits", "memory") => self.node.memory.saturating_mul(1000),
            (None, _, _) => 0,
        };
        let divisor = match milli(divisor)? {
            0 => 1000,
            divisor => divisor,
        };
        Ok(((amount + divisor - 1) / divisor).to_string())
    }
}

fn unknown(path: &str) -> Error {
    Error::config(format!(
        "field {path:?} can't be read by a container; see the Kubernetes documentation of the downward API"
    ))
}

/// `metadata.labels['key']` as its map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as a downward API file shows it: `key="value"`, one per line, with Go's quoting.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            name: "node".into(),
            ip: Some("10.0.0.1".into()),
            cpu_milli: 2000,
            memory: 1 << 30,
            lowest_oom_score: 0,
            limits: Limits::ALL,
            limits_huge_pages: true,
        }
    }

    #[test]
    fn fields_and_resources_are_read() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "1", "b": "x\"y"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}
        }))
        .unwrap();
        let node = machine();
        let addresses = ["10.85.0.2".parse().unwrap()];
        let down = Downward { pod: &pod, node: &node, addresses: &addresses };
        let field = |path: &str| {
            let selector = ObjectFieldSelector { field_path: path.into(), ..ObjectFieldSelector::default() };
            down.field(&selector).map_err(|e| e.to_string())
        };
        assert_eq!(field("metadata.name").unwrap(), "p");
        assert_eq!(field("metadata.labels['a']").unwrap(), "1");
        assert_eq!(field("metadata.labels['none']").unwrap(), "");
        assert_eq!(field("metadata.labels").unwrap(), "a=\"1\"\nb=\"x\\\"y\"");
        assert_eq!(field("status.podIP").unwrap(), "10.85.0.2");
        assert_eq!(field("status.hostIP").unwrap(), "10.0.0.1");
        assert!(field("spec.containers").unwrap_err().contains("spec.containers"));
        let own = &pod.spec.as_ref().unwrap().containers[0];
        let resource = |resource: &str, divisor: &str| {
            let selector: ResourceFieldSelector =
                serde_json::from_value(serde_json::json!({"resource": resource, "divisor": divisor})).unwrap();
            down.resource(&selector, Some(own)).unwrap()
        };
        assert_eq!(resource("limits.memory", "1Mi"), "64");
        assert_eq!(resource("requests.cpu", "1m"), "250");
        assert_eq!(resource("requests.cpu", "0"), "1");
        assert_eq!(resource("limits.cpu", "1"), "2");
    }
}
