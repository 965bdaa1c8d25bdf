//! What must always be true of CronJobs and their Jobs, as sentences that a machine checks.
//!
//! Left out: what only shows after a while ([`CronLedger::settled`] asks for that); that nothing is created while a CronJob
//! is suspended, since a creation may be under way then.

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};

use crate::cronjob::{SCHEDULED_TIMESTAMP, job_name, zone_of};
use crate::job::{Outcome, finished};
use crate::plan::Uid;
use crate::schedule::Schedule;

/// A broken invariant. Each variant is one sentence that must never be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A second Job was created for one time.
    RunTwice {
        /// The second Job.
        job: String,
        /// The time.
        at: Timestamp,
    },
    /// A Job was created for a time that the schedule does not have, or under another name than that of its time.
    OffSchedule {
        /// The Job.
        job: String,
        /// The time.
        at: Timestamp,
    },
    /// With `Forbid`, a Job was created while another one ran.
    Overlaps {
        /// The Job.
        job: String,
        /// The one that ran.
        other: String,
    },
    /// The last schedule time fell, or went away.
    LastTimeFell {
        /// The CronJob.
        cron_job: String,
    },
    /// Nothing moves any more, and more finished Jobs are there than the history limit allows, or the status is wrong.
    NotTidy {
        /// The CronJob.
        cron_job: String,
        /// What is wrong.
        what: String,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::RunTwice { job, at } => write!(f, "job {job} is the second one for {at}"),
            Broken::OffSchedule { job, at } => write!(f, "job {job} is for {at}, which is not a time of its CronJob"),
            Broken::Overlaps { job, other } => {
                write!(f, "job {job} was created while {other} ran, and the policy is Forbid")
            }
            Broken::LastTimeFell { cron_job } => write!(f, "cronjob {cron_job}: the last schedule time fell"),
            Broken::NotTidy { cron_job, what } => write!(f, "cronjob {cron_job}: {what}"),
        }
    }
}

/// What the ledger remembers of a Job that was created for a time.
#[derive(Debug)]
struct Started {
    name: String,
    cron_job: Uid,
    outcome: Option<Outcome>,
}

/// Every state so far, as far as the invariants need it.
#[derive(Debug, Default)]
pub struct CronLedger {
    cron_jobs: BTreeMap<Uid, CronJob>,
    /// Its states with each schedule that it ever had: a creation may be under way when it changes.
    schedules: BTreeMap<Uid, Vec<CronJob>>,
    /// The Jobs that are there.
    jobs: BTreeMap<Uid, Started>,
    /// For which times Jobs were ever created, with the Job.
    times: BTreeMap<(Uid, Timestamp), Uid>,
}

impl CronLedger {
    /// Notes that `cron_job` was committed in this state.
    pub fn cron_job(&mut self, cron_job: &CronJob) -> Result<(), Broken> {
        let last = |cron_job: &CronJob| Some(cron_job.status.as_ref()?.last_schedule_time.as_ref()?.0);
        let schedules = self.schedules.entry(Uid::of(&cron_job.metadata)).or_default();
        let timing = |cron_job: &CronJob| (cron_job.spec.schedule.clone(), cron_job.spec.time_zone.clone());
        if schedules.iter().all(|known| timing(known) != timing(cron_job)) {
            schedules.push(cron_job.clone());
        }
        let before = self.cron_jobs.insert(Uid::of(&cron_job.metadata), cron_job.clone());
        if before.is_some_and(|before| last(cron_job) < last(&before)) {
            return Err(Broken::LastTimeFell { cron_job: cron_job.metadata.name.clone().unwrap_or_default() });
        }
        Ok(())
    }

    /// Notes that `job` was committed in this state.
    pub fn job(&mut self, job: &Job) -> Result<(), Broken> {
        let uid = Uid::of(&job.metadata);
        let outcome = job.status.as_ref().and_then(finished);
        if let Some(known) = self.jobs.get_mut(&uid) {
            known.outcome = outcome;
            return Ok(());
        }
        let owners = job.metadata.owner_references.iter().flatten();
        let Some(owner) = owners.into_iter().find(|owner| owner.kind == "CronJob") else { return Ok(()) };
        let time = job.metadata.annotations.as_ref().and_then(|all| all.get(SCHEDULED_TIMESTAMP)?.parse().ok());
        let Some(at) = time else { return Ok(()) };
        let (cron_job, name) = (Uid::from(owner.uid.as_str()), job.metadata.name.clone().unwrap_or_default());
        let result = self.may_start(&cron_job, &name, at);
        self.times.insert((cron_job.clone(), at), uid.clone());
        self.jobs.insert(uid, Started { name, cron_job, outcome });
        result
    }

    /// Notes that the Job is gone.
    pub fn job_gone(&mut self, uid: &Uid) {
        self.jobs.remove(uid);
    }

    /// Notes that the CronJob is gone.
    pub fn cron_job_gone(&mut self, uid: &Uid) {
        self.cron_jobs.remove(uid);
    }

    fn may_start(&self, uid: &Uid, job: &str, at: Timestamp) -> Result<(), Broken> {
        let job = job.to_owned();
        if self.times.contains_key(&(uid.clone(), at)) {
            return Err(Broken::RunTwice { job, at });
        }
        let Some(cron_job) = self.cron_jobs.get(uid) else { return Ok(()) };
        let spec = &cron_job.spec;
        let is_named = job == job_name(cron_job.metadata.name.as_deref().unwrap_or_default(), at);
        let schedules = || self.schedules.get(uid).into_iter().flatten();
        if !is_named || !schedules().any(|cron_job| is_time_of(cron_job, at)) {
            return Err(Broken::OffSchedule { job, at });
        }
        let running = self.jobs.values().find(|other| other.cron_job == *uid && other.outcome.is_none());
        match running {
            Some(other) if spec.concurrency_policy.as_deref() == Some("Forbid") => {
                Err(Broken::Overlaps { job, other: other.name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Checks what must hold once nothing moves any more: the history is short enough, and the status knows what runs.
    pub fn settled(&self) -> Result<(), Broken> {
        for (uid, cron_job) in &self.cron_jobs {
            let broken = |what: String| {
                Err(Broken::NotTidy { cron_job: cron_job.metadata.name.clone().unwrap_or_default(), what })
            };
            let own = || self.jobs.values().filter(|job| job.cron_job == *uid);
            for (outcome, limit) in [
                (Outcome::Success, cron_job.spec.successful_jobs_history_limit),
                (Outcome::Failure, cron_job.spec.failed_jobs_history_limit),
            ] {
                let kept = own().filter(|job| job.outcome == Some(outcome)).count();
                if limit.is_some_and(|limit| kept > usize::try_from(limit).unwrap_or(0)) {
                    return broken(format!("{kept} Jobs of outcome {outcome:?} are kept, of {limit:?}"));
                }
            }
            let status = cron_job.status.clone().unwrap_or_default();
            let running = own().filter(|job| job.outcome.is_none()).count();
            let active = status.active.map_or(0, |active| active.len());
            if active != running {
                return broken(format!("{running} Jobs run, and {active} are active"));
            }
            let started = self.times.keys().filter(|(cron_job, _)| cron_job == uid).map(|(_, at)| *at).max();
            let last = status.last_schedule_time.map(|last| last.0);
            if started > last {
                return broken(format!("a Job was started for {started:?}, and the last time is {last:?}"));
            }
        }
        Ok(())
    }
}

/// Whether the schedule has this time. Of an interval only that it is a whole second can be told.
fn is_time_of(cron_job: &CronJob, at: Timestamp) -> bool {
    let (Ok(schedule), Some(zone)) = (Schedule::parse(&cron_job.spec.schedule), zone_of(cron_job)) else {
        return false;
    };
    match schedule {
        Schedule::Every(_) => at.subsec_nanosecond() == 0,
        Schedule::Calendar(_) => schedule.next(at - SignedDuration::from_secs(1), &zone) == Some(at),
    }
}
