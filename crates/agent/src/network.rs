//! A pod's own network, from before its first container starts until after its last one has ended.
//!
//! Invariant: whose a namespace is stands in the pod's folder before anything runs in it, and no longer once it is given up; so
//! after a crash at any moment each namespace has a pod, or nobody wants it. A record whose namespace is gone, as a crash while it
//! is given up leaves one, is struck out before any address is given away again. A namespace that bears no trace of its pod is the
//! next pod's, once its record is struck out.
//! Left out: how a namespace is made (`stint_network`, by itself or by CNI plugins), and what a pod's files say of names
//! ([`crate::etc`]).

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{ContainerPort, Pod, PodSecurityContext, SecurityContext};
use serde_json::{Value, json};
use stint_core::pod::lasting;
use stint_core::quantity;
use stint_network::{Bandwidth, Cni, HostPort, Joining, Network, Place, Protocol, Sandbox};

use crate::agent::Shared;
use crate::error::Error;
use crate::folder::PodFolder;
use crate::worker::Context;

/// How pods get networks of their own. Cheap to clone.
#[derive(Clone, Debug)]
pub enum PodNetwork {
    /// On a bridge of Stint's own.
    Bridge(Network),
    /// By CNI plugins.
    Plugins(Cni),
}

impl PodNetwork {
    /// The node's address on the network, where it is Stint's own.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        match self {
            PodNetwork::Bridge(network) => network.gateway(),
            PodNetwork::Plugins(_) => None,
        }
    }

    /// Where sockets reach pods by their addresses.
    pub fn place(&self) -> Place {
        match self {
            PodNetwork::Bridge(network) => network.place(),
            PodNetwork::Plugins(_) => Place::default(),
        }
    }

    /// Ends the network. With pods that go on it stays as it is, for the next daemon.
    pub fn close(&self) -> Result<(), stint_network::Error> {
        match self {
            PodNetwork::Bridge(network) => network.close(),
            PodNetwork::Plugins(_) => Ok(()),
        }
    }

    /// After a restart: these pods have what they had, and what else there is goes. Returns what is not there any more.
    pub(crate) fn keep(&self, claimed: &[Joined]) -> Vec<Sandbox> {
        let of = |joined: &Joined| joined.sandbox.clone();
        match self {
            PodNetwork::Bridge(network) => {
                let pods: Vec<_> = claimed.iter().map(|joined| (of(joined), joined.ports.clone())).collect();
                network.keep(&pods)
            }
            PodNetwork::Plugins(cni) => cni.keep(&claimed.iter().map(of).collect::<Vec<_>>()),
        }
    }

    async fn take(&self, context: &Context, ports: &[HostPort]) -> Result<Sandbox, Error> {
        Ok(match self {
            PodNetwork::Bridge(network) => network.take(ports).await?,
            PodNetwork::Plugins(cni) => cni.take(joining(context, ports)?).await?,
        })
    }

    async fn leave(&self, sandbox: &Sandbox, ports: &[HostPort]) -> Result<(), stint_network::Error> {
        match self {
            PodNetwork::Bridge(network) => network.leave(sandbox, ports).await,
            PodNetwork::Plugins(cni) => cni.leave(sandbox).await,
        }
    }
}

/// What plugins are told of a pod, as by a cluster's container runtimes.
fn joining(context: &Context, ports: &[HostPort]) -> Result<Joining, Error> {
    let identity = &context.identity;
    let args = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &identity.namespace),
        ("K8S_POD_NAME", &identity.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &identity.uid),
        ("K8S_POD_UID", &identity.uid),
    ];
    Ok(Joining {
        name: identity.uid.clone(),
        args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ports: ports.to_vec(),
        bandwidth: Bandwidth {
            ingress: rate(&context.pod, "kubernetes.io/ingress-bandwidth")?,
            egress: rate(&context.pod, "kubernetes.io/egress-bandwidth")?,
        },
    })
}

/// A rate in bits per second that a pod asks for by an annotation (`pkg/util/bandwidth/utils.go`).
fn rate(pod: &Pod, annotation: &str) -> Result<Option<u64>, Error> {
    let Some(text) = pod.metadata.annotations.as_ref().and_then(|all| all.get(annotation)) else { return Ok(None) };
    let rate = quantity::parse(text).ok().and_then(|rate| u64::try_from(rate.value()).ok());
    match rate {
        Some(rate @ 1_000..=1_000_000_000_000_000) => Ok(Some(rate)),
        _ => Err(Error::config(format!(
            "the annotation {annotation} is {text:?}: give a rate from 1k to 1P bits per second"
        ))),
    }
}

/// What a pod has of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) sandbox: Sandbox,
    pub(crate) ports: Vec<HostPort>,
}

impl Joined {
    /// As it was written down in a pod's folder; `None` if nothing was, or nothing that makes sense.
    pub(crate) fn read(folder: &PodFolder) -> Option<Joined> {
        Joined::from_json(&serde_json::from_slice(&fs::read(folder.network()).ok()?).ok()?)
    }

    fn write(&self, folder: &PodFolder) -> Result<(), Error> {
        let file = folder.network();
        fs::write(&file, self.to_json().to_string()).map_err(Error::io("write", &file))
    }

    fn to_json(&self) -> Value {
        let port = |port: &HostPort| json!({ "protocol": port.protocol.as_str(), "hostIP": port.address, "hostPort": port.host, "port": port.pod });
        let ports: Vec<Value> = self.ports.iter().map(port).collect();
        let Sandbox { name, path, addresses } = &self.sandbox;
        json!({ "name": name, "path": path, "addresses": addresses, "ports": ports })
    }

    fn from_json(value: &Value) -> Option<Joined> {
        let list = |key: &str| value.get(key)?.as_array();
        let number = |value: &Value, key: &str| u16::try_from(value.get(key)?.as_u64()?).ok();
        let port = |port: &Value| {
            Some(HostPort {
                protocol: Protocol::named(port.get("protocol")?.as_str()?)?,
                address: port.get("hostIP")?.as_str().and_then(|address| address.parse().ok()),
                host: number(port, "hostPort")?,
                pod: number(port, "port")?,
            })
        };
        let addresses = list("addresses")?.iter().filter_map(|address| address.as_str()?.parse().ok());
        let sandbox = Sandbox {
            name: value.get("name")?.as_str()?.to_owned(),
            path: value.get("path")?.as_str()?.into(),
            addresses: addresses.collect(),
        };
        Some(Joined { sandbox, ports: list("ports")?.iter().map(port).collect::<Option<_>>()? })
    }
}

impl Shared {
    /// The network that the pod has a part of. `None`: it is on the node's.
    pub(crate) fn network(&self, pod: &Pod) -> Option<&PodNetwork> {
        let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        self.config.network.as_ref().filter(|_| !on_host)
    }
}

impl Context {
    /// The pod's own network, if it has one yet.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.joined.get().map(|joined| &joined.sandbox)
    }

    /// The addresses at which the pod is reached: its own, or the node's. None while it has no network yet.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        match (self.sandbox(), self.shared.network(&self.pod)) {
            (Some(sandbox), _) => sandbox.addresses.clone(),
            (None, Some(_)) => Vec::new(),
            (None, None) => self.shared.config.machine.ip.iter().filter_map(|ip| ip.parse().ok()).collect(),
        }
    }

    /// Gives the pod its network, unless it has it.
    pub(crate) async fn join_network(&self) -> Result<(), Error> {
        let Some(network) = self.shared.network(&self.pod).filter(|_| self.joined.get().is_none()) else {
            return Ok(());
        };
        let ports = host_ports(&self.pod);
        let sandbox = network.take(self, &ports).await?;
        let joined = Joined { sandbox, ports };
        let written = self.folder.make(&self.identity).and_then(|()| joined.write(&self.folder));
        if let Err(error) = written {
            network.leave(&joined.sandbox, &joined.ports).await?;
            return Err(error);
        }
        let _ = self.joined.set(joined); // nobody else sets it: there is one preparation at a time
        Ok(())
    }

    /// Takes the pod's network away. Twice is no error.
    pub(crate) async fn leave_network(&self) -> Result<(), Error> {
        let network = self.shared.config.network.as_ref();
        if let Some(PodNetwork::Bridge(bridge)) = network
            && !may_change_its_network(&self.pod)
            && let Some(Joined { sandbox, ports }) = Joined::read(&self.folder)
            && ports.is_empty()
            && bridge.is_unused(&sandbox)
        {
            // In this order: if all ends in between, nobody wants it.
            forget(&self.folder)?;
            return Ok(bridge.hand_on(sandbox).await?);
        }
        leave(&self.folder, network).await
    }
}

/// Whether a pod can do more to its network than to send in it: then it is nobody's after it.
fn may_change_its_network(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let has_sysctls = |context: &PodSecurityContext| context.sysctls.as_ref().is_some_and(|all| !all.is_empty());
    let is_more = |context: &SecurityContext| {
        let adds = context.capabilities.as_ref().and_then(|all| all.add.as_ref()).is_some_and(|all| !all.is_empty());
        adds || context.privileged == Some(true)
            || context.proc_mount.as_deref().is_some_and(|mount| mount != "Default")
    };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.security_context);
    let others = spec.init_containers.iter().flatten().chain(&spec.containers);
    spec.host_users == Some(false)
        || spec.host_pid == Some(true)
        || spec.security_context.as_ref().is_some_and(has_sysctls)
        || others.map(|container| &container.security_context).chain(ephemeral).flatten().any(is_more)
}

/// Gives up the network that a pod's folder tells of.
pub(crate) async fn leave(folder: &PodFolder, network: Option<&PodNetwork>) -> Result<(), Error> {
    let Some(Joined { sandbox, ports }) = Joined::read(folder) else { return Ok(()) };
    match network {
        Some(network) => network.leave(&sandbox, &ports).await?,
        // That of a daemon that had one, or of one that is no more.
        None => stint_network::abandon(&sandbox)?,
    }
    forget(folder)
}

/// Strikes out what a pod's folder tells of its network.
pub(crate) fn forget(folder: &PodFolder) -> Result<(), Error> {
    let file = folder.network();
    fs::remove_file(&file).map_err(Error::io("remove", &file))
}

/// The ports of the node that lead to the pod: those of its main containers and sidecars.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    lasting(spec).flat_map(|container| container.ports.iter().flatten()).filter_map(host_port).collect()
}

fn host_port(port: &ContainerPort) -> Option<HostPort> {
    let host = u16::try_from(port.host_port?).ok().filter(|&port| port > 0)?;
    let address = match port.host_ip.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        // Pods have no addresses of IPv6 that a port could lead to.
        Some(text) => match text.parse().ok()? {
            IpAddr::V4(address) => Some(address).filter(|address| *address != Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(address) if address.is_unspecified() => None,
            IpAddr::V6(_) => return None,
        },
    };
    let protocol = Protocol::named(port.protocol.as_deref().unwrap_or("TCP"))?;
    Some(HostPort { protocol, address, host, pod: u16::try_from(port.container_port).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports_are_those_of_what_runs_with_the_main_containers() {
        let port = |port: Value| json!([port]);
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [
                {"name": "i", "ports": port(json!({"containerPort": 1, "hostPort": 1}))},
                {"name": "s", "restartPolicy": "Always", "ports": port(json!({"containerPort": 2, "hostPort": 8002}))}
            ],
            "containers": [{"name": "c", "ports": [
                {"containerPort": 3}, {"containerPort": 53, "hostPort": 8053, "protocol": "UDP", "hostIP": "192.0.2.1"},
                {"containerPort": 4, "hostPort": 8004, "hostIP": "0.0.0.0"},
                {"containerPort": 5, "hostPort": 8005, "hostIP": "2001:db8::1"}
            ]}]
        }}))
        .unwrap();
        let shown: Vec<String> = host_ports(&pod)
            .iter()
            .map(|port| format!("{} {:?} {}>{}", port.protocol.as_str(), port.address, port.host, port.pod))
            .collect();
        assert_eq!(shown, ["UDP Some(192.0.2.1) 8053>53", "TCP None 8004>4", "TCP None 8002>2"]);
    }

    #[test]
    fn a_network_is_the_next_pods_only_after_a_pod_with_the_usual_rights() {
        let pod = |spec: Value| may_change_its_network(&serde_json::from_value(json!({"spec": spec})).unwrap());
        let with = |context: Value| pod(json!({"containers": [{"name": "c", "securityContext": context}]}));
        assert!(!with(json!({"runAsUser": 0, "capabilities": {"drop": ["ALL"]}, "procMount": "Default"})));
        assert!(with(json!({"capabilities": {"add": ["NET_ADMIN"]}})));
        assert!(with(json!({"privileged": true})));
        assert!(with(json!({"procMount": "Unmasked"})));
        let plain = json!([{"name": "c"}]);
        assert!(!pod(json!({"containers": plain, "hostUsers": true, "securityContext": {"fsGroup": 1}})));
        for (key, value) in [
            ("hostUsers", json!(false)),
            ("hostPID", json!(true)),
            ("securityContext", json!({"sysctls": [{"name": "net.ipv4.ping_group_range", "value": "0 1"}]})),
            ("initContainers", json!([{"name": "i", "securityContext": {"privileged": true}}])),
            (
                "ephemeralContainers",
                json!([{"name": "e", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}]),
            ),
        ] {
            assert!(pod(json!({"containers": plain, key: value})), "{key}");
        }
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let sandbox = Sandbox {
            name: "10.85.0.2".into(),
            path: "/run/x/10.85.0.2".into(),
            addresses: vec!["10.85.0.2".parse().unwrap()],
        };
        let port = HostPort { protocol: Protocol::Sctp, address: Some(Ipv4Addr::LOCALHOST), host: 1, pod: 65535 };
        for ports in [vec![], vec![port, HostPort { address: None, ..port }]] {
            let joined = Joined { sandbox: sandbox.clone(), ports };
            assert_eq!(Joined::from_json(&joined.to_json()), Some(joined));
        }
        assert_eq!(Joined::from_json(&json!({"name": "x"})), None);
    }
}
