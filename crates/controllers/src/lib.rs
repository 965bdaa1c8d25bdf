//! Stint's controllers: watch → dirty key → `core` decides → the plan is executed.
//!
//! They reach the API through `kube::Client` only, and so run against the embedded router, a real cluster or the
//! simulator alike. Nothing about Jobs is decided here.
//!
//! ```text
//!   watch Jobs ──┐                        ┌──► core::job::reconcile ──► execute ──► API
//!                ├─► cache ─► queue ─► barrier                             │
//!   watch Pods ──┘      ▲                 └─ waits until the cache has ────┘
//!                       │                    seen the key's own writes
//!                       └──────────────── one task owns all of it
//! ```

mod barrier;
mod bind;
mod cache;
mod events;
mod execute;
mod job;
mod queue;
mod watch;

use std::sync::Arc;

use jiff::SignedDuration;
use kube::Client;
pub use stint_core::clock::Clock;
use stint_core::job::Backoff;

/// What the controllers may be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bind waiting pods to this node. `None` where another scheduler does it.
    pub node: Option<String>,
    /// Only this namespace, or all of them.
    pub namespace: Option<String>,
    /// How many Jobs are worked on at once (upstream: 5).
    pub workers: usize,
    /// Delays before failed pods are replaced.
    pub backoff: Backoff,
    /// How often every Job is reconciled although nothing happened.
    pub full_pass: SignedDuration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node: None,
            namespace: None,
            workers: 5,
            backoff: Backoff::default(),
            full_pass: SignedDuration::from_mins(10),
        }
    }
}

/// Runs the controllers until the future is dropped.
///
/// Dropping it in the middle of a plan is a crash: whatever was written stays, and the next run goes on from there.
pub async fn run(client: Client, clock: Arc<dyn Clock>, config: Config) {
    let binder = async {
        match &config.node {
            Some(node) => Box::pin(bind::run(client.clone(), config.namespace.as_deref(), node)).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(job::run(client.clone(), clock, &config), binder);
}
