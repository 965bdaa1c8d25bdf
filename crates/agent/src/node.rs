//! The machine as the agent sees it, and as the API shows it: a Node object, and a Lease that says that it lives.

mod lease;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use stint_core::clock::Clock;
use stint_core::pressure::{self, Condition};
use stint_core::quantity;
use stint_runtime::has_controller;
use stint_runtime::rootless::is_confined;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::downward::{Limits, Machine};
use crate::huge_pages;

/// What the node has beside CPU and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// How many pods it takes.
    pub pods: u32,
    /// The size of the filesystem that containers write to, in bytes. Nothing where that is unknown.
    pub disk: Option<u64>,
}

impl Capacity {
    /// That of a node which keeps what containers write in `scratch`, which need not be there yet.
    pub(crate) fn of(scratch: &Path, pods: u32) -> Capacity {
        let filesystem = scratch.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
        Capacity { pods, disk: filesystem.map(|it| it.f_blocks.saturating_mul(it.f_frsize)) }
    }
}

impl Machine {
    /// This machine, under a name.
    pub fn here(name: &str) -> Machine {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Machine {
            name: name.to_owned(),
            ip: own_ip().map(|ip| ip.to_string()),
            cpu_milli: i128::try_from(cpus).unwrap_or(1) * 1000,
            memory: memory().unwrap_or(1 << 30),
            lowest_oom_score: lowest_oom_score(),
            limits: limits(),
            limits_huge_pages: has_controller("hugetlb"),
        }
    }
}

/// For root's containers what can't be had of CPU, memory and processes is an error, not left out.
fn limits() -> Limits {
    if !is_confined() {
        return Limits::ALL;
    }
    Limits { cpu: has_controller("cpu"), memory: has_controller("memory"), processes: has_controller("pids") }
}

/// The address that a packet to the world would carry. Nothing is sent.
fn own_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    let route = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    route.ok().map(|address| address.ip()).or(Some(IpAddr::from([127, 0, 0, 1])))
}

fn memory() -> Option<i128> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: i128 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Without the machine's own `CAP_SYS_RESOURCE` the score can only be raised from what this process has.
fn lowest_oom_score() -> i32 {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    if effective & (1 << CAP_SYS_RESOURCE) != 0 && !is_confined() {
        return -1000;
    }
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse().unwrap_or(0)
}

/// Shows the machine as a Node. If it is to be watched over (`pressed`), also in a Lease that it lives, and what it is short
/// of. Should somebody delete the Node, its Lease goes with it, and both are made again.
pub(crate) async fn live(
    client: Client,
    machine: Machine,
    capacity: Capacity,
    clock: Arc<dyn Clock>,
    pressed: Option<watch::Receiver<BTreeSet<Condition>>>,
) {
    while let Some(uid) = register(client.clone(), &machine, capacity, clock.now()).await
        && let Some(pressed) = pressed.clone()
    {
        tokio::select! {
            () = lease::keep(&client, &machine.name, &uid, &*clock) => {}
            () = show(client.clone(), &machine.name, pressed, &*clock) => {}
        }
    }
}

/// Shows the machine as a Node, and tries again until the API takes it; returns the Node's uid. An API that knows no nodes,
/// or keeps them to itself, is left alone.
async fn register(client: Client, machine: &Machine, capacity: Capacity, now: Timestamp) -> Option<String> {
    let api: Api<Node> = Api::all(client);
    let mut pause = Duration::from_millis(200);
    loop {
        let node = node(machine, capacity, now);
        let made = match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // It may have been made by a version that gave it other labels; those of the user stay.
                let labels = json!({ "metadata": { "labels": node.metadata.labels } });
                api.patch(&machine.name, &PatchParams::default(), &Patch::Merge(&labels)).await.map(drop)
            }
            other => other.map(drop),
        };
        let patch = json!({ "status": node.status });
        let shown = match made {
            Ok(()) => api.patch_status(&machine.name, &PatchParams::default(), &Patch::Merge(&patch)).await,
            Err(error) => Err(error),
        };
        match shown {
            Ok(node) => return node.metadata.uid,
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404 | 405) => {
                tracing::debug!(node = machine.name, code = status.code, "the API takes no Node object");
                return None;
            }
            Err(error) => {
                tracing::debug!(node = machine.name, %error, "failed to register the node; it is tried again");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

/// How often the Node is shown what it is short of although nothing changed: somebody else may have changed it.
const REPORT: Duration = Duration::from_mins(5);
/// How long it takes until a change that could not be shown is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Shows on the Node what it is short of, whenever that changes: in conditions, and in taints that keep pods away.
async fn show(client: Client, name: &str, mut pressed: watch::Receiver<BTreeSet<Condition>>, clock: &dyn Clock) {
    let api: Api<Node> = Api::all(client);
    loop {
        let now = pressed.borrow_and_update().clone();
        let pause = match show_once(&api, name, &now, clock.now()).await {
            Ok(()) => REPORT,
            Err(error) => {
                tracing::debug!(node = name, %error, "failed to show what the node is short of; it is tried again");
                RETRY
            }
        };
        if let Ok(Err(_)) = timeout(pause, pressed.changed()).await {
            std::future::pending::<()>().await; // the agent has ended, and with it everybody who could say more
        }
    }
}

async fn show_once(
    api: &Api<Node>,
    name: &str,
    pressed: &BTreeSet<Condition>,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let node = api.get(name).await?;
    let params = PatchParams::default();
    let told = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let taints = pressure::taints(pressed, &told, now);
    if taints != told {
        // Whoever changed the taints meanwhile wins, and this is tried again.
        let meta = json!({ "resourceVersion": node.metadata.resource_version });
        let patch = json!({ "metadata": meta, "spec": { "taints": taints } });
        api.patch(name, &params, &Patch::Merge(&patch)).await?;
    }
    let told = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let conditions = pressure::conditions(pressed, &told, now);
    let patch = json!({ "status": { "conditions": conditions } });
    api.patch_status(name, &params, &Patch::Merge(&patch)).await.map(drop)
}

/// The architecture as Go calls it, and so labels and images do.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// A file of one line; nothing where it can't be read.
fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// What a distribution calls itself, by its `os-release`.
fn os_image(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned())
}

fn labels(machine: &Machine) -> BTreeMap<String, String> {
    let (system, architecture) = (std::env::consts::OS, architecture());
    let labels = [
        ("kubernetes.io/hostname", machine.name.as_str()),
        ("kubernetes.io/os", system),
        ("kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", system),
        ("beta.kubernetes.io/arch", architecture),
    ];
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn node(machine: &Machine, capacity: Capacity, now: Timestamp) -> Node {
    let second = Time(Timestamp::from_second(now.as_second()).unwrap_or_default());
    let disk = capacity.disk.map(|bytes| ("ephemeral-storage", format!("{}Ki", bytes / 1024)));
    let huge = huge_pages::of_machine();
    let mut capacity: BTreeMap<String, Quantity> = [
        ("cpu", format!("{}m", machine.cpu_milli)),
        ("memory", format!("{}Ki", machine.memory / 1024)),
        ("pods", capacity.pods.to_string()),
    ]
    .into_iter()
    .chain(disk)
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .collect();
    let set_aside: i128 = huge.values().copied().map(i128::from).sum();
    capacity
        .extend(huge.into_iter().map(|(name, bytes)| (name, Quantity(quantity::Quantity::binary(bytes).to_string()))));
    // Memory that is set aside in huge pages is nobody's who does not ask for them.
    let mut allocatable = capacity.clone();
    allocatable.insert("memory".to_owned(), Quantity(format!("{}Ki", (machine.memory - set_aside).max(0) / 1024)));
    let mut node = Node::default();
    node.metadata.name = Some(machine.name.clone());
    node.metadata.labels = Some(labels(machine));
    let ready = NodeCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        reason: Some("AgentReady".to_owned()),
        message: Some("the agent takes pods".to_owned()),
        last_heartbeat_time: Some(second.clone()),
        last_transition_time: Some(second),
    };
    let address = |kind: &str, text: &str| NodeAddress { type_: kind.to_owned(), address: text.to_owned() };
    let mut addresses = vec![address("Hostname", &machine.name)];
    addresses.extend(machine.ip.as_ref().map(|ip| address("InternalIP", ip)));
    let version = format!("stint/{}", env!("CARGO_PKG_VERSION"));
    node.status = Some(NodeStatus {
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(pressure::conditions(&BTreeSet::new(), &[ready], now)),
        addresses: Some(addresses),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().to_owned(),
            operating_system: std::env::consts::OS.to_owned(),
            kernel_version: line("/proc/sys/kernel/osrelease"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            machine_id: line("/etc/machine-id"),
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
            os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            container_runtime_version: version.clone(),
            kubelet_version: version,
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    });
    node
}
