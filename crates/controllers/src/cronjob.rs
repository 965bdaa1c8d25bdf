//! The CronJob controller: one task that owns cache, queue and barriers, and lets plans be executed beside it.
//!
//! ```text
//!   watch CronJobs ─┐               a time has come ──► ┌───────┐
//!                   ├─► cache ─► dirty keys ───────────►│ queue │──► core::cronjob::reconcile ──► execute ──► API
//!   watch Jobs ─────┘     ▲                             └───────┘               │
//!                         └──── barrier: the cache has seen the key's own writes ┘
//! ```
//!
//! Invariants: a Job that was created is recorded by the very next write about its CronJob, and until that is seen it counts
//! as started, though it may be gone already. Between two events of its own, a CronJob costs nothing but its place in the
//! queue's order of times, and its share of the full pass ([`pass`]).

mod cache;
mod execute;
mod pass;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::Client;
use stint_core::clock::Clock;
use stint_core::cronjob::{Action, Look, is_recorded, reconcile};
use stint_core::job::kept::JobOutline;
use stint_core::plan::{Phase, Plan};
use stint_core::schedule::zone;

use crate::Config;
use crate::events::recorder;
use crate::job::scoped;
use crate::queue::{Queue, wait_for};
use cache::{Awaited, Barrier, Cache, Key, lean};
use execute::{Ended, Executor, Report};
use pass::Pass;
use stint_watch::{map, watch};

/// How many CronJobs are worked on at once (upstream: 5). So many that the creations of all that are due in the same second
/// stand in line before what follows from the first of them, their pods above all; the store commits what comes together
/// as one.
const WORKERS: usize = 1024;

/// A break in looking at the clock that is longer than this was none of ours: the machine slept, or the clock stepped.
const BREAK: SignedDuration = SignedDuration::from_mins(2);

/// How many keys are looked at before events are, and before others in the process get their turn.
const LOOKS: usize = 256;

/// Runs the CronJob controller until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>, config: &Config) {
    let (recorder, writing) = recorder(client.clone(), clock.clone(), "cronjob-controller");
    let now = clock.now();
    let mut state = State {
        cache: Cache::new(config.cron_job_mandate),
        queue: Queue::telling(config.metrics.cron_jobs.clone()),
        barriers: HashMap::new(),
        changed: HashMap::new(),
        unrecorded: HashMap::new(),
        executing: FuturesUnordered::new(),
        executor: Executor::new(client.clone(), recorder, config.metrics.clone()),
        since: now,
        looked: now,
        pass: Pass::new(now, config.full_pass),
    };
    let mut cron_jobs = pin!(watch(scoped(&client, config), config.lists.first()).fuse());
    let jobs = watch(scoped(&client, config), config.lists.first());
    let mut jobs = pin!(jobs.map(|event| map(event, |JobOutline(job)| job)).fuse());
    let mut writing = pin!(writing.fuse());
    loop {
        let more = state.begin(clock.now(), config);
        let wait = state.wait(clock.now());
        tokio::select! {
            biased; // so that one seed is one order of events
            Some((key, report)) = state.executing.next() => state.finish(key, report, clock.now(), config),
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
            () = tokio::task::yield_now(), if more => {}
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
    /// Jobs that were created and are not yet seen to be recorded.
    unrecorded: HashMap<Key, Job>,
    executing: FuturesUnordered<BoxFuture<'static, (Key, Report)>>,
    executor: Executor,
    /// Since when the clock is looked at without a break.
    since: Timestamp,
    looked: Timestamp,
    pass: Pass,
}

impl State {
    /// Reconciles keys that are dirty and whose cache is recent enough, as long as there are workers; returns whether there
    /// may be more of them, since so many had nothing to be done about.
    fn begin(&mut self, now: Timestamp, config: &Config) -> bool {
        if now.duration_since(self.looked) > BREAK {
            self.since = now;
        }
        self.looked = now;
        if !self.cache.is_complete() {
            return false;
        }
        for key in self.pass.take(now, &self.cache) {
            self.queue.mark(key);
        }
        for _ in 0..LOOKS {
            if self.queue.busy() >= WORKERS {
                return false;
            }
            let (cache, barriers) = (&self.cache, &mut self.barriers);
            let is_free = |key: &Key| barriers.get_mut(key).is_none_or(|barrier| barrier.is_down(cache));
            let Some(key) = self.queue.take(now, is_free) else { return false };
            self.barriers.remove(&key);
            self.reconcile(key, now, config);
        }
        true
    }

    fn reconcile(&mut self, key: Key, now: Timestamp, config: &Config) {
        let Some(cron_job) = self.cache.cron_job(&key) else {
            self.changed.remove(&key);
            self.unrecorded.remove(&key);
            return self.queue.done(&key);
        };
        if self.unrecorded.get(&key).is_some_and(|job| is_recorded(&cron_job, job)) {
            self.unrecorded.remove(&key);
        }
        let plan = self.plan(&key, &cron_job, now, config);
        if let Some(wake) = &plan.wake {
            self.queue.mark_at(key.clone(), wake.at);
        }
        if plan.is_empty() {
            return self.queue.done(&key);
        }
        self.execute(key, cron_job, plan, Awaited::default());
    }

    fn execute(&mut self, key: Key, cron_job: CronJob, plan: Plan<Action>, awaited: Awaited) {
        tracing::debug!(cronjob = key.name, phase = ?plan.phase, steps = plan.steps.len(), "reconciled");
        let executor = self.executor.clone();
        let execution = async move { (key.clone(), Box::pin(executor.execute(key, cron_job, plan, awaited)).await) };
        self.executing.push(execution.boxed());
    }

    fn plan(&self, key: &Key, cron_job: &CronJob, now: Timestamp, config: &Config) -> Plan<Action> {
        let zone = match cron_job.spec.time_zone.as_deref() {
            None => Some(config.local_zone.clone()),
            Some(name) => zone::named(name),
        };
        let look = Look { since: self.since, changed: self.changed.get(key).copied() };
        let mut jobs = self.cache.jobs_of(key);
        let unseen = |job: &&Job| jobs.iter().all(|known| known.metadata.uid != job.metadata.uid);
        jobs.extend(self.unrecorded.get(key).filter(unseen).cloned().into_iter().collect::<Vec<_>>());
        reconcile(cron_job, &jobs, zone.as_ref(), look, now)
    }

    fn finish(&mut self, key: Key, report: Report, now: Timestamp, config: &Config) {
        if let Some(job) = report.created {
            self.unrecorded.insert(key.clone(), lean(*job));
            // Nothing is waited for: the record says no more than that the Job was created.
            if let Some(cron_job) = self.cache.cron_job(&key) {
                let plan = self.plan(&key, &cron_job, now, config);
                if plan.phase == Phase::Record {
                    return self.execute(key, cron_job, plan, report.awaited);
                }
            }
        }
        if !report.awaited.is_empty() {
            self.barriers.insert(key.clone(), Barrier::new(report.awaited, &self.cache));
        }
        match report.ended {
            Ended::Wrote => {
                // The plan was one phase: the next one follows from what it left.
                self.queue.mark(key.clone());
                self.queue.done(&key);
            }
            Ended::Told => self.queue.done(&key),
            Ended::Failed => self.queue.failed(&key, now),
        }
    }

    fn wait(&self, now: Timestamp) -> Duration {
        let pass = self.pass.next();
        wait_for(Some(self.queue.next_wake().map_or(pass, |wake| wake.min(pass))), now)
    }
}
