//! Jobs at full speed: the real controllers before the real server and a durable store, and a node that runs nothing.
//!
//! `cargo bench -p stint-sim --bench jobs [-- SCALE]` prints pods per second through their whole life: created, bound,
//! Running, Succeeded, counted; what a decision about a Job with many pods takes; what one Job costs beside few and
//! many that have ended; and the same by `stint controllers` over TLS (that alone with the argument `attached`). With a scale (a
//! divisor of the numbers), a quick look.
//!
//! Left out: containers.

mod attached;
mod pieces;

use std::collections::HashSet;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use pieces::{NODE, add_node, cpu, run_pods, server_over};
use serde_json::json;
use stint_controllers::Config;
use stint_core::job::kept::{Settled, slim};
use stint_core::job::{Tuning, reconcile_kept};
use stint_server::Ownership;
use stint_server::encoding::Encoded;
use stint_server::kinds::Kind;
use stint_sim::virtual_time::VirtualClock;
use stint_store::{Change, Disk, Entry, Revision, SqliteDisk};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

fn main() {
    // Cargo passes `--bench`.
    let scale: usize = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1).max(1);
    // As the daemon's: a thread for each core.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("the runtime starts");
    if std::env::args().any(|argument| argument == "attached") {
        return runtime.block_on(attached::compare(2000 / scale, 100_000 / scale));
    }
    let pods = 2000 / scale;
    let jobs = (0..pods).map(|number| job(&format!("j{number}"), 1, 1)).collect();
    print("one-pod Jobs", pods, runtime.block_on(measure(jobs)));
    let pods = 10_000 / scale;
    let jobs = vec![job("indexed", pods, 500 / scale)];
    print("one Indexed Job", pods, runtime.block_on(measure(jobs)));
    decide(10_000 / scale, 500 / scale);
    beside(&runtime, &[10, 100_000 / scale]);
    runtime.block_on(attached::compare(2000 / scale, 100_000 / scale));
}

/// How long a decision takes about an Indexed Job with `all` pods of which `active` run: given as the controller remembers
/// them, and given each of them whole.
fn decide(all: usize, active: usize) {
    for (what, active) in [("few", active), ("all", all)] {
        let mut job = job("indexed", all, active);
        job.metadata.uid = Some("u".to_owned());
        let ended = all - active;
        let completed = (ended > 0).then(|| format!("0-{}", ended.saturating_sub(1)));
        job.status = Some(
            serde_json::from_value(json!({
                "active": active, "ready": 0, "terminating": 0, "succeeded": (ended > 0).then_some(ended),
                "completedIndexes": completed, "uncountedTerminatedPods": {}, "startTime": "2026-01-01T00:00:00Z",
            }))
            .expect("the manifest is a status"),
        );
        let pod = |index: usize| -> Pod {
            let has_ended = index < ended;
            let manifest = json!({
                "metadata": {
                    "name": format!("indexed-{index}-abcde"), "namespace": "default", "uid": format!("{index:036}"),
                    "annotations": { "batch.kubernetes.io/job-completion-index": index.to_string() },
                    "finalizers": (!has_ended).then_some(["batch.kubernetes.io/job-tracking"]),
                    "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "indexed", "uid": "u",
                        "controller": true }],
                },
                "status": { "phase": if has_ended { "Succeeded" } else { "Running" } },
            });
            slim(serde_json::from_value(manifest).expect("the manifest is a Pod"))
        };
        let pods: Vec<Pod> = (0..all).map(pod).collect();
        let kept: Vec<Pod> = pods.iter().filter(|pod| Settled::of(pod, &job).is_none()).cloned().collect();
        let now = Timestamp::now();
        for (how, pods) in [("as it is remembered", &kept), ("whole", &pods)] {
            let mut took: Vec<Duration> = (0..50)
                .map(|_| {
                    let began = Instant::now();
                    let plan = reconcile_kept(&job, pods, None, now, Tuning::default());
                    let took = began.elapsed();
                    assert!(plan.is_empty(), "{:?}", plan.because);
                    took
                })
                .collect();
            took.sort();
            println!("a decision about a Job with {all} pods, {what} of them active, {how}: {:.0?}", took[25]);
        }
    }
}

/// What one Job costs, one after the other, in places where so many have ended.
fn beside(runtime: &Runtime, places: &[usize]) {
    const JOBS: usize = 200;
    for ended in places {
        let folder = tempfile::tempdir().expect("there is a folder for the store");
        fill(&mut SqliteDisk::open(folder.path()).expect("the disk opens"), *ended);
        let (mut took, cpu) = runtime.block_on(async {
            let place = Place::open(folder.path()).await;
            let api: Api<Job> = Api::default_namespaced(place.client.clone());
            // The first ones wait until everything was listed.
            place.run(&api, &job("first", 1, 1)).await;
            let (mut took, before) = (Vec::new(), cpu());
            for number in 0..JOBS {
                let began = Instant::now();
                place.run(&api, &job(&format!("j{number}"), 1, 1)).await;
                took.push(began.elapsed());
            }
            (took, cpu().saturating_sub(before))
        });
        took.sort();
        println!(
            "one Job beside {ended} that have ended: {:.2} ms p50, {:.2} ms of CPU",
            took[JOBS / 2].as_secs_f64() * 1e3,
            cpu.as_secs_f64() * 1e3 / f64::from(u32::try_from(JOBS).expect("there are few"))
        );
    }
}

/// Stores so many Jobs that have ended, each with its pod.
fn fill(disk: &mut SqliteDisk, many: usize) {
    let jobs = Kind::at("batch", "v1", "jobs").expect("Jobs are served");
    let pods = Kind::at("", "v1", "pods").expect("pods are served");
    let time = "2026-01-01T00:00:00Z";
    let mut changes = Vec::new();
    let mut revision = Revision(0);
    for number in 0..many {
        let mut ended = job(&format!("ended-{number:06}"), 1, 1);
        let uid = format!("10000000-0000-4000-8000-{number:012x}");
        ended.metadata.namespace = Some("default".to_owned());
        ended.metadata.uid = Some(uid.clone());
        let complete = json!({ "type": "Complete", "status": "True", "lastTransitionTime": time });
        let status = json!({ "conditions": [complete], "succeeded": 1, "startTime": time, "completionTime": time });
        ended.status = Some(serde_json::from_value(status).expect("the manifest is a status"));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": format!("ended-{number:06}-abcde"), "namespace": "default",
                "uid": format!("20000000-0000-4000-8000-{number:012x}"),
                "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": format!("ended-{number:06}"),
                    "uid": uid, "controller": true }],
            },
            "spec": { "nodeName": NODE, "restartPolicy": "Never", "containers": [{ "name": "c", "image": "x" }] },
            "status": { "phase": "Succeeded" },
        }))
        .expect("the manifest is a Pod");
        let named = |name: &Option<String>| name.clone().unwrap_or_default();
        for (key, encoded) in [
            (jobs.key(Some("default"), &named(&ended.metadata.name)), Encoded::of(&ended)),
            (pods.key(Some("default"), &named(&pod.metadata.name)), Encoded::of(&pod)),
        ] {
            revision = revision.next();
            changes.push(Change::Put(Entry { key: key.into(), revision, value: encoded.at(revision) }));
        }
        if changes.len() >= 10_000 || number + 1 == many {
            disk.commit(&changes, revision).expect("the disk takes them");
            changes.clear();
        }
    }
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
    let place = Place::open(folder.path()).await;
    let began = Instant::now();
    let api: Api<Job> = Api::default_namespaced(place.client.clone());
    let ended = tokio::spawn(wait(api.clone(), jobs.len()));
    let create = async |job: &Job| {
        api.create(&PostParams::default(), job).await.expect("the Job is taken");
    };
    stream::iter(&jobs).for_each_concurrent(16, create).await;
    ended.await.expect("the Jobs end");
    began.elapsed()
}

/// A server over a store in a folder, controllers, and a node.
struct Place {
    client: Client,
    controllers: JoinHandle<()>,
    agent: JoinHandle<()>,
}

impl Place {
    async fn open(folder: &Path) -> Place {
        let clock = Arc::new(VirtualClock { begin: Timestamp::now(), started: tokio::time::Instant::now() });
        let mut server = server_over(folder, clock.clone());
        server.ownership = Ownership::Untracked;
        let client = Client::new(stint_server::router(server), "default");
        add_node(&client, 1000).await;
        let config = Config { node: Some(NODE.to_owned()), workers: 16, ..Config::default() };
        let controllers = tokio::spawn(stint_controllers::run(client.clone(), clock, config));
        let agent = tokio::spawn(run_pods(client.clone()));
        Place { client, controllers, agent }
    }

    /// Runs one Job to its end.
    async fn run(&self, api: &Api<Job>, job: &Job) {
        let made = api.create(&PostParams::default(), job).await.expect("the Job is taken");
        let only = watcher::Config::default().fields(&format!("metadata.name={}", made.name_any()));
        wait_for(pin!(watcher(api.clone(), only)), 1).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.controllers.abort();
        self.agent.abort();
    }
}

/// Until so many Jobs are Complete.
async fn wait(api: Api<Job>, many: usize) {
    wait_for(pin!(watcher(api, watcher::Config::default())), many).await;
}

async fn wait_for(mut events: impl Stream<Item = watcher::Result<Event<Job>>> + Unpin, many: usize) {
    let mut complete = HashSet::new();
    while complete.len() < many {
        let Some(Ok(Event::Apply(job) | Event::InitApply(job))) = events.next().await else { continue };
        let mut conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if conditions.any(|condition| condition.type_ == "Complete") {
            complete.insert(job.uid());
        }
    }
}
