//! What tests of the real router and controllers need when tokio's time is paused: a clock that follows it, ids that can be
//! foretold, and a way to ask.
//!
//! Left out: worlds with a disk, crashes and chaos, which are the rest of this crate.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use stint_server::{Clock, Ids};
use tokio::time::Instant;
use tower::ServiceExt;

/// A clock on the wall that goes as tokio's time does.
pub struct VirtualClock {
    /// What it shows at `started`.
    pub begin: Timestamp,
    /// When it started.
    pub started: Instant,
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.begin + SignedDuration::try_from(self.started.elapsed()).expect("a test is short")
    }
}

/// Ids that count up.
#[derive(Default)]
pub struct CountingIds(AtomicU64);

impl Ids for CountingIds {
    fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012x}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn suffix(&self) -> String {
        format!("{:05}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Sends a request that has to succeed, a PATCH as a merge patch; returns the answer.
///
/// # Panics
///
/// If it does not succeed, or the answer is no JSON.
pub async fn send(router: &Router, method: &str, path: &str, body: &Value) -> Value {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let request = request.body(Body::from(body.to_string())).expect("the request is well-formed");
    let answer = router.clone().oneshot(request).await.expect("the router always answers");
    let code = answer.status();
    let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("the answer is whole");
    assert!(code.is_success(), "{method} {path}: {code} {}", String::from_utf8_lossy(&bytes));
    serde_json::from_slice(&bytes).expect("an answer is JSON")
}
