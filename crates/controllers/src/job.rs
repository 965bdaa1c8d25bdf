//! The Job controller: one task that owns cache, queue and barriers, and lets plans be executed beside it.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, Client};
use stint_core::clock::Clock;
use stint_core::job::view::{controller_of, is_tracked};
use stint_core::job::{foreign_controller, reconcile_absent, reconcile_with};
use stint_core::plan::{Phase, Plan, Uid};
use stint_core::ttl;

use crate::Config;
use crate::barrier::Barrier;
use crate::cache::{Cache, JobKey};
use crate::events::recorder;
use crate::execute::{Ended, Executor, Report};
use crate::orphan::Orphans;
use crate::queue::{Queue, wait_for};
use crate::watch::watch;

/// How many keys are looked at before events are, and before others in the process get their turn.
const LOOKS: usize = 256;

/// Runs the Job controller until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>, config: &Config) {
    let (recorder, writing) = recorder(client.clone(), clock.clone(), "job-controller");
    let mut state = State {
        cache: Cache::default(),
        queue: Queue::telling(config.metrics.jobs.clone()),
        barriers: HashMap::new(),
        executing: FuturesUnordered::new(),
        executor: Executor::new(client.clone(), recorder, config.metrics.clone()),
        next_full_pass: clock.now().saturating_add(config.full_pass).unwrap_or(Timestamp::MAX),
    };
    let mut orphans = Orphans::new(client.clone());
    let mut jobs = pin!(watch(scoped(&client, config), watcher::Config::default()).fuse());
    let watch_pods = || watch(scoped::<Pod>(&client, config), watcher::Config::default()).fuse();
    let mut pods = pin!(watch_pods());
    let mut writing = pin!(writing.fuse());
    loop {
        if state.cache.wants_pods() {
            pods.set(watch_pods());
        }
        let more = state.begin(&*clock, config);
        let wait = state.wait(clock.now());
        tokio::select! {
            biased; // so that one seed is one order of events
            // First, since it is bounded by the workers: then events can't keep the outcome of writes waiting.
            Some((key, report)) = state.executing.next() => state.finish(&key, report, clock.now(), config),
            Some(event) = jobs.next() => {
                let is_urgent = config.gather.is_zero() || state.changes_what_is_wanted(&event);
                state.count_foreign(&event, config);
                let dirty = state.cache.job_event(event);
                if is_urgent { state.mark(dirty) } else { state.gather(dirty, clock.now(), config) }
            }
            // After the Jobs, so that of a pod whose Job has ended no more is remembered than has to be.
            Some(event) = pods.next(), if state.cache.has_jobs() => {
                orphans.see(&event);
                config.metrics.saw(&event);
                let dirty = state.cache.pod_event(event);
                state.gather(dirty, clock.now(), config);
            }
            Some(()) = orphans.progress() => {}
            () = tokio::task::yield_now(), if more => {}
            () = tokio::time::sleep(wait) => {}
            () = &mut writing => {}
        }
    }
}

struct State {
    cache: Cache,
    queue: Queue<JobKey>,
    barriers: HashMap<JobKey, Barrier>,
    executing: FuturesUnordered<BoxFuture<'static, (JobKey, Report)>>,
    executor: Executor,
    next_full_pass: Timestamp,
}

impl State {
    fn mark(&mut self, keys: impl IntoIterator<Item = JobKey>) {
        for key in keys {
            self.queue.mark(key);
        }
    }

    /// Marks keys that need not be looked at before other events have come, too.
    fn gather(&mut self, keys: impl IntoIterator<Item = JobKey>, now: Timestamp, config: &Config) {
        if config.gather.is_zero() {
            return self.mark(keys);
        }
        let at = now.saturating_add(config.gather).unwrap_or(Timestamp::MAX);
        for key in keys {
            self.queue.mark_at(key, at);
        }
    }

    /// Whether this event says more than how far a Job has come: it is new, gone, or its spec has changed.
    fn changes_what_is_wanted(&self, event: &watcher::Event<Job>) -> bool {
        let watcher::Event::Apply(job) = event else { return true };
        let known = self.cache.job(&JobKey::of(job));
        known.is_none_or(|known| known.metadata.generation != job.metadata.generation)
    }

    /// Reconciles keys that are dirty and whose cache is recent enough, as long as there are workers; returns whether there
    /// may be more of them, since so many had nothing to be done about.
    fn begin(&mut self, clock: &dyn Clock, config: &Config) -> bool {
        if !self.cache.is_complete() {
            return false;
        }
        let now = clock.now();
        if now >= self.next_full_pass {
            self.next_full_pass = now.saturating_add(config.full_pass).unwrap_or(Timestamp::MAX);
            self.mark(self.cache.keys());
        }
        for _ in 0..LOOKS {
            if self.queue.busy() >= config.workers {
                return false;
            }
            let (cache, barriers) = (&self.cache, &mut self.barriers);
            let is_free = |key: &JobKey| barriers.get_mut(key).is_none_or(|barrier| barrier.is_down(cache));
            let Some(key) = self.queue.take(now, is_free) else { return false };
            self.barriers.remove(&key);
            self.reconcile(key, now, config);
        }
        true
    }

    /// Decides about a Job and its pods, those included that it may adopt.
    fn plan(&self, key: &JobKey, job: &Job, now: Timestamp, config: &Config) -> Plan {
        reconcile_with(job, &self.cache.candidates_of(key, job), now, config.backoff)
    }

    /// Counts Jobs that are new and that another controller manages.
    fn count_foreign(&self, event: &watcher::Event<Job>, config: &Config) {
        let (watcher::Event::Apply(job) | watcher::Event::InitApply(job)) = event else { return };
        let Some(controller) = job.spec.as_ref().and_then(foreign_controller) else { return };
        if self.cache.job(&JobKey::of(job)).is_none() {
            config.metrics.managed_by(controller);
        }
    }

    fn reconcile(&mut self, key: JobKey, now: Timestamp, config: &Config) {
        let job = self.cache.job(&key);
        let uid = job.as_ref().and_then(|job| job.metadata.uid.clone());
        if let Some(job) = job {
            let mut plan = self.plan(&key, &job, now, config);
            if config.ttl && plan.is_empty() {
                let Plan { wake, steps, .. } = ttl::reconcile(&job, now);
                plan = Plan { steps, ..plan }.waking(wake);
            }
            if let Some(wake) = &plan.wake {
                self.queue.mark_at(key.clone(), wake.at);
            }
            if !plan.is_empty() {
                tracing::debug!(job = &*key.name, phase = ?plan.phase, steps = plan.steps.len(), "reconciled");
                let executor = self.executor.clone();
                let execution = async move { (key.clone(), executor.execute(key, job, plan).await) };
                return self.executing.push(execution.boxed());
            }
            config.metrics.synced(&job, &plan, true, Duration::ZERO);
        }
        let pods = self.cache.pods_of(&key);
        let is_orphan = |pod: &&Pod| is_tracked(pod) && owner(pod) != uid.as_deref();
        let orphans: Vec<Pod> = pods.iter().filter(is_orphan).cloned().collect();
        if orphans.is_empty() {
            return self.queue.done(&key);
        }
        let owners = orphans.iter().filter_map(owner).map(Uid::from).collect();
        let plan = reconcile_absent(&orphans);
        let executor = self.executor.clone();
        let execution = async move { (key.clone(), executor.execute_absent(key, owners, plan).await) };
        self.executing.push(execution.boxed());
    }

    fn finish(&mut self, key: &JobKey, report: Report, now: Timestamp, config: &Config) {
        if !report.sightings.is_empty() {
            self.barriers.insert(key.clone(), Barrier::new(report.sightings, &self.cache));
        }
        match report.ended {
            Ended::Done => {
                // The plan was one phase: the next one follows from what it left. After the pods that come or go, it is
                // the pods' turn.
                match report.phase {
                    Phase::Manage => self.gather([key.clone()], now, config),
                    Phase::Rest => {} // nothing follows from what was only told
                    _ => self.queue.mark(key.clone()),
                }
                self.queue.done(key);
            }
            Ended::Conflict | Ended::Refused | Ended::Failed => self.queue.failed(key, now),
        }
    }

    fn wait(&self, now: Timestamp) -> Duration {
        let next = self.queue.next_wake().map_or(self.next_full_pass, |wake| wake.min(self.next_full_pass));
        wait_for(Some(next), now)
    }
}

fn owner(pod: &Pod) -> Option<&str> {
    controller_of(pod).map(|owner| owner.uid.as_str())
}

/// The objects of a kind that the controllers look at.
pub fn scoped<K>(client: &Client, config: &Config) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match &config.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
