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

mod accounts;
mod barrier;
mod bind;
mod cache;
mod cronjob;
pub mod election;
mod events;
mod execute;
mod garbage;
mod job;
mod metrics;
mod namespaces;
mod orphan;
mod queue;
mod quotas;
mod request;
pub mod rights;
mod served;
mod storage;
mod texts;

/// What the Job controller is made of but for its requests, for who drives it over an API of their own: the simulator does.
pub mod parts {
    pub use crate::barrier::Sighting;
    pub use crate::cache::JobKey;
    pub use crate::execute::{Ended, Report, SlowStart};
    pub use crate::job::{Reconciler, What, Work};
}

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::SignedDuration;
use kube::Client;
pub use metrics::Metrics;
pub use stint_core::clock::Clock;
use stint_core::job::Tuning;
use stint_core::mandate::Mandate;
use stint_core::schedule::zone::{self, Zone};
use stint_core::storage::Provisioner;
pub use stint_watch::Lists;

/// What the controllers may be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bind waiting pods to this node. `None` where another scheduler does it.
    pub node: Option<String>,
    /// Of which bindings Events tell.
    pub told_bindings: ToldBindings,
    /// Only this namespace, or all of them.
    pub namespace: Option<String>,
    /// Whether Jobs are worked on. Not where another controller manager does it.
    pub jobs: bool,
    /// Which Jobs are worked on.
    pub job_mandate: Mandate,
    /// Whether CronJobs are worked on.
    pub cron_jobs: bool,
    /// Which CronJobs are worked on.
    pub cron_job_mandate: Mandate,
    /// How first lists are read.
    pub lists: Lists,
    /// The zone of schedules that name none: the machine's own.
    pub local_zone: Zone,
    /// How many Jobs are worked on at once (upstream: 5).
    pub workers: usize,
    /// Delays before failed pods are replaced, and how much is done to a Job at once.
    pub tuning: Tuning,
    /// With how many pods the creation of many begins, at least 1; twice as many each time after that (upstream: 1).
    pub slow_start: usize,
    /// How long events about pods, and about how far a Job has come, gather before the Job is looked at again. Upstream
    /// waits 1 s, to spare an API server that is far away and has many clients; here nothing is gained by waiting.
    pub gather: SignedDuration,
    /// How often every Job is reconciled although nothing happened.
    pub full_pass: SignedDuration,
    /// Delete finished Jobs once their `ttlSecondsAfterFinished` are over.
    pub ttl: bool,
    /// What the controllers count goes here.
    pub metrics: Metrics,
    /// Claims and volumes are bound to each other, and volumes made here. `None` where another controller manager does it, or
    /// where there are no claims.
    pub provisioner: Option<Provisioner>,
    /// What keeps a whole API in order, beside the Jobs. `None` where another controller manager does it, or where nothing
    /// lives long enough to need it.
    pub housekeeping: Option<Housekeeping>,
}

/// Of which bindings Events tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldBindings {
    /// Of those that the pod had to wait for.
    Late,
    /// Of all: where people read Events.
    All,
}

/// What the controllers do that keep a whole API in order: garbage collection, the end of namespaces and of
/// Events, what every namespace has from the start, and what quotas say is used.
#[derive(Clone, Debug, Default)]
pub struct Housekeeping {
    /// The certificate, in PEM, by which pods know the API: `ca.crt` in every namespace's ConfigMap `kube-root-ca.crt`.
    pub root_ca: Option<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node: None,
            told_bindings: ToldBindings::Late,
            namespace: None,
            jobs: true,
            job_mandate: Mandate::Sole,
            cron_jobs: true,
            cron_job_mandate: Mandate::Sole,
            lists: Lists::Pages,
            local_zone: zone::local(),
            workers: 5,
            tuning: Tuning::default(),
            slow_start: 1,
            gather: SignedDuration::ZERO,
            full_pass: SignedDuration::from_mins(10),
            ttl: true,
            metrics: Metrics::default(),
            provisioner: None,
            housekeeping: None,
        }
    }
}

/// Runs the controllers until the future is dropped.
///
/// Dropping it in the middle of a plan is a crash: whatever was written stays, and the next run goes on from there.
pub async fn run(client: Client, clock: Arc<dyn Clock>, config: Config) {
    let client = match config.lists {
        Lists::Pages => client,
        Lists::Streams => stint_watch::most_recent(client),
    };
    let binder = async {
        match &config.node {
            Some(node) => Box::pin(bind::run(client.clone(), clock.clone(), &config, node)).await,
            None => std::future::pending().await,
        }
    };
    let housekeeping: BoxFuture<'static, ()> = match config.housekeeping.clone() {
        Some(wanted) => keep_house(client.clone(), clock.clone(), wanted).boxed(),
        None => std::future::ready(()).boxed(),
    };
    let storage: BoxFuture<'static, ()> = match config.provisioner.clone() {
        Some(provisioner) => storage::run(client.clone(), clock.clone(), provisioner).boxed(),
        None => std::future::ready(()).boxed(),
    };
    let jobs = async {
        if config.jobs {
            Box::pin(job::run(client.clone(), clock.clone(), &config)).await;
        }
    };
    let cron_jobs = async {
        if config.cron_jobs {
            Box::pin(cronjob::run(client.clone(), clock.clone(), &config)).await;
        }
    };
    tokio::join!(jobs, cron_jobs, binder, storage, housekeeping);
}

async fn keep_house(client: Client, clock: Arc<dyn Clock>, Housekeeping { root_ca }: Housekeeping) {
    tokio::join!(
        garbage::run(client.clone(), clock.clone()),
        events::expiry::run(client.clone(), clock.clone()),
        namespaces::run(client.clone(), clock.clone()),
        accounts::run(client.clone(), clock.clone(), root_ca),
        quotas::run(client, clock),
    );
}
