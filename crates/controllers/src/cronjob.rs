//! The CronJob controller: one task that owns cache, queue and barriers, and lets plans be executed beside it.
//!
//! ```text
//!   watch CronJobs ─┐               a time has come ──► ┌───────┐
//!                   ├─► cache ─► dirty keys ───────────►│ queue │──► core::cronjob::reconcile ──► execute ──► API
//!   watch Jobs ─────┘     ▲                             └───────┘               │
//!                         └──── barrier: the cache has seen the key's own writes ┘
//! ```
//!
//! Invariant: between two events of its own, a CronJob costs nothing but its place in the queue's order of times. The
//! periodic full pass goes through them a few at a time, and only when nothing else is to be done.

mod cache;
mod execute;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;
use kube::Client;
use kube::runtime::watcher;
use stint_core::clock::Clock;
use stint_core::cronjob::{Action, Look, reconcile};
use stint_core::plan::Plan;
use stint_core::schedule::zone;

use crate::Config;
use crate::events::recorder;
use crate::job::scoped;
use crate::queue::{Queue, wait_for};
use crate::watch::watch;
use cache::{Barrier, Cache, Key};
use execute::{Ended, Executor, Report};

/// How many CronJobs are worked on at once. Many, since many are due in the same second, and the store commits writes
/// that come together as one (upstream: 5).
const WORKERS: usize = 64;

/// A break in looking at the clock that is longer than this was none of ours: the machine slept, or the clock stepped.
const BREAK: SignedDuration = SignedDuration::from_mins(2);

/// How many CronJobs a full pass goes through at a time, and the pause after them.
const PASS: (usize, Duration) = (64, Duration::from_millis(10));

/// Runs the CronJob controller until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>, config: &Config) {
    let (recorder, writing) = recorder(client.clone(), clock.clone(), "cronjob-controller");
    let now = clock.now();
    let mut state = State {
        cache: Cache::default(),
        queue: Queue::telling(config.metrics.cron_jobs.clone()),
        barriers: HashMap::new(),
        changed: HashMap::new(),
        executing: FuturesUnordered::new(),
        executor: Executor::new(client.clone(), recorder, config.metrics.clone()),
        since: now,
        looked: now,
        next_full_pass: now.saturating_add(config.full_pass).unwrap_or(Timestamp::MAX),
        pass: Vec::new(),
    };
    let mut cron_jobs = pin!(watch(scoped(&client, config), watcher::Config::default()).fuse());
    let mut jobs = pin!(watch(scoped(&client, config), watcher::Config::default()).fuse());
    let mut writing = pin!(writing.fuse());
    loop {
        state.begin(clock.now(), config);
        let wait = state.wait(clock.now());
        tokio::select! {
            biased; // so that one seed is one order of events
            Some((key, report)) = state.executing.next() => state.finish(&key, report, clock.now()),
            Some(event) = cron_jobs.next() => {
                let dirty = state.cache.cron_job_event(event);
                for key in dirty.changed {
                    state.changed.insert(key, clock.now());
                }
                dirty.keys.into_iter().for_each(|key| state.queue.mark(key));
            }
            Some(event) = jobs.next() => {
                state.cache.job_event(event).into_iter().for_each(|key| state.queue.mark(key));
            }
            () = tokio::time::sleep(wait) => {}
            () = &mut writing => {}
        }
    }
}

struct State {
    cache: Cache,
    queue: Queue<Key>,
    barriers: HashMap<Key, Barrier>,
    /// When the schedule of a CronJob was seen to change.
    changed: HashMap<Key, Timestamp>,
    executing: FuturesUnordered<BoxFuture<'static, (Key, Report)>>,
    executor: Executor,
    /// Since when the clock is looked at without a break.
    since: Timestamp,
    looked: Timestamp,
    next_full_pass: Timestamp,
    /// What is left of the full pass.
    pass: Vec<Key>,
}

impl State {
    /// Reconciles every key that is dirty and whose cache is recent enough, as long as there are workers.
    fn begin(&mut self, now: Timestamp, config: &Config) {
        if now.duration_since(self.looked) > BREAK {
            self.since = now;
        }
        self.looked = now;
        if !self.cache.is_complete() {
            return;
        }
        if now >= self.next_full_pass {
            self.next_full_pass = now.saturating_add(config.full_pass).unwrap_or(Timestamp::MAX);
            self.pass = self.cache.keys();
        }
        self.work(now, config);
        if self.queue.busy() == 0 {
            let some = self.pass.len().saturating_sub(PASS.0);
            for key in self.pass.split_off(some) {
                self.queue.mark(key);
            }
            self.work(now, config);
        }
    }

    fn work(&mut self, now: Timestamp, config: &Config) {
        while self.queue.busy() < WORKERS {
            let (cache, barriers) = (&self.cache, &mut self.barriers);
            let is_free = |key: &Key| barriers.get_mut(key).is_none_or(|barrier| barrier.is_down(cache));
            let Some(key) = self.queue.take(now, is_free) else { return };
            self.barriers.remove(&key);
            self.reconcile(key, now, config);
        }
    }

    fn reconcile(&mut self, key: Key, now: Timestamp, config: &Config) {
        let Some(cron_job) = self.cache.cron_job(&key) else {
            self.changed.remove(&key);
            return self.queue.done(&key);
        };
        let plan = self.plan(&key, &cron_job, now, config);
        if let Some(wake) = &plan.wake {
            self.queue.mark_at(key.clone(), wake.at);
        }
        if plan.is_empty() {
            return self.queue.done(&key);
        }
        tracing::debug!(cronjob = key.name, phase = ?plan.phase, steps = plan.steps.len(), "reconciled");
        let executor = self.executor.clone();
        let execution = async move { (key.clone(), executor.execute(key, cron_job, plan).await) };
        self.executing.push(execution.boxed());
    }

    fn plan(&self, key: &Key, cron_job: &CronJob, now: Timestamp, config: &Config) -> Plan<Action> {
        let zone = match cron_job.spec.time_zone.as_deref() {
            None => Some(config.local_zone.clone()),
            Some(name) => zone::named(name),
        };
        let look = Look { since: self.since, changed: self.changed.get(key).copied() };
        reconcile(cron_job, &self.cache.jobs_of(key), zone.as_ref(), look, now)
    }

    fn finish(&mut self, key: &Key, report: Report, now: Timestamp) {
        if !report.awaited.is_empty() {
            self.barriers.insert(key.clone(), Barrier::new(report.awaited, &self.cache));
        }
        match report.ended {
            Ended::Wrote => {
                // The plan was one phase: the next one follows from what it left.
                self.queue.mark(key.clone());
                self.queue.done(key);
            }
            Ended::Told => self.queue.done(key),
            Ended::Failed => self.queue.failed(key, now),
        }
    }

    fn wait(&self, now: Timestamp) -> Duration {
        let next = self.queue.next_wake().map_or(self.next_full_pass, |wake| wake.min(self.next_full_pass));
        let wait = wait_for(Some(next), now);
        if self.pass.is_empty() { wait } else { wait.min(PASS.1) }
    }
}
