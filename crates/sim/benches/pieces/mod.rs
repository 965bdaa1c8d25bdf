//! What the benchmarks of Jobs and CronJobs share: the real server over a durable store, and a node that runs nothing.
//!
//! Left out: containers. The node writes the two statuses that an agent would, many pods at once.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use mimalloc::MiMalloc;
use serde_json::json;
use stint_server::Api as Server;
use stint_sim::virtual_time::{CountingIds, VirtualClock};
use stint_store::{SqliteDisk, Store};
use tokio::sync::mpsc;

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The name of the only node.
pub const NODE: &str = "node";

/// How many statuses the node writes at once.
const WRITES: usize = 64;

/// The API over what `folder` holds.
pub fn server_over(folder: &Path, clock: Arc<VirtualClock>) -> Server {
    let disk = SqliteDisk::open(folder).expect("the disk opens");
    let store = Store::open(disk).expect("the store opens");
    Server::new(store, clock, Arc::new(CountingIds::default()))
}

/// Makes the node known, with room for so many pods.
pub async fn add_node(client: &Client, pods: usize) {
    let node = json!({ "metadata": { "name": NODE }, "status": { "allocatable": { "pods": pods.to_string() } } });
    let node: Node = serde_json::from_value(node).expect("the manifest is a Node");
    Api::all(client.clone()).create(&PostParams::default(), &node).await.expect("the node is taken");
}

/// Plays an agent whose containers end at once, for the pods of every namespace.
pub async fn run_pods(client: Client) {
    let (bound, waiting) = mpsc::unbounded_channel::<(String, String)>();
    let of_node = watcher::Config::default().fields(&format!("spec.nodeName={NODE}"));
    let see = async {
        let mut events = pin!(watcher(Api::<Pod>::all(client.clone()), of_node));
        let mut seen = HashSet::new();
        while let Some(event) = events.next().await {
            let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase != Some("Succeeded") && seen.insert(pod.uid()) {
                let pod = (pod.namespace().unwrap_or_default(), pod.name_any());
                bound.send(pod).expect("the other half lives as long");
            }
        }
    };
    let waiting = stream::unfold(waiting, |mut waiting| async move { Some((waiting.recv().await?, waiting)) });
    let run = waiting.for_each_concurrent(WRITES, |(namespace, name)| {
        let client = client.clone();
        async move { run_pod(&client, &namespace, &name).await }
    });
    tokio::join!(see, run);
}

async fn run_pod(client: &Client, namespace: &str, name: &str) {
    let pods = Request::new(Pod::url_path(&(), Some(namespace)));
    for phase in ["Running", "Succeeded"] {
        let patch = Patch::Merge(json!({ "status": { "phase": phase } }));
        let request = pods.patch_subresource("status", name, &PatchParams::default(), &patch);
        // As text, since the agent does not read the answer either.
        client.request_text(request.expect("the request is well-formed")).await.expect("the status is taken");
    }
}

/// What this process has used so far, in ticks of 10 ms.
pub fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("the kernel tells it");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap_or(0)).sum();
    Duration::from_millis(ticks * 10)
}
