//! Networks of pods by CNI plugins: programs that somebody else wrote, run as their specification (1.1) says.
//!
//! ```text
//!          take: record, namespace, ADD by each plugin in order           leave: DEL by each in reverse order, namespace, record
//!  nothing ──────────────────────────────────────────────────► pod's ───────────────────────────────────────────► gone
//!                      └─ failed: as leave
//! ```
//!
//! Invariants: a record with all that a DEL needs is on disk before the first ADD, and goes after the last DEL, so that what a
//! plugin handed out is given back after any crash, and after a reboot. What a configuration can't do that a pod asks for is an
//! error. DEL may come twice.
//! Left out: `CHECK`, `GC` and `STATUS`, results before version 0.3, and the DNS that plugins tell.
//! Upstream: `containernetworking/cni/libcni/api.go`; containerd's `internal/cri/server/sandbox_run.go` for what is passed.

mod config;
mod plugin;
mod record;

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::filter::HostPort;
use crate::network::Sandbox;
use crate::sandbox::{Folder, Home};
use config::List;
use plugin::{Command, Plugins};
use record::{Record, Records};

/// What a pod's interface is called in the pod.
const INTERFACE: &str = "eth0";

/// Where things of CNI are.
#[derive(Clone, Debug)]
pub struct CniConfig {
    /// Configurations: the first file by name counts.
    pub configurations: PathBuf,
    /// Plugins: the first folder that has one counts.
    pub plugins: Vec<PathBuf>,
    /// Namespaces: a folder on a memory filesystem, which a reboot empties.
    pub folder: PathBuf,
    /// What was asked of plugins, and what they said: a folder on disk, which a reboot leaves alone.
    pub records: PathBuf,
}

/// What a pod asks of plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joining {
    /// Its name among those of the node: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// More that plugins may want to know of it (`CNI_ARGS`).
    pub args: Vec<(String, String)>,
    /// The node's ports that lead to it.
    pub ports: Vec<HostPort>,
    /// How much it may receive and send, in bits per second.
    pub bandwidth: Bandwidth,
}

/// How much a pod may receive and send, in bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// What it may receive.
    pub ingress: Option<u64>,
    /// What it may send.
    pub egress: Option<u64>,
}

/// The network that plugins make. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cni(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    list: List,
    plugins: Plugins,
    folder: Folder,
    records: Records,
}

impl Cni {
    /// The network of the first configuration; `None` where there is none. One that can't be used is an error.
    pub fn open(config: &CniConfig) -> Result<Option<Cni>, Error> {
        let Some(list) = List::first_in(&config.configurations)? else { return Ok(None) };
        let plugins = Plugins::new(config.plugins.clone());
        for plugin in &list.plugins {
            plugins.find(plugin.kind())?;
        }
        let failed = |attempt: &str| Error::failed(format!("{attempt} {}", config.folder.display()));
        let folder = Folder::open(&config.folder).map_err(failed("make the folder of pods' networks"))?;
        let records = Records::open(&config.records)?;
        Ok(Some(Cni(Arc::new(Inner { list, plugins, folder, records }))))
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        &self.0.list.name
    }

    /// A namespace for a pod, on the network; it is the caller's to write down whose it is.
    pub async fn take(&self, joining: Joining) -> Result<Sandbox, Error> {
        let inner = Arc::clone(&self.0);
        // A thread of its own, since it goes into the new namespace and back.
        on_thread(move || inner.take(&joining)).await
    }

    /// Gives up a pod's namespace. Twice is no error.
    pub async fn leave(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let (inner, name) = (Arc::clone(&self.0), sandbox.name.clone());
        on_thread(move || inner.leave(&name)).await
    }

    /// After a restart: these pods' namespaces are in use, and what else there is goes. Returns those that are not there.
    pub fn keep(&self, pods: &[Sandbox]) -> Vec<Sandbox> {
        let there: HashSet<String> = match self.0.folder.list() {
            Ok(all) => all.into_iter().filter(|(_, alive)| *alive).map(|(name, _)| name).collect(),
            Err(error) => {
                tracing::warn!(%error, "can't look into the folder of pods' networks");
                return Vec::new();
            }
        };
        let lost: Vec<Sandbox> = pods.iter().filter(|pod| !there.contains(&pod.name)).cloned().collect();
        let kept: HashSet<&String> = pods.iter().map(|pod| &pod.name).filter(|name| there.contains(*name)).collect();
        let unwanted = there.iter().cloned().chain(self.0.records.names());
        let unwanted: HashSet<String> = unwanted.filter(|name| !kept.contains(name)).collect();
        for name in unwanted {
            if let Err(error) = self.0.leave(&name) {
                tracing::warn!(name, %error, "failed to give back the network of a pod that is gone; the next start tries again");
            }
        }
        lost
    }
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("stint-cni".to_owned());
    let started = thread.spawn(move || drop(tell.send(work())));
    started.map_err(Error::failed("start a thread"))?;
    told.await.map_err(|_| Error::Closed)?
}

impl Inner {
    fn take(&self, joining: &Joining) -> Result<Sandbox, Error> {
        let name = &joining.name;
        let capabilities = self.capabilities(joining)?;
        let taken = self.folder.claim(name).map_err(Error::failed(format!("claim the name {name}")))?;
        if !taken {
            // That of an attempt that was cut off.
            self.leave(name)?;
            self.folder.claim(name).map_err(Error::failed(format!("claim the name {name}")))?;
        }
        let path = self.folder.path(name);
        let mut record = Record {
            list: self.list.clone(),
            namespace: path.clone(),
            interface: INTERFACE.to_owned(),
            args: joining.args.clone(),
            capabilities,
            result: None,
        };
        let added = self.records.write(name, &record).and_then(|()| self.make(name)).and_then(|()| {
            let result = self.plugins.add(name, &record)?;
            let addresses = addresses(&result);
            record.result = Some(result);
            self.records.write(name, &record)?;
            Ok(addresses)
        });
        match added {
            Ok(addresses) => Ok(Sandbox { name: name.clone(), path, addresses }),
            Err(error) => {
                if let Err(left) = self.leave(name) {
                    tracing::warn!(name, error = %left, "failed to give back the network of a pod that could not have it");
                }
                Err(error)
            }
        }
    }

    fn make(&self, name: &str) -> Result<(), Error> {
        let home = Home::here().map_err(Error::failed("open this machine's network namespace"))?;
        let made = self.folder.make(name, &home, |_| {
            // All ports are the pod's own, so none needs privilege, as container runtimes have it.
            fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
        });
        made.map_err(Error::failed(format!("make a network namespace for {name}")))
    }

    fn leave(&self, name: &str) -> Result<(), Error> {
        if let Some(record) = self.records.read(name)? {
            self.plugins.del(name, &record)?;
        }
        self.folder.remove(name).map_err(Error::failed(format!("remove the network namespace of {name}")))?;
        self.records.remove(name)
    }

    /// What is told to plugins that say they can do it. An error, if none can do what the pod can't do without.
    fn capabilities(&self, joining: &Joining) -> Result<Map<String, Value>, Error> {
        let mut all = Map::new();
        if !joining.ports.is_empty() {
            if !self.list.has_capability("portMappings") {
                return Err(Error::NoPortMappings { network: self.list.name.clone() });
            }
            let port = |port: &HostPort| {
                json!({
                    "hostPort": port.host,
                    "containerPort": port.pod,
                    "protocol": port.protocol.as_str().to_lowercase(),
                    "hostIP": port.address.map_or_else(String::new, |address| address.to_string()),
                })
            };
            all.insert("portMappings".to_owned(), joining.ports.iter().map(port).collect());
        }
        let Bandwidth { ingress, egress } = joining.bandwidth;
        if ingress.is_some() || egress.is_some() {
            // As much at once as the kernel's counters allow, as the kubelet asked for.
            let burst = |rate: Option<u64>| rate.map(|_| u64::from(u32::MAX >> 1));
            let limits = [
                ("ingressRate", ingress),
                ("ingressBurst", burst(ingress)),
                ("egressRate", egress),
                ("egressBurst", burst(egress)),
            ];
            let limits = limits.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
            all.insert("bandwidth".to_owned(), Value::Object(limits.collect()));
        }
        Ok(all)
    }
}

impl Plugins {
    /// Has each plugin do its part, in order; the last one's result is that of all.
    fn add(&self, name: &str, record: &Record) -> Result<Value, Error> {
        let mut previous: Option<Value> = None;
        for plugin in &record.list.plugins {
            let config = plugin.config(&record.list, &record.capabilities, previous.as_ref());
            let said = self.run(plugin.kind(), Command::Add, name, record, &config)?;
            let result = serde_json::from_slice(&said).map_err(|fault| Error::Plugin {
                kind: plugin.kind().to_owned(),
                command: Command::Add.word(),
                message: format!("its result can't be read: {fault}"),
            })?;
            previous = Some(result);
        }
        Ok(previous.unwrap_or_default())
    }

    /// Has each plugin take its part back, in reverse order.
    fn del(&self, name: &str, record: &Record) -> Result<(), Error> {
        let previous = record.result.as_ref().filter(|_| record.list.has_result_in_del());
        for plugin in record.list.plugins.iter().rev() {
            let config = plugin.config(&record.list, &record.capabilities, previous);
            self.run(plugin.kind(), Command::Del, name, record, &config)?;
        }
        Ok(())
    }
}

/// The pod's addresses in a result: all but those of interfaces that are not in its namespace.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let interfaces = result["interfaces"].as_array();
    let is_inside = |ip: &&Value| {
        let interface = ip["interface"].as_u64().and_then(|index| interfaces?.get(usize::try_from(index).ok()?));
        interface.is_none_or(|it| it["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()))
    };
    let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    result["ips"].as_array().into_iter().flatten().filter(is_inside).filter_map(address).collect()
}

#[cfg(test)]
mod tests;
