//! What an event costs each of its watchers: 1,000 of them in the process, which take their pieces as a connection would
//! and write them nowhere.
//!
//! `cargo bench -p stint --bench watch`. The share of the write itself is measured apart, with one watcher, and
//! taken off: what is left is CPU per watcher and event.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::{Request, StatusCode};
use serde_json::json;
use stint::real::{RandomIds, SystemClock};
use stint_server::{Api, router};
use stint_store::Store;
use tower::ServiceExt;

const WATCHERS: usize = 1_000;
const EVENTS: usize = 200;
const ROUNDS: usize = 3;

fn main() {
    println!("| an event for {WATCHERS} watchers | µs of CPU per watcher and event |\n|---|---|");
    for (what, query) in [("all objects", ""), ("a label selector", "&labelSelector=app%3Dx"), ("a table", "")] {
        let accept =
            if what == "a table" { "application/json;as=Table;g=meta.k8s.io;v=v1" } else { "application/json" };
        let mut all: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let (one, many) = (fan_out(1, query, accept), fan_out(WATCHERS, query, accept));
                many.saturating_sub(one) / u32::try_from(WATCHERS - 1).expect("a small number")
            })
            .collect();
        all.sort_unstable();
        println!("| {what} | {:.2} |", all[ROUNDS / 2].as_secs_f64() * 1e6);
    }
}

/// What an update of a Job costs this thread until all watchers have it; everything runs in this thread.
fn fan_out(watchers: usize, query: &str, accept: &str) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let api = Api::new(Store::in_memory(), Arc::new(SystemClock), Arc::new(RandomIds));
        let router = router(api);
        let jobs = "/apis/batch/v1/namespaces/default/jobs";
        let (code, _) = ask(&router, "POST", jobs, &job().to_string()).await;
        assert_eq!(code, StatusCode::CREATED);
        let mut tasks = Vec::new();
        for _ in 0..watchers {
            let uri = format!("{jobs}?watch=true&resourceVersion=0{query}");
            let request = Request::get(uri).header("accept", accept).body(Body::empty()).expect("a request");
            let response = router.clone().oneshot(request).await.expect("it always answers");
            assert_eq!(response.status(), StatusCode::OK);
            let mut body = response.into_body().into_data_stream();
            tasks.push(tokio::spawn(async move {
                let mut lines = 0;
                // The state at the start is one event more.
                while lines < EVENTS + 1 {
                    let piece = body.next().await.expect("it goes on").expect("it does not fail");
                    lines += usize::from(piece.last() == Some(&b'\n'));
                }
            }));
        }
        tokio::task::yield_now().await;
        let began = cpu();
        for number in 0..EVENTS {
            let patch = json!({"metadata": {"annotations": {"number": number.to_string()}}}).to_string();
            let (code, text) = ask(&router, "PATCH", &format!("{jobs}/report"), &patch).await;
            assert_eq!(code, StatusCode::OK, "{text}");
            tokio::task::yield_now().await;
        }
        for task in tasks {
            task.await.expect("a watcher does not panic");
        }
        cpu().saturating_sub(began) / u32::try_from(EVENTS).expect("a small number")
    })
}

async fn ask(router: &axum::Router, method: &str, path: &str, body: &str) -> (StatusCode, String) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let response = router.clone().oneshot(request.body(Body::from(body.to_owned())).expect("a request")).await;
    let response = response.expect("it always answers");
    let code = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("it has a body");
    (code, String::from_utf8_lossy(&body).into_owned())
}

fn job() -> serde_json::Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "report", "labels": {"app": "x"}},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "report", "image": "registry.example/tools/report:1.4.2", "command": ["/bin/report"]}],
        }}},
    })
}

/// What this thread has used so far.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}
