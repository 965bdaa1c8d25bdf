//! What the Job controller knows, and what it does next: events of the watches and outcomes of plans in, plans out.
//!
//! Invariants: of one Job at most one plan is under way; none is made before the cache shows what the last one wrote. No
//! request is made here and no clock is read, so that the simulator's model of an API drives the same code.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use stint_core::job::view::{controller_of, is_tracked};
use stint_core::job::{foreign_controller, reconcile_absent, reconcile_kept};
use stint_core::mandate::{JOB_CONTROLLER, Mandate};
use stint_core::plan::{Phase, Plan, Uid};
use stint_core::ttl;

use crate::Config;
use crate::barrier::Barrier;
use crate::cache::{Cache, JobKey};
use crate::execute::{Ended, Report};
use crate::queue::Queue;

/// How many keys are looked at before events are, and before others in the process get their turn.
const LOOKS: usize = 256;

/// For how long events gather for each pod that has to be looked at: ten times what the look takes. So at most a tenth of the
/// time goes into looking, however many pods a Job has and however fast they come and go.
const GATHER_PER_POD: SignedDuration = SignedDuration::from_micros(3);

/// Shorter than this nothing gathers: timers are no finer.
const SHORTEST_GATHERING: SignedDuration = SignedDuration::from_millis(1);

/// A plan to be carried out, whose outcome is told to [`Reconciler::finish`].
#[derive(Debug)]
pub struct Work {
    /// The Job.
    pub key: JobKey,
    /// What is planned.
    pub what: What,
}

/// What is planned.
#[derive(Debug)]
pub enum What {
    /// Something about a Job and its pods.
    Plan {
        /// The Job as it was reconciled.
        job: Arc<Job>,
        /// The plan.
        plan: Plan,
    },
    /// Something about pods whose Job is gone, if the API says so, too.
    Absent {
        /// The Jobs that the pods name as their controllers.
        owners: Vec<Uid>,
        /// The plan.
        plan: Plan,
    },
}

/// What the controller knows.
pub struct Reconciler {
    config: Config,
    cache: Cache,
    queue: Queue<JobKey>,
    barriers: HashMap<JobKey, Barrier>,
    next_full_pass: Timestamp,
    /// When it last looked at the clock.
    looked: Timestamp,
}

impl Reconciler {
    /// One that knows nothing yet.
    pub fn new(now: Timestamp, config: Config) -> Reconciler {
        Reconciler {
            cache: Cache::new(config.job_mandate),
            queue: Queue::telling(config.metrics.jobs.clone()),
            barriers: HashMap::new(),
            next_full_pass: now.saturating_add(config.full_pass).unwrap_or(Timestamp::MAX),
            looked: now,
            config,
        }
    }

    /// Takes in an event of the Job watch.
    pub fn job_event(&mut self, event: Event<Job>, now: Timestamp) {
        let is_urgent = self.changes_what_is_wanted(&event);
        self.count_foreign(&event);
        let dirty = self.cache.job_event(event);
        if is_urgent { self.mark(dirty) } else { self.gather(dirty, now) }
    }

    /// Takes in an event of the pod watch.
    pub fn pod_event(&mut self, event: Event<Pod>, now: Timestamp) {
        let dirty = self.cache.pod_event(event);
        self.gather(dirty, now);
    }

    /// Whether Jobs were listed at least once. Before that no events of pods are taken in.
    pub fn has_jobs(&self) -> bool {
        self.cache.has_jobs()
    }

    /// Whether pods have to be listed afresh.
    pub fn wants_pods(&self) -> bool {
        self.cache.wants_pods()
    }

    /// When there is something to do although nothing happens: never, as long as the watches have not shown everything.
    pub fn wake(&self) -> Timestamp {
        if !self.cache.is_complete() {
            return Timestamp::MAX;
        }
        self.queue.next_wake().map_or(self.next_full_pass, |wake| wake.min(self.next_full_pass))
    }

    fn mark(&mut self, keys: impl IntoIterator<Item = JobKey>) {
        for key in keys {
            self.queue.mark(key);
        }
    }

    /// Marks keys that need not be looked at before other events have come, too.
    fn gather(&mut self, keys: impl IntoIterator<Item = JobKey>, now: Timestamp) {
        for key in keys {
            let pods = i32::try_from(self.cache.looks_at(&key)).unwrap_or(i32::MAX);
            let by_size = GATHER_PER_POD.saturating_mul(pods);
            let gather = self.config.gather;
            let time = if by_size < SHORTEST_GATHERING { gather } else { gather.max(by_size) };
            if time.is_zero() {
                self.queue.mark(key);
            } else {
                self.queue.mark_at(key, now.saturating_add(time).unwrap_or(Timestamp::MAX));
            }
        }
    }

    /// Whether this event says more than how far a Job has come: it is new, gone, or its spec has changed.
    fn changes_what_is_wanted(&self, event: &Event<Job>) -> bool {
        let Event::Apply(job) = event else { return true };
        let known = self.cache.job(&JobKey::of(job));
        known.is_none_or(|known| known.metadata.generation != job.metadata.generation)
    }

    /// Reconciles keys that are dirty and whose cache is recent enough, as long as there are workers, and hands their plans to
    /// `execute`; returns whether there may be more of them, since so many had nothing to be done about.
    pub fn begin(&mut self, now: Timestamp, mut execute: impl FnMut(Work)) -> bool {
        if !self.cache.is_complete() {
            return false;
        }
        // A clock that was set back would let whatever waits for a moment wait longer, by as much as it was.
        let was_set_back = now < self.looked;
        self.looked = now;
        if now >= self.next_full_pass || was_set_back {
            self.next_full_pass = now.saturating_add(self.config.full_pass).unwrap_or(Timestamp::MAX);
            self.mark(self.cache.keys());
        }
        for _ in 0..LOOKS {
            if self.queue.busy() >= self.config.workers {
                return false;
            }
            let (cache, barriers) = (&self.cache, &mut self.barriers);
            let is_free = |key: &JobKey| barriers.get_mut(key).is_none_or(|barrier| barrier.is_down(cache));
            let Some(key) = self.queue.take(now, is_free) else { return false };
            self.barriers.remove(&key);
            if let Some(work) = self.reconcile(key, now) {
                execute(work);
            }
        }
        true
    }

    /// Decides about a Job and its pods, those included that it may adopt.
    fn plan(&self, key: &JobKey, job: &Job, now: Timestamp) -> Plan {
        let latest_success = self.cache.latest_success(key, job);
        reconcile_kept(job, &self.cache.candidates_of(key, job), latest_success, now, self.config.tuning)
    }

    /// Counts Jobs that are new and that another controller manages.
    fn count_foreign(&self, event: &Event<Job>) {
        let (Event::Apply(job) | Event::InitApply(job)) = event else { return };
        let Some(controller) = job.spec.as_ref().and_then(foreign_controller) else { return };
        let key = JobKey::of(job);
        let is_ours = self.config.job_mandate != Mandate::Sole && controller == JOB_CONTROLLER;
        if !is_ours && self.cache.job(&key).is_none() && !self.cache.is_strangers(&key) {
            self.config.metrics.managed_by(controller);
        }
    }

    fn reconcile(&mut self, key: JobKey, now: Timestamp) -> Option<Work> {
        if self.cache.is_strangers(&key) {
            self.queue.done(&key);
            return None;
        }
        let job = self.cache.job(&key);
        let uid = job.as_ref().and_then(|job| job.metadata.uid.clone());
        if let Some(job) = job {
            let mut plan = self.plan(&key, &job, now);
            if self.config.ttl && plan.is_empty() {
                let Plan { wake, steps, .. } = ttl::reconcile(&job, now);
                plan = Plan { steps, ..plan }.waking(wake);
            }
            if let Some(wake) = &plan.wake {
                self.queue.mark_at(key.clone(), wake.at);
            }
            if !plan.is_empty() {
                tracing::debug!(job = &*key.name, phase = ?plan.phase, steps = plan.steps.len(), "reconciled");
                return Some(Work { key, what: What::Plan { job, plan } });
            }
            self.config.metrics.synced(&job, &plan, true, Duration::ZERO);
        }
        let pods = self.cache.pods_of(&key);
        let is_orphan = |pod: &&Pod| is_tracked(pod) && owner(pod) != uid.as_deref();
        let orphans: Vec<Pod> = pods.iter().filter(is_orphan).cloned().collect();
        if orphans.is_empty() {
            self.queue.done(&key);
            return None;
        }
        let owners = orphans.iter().filter_map(owner).map(Uid::from).collect();
        let plan = reconcile_absent(&orphans);
        Some(Work { key, what: What::Absent { owners, plan } })
    }

    /// Takes in what came of a plan.
    pub fn finish(&mut self, key: &JobKey, report: Report, now: Timestamp) {
        if !report.sightings.is_empty() {
            self.barriers.insert(key.clone(), Barrier::new(report.sightings, &self.cache));
        }
        match report.ended {
            Ended::Done => {
                // The plan was one phase: the next one follows from what it left. After the pods that come or go, it is
                // the pods' turn.
                match report.phase {
                    Phase::Manage => self.gather([key.clone()], now),
                    Phase::Rest => {} // nothing follows from what was only told
                    _ => self.queue.mark(key.clone()),
                }
                self.queue.done(key);
            }
            Ended::Conflict | Ended::Refused | Ended::Failed => self.queue.failed(key, now),
        }
    }
}

fn owner(pod: &Pod) -> Option<&str> {
    controller_of(pod).map(|owner| owner.uid.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn begun(reconciler: &mut Reconciler, now: Timestamp) -> Vec<JobKey> {
        let mut keys = Vec::new();
        reconciler.begin(now, |work| keys.push(work.key));
        keys
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nobody_wait_longer() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut reconciler = Reconciler::new(now, Config::default());
        let job: Job = serde_json::from_value(json!({
            "metadata": { "name": "j", "namespace": "n", "uid": "u" },
            "spec": { "parallelism": 1, "completions": 1, "template": {} },
        }))
        .unwrap();
        for event in [Event::Init, Event::InitApply(job), Event::InitDone] {
            reconciler.job_event(event, now);
        }
        for event in [Event::Init, Event::InitDone] {
            reconciler.pod_event(event, now);
        }
        let keys = begun(&mut reconciler, now);
        assert_eq!(keys.len(), 1);
        let failed = Report { phase: Phase::Manage, ended: Ended::Failed, sightings: Vec::new() };
        reconciler.finish(&keys[0], failed, now);
        assert!(begun(&mut reconciler, now).is_empty(), "it is tried again after a while");
        let earlier = now - SignedDuration::from_hours(1);
        assert_eq!(begun(&mut reconciler, earlier), keys);
        assert!(begun(&mut reconciler, earlier).is_empty(), "it is under way");
    }
}
