//! Carrying out a plan, step by step, and saying what the cache must see before the next one.
//!
//! Invariant: steps are taken in order; the first that fails ends the plan. A run of like steps goes in batches of 1, 2,
//! 4 … (upstream's slow start; it may begin with more), so that a request that the API refuses is refused once and not five hundred times.
//! A write whose outcome is unknown is followed by a consistent read.

mod write;

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::ListParams;
use stint_core::job::view::controller_of;
use stint_core::plan::{Action, Phase, Plan, Step, Uid};
use tokio::time::Instant;

use crate::Config;
use crate::barrier::Sighting;
use crate::cache::{JobKey, parse_revision};
use crate::events::Recorder;
use crate::metrics::Metrics;
use write::Trouble;

/// How executing a plan ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every step was taken.
    Done,
    /// Something changed in the meantime: reconcile again.
    Conflict,
    /// A step was refused: reconcile again after a while.
    Refused,
    /// The outcome of a step is unknown: reconcile again after a while.
    Failed,
}

impl Ended {
    /// How a plan ended of which one step did so, and another one like `other`.
    #[must_use]
    pub fn and(self, other: Ended) -> Ended {
        match other {
            // What is unknown, or has changed, weighs more than what was refused.
            Ended::Refused if self != Ended::Done => self,
            other => other,
        }
    }
}

/// How many steps go at once.
#[derive(Debug)]
pub struct SlowStart {
    first: usize,
    batch: usize,
}

impl Default for SlowStart {
    fn default() -> SlowStart {
        SlowStart::with(1)
    }
}

impl SlowStart {
    /// One that begins with so many steps, at least 1.
    pub fn with(first: usize) -> SlowStart {
        let first = first.max(1);
        SlowStart { first, batch: first }
    }

    /// How many of the steps that are left go next, side by side: as many as are alike, and no more than twice as many as
    /// the last time.
    pub fn batch(&mut self, rest: &[Step]) -> usize {
        let Some(first) = rest.first() else { return 0 };
        let alike = rest.iter().take_while(|step| same_kind(&step.action, &first.action)).count();
        let now = alike.min(self.batch);
        self.batch = if alike > now { self.batch.saturating_mul(2) } else { self.first };
        now
    }
}

/// What came of a plan.
#[derive(Debug)]
pub struct Report {
    /// Which phase it was.
    pub phase: Phase,
    /// How it ended.
    pub ended: Ended,
    /// What the cache must show before the next plan.
    pub sightings: Vec<Sighting>,
}

/// Executes plans about the Jobs of one API.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    recorder: Recorder,
    metrics: Metrics,
    slow_start: usize,
}

impl Executor {
    /// An executor that writes through `client`, tells `recorder` what went through, and counts it in `config`'s metrics.
    pub fn new(client: Client, recorder: Recorder, config: &Config) -> Executor {
        Executor { client, recorder, metrics: config.metrics.clone(), slow_start: config.slow_start }
    }

    /// Takes the steps of `plan` about `job`.
    pub async fn execute(&self, key: JobKey, job: Arc<Job>, plan: Plan) -> Report {
        let begin = Instant::now();
        let report = self.carry_out(&key, &job, &plan).await;
        self.metrics.synced(&job, &plan, report.ended == Ended::Done, begin.elapsed());
        report
    }

    async fn carry_out(&self, key: &JobKey, job: &Job, plan: &Plan) -> Report {
        let mut sightings = Vec::new();
        let mut ended = Ended::Done;
        let mut rest = plan.steps.as_slice();
        let mut start = SlowStart::with(self.slow_start);
        while !rest.is_empty() && ended == Ended::Done {
            let (now, later) = rest.split_at(start.batch(rest));
            rest = later;
            let results = join_all(now.iter().map(|step| self.take(key, job, step))).await;
            for (step, result) in now.iter().zip(results) {
                if let Action::CreatePod(pod) = &step.action {
                    self.metrics.created(job, plan, pod, result.is_ok());
                }
                match result {
                    Ok(sighting) => sightings.extend(sighting),
                    Err(trouble) => ended = ended.and(self.explain(key, job, step, trouble, &mut sightings).await),
                }
            }
        }
        if ended == Ended::Refused {
            for step in &plan.otherwise {
                match self.take(key, job, step).await {
                    Ok(sighting) => sightings.extend(sighting),
                    Err(trouble) => {
                        self.explain(key, job, step, trouble, &mut sightings).await;
                    }
                }
            }
        }
        Report { phase: plan.phase, ended, sightings }
    }

    /// Executes `plan` about pods whose Job is gone, if it is: the API is asked, since the cache may lag behind.
    pub async fn execute_absent(&self, key: JobKey, owners: Vec<Uid>, plan: Plan) -> Report {
        match self.jobs(&key).get_opt(&key.name).await {
            Ok(Some(job)) if owners.contains(&Uid::of(&job.metadata)) => {
                Report { phase: plan.phase, ended: Ended::Failed, sightings: Vec::new() }
            }
            Ok(_) => self.carry_out(&key, &Job::default(), &plan).await,
            Err(error) => {
                tracing::warn!(%error, job = &*key.name, "could not ask whether a Job still exists; it is asked again");
                Report { phase: plan.phase, ended: Ended::Failed, sightings: Vec::new() }
            }
        }
    }

    /// Says what went wrong, once, and finds out what an unknown outcome left behind.
    async fn explain(
        &self,
        key: &JobKey,
        job: &Job,
        step: &Step,
        trouble: Trouble,
        sightings: &mut Vec<Sighting>,
    ) -> Ended {
        match trouble {
            Trouble::Conflict => Ended::Conflict,
            Trouble::Refused { message, is_expected } => {
                let (namespace, why) = (&*key.namespace, &step.why);
                tracing::warn!(job = &*key.name, namespace, why, message, "a step was refused");
                match step.action {
                    Action::CreatePod(_) if !is_expected => {
                        self.recorder.warn(job, "FailedCreate", &format!("Error creating: {message}"));
                    }
                    Action::DeletePod(_) => {
                        self.recorder.warn(job, "FailedDelete", &format!("Error deleting: {message}"));
                    }
                    _ => {}
                }
                Ended::Refused
            }
            Trouble::Unknown(message) => {
                tracing::warn!(job = &*key.name, message, "a write's outcome is unknown; the API is read");
                sightings.extend(self.read(key).await);
                Ended::Failed
            }
        }
    }

    /// Reads the Job and its pods, most recent, however long it takes: deciding on less could double a pod.
    async fn read(&self, key: &JobKey) -> Vec<Sighting> {
        let mut delay = std::time::Duration::from_millis(100);
        loop {
            let (jobs, pods) = (self.jobs(key), self.pods(key));
            let everything = ListParams::default();
            match futures::try_join!(jobs.get_opt(&key.name), pods.list(&everything)) {
                Ok((job, pods)) => {
                    let own = |pod: &&Pod| controller_of(pod).is_some_and(|owner| *owner.name == *key.name);
                    let newest = pods.iter().filter(own).map(|p| parse_revision(p.metadata.resource_version.as_ref()));
                    let job = job.map(|job| Sighting::JobsAt(parse_revision(job.metadata.resource_version.as_ref())));
                    return newest.max().map(Sighting::PodsAt).into_iter().chain(job).collect();
                }
                Err(error) => {
                    tracing::warn!(%error, job = &*key.name, "the read after an unknown outcome failed; it is repeated");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(std::time::Duration::from_secs(10));
                }
            }
        }
    }
}

fn same_kind(a: &Action, b: &Action) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

#[cfg(test)]
mod tests;
