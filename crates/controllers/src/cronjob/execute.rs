//! Carrying out a plan about a CronJob, step by step, and saying what the cache must see before the next one.
//!
//! Invariant: steps are taken in order; the first that fails ends the plan. A write whose outcome is unknown is followed
//! by a consistent read of what it was about.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use stint_core::cronjob::{Action, JobRef};
use stint_core::job::kept::JobOutline;
use stint_core::plan::{Plan, Step};

use super::cache::{Awaited, Key};
use crate::cache::parse_revision;
use crate::events::Recorder;
use crate::metrics::Metrics;
use crate::request::{self, Written, patch_status, send};

/// How executing a plan ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every step was taken, and something was written.
    Wrote,
    /// Nothing was to be written, or somebody else's Job has the name: nothing follows from it.
    Told,
    /// Something changed in the meantime, or a step was refused, or its outcome is unknown: reconcile again after a while.
    Failed,
}

/// What came of a plan.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// What the cache must show before the next plan.
    pub awaited: Awaited,
    /// The Job that was created, or found under its name.
    pub created: Option<Box<Job>>,
}

/// What came of a step that did not go through.
enum Trouble {
    /// The name is somebody else's.
    Taken,
    /// Nothing was written, and people need not know.
    Refused,
    /// Nothing was written; this is for people.
    Told(&'static str, String),
    /// Nobody knows whether it was written.
    Unknown(String),
}

/// Executes plans about the CronJobs of one API.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    recorder: Recorder,
    metrics: Metrics,
}

impl Executor {
    /// An executor that writes through `client`, tells `recorder` what went through, and counts it in `metrics`.
    pub fn new(client: Client, recorder: Recorder, metrics: Metrics) -> Executor {
        Executor { client, recorder, metrics }
    }

    /// Takes the steps of `plan` about `cron_job`; `awaited` is what the cache must show already.
    pub async fn execute(&self, key: Key, cron_job: CronJob, plan: Plan<Action>, awaited: Awaited) -> Report {
        let mut report = Report { ended: Ended::Told, awaited, created: None };
        for step in &plan.steps {
            tracing::debug!(cronjob = key.name, why = step.why, "taking a step");
            match self.take(&key, &cron_job, &step.action, &mut report).await {
                Ok(()) => {
                    for event in &step.events {
                        self.recorder.record(&cron_job, event, None);
                    }
                    if step.action != Action::Announce {
                        report.ended = Ended::Wrote;
                    }
                }
                Err(trouble) => {
                    report.ended = self.explain(&key, &cron_job, step, trouble, &mut report).await;
                    return report;
                }
            }
        }
        report
    }

    async fn take(&self, key: &Key, cron_job: &CronJob, action: &Action, report: &mut Report) -> Result<(), Trouble> {
        let awaited = &mut report.awaited;
        match action {
            Action::Announce => {}
            Action::CreateJob(job) => {
                let created = send(&self.client, request::create(&key.namespace, &**job)).await;
                let job = match created {
                    Ok(JobOutline(job)) => {
                        self.metrics.created_by_schedule(&job);
                        job
                    }
                    Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                        self.existing(key, cron_job, job).await?
                    }
                    Err(error) => return Err(refused_creation(error)),
                };
                awaited.jobs_at = Some(parse_revision(job.metadata.resource_version.as_ref()));
                report.created = Some(Box::new(job));
            }
            Action::DeleteJob(job) => {
                self.delete(key, job).await?;
                awaited.leaving.push(job.uid.clone());
            }
            Action::WriteStatus(status) => {
                let written = send(&self.client, patch_status(cron_job, cron_job.status.as_ref(), &**status)).await;
                let written: Written = written.map_err(|error| trouble(error, |_| Trouble::Refused))?;
                awaited.cron_jobs_at = Some(parse_revision(written.metadata.resource_version.as_ref()));
            }
        }
        Ok(())
    }

    /// The Job that has the name of one that was to be created, if this CronJob controls it: it was created before, and
    /// the cache has not seen it.
    async fn existing(&self, key: &Key, cron_job: &CronJob, wanted: &Job) -> Result<Job, Trouble> {
        let job = self.jobs(key).get(&wanted.name_any()).await.map_err(|error| trouble(error, |_| Trouble::Refused))?;
        let owner = job.owner_references().iter().find(|owner| owner.controller == Some(true));
        let is_own = owner.is_some_and(|owner| Some(&owner.uid) == cron_job.metadata.uid.as_ref());
        if is_own { Ok(job) } else { Err(Trouble::Taken) }
    }

    async fn delete(&self, key: &Key, job: &JobRef) -> Result<(), Trouble> {
        let preconditions = Preconditions { uid: Some(job.uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match self.jobs(key).delete(&job.name, &params).await {
            Ok(_) => Ok(()),
            // Another Job has the name now: the one that the plan is about is gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => {
                Err(trouble(error, |message| Trouble::Told("FailedDelete", format!("Deleted job: {message}"))))
            }
        }
    }

    /// Says what went wrong, once, and finds out what an unknown outcome left behind.
    async fn explain(
        &self,
        key: &Key,
        cron_job: &CronJob,
        step: &Step<Action>,
        trouble: Trouble,
        report: &mut Report,
    ) -> Ended {
        match trouble {
            Trouble::Taken => {
                tracing::warn!(cronjob = key.name, why = step.why, "the Job's name is taken by another one");
                return Ended::Told;
            }
            Trouble::Refused => {}
            Trouble::Told(reason, message) => {
                tracing::warn!(cronjob = key.name, namespace = key.namespace, message, "a step was refused");
                self.recorder.warn(cron_job, reason, &message);
            }
            Trouble::Unknown(message) => {
                tracing::warn!(cronjob = key.name, message, "a write's outcome is unknown; the API is read");
                self.read(key, &step.action, report).await;
            }
        }
        Ended::Failed
    }

    /// Reads what `action` was about, most recent, however long it takes.
    async fn read(&self, key: &Key, action: &Action, report: &mut Report) {
        let awaited = &mut report.awaited;
        let mut delay = Duration::from_millis(100);
        let revision = |meta: &kube::core::ObjectMeta| parse_revision(meta.resource_version.as_ref());
        loop {
            let name = match action {
                Action::CreateJob(job) => job.name_any(),
                Action::DeleteJob(job) => job.name.clone(),
                Action::WriteStatus(_) | Action::Announce => String::new(),
            };
            let found = if name.is_empty() {
                let found = self.cron_jobs(key).get_opt(&key.name).await;
                found.map(|found| awaited.cron_jobs_at = found.map(|found| revision(&found.metadata)))
            } else {
                let found = self.jobs(key).get_opt(&name).await;
                found.map(|found| match (found, action) {
                    (Some(job), Action::CreateJob(_)) => {
                        awaited.jobs_at = Some(revision(&job.metadata));
                        report.created = Some(Box::new(job));
                    }
                    (Some(job), _) => awaited.jobs_at = Some(revision(&job.metadata)),
                    (None, Action::DeleteJob(job)) => awaited.leaving.push(job.uid.clone()),
                    (None, _) => {}
                })
            };
            let Err(error) = found else { return };
            tracing::warn!(%error, cronjob = key.name, "the read after an unknown outcome failed; it is repeated");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(10));
        }
    }

    fn jobs(&self, key: &Key) -> Api<Job> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    fn cron_jobs(&self, key: &Key) -> Api<CronJob> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }
}

/// A namespace that is ending refuses every creation: nobody needs to be told.
fn refused_creation(error: kube::Error) -> Trouble {
    let is_ending = |status: &kube::core::Status| {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
    };
    match error {
        kube::Error::Api(status) if is_ending(&status) => Trouble::Refused,
        error => trouble(error, |message| Trouble::Told("FailedCreate", format!("Error creating job: {message}"))),
    }
}

/// An answer below 500 says that nothing was written; anything else says nothing.
fn trouble(error: kube::Error, refused: impl FnOnce(String) -> Trouble) -> Trouble {
    match error {
        kube::Error::Api(status) if status.code == 409 => Trouble::Refused,
        kube::Error::Api(status) if status.code < 500 => refused(status.message.clone()),
        kube::Error::BuildRequest(error) => refused(error.to_string()),
        other => Trouble::Unknown(other.to_string()),
    }
}
