//! Carrying out a plan, step by step, and saying what the cache must see before the next one.
//!
//! Invariant: steps are taken in order; the first that fails ends the plan. A run of like steps goes in batches of 1, 2,
//! 4 … (upstream's slow start), so that a request that the API refuses is refused once and not five hundred times.
//! A write whose outcome is unknown is followed by a consistent read.

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use stint_core::job::TRACKING_FINALIZER;
use stint_core::job::view::controller_of;
use stint_core::plan::{Action, Phase, Plan, PodRef, Step, Uid};

use crate::barrier::Sighting;
use crate::cache::{JobKey, parse_revision};
use crate::events::Recorder;

/// How executing a plan ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every step was taken.
    Done,
    /// Something changed in the meantime: reconcile again.
    Conflict,
    /// A step was refused, or its outcome is unknown: reconcile again after a while.
    Failed,
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

/// Why one step did not go through.
enum Trouble {
    Conflict,
    Refused(String),
    Unknown(String),
}

/// Executes plans about the Jobs of one API.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    recorder: Recorder,
}

impl Executor {
    /// An executor that writes through `client` and tells `recorder` what went through.
    pub fn new(client: Client, recorder: Recorder) -> Executor {
        Executor { client, recorder }
    }

    /// Takes the steps of `plan` about `job`.
    pub async fn execute(&self, key: JobKey, job: Arc<Job>, plan: Plan) -> Report {
        let mut sightings = Vec::new();
        let mut ended = Ended::Done;
        let mut rest = plan.steps.as_slice();
        let mut batch = 1;
        while !rest.is_empty() && ended == Ended::Done {
            let alike = rest.iter().take_while(|step| same_kind(&step.action, &rest[0].action)).count();
            let (now, later) = rest.split_at(alike.min(batch));
            batch =
                if later.first().is_some_and(|next| same_kind(&next.action, &now[0].action)) { batch * 2 } else { 1 };
            rest = later;
            let results = join_all(now.iter().map(|step| self.take(&key, &job, step))).await;
            for (step, result) in now.iter().zip(results) {
                match result {
                    Ok(sighting) => sightings.extend(sighting),
                    Err(trouble) => ended = self.explain(&key, &job, step, trouble, &mut sightings).await,
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
            Ok(_) => self.execute(key, Arc::new(Job::default()), plan).await,
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
            Trouble::Refused(message) => {
                tracing::warn!(
                    job = &*key.name,
                    namespace = &*key.namespace,
                    why = step.why,
                    message,
                    "a step was refused"
                );
                if let Action::CreatePod(_) = step.action {
                    self.recorder.warn(job, "FailedCreate", &format!("Error creating: {message}"));
                }
                Ended::Failed
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

    async fn take(&self, key: &JobKey, job: &Job, step: &Step) -> Result<Option<Sighting>, Trouble> {
        tracing::debug!(job = &*key.name, why = step.why, "taking a step");
        let (sighting, pod) = match &step.action {
            Action::CreatePod(pod) => {
                let pod = self.pods(key).create(&PostParams::default(), pod).await.map_err(trouble)?;
                let at = parse_revision(pod.metadata.resource_version.as_ref());
                (Some(Sighting::PodsAt(at)), pod.metadata.name)
            }
            Action::DeletePod(pod) => (self.delete(key, pod).await?, Some(pod.name.clone())),
            Action::ReleasePod(pod) => (self.release(key, pod, None).await?, Some(pod.name.clone())),
            Action::ReleaseUncounted { pod, resource_version } => {
                (self.release(key, pod, Some(resource_version)).await?, Some(pod.name.clone()))
            }
            Action::Adopt(pod) => (self.adopt(key, job, pod).await?, None),
            Action::LetGo(pod) => (self.let_go(key, job, pod).await?, None),
            Action::DeleteJob(uid) => (self.expire(key, uid).await?, None),
            Action::WriteJobStatus(status) => {
                let mut job = job.clone();
                job.status = Some((**status).clone());
                let job = self.jobs(key).replace_status(&key.name, &PostParams::default(), &job).await;
                match job {
                    Ok(job) => (Some(Sighting::JobsAt(parse_revision(job.metadata.resource_version.as_ref()))), None),
                    Err(error) if is_gone(&error) => return Err(Trouble::Conflict),
                    Err(error) => return Err(trouble(error)),
                }
            }
        };
        for event in &step.events {
            self.recorder.record(job, event, pod.as_deref());
        }
        Ok(sighting)
    }

    async fn delete(&self, key: &JobKey, pod: &PodRef) -> Result<Option<Sighting>, Trouble> {
        let preconditions = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.pods(key).delete(&pod.name, &params).await {
            Ok(_) => Ok(Some(Sighting::PodLeaving(pod.uid.clone()))),
            // Another pod has the name now: the one that the plan is about is gone.
            Err(error) if is_gone(&error) || is_conflict(&error) => Ok(Some(Sighting::PodLeaving(pod.uid.clone()))),
            Err(error) => Err(trouble(error)),
        }
    }

    /// Takes the tracking finalizer off; if `unchanged` is given, only while the pod is at that revision.
    async fn release(
        &self,
        key: &JobKey,
        pod: &PodRef,
        unchanged: Option<&String>,
    ) -> Result<Option<Sighting>, Trouble> {
        let mut patch = json!({ "metadata": {
            "uid": pod.uid,
            "$deleteFromPrimitiveList/finalizers": [TRACKING_FINALIZER],
        }});
        if let Some(revision) = unchanged {
            patch["metadata"]["resourceVersion"] = json!(revision);
        }
        let released = Some(Sighting::PodReleased(pod.uid.clone()));
        match self.pods(key).patch(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => Ok(released),
            Err(error) if is_gone(&error) => Ok(released),
            // Another pod has the name now, or others wrote to this one faster than the API could patch it: not
            // released, as far as anybody knows. The cache will tell which.
            Err(error) => Err(trouble(error)),
        }
    }

    /// Makes a pod the Job's, unless the API says that the Job is going or gone: the cache may not have seen it.
    async fn adopt(&self, key: &JobKey, job: &Job, pod: &PodRef) -> Result<Option<Sighting>, Trouble> {
        let fresh = self.jobs(key).get_opt(&key.name).await.map_err(trouble)?;
        let is_same = |fresh: &Job| fresh.metadata.uid == job.metadata.uid;
        let Some(fresh) = fresh.filter(is_same).filter(|fresh| fresh.metadata.deletion_timestamp.is_none()) else {
            return Err(Trouble::Conflict);
        };
        let patch = json!({ "metadata": {
            "uid": pod.uid,
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": &*key.name, "uid": fresh.metadata.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
            "finalizers": [TRACKING_FINALIZER],
        }});
        self.patch(key, pod, patch).await
    }

    /// Takes owner reference and finalizer from a pod that the Job's selector no longer selects.
    async fn let_go(&self, key: &JobKey, job: &Job, pod: &PodRef) -> Result<Option<Sighting>, Trouble> {
        let patch = json!({ "metadata": {
            "uid": pod.uid,
            "ownerReferences": [{ "$patch": "delete", "uid": job.metadata.uid }],
            "$deleteFromPrimitiveList/finalizers": [TRACKING_FINALIZER],
        }});
        self.patch(key, pod, patch).await
    }

    /// Patches a pod; one that is gone needs it no more.
    async fn patch(&self, key: &JobKey, pod: &PodRef, patch: serde_json::Value) -> Result<Option<Sighting>, Trouble> {
        match self.pods(key).patch(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(pod) => Ok(Some(Sighting::PodsAt(parse_revision(pod.metadata.resource_version.as_ref())))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(trouble(error)),
        }
    }

    /// Deletes the Job after its time, pods first.
    async fn expire(&self, key: &JobKey, uid: &Uid) -> Result<Option<Sighting>, Trouble> {
        let preconditions = Preconditions { uid: Some(uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
        match self.jobs(key).delete(&key.name, &params).await {
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) || is_conflict(&error) => Ok(None),
            Err(error) => Err(trouble(error)),
        }
    }

    fn pods(&self, key: &JobKey) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    fn jobs(&self, key: &JobKey) -> Api<Job> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }
}

fn same_kind(a: &Action, b: &Action) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// An answer below 500 says that nothing was written; anything else says nothing.
fn trouble(error: kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) if status.code == 409 => Trouble::Conflict,
        kube::Error::Api(status) if status.code < 500 => Trouble::Refused(status.message.clone()),
        kube::Error::BuildRequest(error) => Trouble::Refused(error.to_string()),
        other => Trouble::Unknown(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use jiff::Timestamp;
    use kube::client::Body;
    use stint_core::clock::Clock;

    use super::*;
    use crate::events::recorder;

    struct Epoch;

    impl Clock for Epoch {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }

    /// An API that answers everything by 409.
    fn conflicting() -> Client {
        let answer = |_: Request<Body>| async {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict",
                "message": "the object has been modified", "code": 409 });
            let body = Body::from(status.to_string().into_bytes());
            Ok::<_, Infallible>(Response::builder().status(409).body(body).expect("the answer is well-formed"))
        };
        Client::new(tower::service_fn(answer), "default")
    }

    /// An API server answers a patch by 409, too, when others kept writing to the pod while it tried. That was taken
    /// for a release: the barrier then waited for a pod without finalizer, which nobody was going to bring about
    /// (found by the simulator: the Job never ended).
    #[tokio::test]
    async fn a_release_that_conflicts_is_not_taken_for_done() {
        let client = conflicting();
        let (recorder, _) = recorder(client.clone(), Arc::new(Epoch), "job-controller");
        let pod = PodRef { name: "p".to_owned(), uid: Uid::from("u") };
        let plan = Plan::of(Phase::Release, vec![Step::new(Action::ReleasePod(pod), "it is recorded")]);
        let key = JobKey { namespace: "default".into(), name: "j".into() };
        let report = Executor::new(client, recorder).execute(key, Arc::new(Job::default()), plan).await;
        assert_eq!((report.ended, report.sightings), (Ended::Conflict, Vec::new()));
    }
}
