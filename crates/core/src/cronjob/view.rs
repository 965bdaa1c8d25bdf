//! A CronJob with its Jobs, and what its status should say of them.
//!
//! Upstream: `pkg/controller/cronjob/cronjob_controllerv2.go` (`syncCronJob`, `cleanupFinishedJobs`), v1.36.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use super::start::{job_name, scheduled_time};
use crate::job::{Outcome, finished};
use crate::plan::{Event, Note, Severity};

/// A CronJob and its Jobs.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    pub cron_job: &'a CronJob,
    /// Its status, or the empty one.
    pub status: CronJobStatus,
    /// The Jobs whose controller is a CronJob of its name, in order of their names.
    jobs: Vec<&'a Job>,
}

impl<'a> View<'a> {
    /// Picks the CronJob's own Jobs from `jobs`. Upstream matches by name only; so an earlier CronJob's count as well.
    pub fn of(cron_job: &'a CronJob, jobs: &'a [Job]) -> View<'a> {
        let name = cron_job.metadata.name.as_deref();
        let is_own = |job: &&Job| {
            controller(job).is_some_and(|owner| owner.kind == "CronJob" && Some(&*owner.name) == name)
                && job.metadata.namespace == cron_job.metadata.namespace
        };
        let mut jobs: Vec<&Job> = jobs.iter().filter(is_own).collect();
        jobs.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        View { cron_job, status: cron_job.status.clone().unwrap_or_default(), jobs }
    }

    /// The same Jobs with another status.
    pub fn with(&self, status: CronJobStatus) -> View<'a> {
        View { status, ..self.clone() }
    }

    /// From when on times count: the last one that a Job was started for, or the CronJob's creation.
    pub fn counts_from(&self) -> Option<Timestamp> {
        let creation = self.cron_job.metadata.creation_timestamp.as_ref();
        self.status.last_schedule_time.as_ref().or(creation).map(|time| time.0)
    }

    /// Own Jobs for a time after the last one that the status knows: their controller died before it could say so.
    pub fn unrecorded(&self) -> Vec<(&'a Job, Timestamp)> {
        let last = self.counts_from();
        let mut jobs: Vec<(&Job, Timestamp)> = self
            .jobs
            .iter()
            .filter(|job| self.controls(job))
            .filter_map(|job| Some((*job, scheduled_time(job)?)))
            .filter(|(job, at)| Some(*at) > last && self.job_name(*at) == job.metadata.name.clone().unwrap_or_default())
            .collect();
        jobs.sort_by_key(|(_, at)| *at);
        jobs
    }

    /// The Job that has the name that one for the time `at` would have, if the CronJob controls it.
    pub fn named_for(&self, at: Timestamp) -> Option<&'a Job> {
        let name = self.job_name(at);
        self.jobs.iter().copied().find(|job| job.metadata.name.as_ref() == Some(&name) && self.controls(job))
    }

    /// The name of the Job for the time `at`.
    pub fn job_name(&self, at: Timestamp) -> String {
        job_name(self.cron_job.metadata.name.as_deref().unwrap_or_default(), at)
    }

    /// The Jobs in `status.active` that are there and have not ended.
    pub fn active(&self) -> Vec<&'a Job> {
        self.jobs.iter().copied().filter(|job| self.is_active(job) && outcome(job).is_none()).collect()
    }

    /// The names of Jobs that run and that the status does not know.
    pub fn unexpected(&self) -> impl Iterator<Item = &'a str> {
        let unknown = |job: &&&'a Job| !self.is_active(job) && outcome(job).is_none();
        self.jobs.iter().filter(unknown).map(|job| job.metadata.name.as_deref().unwrap_or_default())
    }

    /// The oldest finished Jobs that are more than the limits allow and are not being deleted yet.
    pub fn surplus(&self) -> Vec<&'a Job> {
        let spec = &self.cron_job.spec;
        let of = |wanted: Outcome, limit: Option<i32>| {
            let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
            let mut ended: Vec<&Job> = self.jobs.iter().copied().filter(|job| outcome(job) == Some(wanted)).collect();
            // Jobs without a start come last, Jobs that started together by name.
            let start =
                |job: &Job| job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
            ended.sort_by_key(|job| start(job).map_or((1, Timestamp::MAX), |at| (0, at)));
            let surplus = ended.len().saturating_sub(limit);
            ended.into_iter().take(surplus).filter(|job| job.metadata.deletion_timestamp.is_none()).collect::<Vec<_>>()
        };
        let mut surplus = of(Outcome::Success, spec.successful_jobs_history_limit);
        surplus.extend(of(Outcome::Failure, spec.failed_jobs_history_limit));
        surplus
    }

    /// The status as it should be, once it knows `created` Jobs and the times that they are for; and what there is to tell.
    pub fn tidied(&self, created: Vec<(&Job, Timestamp)>) -> (CronJobStatus, Vec<Event>) {
        let mut status = self.status.clone();
        let mut active = status.active.take().unwrap_or_default();
        if !created.is_empty() && self.cron_job.spec.concurrency_policy.as_deref() == Some("Replace") {
            active.clear(); // they were deleted to make room
        }
        for (job, at) in created {
            active.push(reference(job));
            status.last_schedule_time = Some(Time(at));
        }
        let mut events = Vec::new();
        for job in &self.jobs {
            let Some(outcome) = outcome(job) else { continue };
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let known = active.len();
            active.retain(|entry| entry.uid != job.metadata.uid);
            if active.len() < known {
                let condition = if outcome == Outcome::Success { "Complete" } else { "Failed" };
                let text = format!("Saw completed job: {name}, condition: {condition}");
                events.push(normal("SawCompletedJob", text));
            }
            let completion = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
            if let (Outcome::Success, Some(Time(at))) = (outcome, completion)
                && status.last_successful_time.as_ref().is_none_or(|Time(last)| last < at)
            {
                status.last_successful_time = Some(Time(*at));
            }
        }
        active.retain(|entry| {
            let is_there = self.jobs.iter().any(|job| job.metadata.uid == entry.uid);
            if !is_there {
                let name = entry.name.as_deref().unwrap_or_default();
                events.push(normal("MissingJob", format!("Active job went missing: {name}")));
            }
            is_there
        });
        status.active = (!active.is_empty()).then_some(active);
        (status, events)
    }

    fn controls(&self, job: &Job) -> bool {
        controller(job).is_some_and(|owner| Some(&owner.uid) == self.cron_job.metadata.uid.as_ref())
    }

    fn is_active(&self, job: &Job) -> bool {
        self.status.active.iter().flatten().any(|entry| entry.uid == job.metadata.uid)
    }
}

fn normal(reason: &str, text: String) -> Event {
    Event { severity: Severity::Normal, reason: reason.to_owned(), note: Note::Text(text) }
}

/// How `job` ended, if it has.
pub(super) fn outcome(job: &Job) -> Option<Outcome> {
    finished(job.status.as_ref()?)
}

fn controller(job: &Job) -> Option<&OwnerReference> {
    job.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A Job as `status.active` names it.
fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        kind: Some("Job".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        api_version: Some("batch/v1".to_owned()),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}
