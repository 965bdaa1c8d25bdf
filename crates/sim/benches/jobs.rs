//! Jobs at full speed: the real controllers before the real server and a durable store, and a node that runs nothing.
//!
//! `cargo bench -p stint-sim --bench jobs [-- SCALE]` prints pods per second through their whole life: created, bound,
//! Running, Succeeded, counted. With a scale (a divisor of the numbers), a quick look.
//!
//! Left out: containers. The node writes the two statuses that an agent would, many pods at once.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use stint_controllers::{Clock, Config};
use stint_server::{Ids, Ownership};
use stint_store::{SqliteDisk, Store};
use tokio::sync::mpsc;

const NODE: &str = "node";
/// How many statuses the node writes at once.
const WRITES: usize = 64;

struct Wall;

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

#[derive(Default)]
struct Counting(AtomicU64);

impl Counting {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Ids for Counting {
    fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012x}", self.next())
    }

    fn suffix(&self) -> String {
        format!("{:05x}", self.next())
    }
}

fn main() {
    // Cargo passes `--bench`.
    let scale: usize = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1).max(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the runtime starts");
    let pods = 2000 / scale;
    let jobs = (0..pods).map(|number| job(&format!("j{number}"), 1, 1)).collect();
    print("one-pod Jobs", pods, runtime.block_on(measure(jobs)));
    let pods = 10_000 / scale;
    let jobs = vec![job("indexed", pods, 500 / scale)];
    print("one Indexed Job", pods, runtime.block_on(measure(jobs)));
}

fn print(what: &str, pods: usize, took: Duration) {
    let seconds = took.as_secs_f64();
    let rate = f64::from(u32::try_from(pods).expect("there are few")) / seconds;
    println!("{what}: {pods} pods in {seconds:.2} s, {rate:.0} pods/s");
}

fn job(name: &str, completions: usize, parallelism: usize) -> Job {
    let template = json!({ "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "x" }] } });
    let mode = if completions == 1 { "NonIndexed" } else { "Indexed" };
    let spec = json!({ "completions": completions, "parallelism": parallelism, "completionMode": mode,
        "template": template });
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).expect("the manifest is a Job")
}

/// How long `jobs` take from the first one's creation until all are Complete, in a place of their own.
async fn measure(jobs: Vec<Job>) -> Duration {
    let folder = tempfile::tempdir().expect("there is a folder for the store");
    let disk = SqliteDisk::open(folder.path()).expect("the disk opens");
    let store = Store::open(disk).expect("the store opens");
    let clock = Arc::new(Wall);
    let api = stint_server::Api::new(store, clock.clone(), Arc::new(Counting::default()));
    let router = stint_server::router(stint_server::Api { ownership: Ownership::Untracked, ..api });
    let client = Client::new(router, "default");
    let node = json!({ "metadata": { "name": NODE }, "status": { "allocatable": { "pods": "1000" } } });
    let node: Node = serde_json::from_value(node).expect("the manifest is a Node");
    Api::all(client.clone()).create(&PostParams::default(), &node).await.expect("the node is taken");
    let config = Config { node: Some(NODE.to_owned()), workers: 16, ..Config::default() };
    let controllers = tokio::spawn(stint_controllers::run(client.clone(), clock, config));
    let agent = tokio::spawn(run_pods(client.clone()));

    let began = Instant::now();
    let api: Api<Job> = Api::default_namespaced(client);
    let ended = tokio::spawn(wait(api.clone(), jobs.len()));
    let create = async |job: &Job| {
        api.create(&PostParams::default(), job).await.expect("the Job is taken");
    };
    stream::iter(&jobs).for_each_concurrent(16, create).await;
    ended.await.expect("the Jobs end");
    let took = began.elapsed();
    controllers.abort();
    agent.abort();
    took
}

/// Until so many Jobs are Complete.
async fn wait(api: Api<Job>, many: usize) {
    let mut events = pin!(watcher(api, watcher::Config::default()));
    let mut complete = HashSet::new();
    while complete.len() < many {
        let Some(Ok(Event::Apply(job) | Event::InitApply(job))) = events.next().await else { continue };
        let mut conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if conditions.any(|condition| condition.type_ == "Complete") {
            complete.insert(job.uid());
        }
    }
}

/// Plays an agent whose containers end at once.
async fn run_pods(client: Client) {
    let api: Api<Pod> = Api::default_namespaced(client);
    let (bound, waiting) = mpsc::unbounded_channel::<String>();
    let of_node = watcher::Config::default().fields(&format!("spec.nodeName={NODE}"));
    let see = async {
        let mut events = pin!(watcher(api.clone(), of_node));
        let mut seen = HashSet::new();
        while let Some(event) = events.next().await {
            let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
            if seen.insert(pod.uid()) {
                bound.send(pod.name_any()).expect("the other half lives as long");
            }
        }
    };
    let waiting = stream::unfold(waiting, |mut waiting| async move { Some((waiting.recv().await?, waiting)) });
    let run = waiting.for_each_concurrent(WRITES, |name| run_pod(api.clone(), name));
    tokio::join!(see, run);
}

async fn run_pod(api: Api<Pod>, name: String) {
    for phase in ["Running", "Succeeded"] {
        let patch = Patch::Merge(json!({ "status": { "phase": phase } }));
        api.patch_status(&name, &PatchParams::default(), &patch).await.expect("the status is taken");
    }
}
