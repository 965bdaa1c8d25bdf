//! Names of pods in DNS: what a name asks for, and which pods answer to it.
//!
//! Invariant: pure. Names that end with the cluster's domain are nobody else's business; all others are.
//! Upstream: the specification of DNS for Services and Pods (kubernetes/dns, 1.1.0), sections 2.4.1 (headless Services)
//! and 2.4.2; `pkg/controller/util/endpointslice` for who is ready.
//! Left out: `SRV` and `PTR` records, and Services that have an address of their own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;

use crate::job::view::is_ready;

/// What a name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// Who is behind a Service: `service.namespace.svc.cluster.local`.
    Service {
        /// The Service.
        service: &'a str,
        /// Its namespace.
        namespace: &'a str,
    },
    /// One pod behind a headless Service: `hostname.service.namespace.svc.cluster.local`.
    Host {
        /// `spec.hostname` of the pod.
        hostname: &'a str,
        /// The Service, `spec.subdomain` of the pod.
        service: &'a str,
        /// Their namespace.
        namespace: &'a str,
    },
    /// The domain itself, or a part of it that has names below it: there, but with no address.
    Branch,
    /// A name within the domain that nothing can have.
    Nothing,
    /// A name of somebody else's.
    Elsewhere,
}

impl<'a> Asked<'a> {
    /// What is asked for by a name in lower case, in a cluster of this domain.
    pub fn by(name: &'a str, domain: &str) -> Asked<'a> {
        if name == domain {
            return Asked::Branch;
        }
        let Some(inner) = name.strip_suffix(domain).and_then(|inner| inner.strip_suffix('.')) else {
            return Asked::Elsewhere;
        };
        let labels: Vec<&str> = inner.split('.').collect();
        match labels[..] {
            ["svc"] => Asked::Branch,
            [service, namespace, "svc"] => Asked::Service { service, namespace },
            [hostname, service, namespace, "svc"] => Asked::Host { hostname, service, namespace },
            _ => Asked::Nothing,
        }
    }
}

/// What DNS has to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPod {
    namespace: String,
    hostname: Option<String>,
    subdomain: Option<String>,
    labels: BTreeMap<String, String>,
    address: Ipv4Addr,
    is_ready: bool,
}

impl NamedPod {
    /// `None` for a pod that has ended, is on its way out, or has no address yet.
    pub fn of(pod: &Pod) -> Option<NamedPod> {
        let status = pod.status.as_ref()?;
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let spec = pod.spec.as_ref()?;
        Some(NamedPod {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            hostname: spec.hostname.clone().filter(|_| spec.hostname_override.is_none()),
            subdomain: spec.subdomain.clone(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            address: status.pod_ip.as_deref()?.parse().ok()?,
            is_ready: is_ready(pod) && pod.metadata.deletion_timestamp.is_none(),
        })
    }
}

/// What DNS has to know of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedService {
    /// `spec.selector`: which pods are behind it.
    pub selector: BTreeMap<String, String>,
    /// `spec.publishNotReadyAddresses`.
    pub with_unready: bool,
    /// Whether its name stands for its pods, as `spec.clusterIP: None` has it.
    pub is_headless: bool,
}

/// The addresses that answer to a name, in order. `None`: there is no such name.
pub fn addresses<'p>(
    asked: &Asked<'_>,
    service: &NamedService,
    pods: impl Iterator<Item = &'p NamedPod>,
) -> Option<Vec<Ipv4Addr>> {
    let (namespace, host) = match asked {
        Asked::Service { namespace, .. } => (*namespace, None),
        Asked::Host { hostname, service, namespace } => (*namespace, Some((*hostname, *service))),
        Asked::Branch => return Some(Vec::new()),
        Asked::Nothing | Asked::Elsewhere => return None,
    };
    let answers = |pod: &&NamedPod| {
        pod.namespace == namespace
            && service.is_headless
            && !service.selector.is_empty()
            && service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            && (pod.is_ready || service.with_unready)
            && host.is_none_or(|(hostname, subdomain)| {
                pod.hostname.as_deref() == Some(hostname) && pod.subdomain.as_deref() == Some(subdomain)
            })
    };
    let mut found: Vec<Ipv4Addr> = pods.filter(answers).map(|pod| pod.address).collect();
    found.sort();
    found.dedup();
    // A Service is there while nobody is behind it; a host is not.
    (host.is_none() || !found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let service = Asked::Service { service: "workers", namespace: "ns" };
        let host = Asked::Host { hostname: "job-0", service: "workers", namespace: "ns" };
        let cases = [
            ("workers.ns.svc.cluster.local", service),
            ("job-0.workers.ns.svc.cluster.local", host),
            ("cluster.local", Asked::Branch),
            ("svc.cluster.local", Asked::Branch),
            ("a.b.c.d.svc.cluster.local", Asked::Nothing),
            ("ns.svc.cluster.local", Asked::Nothing),
            ("example.com.cluster.local", Asked::Nothing),
            ("example.com", Asked::Elsewhere),
            ("notcluster.local", Asked::Elsewhere),
            ("", Asked::Elsewhere),
        ];
        for (name, asked) in cases {
            assert_eq!(Asked::by(name, "cluster.local"), asked, "{name}");
        }
    }

    fn pod(name: &str, more: &Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "ns", "labels": {"job-name": "job"}},
            "spec": {"hostname": name, "subdomain": "workers", "containers": []},
            "status": {"phase": "Running", "podIP": "10.85.0.2", "conditions": [{"type": "Ready", "status": "True"}]}
        });
        json_patch(&mut pod, more);
        serde_json::from_value(pod).unwrap()
    }

    fn json_patch(target: &mut Value, patch: &Value) {
        let Some(patch) = patch.as_object() else { return *target = patch.clone() };
        for (key, value) in patch {
            json_patch(&mut target[key], value);
        }
    }

    #[test]
    fn pods_behind_a_headless_service_are_found_by_their_hostnames() {
        let service = NamedService {
            selector: [("job-name".to_owned(), "job".to_owned())].into(),
            with_unready: false,
            is_headless: true,
        };
        let unready = json!({"status": {"podIP": "10.85.0.3", "conditions": [{"type": "Ready", "status": "False"}]}});
        let all = [
            pod("job-0", &json!({})),
            pod("job-1", &unready),
            pod("job-2", &json!({"status": {"podIP": "10.85.0.4"}, "metadata": {"namespace": "other"}})),
            pod("job-3", &json!({"status": {"podIP": "10.85.0.5"}, "spec": {"subdomain": "others"}})),
            pod("job-4", &json!({"status": {"podIP": "10.85.0.6"}, "metadata": {"labels": {"job-name": "x"}}})),
            pod("job-5", &json!({"status": {"podIP": "10.85.0.7", "phase": "Succeeded"}})),
        ];
        let pods: Vec<NamedPod> = all.iter().filter_map(NamedPod::of).collect();
        let find = |name: &str, service: &NamedService| {
            let asked = Asked::by(name, "cluster.local");
            addresses(&asked, service, pods.iter())
                .map(|all| all.iter().map(|address| address.octets()[3]).collect::<Vec<_>>())
        };
        let host = |n: u32| format!("job-{n}.workers.ns.svc.cluster.local");
        assert_eq!(find(&host(0), &service), Some(vec![2]));
        for n in 1..6 {
            assert_eq!(find(&host(n), &service), None, "{n}");
        }
        assert_eq!(find("workers.ns.svc.cluster.local", &service), Some(vec![2, 5]));
        let with_unready = NamedService { with_unready: true, ..service.clone() };
        assert_eq!(find(&host(1), &with_unready), Some(vec![3]));
        let empty = NamedService { selector: [("no".to_owned(), "pod".to_owned())].into(), ..service.clone() };
        assert_eq!(find("workers.ns.svc.cluster.local", &empty), Some(vec![]));
        let with_address = NamedService { is_headless: false, ..service };
        assert_eq!(find("workers.ns.svc.cluster.local", &with_address), Some(vec![]));
        assert_eq!(find("svc.cluster.local", &NamedService::default()), Some(vec![]));
    }
}
