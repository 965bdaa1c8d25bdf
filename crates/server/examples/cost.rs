//! What a call costs a process that embeds the API: `cargo run --release -p stint-server --example cost`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use serde_json::json;
use support::{api, get, job, pod};

const ROUNDS: u32 = 2000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run());
}

fn say(what: &str, time: Duration) {
    println!("{what:<42}{:>9.1} µs", time.as_secs_f64() * 1e6);
}

async fn run() {
    let start = Instant::now();
    let (api, start_router) = (api(), Instant::now());
    let router = stint_server::router(api.clone());
    let client = kube::Client::new(router.clone(), "default");
    say("store", start_router - start);
    say("router and client", start_router.elapsed());

    let jobs: Api<Job> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client);
    let post = PostParams::default();
    let first = Instant::now();
    jobs.create(&post, &job("first")).await.expect("created");
    say("first call (creates a Job)", first.elapsed());

    let mut watch = pods.watch(&WatchParams::default(), "0").await.expect("watched").boxed();
    let mut times = [Duration::ZERO; 6];
    for number in 0..ROUNDS {
        let (job, pod) = (job(&format!("j{number}")), pod(&format!("p{number}")));
        let name = format!("p{number}");
        let mut at = Instant::now();
        let mut lap = |slot: &mut Duration| *slot += std::mem::replace(&mut at, Instant::now()).elapsed();
        jobs.create(&post, &job).await.expect("created");
        lap(&mut times[0]);
        pods.create(&post, &pod).await.expect("created");
        lap(&mut times[1]);
        watch.next().await.expect("an event").expect("no error");
        lap(&mut times[2]);
        pods.get(&name).await.expect("found");
        lap(&mut times[3]);
        let status = json!({"status": {"phase": "Running"}});
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.expect("patched");
        lap(&mut times[4]);
        watch.next().await.expect("an event").expect("no error");
        at = Instant::now();
        let mut lap = |slot: &mut Duration| *slot += std::mem::replace(&mut at, Instant::now()).elapsed();
        pods.delete(&name, &DeleteParams::default()).await.expect("deleted");
        lap(&mut times[5]);
        for _ in 0..2 {
            watch.next().await.expect("an event").expect("no error");
        }
    }
    let names =
        ["create a Job", "create a Pod", "  its watch event", "get a Pod", "patch a Pod's status", "delete a Pod"];
    for (what, time) in names.into_iter().zip(times) {
        say(what, time / ROUNDS);
    }
    let start = Instant::now();
    let count = jobs.list(&ListParams::default()).await.expect("listed").items.len();
    say(&format!("list and decode {count} Jobs"), start.elapsed());
    let start = Instant::now();
    for _ in 0..ROUNDS {
        get(&router, "/apis/batch/v1/namespaces/default/jobs/first").await;
    }
    say("get a Job, without a client", start.elapsed() / ROUNDS);
}
