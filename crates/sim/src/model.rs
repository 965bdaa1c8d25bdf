//! A million worlds of decisions: the simulator's scenarios in a model of the API, without requests, bytes, disk or async.
//!
//! ```text
//!   users (scenario.rs) ──┐                 ┌── controller.rs: the real Reconciler over watches that lag and break
//!                         ├──► api.rs ◄─────┤
//!   machine.rs ───────────┘      │          └── channel.rs       weather.rs: what goes wrong
//!                                └─► history.rs: core::check
//! ```
//!
//! What is real here is everything that decides about Jobs: `core::job` and what the Job controller knows, waits for and does
//! next. So some hundred worlds pass in a second, where the whole program passes some dozens.
//!
//! Invariants: one seed is one world; every committed state passes `core::check`; at the end all settles, planning changes
//! nothing any more, and the Jobs' counters agree with what the containers did.
//!
//! Left out: CronJobs, and writes of a dead process that arrive late.

mod api;
mod channel;
mod controller;
mod fault;
mod machine;
mod weather;

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use stint_controllers::Config;
use stint_core::job::{foreign_controller, reconcile};
use stint_core::owners::Propagation;

use crate::Report;
use crate::history::has_ended;
use crate::judge;
use crate::rng::Rng;
use crate::scenario::{Deed, Scenario};
use api::{Api, Refusal};
use controller::{Controller, Life};
pub use fault::Fault;
use machine::Machine;
use weather::Weather;

/// Where virtual time begins.
const EPOCH: i64 = 1_800_000_000;
/// How often every Job is reconciled although nothing happened: often, so that the quiet at the end includes it.
const FULL_PASS: SignedDuration = SignedDuration::from_secs(60);
/// How long nothing may change before all is called quiet, in milliseconds: two full passes, and some.
const QUIET: u64 = 130_000;
/// How long after the end of chaos everything must have settled, in milliseconds.
const PATIENCE: u64 = 3 * 3_600_000;

/// What looks at the machine's clock and files is done once for all worlds.
static USUAL: LazyLock<Config> = LazyLock::new(Config::default);

/// The node.
static NODE: LazyLock<Node> =
    LazyLock::new(|| serde_json::from_value(crate::node::has()).expect("the manifest is a Node"));

/// More writes of the controller than any world needs: who makes them, changing something or not, will never rest.
const MOST_WRITES: u64 = 10_000;

struct World {
    scenario: Scenario,
    deeds_done: usize,
    api: Api,
    machine: Machine,
    weather: Weather,
    controller: Option<Controller>,
    /// When the controller's process starts, if there is none.
    starts_at: u64,
    config: Config,
    fault: Fault,
    now: u64,
    wall_offset: SignedDuration,
    last_change: u64,
    crashes: u64,
}

/// Runs the model world of `seed` with a decision broken by `fault`; keeps the story if `told`.
pub fn run_model(seed: u64, fault: Fault, told: bool) -> Report {
    let mut world = World::of_seed(seed, fault, told);
    let broken = world.run().err();
    let broken = world.api.broken.take().or(broken);
    world.tell(|| broken.as_ref().map_or("all is well".to_owned(), |broken| format!("BROKEN {broken}")));
    let (writes, digest) = (world.api.revision, world.api.digest);
    Report { broken, trace: world.weather.story(), writes, crashes: world.crashes, digest }
}

impl World {
    fn of_seed(seed: u64, fault: Fault, told: bool) -> World {
        let scenario = Scenario::of_jobs(seed);
        let weather = Weather::of_seed(seed, told);
        let config = Config { full_pass: FULL_PASS, gather: weather.gather(), ..USUAL.clone() };
        let mut api = Api::new(Rng::new(seed, 4), wall(0, SignedDuration::ZERO), told);
        api.history.put_node(&NODE);
        World {
            scenario,
            deeds_done: 0,
            api,
            machine: Machine::new(seed),
            weather,
            controller: None,
            starts_at: 0,
            config,
            fault,
            now: 0,
            wall_offset: SignedDuration::ZERO,
            last_change: 0,
            crashes: 0,
        }
    }

    /// Lets time pass until all is done and judged.
    fn run(&mut self) -> Result<(), String> {
        let mut calm_at = Some(self.scenario.calm);
        let mut deadline = u64::MAX;
        loop {
            let is_settled = judge::is_settled(&self.api.history, self.deeds_done == self.scenario.deeds.len());
            if calm_at.is_some_and(|at| at <= self.now) || calm_at.is_some() && is_settled {
                calm_at = None;
                self.tell(|| "chaos ends".to_owned());
                self.weather.clears();
                // What failed until now has to have its turn, however long nothing has changed for that.
                (self.last_change, deadline) = (self.now, self.now + PATIENCE);
            }
            let is_quiet = self.now >= self.last_change + QUIET;
            if calm_at.is_none() && is_quiet && is_settled {
                return self.judge();
            }
            if self.now > deadline || self.weather.writes > MOST_WRITES {
                return Err(judge::unsettled(&self.api.history, is_quiet));
            }
            let deed = self.scenario.deeds.get(self.deeds_done).map_or(u64::MAX, |(at, _)| *at);
            let next = match &self.controller {
                Some(controller) => controller.next(self.now, self.api.now),
                None => self.starts_at,
            };
            let next = next.min(self.machine.next()).min(deed).min(calm_at.unwrap_or(u64::MAX));
            self.pass_to(next.max(self.now));
            self.act()?;
            if let Some(broken) = self.api.broken.take() {
                return Err(broken);
            }
        }
    }

    fn pass_to(&mut self, now: u64) {
        self.now = now;
        self.api.now = wall(now, self.wall_offset);
        self.weather.passes(now);
    }

    /// Does what is due.
    fn act(&mut self) -> Result<(), String> {
        while let Some((_, deed)) = self.scenario.deeds.get(self.deeds_done).filter(|(at, _)| *at <= self.now) {
            let deed = deed.clone();
            self.perform(&deed)?;
            self.deeds_done += 1;
        }
        self.spread();
        self.machine.act(self.now, &mut self.api, &mut self.weather)?;
        self.spread();
        let life = match &mut self.controller {
            Some(controller) => controller.act(self.now, &mut self.api, &mut self.weather),
            None => Life::GoesOn,
        };
        if life == Life::Crashed {
            self.tell(|| "CRASH".to_owned());
            self.crashes += 1;
            self.controller = None;
            self.starts_at = self.now + self.weather.downtime();
        } else if self.controller.is_none() && self.starts_at <= self.now {
            self.tell(|| "the controller starts".to_owned());
            let config = self.config.clone();
            self.controller = Some(Controller::starts(self.now, &self.api, &mut self.weather, config, self.fault));
        }
        self.spread();
        Ok(())
    }

    /// Lets everybody hear what was committed.
    fn spread(&mut self) {
        for notice in std::mem::take(&mut self.api.notices) {
            self.last_change = self.now;
            self.machine.hears(self.now, &notice, &mut self.weather);
            if let Some(controller) = &mut self.controller {
                controller.hears(self.now, &notice, &mut self.weather);
            }
        }
    }

    fn perform(&mut self, deed: &Deed) -> Result<(), String> {
        self.tell(|| format!("deed {deed:?}"));
        let api = &mut self.api;
        let done = match deed {
            Deed::Create(wish) => api.create_job(wish.job()),
            Deed::Scale(job, parallelism) => api.change_job(job, |job| spec(job).parallelism = Some(*parallelism)),
            Deed::Suspend(job, suspend) => api.change_job(job, |job| spec(job).suspend = Some(*suspend)),
            Deed::Resize(job, completions) => api.change_job(job, |job| {
                (spec(job).completions, spec(job).parallelism) = (Some(*completions), Some(*completions));
            }),
            Deed::DeletePod(job, which) => {
                self.pod_of(job, *which).map_or(Ok(()), |pod| self.api.delete_pod(&pod, None, None))
            }
            Deed::KillPod(job, which) => {
                self.pod_of(job, *which).map_or(Ok(()), |pod| self.api.delete_pod(&pod, None, Some(0)))
            }
            Deed::DeleteJob(job, policy) => {
                let propagation = match *policy {
                    "Foreground" => Propagation::Foreground,
                    "Orphan" => Propagation::Orphan,
                    _ => Propagation::Background,
                };
                api.delete_job(job, None, propagation)
            }
            Deed::EvictPod(job, which) => {
                if let Some(pod) = self.pod_of(job, *which) {
                    machine::evict(&mut self.api, &pod);
                }
                Ok(())
            }
            Deed::MakeOrphan(job) => match api.jobs.get(job).map(|job| orphan(job)) {
                Some(pod) => api.create_pod(pod).map(drop),
                None => Ok(()),
            },
            Deed::Relabel(job, which) => match self.pod_of(job, *which) {
                Some(pod) => self.api.change_pod(&pod, None, None, |pod| pod.metadata.labels = None).map(drop),
                None => Ok(()),
            },
            Deed::Turn(job, knob) => api.change_job(job, |job| knob.turn(spec(job))),
            Deed::Conclude(job) => conclude(api, job),
            Deed::CreateCron(_) | Deed::SuspendCron(..) | Deed::Reschedule(..) => Ok(()),
            Deed::StepClock(by) => {
                self.wall_offset += *by;
                self.pass_to(self.now);
                self.machine.clock_stepped(self.now, &self.api);
                Ok(())
            }
            Deed::RestartControllers => {
                if self.controller.take().is_some() {
                    self.starts_at = self.now;
                }
                Ok(())
            }
        };
        match done {
            Ok(()) | Err(Refusal::Conflict | Refusal::NotFound) => Ok(()),
            // Fewer completions than `maxFailedIndexes`; what goes with indexes only, or not with a policy.
            Err(Refusal::Invalid(_)) if matches!(deed, Deed::Resize(..) | Deed::Turn(..)) => Ok(()),
            Err(Refusal::Invalid(why)) => Err(format!("the API refuses {deed:?}: {why}")),
        }
    }

    /// One of the Job's pods that are there.
    fn pod_of(&self, job: &str, which: usize) -> Option<String> {
        let prefix = format!("{job}-");
        let pods: Vec<&String> = self.api.pods.keys().filter(|name| name.starts_with(&prefix)).collect();
        pods.get(which % pods.len().max(1)).map(|name| (*name).clone())
    }

    /// Looks at the end.
    fn judge(&self) -> Result<(), String> {
        let elapsed = std::time::Duration::from_millis(self.now);
        judge::judge(&self.api.history, &self.machine.containers, elapsed)?;
        let pods: Vec<Pod> = self.api.pods.values().map(|pod| (**pod).clone()).collect();
        for (name, job) in &self.api.jobs {
            let plan = reconcile(job, &pods, self.api.now);
            // What has come due only now the controller has not had time for.
            let earlier = self.api.now - SignedDuration::from_secs(2);
            if !plan.is_empty() && !reconcile(job, &pods, earlier).is_empty() {
                return Err(format!("job {name}: all is quiet, and there is a plan: {plan:?}"));
            }
            if plan != reconcile(job, &pods, self.api.now) {
                return Err(format!("job {name}: two plans about the same differ"));
            }
        }
        Ok(())
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        self.weather.tell(&mut self.api, line);
    }
}

fn wall(now: u64, offset: SignedDuration) -> Timestamp {
    let elapsed = SignedDuration::from_millis(i64::try_from(now).unwrap_or(i64::MAX));
    let start = Timestamp::from_second(EPOCH).expect("the epoch is a timestamp");
    start.saturating_add(elapsed).and_then(|at| at.saturating_add(offset)).unwrap_or(Timestamp::MAX)
}

fn spec(job: &mut Job) -> &mut k8s_openapi::api::batch::v1::JobSpec {
    job.spec.get_or_insert_default()
}

/// The reference of a pod to the Job that controls it.
fn owner(job: &Job) -> OwnerReference {
    OwnerReference {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        name: job.metadata.name.clone().unwrap_or_default(),
        uid: job.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Says as another controller, which manages the Job, that it is complete.
fn conclude(api: &mut Api, name: &str) -> Result<(), Refusal> {
    let seen = api.jobs.get(name).cloned().ok_or(Refusal::NotFound)?;
    let is_foreign = seen.spec.as_ref().is_some_and(|spec| foreign_controller(spec).is_some());
    if !is_foreign || has_ended(&seen) {
        return Ok(());
    }
    let time = Some(Time(api.now));
    let holds = |kind: &str| JobCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        last_transition_time: time.clone(),
        ..JobCondition::default()
    };
    let status = JobStatus {
        conditions: Some(vec![holds("SuccessCriteriaMet"), holds("Complete")]),
        start_time: time.clone(),
        completion_time: time.clone(),
        ..JobStatus::default()
    };
    api.write_status(name, &seen, &status).map(drop)
}

/// A pod that nobody controls and that the Job's selector selects.
fn orphan(job: &Job) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{name}-orphan-")),
        labels: template.metadata.and_then(|meta| meta.labels),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec, status: None }
}
