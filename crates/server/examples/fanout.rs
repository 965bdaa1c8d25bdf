//! What one event costs for each of a thousand watchers, up to the bytes of the answer's body:
//! `cargo run --release -p stint-server --example fanout`.
//!
//! Everything runs on one thread, so that the time that passes is the time that is spent.

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::StreamExt;
use http::Request;
use support::{api, config_map, post};
use tower::ServiceExt;

const WATCHERS: usize = 1000;
const EVENTS: usize = 200;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    let alone = round("application/json", 0).await;
    for accept in
        ["application/json", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v1;g=meta.k8s.io"]
    {
        let watched = round(accept, WATCHERS).await;
        let each = watched.saturating_sub(alone).as_nanos() / (WATCHERS * EVENTS) as u128;
        println!("{accept:<50}{each:>9} ns for each watcher and event");
    }
}

/// How long it takes until every watcher has every event.
async fn round(accept: &str, watchers: usize) -> Duration {
    let router = stint_server::router(api());
    let missing = Arc::new(AtomicUsize::new(watchers * EVENTS));
    let done = Arc::new(tokio::sync::Notify::new());
    for _ in 0..watchers {
        let request = Request::builder().uri(format!("{MAPS}?watch=1")).header("accept", accept);
        let response =
            router.clone().oneshot(request.body(Body::empty()).expect("a request")).await.expect("an answer");
        let mut body = response.into_body().into_data_stream();
        let (missing, done) = (missing.clone(), done.clone());
        tokio::spawn(async move {
            // Objects are small: an event is one piece.
            while body.next().await.is_some() {
                if missing.fetch_sub(1, Ordering::Relaxed) == 1 {
                    done.notify_one();
                }
            }
        });
    }
    tokio::task::yield_now().await;
    let start = Instant::now();
    for number in 0..EVENTS {
        let map = config_map(&format!("m{number}"), &"x".repeat(1000));
        post(&router, MAPS, &serde_json::to_value(map).expect("an object")).await;
        tokio::task::yield_now().await;
    }
    if watchers > 0 {
        done.notified().await;
    }
    start.elapsed()
}
