//! Objects as somebody would have written them, to be applied to another API: without what their own API made of them.
//!
//! Invariant: another API that takes the manifest has an object with the same spec, since only that is left out of the spec
//! which defaulting puts back: what that is is found by trying.
//! Left out: who reads the objects, and where the manifests go.

use std::fmt;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{admit, defaults, job};

/// The ConfigMap that every namespace gets.
const ROOT_CA: &str = "kube-root-ca.crt";
/// The type of Secrets that hold tokens of ServiceAccounts.
const TOKEN: &str = "kubernetes.io/service-account-token";
/// Annotations that say what a client or an API once did.
const PAST: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", "batch.kubernetes.io/job-tracking"];

/// Why an object is not written: another API makes it by itself, or would do with it what nobody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// Its owner makes it, as a CronJob its Jobs.
    Owned,
    /// Every API makes its own, as tokens of accounts.
    OfTheApi,
    /// It is being deleted.
    Leaving,
    /// It is a Job that has ended, and would run once more.
    Ended,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LeftOut::Owned => "made by their owners",
            LeftOut::OfTheApi => "made by every API for itself",
            LeftOut::Leaving => "being deleted",
            LeftOut::Ended => "ended",
        })
    }
}

/// Whether Jobs that have ended are wanted, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// They are left out.
    LeftOut,
    /// They are written, and run once more where they are applied.
    Written,
}

/// The manifest of a CronJob.
pub fn cron_job(mut cron_job: CronJob) -> Result<Value, LeftOut> {
    clean(&mut cron_job.metadata)?;
    cron_job.status = None;
    Ok(manifest("batch/v1", "CronJob", &cron_job, defaults::cron_job))
}

/// The manifest of a Job.
pub fn job(mut job: Job, ended: Ended) -> Result<Value, LeftOut> {
    let has_ended = job.status.as_ref().and_then(job::finished).is_some();
    let is_generated = job.spec.as_ref().is_some_and(|spec| spec.manual_selector != Some(true));
    if is_generated {
        admit::forget_selector(&mut job);
    }
    clean(&mut job.metadata)?;
    if has_ended && ended == Ended::LeftOut {
        return Err(LeftOut::Ended);
    }
    job.status = None;
    Ok(manifest("batch/v1", "Job", &job, defaults::job))
}

/// The manifest of a ConfigMap.
pub fn config_map(mut config_map: ConfigMap) -> Result<Value, LeftOut> {
    if config_map.metadata.name.as_deref() == Some(ROOT_CA) {
        return Err(LeftOut::OfTheApi);
    }
    clean(&mut config_map.metadata)?;
    Ok(manifest("v1", "ConfigMap", &config_map, |_| ()))
}

/// The manifest of a Secret.
pub fn secret(mut secret: Secret) -> Result<Value, LeftOut> {
    if secret.type_.as_deref() == Some(TOKEN) {
        return Err(LeftOut::OfTheApi);
    }
    clean(&mut secret.metadata)?;
    Ok(manifest("v1", "Secret", &secret, defaults::secret))
}

/// Keeps of the metadata what a user writes.
fn clean(meta: &mut ObjectMeta) -> Result<(), LeftOut> {
    if meta.deletion_timestamp.is_some() {
        return Err(LeftOut::Leaving);
    }
    if meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true)) {
        return Err(LeftOut::Owned);
    }
    let mut annotations = meta.annotations.take().unwrap_or_default();
    annotations.retain(|name, _| !PAST.contains(&name.as_str()));
    *meta = ObjectMeta {
        name: meta.name.take(),
        namespace: meta.namespace.take(),
        labels: meta.labels.take().filter(|labels| !labels.is_empty()),
        annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    };
    Ok(())
}

/// `object` without what `settle` puts back.
fn manifest<T>(api_version: &str, kind: &str, object: &T, settle: impl Fn(&mut T)) -> Value
where
    T: Clone + PartialEq + Serialize + DeserializeOwned,
{
    let settled = |mut object: T| {
        settle(&mut object);
        object
    };
    let whole = settled(object.clone());
    let is_same = |shorter: &Value| T::deserialize(shorter).is_ok_and(|shorter| settled(shorter) == whole);
    let mut manifest = serde_json::to_value(object).expect("an API type is JSON");
    shorten(&mut manifest, "", &is_same);
    // Where there is nothing but a name left of a kind, the kind says so much at least.
    manifest["apiVersion"] = api_version.into();
    manifest["kind"] = kind.into();
    manifest
}

/// Takes every member below `pointer` away without which the manifest still `is_same`.
fn shorten(manifest: &mut Value, pointer: &str, is_same: &impl Fn(&Value) -> bool) {
    let below: Vec<String> = match manifest.pointer(pointer) {
        Some(Value::Object(members)) => members.keys().cloned().collect(),
        Some(Value::Array(items)) => (0..items.len()).map(|index| index.to_string()).collect(),
        _ => return,
    };
    for name in below {
        let object = manifest.pointer_mut(pointer).and_then(Value::as_object_mut);
        if let Some(taken) = object.and_then(|members| members.remove(&name)) {
            if is_same(manifest) {
                continue;
            }
            manifest.pointer_mut(pointer).expect("it was there just now")[&name] = taken;
        }
        let escaped = name.replace('~', "~0").replace('/', "~1");
        shorten(manifest, &format!("{pointer}/{escaped}"), is_same);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stored_job(spec: &Value) -> Job {
        let mut job: Job = serde_json::from_value(json!({
            "metadata": { "name": "j", "namespace": "n", "annotations": { "a~/b": "kept", PAST[0]: "{}" } },
            "spec": spec,
        }))
        .unwrap();
        defaults::job(&mut job);
        admit::prepare_job(&mut job, "00000000-0000-4000-8000-000000000000");
        defaults::job(&mut job); // as reading does it
        job.metadata.resource_version = Some("7".to_owned());
        job.metadata.creation_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        job
    }

    #[test]
    fn a_job_is_written_as_it_was() {
        let pod = json!({ "restartPolicy": "Never", "containers": [
            { "name": "c", "image": "i:1", "resources": { "limits": { "cpu": "1" } } },
        ] });
        let spec = json!({ "completions": 3, "template": { "metadata": { "labels": { "app": "x" } }, "spec": pod } });
        let written = job(stored_job(&spec), Ended::LeftOut).unwrap();
        let metadata = json!({ "name": "j", "namespace": "n", "annotations": { "a~/b": "kept" } });
        assert_eq!(written, json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec }));
    }

    #[test]
    fn a_written_selector_stays_and_so_do_labels_that_look_generated() {
        let labels = json!({ "job-name": "other" });
        let spec = json!({ "completions": 1, "manualSelector": true, "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels }, "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i:1" }] },
        } });
        assert_eq!(job(stored_job(&spec), Ended::LeftOut).unwrap()["spec"], spec);
    }

    #[test]
    fn what_is_made_again_by_itself_or_must_not_be_is_left_out() {
        let spec = json!({ "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c" }] } } });
        let mut owned = stored_job(&spec);
        let owner =
            json!([{ "apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "u", "controller": true }]);
        owned.metadata.owner_references = Some(serde_json::from_value(owner).unwrap());
        assert_eq!(job(owned, Ended::Written), Err(LeftOut::Owned));
        let mut leaving = stored_job(&spec);
        leaving.metadata.deletion_timestamp.clone_from(&leaving.metadata.creation_timestamp);
        assert_eq!(job(leaving, Ended::Written), Err(LeftOut::Leaving));
        let mut ended = stored_job(&spec);
        let complete = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
        ended.status = Some(serde_json::from_value(complete).unwrap());
        assert_eq!(job(ended.clone(), Ended::LeftOut), Err(LeftOut::Ended));
        assert_eq!(job(ended, Ended::Written).unwrap().get("status"), None);
        let named = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let root = ConfigMap { metadata: named(ROOT_CA), ..ConfigMap::default() };
        assert_eq!(config_map(root), Err(LeftOut::OfTheApi));
        let of_type = |type_: &str| Secret { metadata: named("s"), type_: Some(type_.to_owned()), ..Secret::default() };
        assert_eq!(secret(of_type(TOKEN)), Err(LeftOut::OfTheApi));
        let written = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } });
        assert_eq!(secret(of_type("Opaque")), Ok(written));
    }

    #[test]
    fn a_cron_job_is_written_as_it_was() {
        let spec = json!({ "schedule": "@daily", "suspend": true, "jobTemplate": { "spec": { "template": {
            "spec": { "restartPolicy": "OnFailure", "containers": [{ "name": "c", "image": "i" }] },
        } } } });
        let mut stored: CronJob = serde_json::from_value(json!({ "metadata": { "name": "c" }, "spec": spec })).unwrap();
        defaults::cron_job(&mut stored);
        admit::prepare_cron_job(&mut stored, "u");
        assert_eq!(cron_job(stored).unwrap()["spec"], spec);
    }
}
