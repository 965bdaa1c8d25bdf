//! The writes of a Job's plan, one request or two each, and what each answer means.
//!
//! Invariant: an answer below 500 says that nothing was written; anything else says nothing, and is told so.

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use stint_core::job::TRACKING_FINALIZER;
use stint_core::plan::{Action, PodRef, Step, Uid};
use stint_core::ttl;

use super::Executor;
use crate::barrier::Sighting;
use crate::cache::{JobKey, parse_revision};
use crate::request::{self, Written, of, patch_status, send, send_unread};

/// Why one step did not go through.
pub(super) enum Trouble {
    /// Something changed in the meantime.
    Conflict,
    /// The API will not have it.
    Refused {
        /// What it says.
        message: String,
        /// Whether the namespace is being deleted: then nobody needs to hear of it.
        is_expected: bool,
    },
    /// Nobody knows whether it was written.
    Unknown(String),
}

impl Executor {
    /// Takes one step.
    pub(super) async fn take(&self, key: &JobKey, job: &Job, step: &Step) -> Result<Option<Sighting>, Trouble> {
        tracing::debug!(job = &*key.name, why = step.why, "taking a step");
        let (sighting, pod) = match &step.action {
            Action::CreatePod(pod) => {
                let request = request::create(&key.namespace, &**pod);
                let Written { metadata } = send(&self.client, request).await.map_err(trouble)?;
                (Some(Sighting::PodsAt(parse_revision(metadata.resource_version.as_ref()))), metadata.name)
            }
            Action::DeletePod(pod) => (self.delete(key, pod).await?, Some(pod.name.clone())),
            Action::ReleasePod(pod) => (self.release(key, pod, None).await?, Some(pod.name.clone())),
            Action::ReleaseUncounted { pod, resource_version } => {
                (self.release(key, pod, Some(resource_version)).await?, Some(pod.name.clone()))
            }
            Action::Adopt(pod) => (self.adopt(key, job, pod).await?, None),
            Action::LetGo(pod) => (self.let_go(key, job, pod).await?, None),
            Action::DeleteJob(uid) => (self.expire(key, job, uid).await?, None),
            Action::Announce => (None, None),
            Action::WriteJobStatus(status) => (Some(self.write_status(job, status).await?), None),
        };
        for event in &step.events {
            self.recorder.record(job, event, pod.as_deref());
        }
        Ok(sighting)
    }

    /// Writes the status of the Job as it was reconciled; a conflict if it has changed since.
    async fn write_status(&self, job: &Job, status: &JobStatus) -> Result<Sighting, Trouble> {
        match send(&self.client, patch_status(job, job.status.as_ref(), status)).await {
            Ok(Written { metadata }) => {
                self.metrics.wrote(job, status);
                Ok(Sighting::JobsAt(parse_revision(metadata.resource_version.as_ref())))
            }
            Err(error) if is_gone(&error) => Err(Trouble::Conflict),
            Err(error) => Err(trouble(error)),
        }
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
        let request = of::<Pod>(&key.namespace).patch(&pod.name, &PatchParams::default(), &Patch::Strategic(patch));
        match send_unread(&self.client, request).await {
            Ok(()) => Ok(released),
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
        let seen = self.patch(key, pod, patch).await?;
        Ok(seen.map(|seen| seen.of_let_go(&pod.uid)))
    }

    /// Patches a pod. One that is gone needs it no more; until the cache shows that, the same would be planned again.
    async fn patch(&self, key: &JobKey, pod: &PodRef, patch: serde_json::Value) -> Result<Option<Sighting>, Trouble> {
        let request = of::<Pod>(&key.namespace).patch(&pod.name, &PatchParams::default(), &Patch::Strategic(patch));
        match send(&self.client, request).await {
            Ok(Written { metadata }) => Ok(Some(Sighting::PodsAt(parse_revision(metadata.resource_version.as_ref())))),
            Err(error) if is_gone(&error) => Ok(Some(Sighting::PodGone(pod.uid.clone()))),
            Err(error) => Err(trouble(error)),
        }
    }

    /// Deletes the Job after its time, pods first; unless somebody has just changed it, and with it maybe its time.
    async fn expire(&self, key: &JobKey, job: &Job, uid: &Uid) -> Result<Option<Sighting>, Trouble> {
        let resource_version = job.metadata.resource_version.clone();
        let preconditions = Preconditions { uid: Some(uid.to_string()), resource_version };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
        match self.jobs(key).delete(&key.name, &params).await {
            Ok(_) => {
                let late = ttl::expires_at(job).map(|at| self.recorder.now().duration_since(at));
                self.metrics.expired(late.and_then(|late| late.try_into().ok()).unwrap_or_default());
                Ok(None)
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(trouble(error)),
        }
    }

    pub(super) fn pods(&self, key: &JobKey) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    pub(super) fn jobs(&self, key: &JobKey) -> Api<Job> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }
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
        kube::Error::Api(status) if status.code < 500 => {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let is_expected = causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating");
            Trouble::Refused { message: status.message.clone(), is_expected }
        }
        kube::Error::BuildRequest(error) => Trouble::Refused { message: error.to_string(), is_expected: false },
        other => Trouble::Unknown(other.to_string()),
    }
}
