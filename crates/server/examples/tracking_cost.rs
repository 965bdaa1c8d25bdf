//! What keeping `managedFields` costs: creates Jobs through the router with and without it, and prints both times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Body;
use http::Request;
use serde_json::json;
use stint_server::{Api, Clock, Ids, Ownership, router};
use stint_store::Store;
use tower::ServiceExt;

struct Standing;

impl Clock for Standing {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}

struct Counting(AtomicU64);

impl Ids for Counting {
    fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn suffix(&self) -> String {
        "bcdfg".to_owned()
    }
}

const ROUNDS: u32 = 2000;

async fn microseconds_per_create(ownership: Ownership) -> u128 {
    let api = Api::new(Store::in_memory(), Arc::new(Standing), Arc::new(Counting(AtomicU64::new(0))));
    let router = router(Api { ownership, ..api });
    let create = async |name: String| {
        let body = json!({
            "metadata": {"name": name, "labels": {"app": "x"}},
            "spec": {"template": {"spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "c", "image": "busybox:1", "args": ["true"], "env": [{"name": "A", "value": "1"}]}],
            }}},
        });
        let request = Request::post("/apis/batch/v1/namespaces/default/jobs?fieldManager=m");
        let response = router.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
        assert_eq!(response.status(), 201);
    };
    for at in 0..ROUNDS / 10 {
        create(format!("warm-{at}")).await;
    }
    let start = Instant::now();
    for at in 0..ROUNDS {
        create(format!("j-{at}")).await;
    }
    start.elapsed().as_micros() / u128::from(ROUNDS)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for _ in 0..3 {
        let without = microseconds_per_create(Ownership::Untracked).await;
        let with = microseconds_per_create(Ownership::Tracked).await;
        println!("a create takes {without} µs untracked and {with} µs tracked");
    }
}
