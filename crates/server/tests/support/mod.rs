//! A router over a store in memory, with a clock that stands still and ids that count.
#![allow(dead_code)] // each program uses its part

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};
use stint_server::{Api, Clock, Ids, router};
use stint_store::{Options, Store};
use tower::ServiceExt;

pub struct StandingClock;

impl Clock for StandingClock {
    fn now(&self) -> jiff::Timestamp {
        "2026-01-02T03:04:05.678Z".parse().unwrap()
    }
}

#[derive(Default)]
pub struct CountingIds(AtomicU64, AtomicU64);

impl Ids for CountingIds {
    fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives each suffix twice, so that the first try of every second object is taken.
    fn suffix(&self) -> String {
        let digits = "bcdfghjklm".as_bytes();
        let number = self.1.fetch_add(1, Ordering::Relaxed) / 2;
        (0..5).rev().map(|at| char::from(digits[(number / 10_u64.pow(at) % 10) as usize])).collect()
    }
}

pub fn api() -> Api {
    Api::new(Store::in_memory(), Arc::new(StandingClock), Arc::new(CountingIds::default()))
}

/// A store that remembers only the last `events` writes.
pub fn forgetful_api(events: usize) -> Api {
    let options = Options { history_events: events, ..Options::default() };
    Api { store: Store::open_with(stint_store::MemoryDisk, &options).unwrap(), ..api() }
}

pub fn client() -> kube::Client {
    kube::Client::new(router(api()), "default")
}

/// Sends one request as a client without any library would.
pub async fn send(router: &axum::Router, method: &str, path: &str, media: &str, body: impl Into<Bytes>) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(Body::from(body.into()))
        .unwrap();
    Answer::of(router.clone().oneshot(request).await.unwrap()).await
}

pub async fn get(router: &axum::Router, path: &str) -> Answer {
    send(router, "GET", path, "application/json", Bytes::new()).await
}

pub async fn post(router: &axum::Router, path: &str, body: &Value) -> Answer {
    send(router, "POST", path, "application/json", body.to_string()).await
}

#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub warnings: Vec<String>,
    pub text: String,
}

impl Answer {
    async fn of(response: Response<Body>) -> Self {
        let warnings = response.headers().get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned());
        Self {
            code: response.status().as_u16(),
            warnings: warnings.collect(),
            text: String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

pub fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "busybox:1"}], "restartPolicy": "Never"},
    }))
    .unwrap()
}

pub fn job(name: &str) -> Job {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"template": {"spec": {
            "containers": [{"name": "c", "image": "busybox:1"}], "restartPolicy": "Never",
        }}},
    }))
    .unwrap()
}

pub fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": value}})).unwrap()
}
