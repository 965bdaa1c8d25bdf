//! What creating or updating an object fills in, besides defaults: identity, generation, generated selector and labels,
//! initial status.
//!
//! Invariant: uid and name suffix are arguments; the client's own values for what the server owns are dropped.
//! Left out: creation time (the store's clock), namespace (from the request), resource version (the store).
//! Upstream: `pkg/registry/batch/job/strategy.go` (`PrepareForCreate`, `generateSelector`),
//! `pkg/registry/core/pod/strategy.go`, `apiserver/pkg/registry/rest/create.go` (`BeforeCreate`), v1.36.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{names, quantity};

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// Prepares a defaulted Job for validation: identity, generation 1, empty status, generated selector and labels.
///
/// A name to generate must be generated first (see [`generate_name`]). Defaulting once more afterwards shows the
/// generated labels on a Job that has none of its own, as reading it from the store does.
pub fn prepare_job(job: &mut Job, uid: &str) {
    prepare_meta(&mut job.metadata, uid);
    job.metadata.generation = Some(1);
    job.status = Some(JobStatus::default());
    let name = job.metadata.name.clone().unwrap_or_default();
    let spec = job.spec.get_or_insert_default();
    drop_disabled(spec.template.spec.as_mut());
    if spec.manual_selector != Some(true) {
        generate_selector(spec, &name, uid);
    }
}

fn generate_selector(spec: &mut JobSpec, name: &str, uid: &str) {
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    // A label that the user set stays, and validation rejects a wrong one.
    for (key, value) in generated_labels(name, uid) {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let selector = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selector.entry(CONTROLLER_UID.to_owned()).or_insert_with(|| uid.to_owned());
}

/// The labels that tell a Job's pods, both with and without prefix.
fn generated_labels<'a>(name: &'a str, uid: &'a str) -> [(&'static str, &'a str); 4] {
    [("controller-uid", uid), ("job-name", name), (CONTROLLER_UID, uid), (JOB_NAME, name)]
}

/// Takes from a Job the selector and labels that were generated for it, and the copy of them that it has for labels of its own.
pub fn forget_selector(job: &mut Job) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (name, uid) = (text(&job.metadata.name), text(&job.metadata.uid));
    let generated: BTreeMap<_, _> = generated_labels(&name, &uid).into();
    let forget = |labels: &mut Option<BTreeMap<String, String>>| {
        let mut others = labels.take().unwrap_or_default();
        others.retain(|key, value| generated.get(key.as_str()) != Some(&value.as_str()));
        *labels = Some(others).filter(|others| !others.is_empty());
    };
    forget(&mut job.metadata.labels);
    let Some(spec) = &mut job.spec else { return };
    spec.selector = None;
    if let Some(meta) = &mut spec.template.metadata {
        forget(&mut meta.labels);
    }
}

/// Prepares a defaulted CronJob for validation: identity, generation 1, empty status.
pub fn prepare_cron_job(cron_job: &mut CronJob, uid: &str) {
    prepare_meta(&mut cron_job.metadata, uid);
    cron_job.metadata.generation = Some(1);
    cron_job.status = Some(CronJobStatus::default());
    drop_disabled(cron_job.spec.job_template.spec.as_mut().and_then(|s| s.template.spec.as_mut()));
}

/// Prepares a defaulted Pod for validation: identity, generation 1, phase Pending and its QoS class.
pub fn prepare_pod(pod: &mut Pod, uid: &str) {
    prepare_meta(&mut pod.metadata, uid);
    pod.metadata.generation = Some(1);
    drop_disabled(pod.spec.as_mut());
    let class = pod.spec.as_ref().map_or("BestEffort", qos_class);
    pod.status = Some(PodStatus {
        phase: Some("Pending".to_owned()),
        qos_class: Some(class.to_owned()),
        ..PodStatus::default()
    });
}

/// Keeps what the server owns when `new` replaces `old`: identity, times, status; and counts the generation up if the
/// spec changes.
pub fn prepare_job_update(old: &Job, new: &mut Job) {
    let spec = new.spec.get_or_insert_default();
    drop_disabled(spec.template.spec.as_mut());
    new.status.clone_from(&old.status);
    keep_meta(&old.metadata, &mut new.metadata, old.spec != new.spec);
}

/// As [`prepare_job_update`], for a write to `/status`: the spec stays, status and the rest of the metadata change.
pub fn prepare_job_status_update(old: &Job, new: &mut Job) {
    new.spec.clone_from(&old.spec);
    keep_meta(&old.metadata, &mut new.metadata, false);
}

/// Keeps what the server owns when `new` replaces `old`.
pub fn prepare_cron_job_update(old: &CronJob, new: &mut CronJob) {
    new.status.clone_from(&old.status);
    keep_meta(&old.metadata, &mut new.metadata, old.spec != new.spec);
}

/// Identity that a create request may not bring along.
pub fn prepare_meta(meta: &mut ObjectMeta, uid: &str) {
    meta.uid = Some(uid.to_owned());
    meta.self_link = None;
    meta.creation_timestamp = None;
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.generation = None;
}

fn keep_meta(old: &ObjectMeta, new: &mut ObjectMeta, changed: bool) {
    new.self_link = None;
    new.creation_timestamp.clone_from(&old.creation_timestamp);
    new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    if new.uid.as_ref().is_none_or(String::is_empty) {
        new.uid.clone_from(&old.uid);
    }
    let generation = old.generation.unwrap_or_default();
    new.generation = Some(if changed { generation + 1 } else { generation });
}

/// Fills in `metadata.name` from `generateName` and a random `suffix`, if there is no name yet.
pub fn generate_name(meta: &mut ObjectMeta, suffix: &str) {
    let base = meta.generate_name.as_deref().filter(|b| !b.is_empty());
    if let Some(base) = base.filter(|_| meta.name.as_ref().is_none_or(String::is_empty)) {
        meta.name = Some(names::generate_name(base, suffix));
    }
}

/// Drops repeated owner references; the warning for the client if there were any.
///
/// Upstream: `apiserver/pkg/endpoints/handlers/rest.go`, `dedupOwnerReferences`.
pub fn dedup_owner_references(meta: &mut ObjectMeta) -> Option<String> {
    let owners = meta.owner_references.as_mut()?;
    let mut kept = Vec::with_capacity(owners.len());
    let mut repeated = BTreeSet::new();
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            repeated.insert(owner.uid);
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    if repeated.is_empty() {
        return None;
    }
    let uids = repeated.into_iter().collect::<Vec<_>>().join(", ");
    Some(format!(
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {uids}"
    ))
}

/// Drops from a pod spec the members whose feature is off by default, as if they had not been sent.
pub fn drop_disabled(spec: Option<&mut PodSpec>) {
    if let Some(spec) = spec {
        spec.scheduling_group = None;
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`: by the pod's own CPU and memory where it gives any, else by its containers'.
///
/// Upstream: `pkg/apis/core/v1/helper/qos/qos.go`, `ComputePodQOS`.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let whole = spec.resources.as_ref().filter(|whole| asks_for_any(whole));
    let of_containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let none = ResourceRequirements::default();
    let each: Vec<&ResourceRequirements> = match whole {
        Some(whole) => vec![whole],
        None => of_containers.map(|container| container.resources.as_ref().unwrap_or(&none)).collect(),
    };
    if !each.iter().copied().any(asks_for_any) {
        "BestEffort"
    } else if each.iter().copied().all(is_limited_to_its_requests) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// What a QoS class is about.
const QOS_RESOURCES: [&str; 2] = ["cpu", "memory"];

fn asks_for_any(resources: &ResourceRequirements) -> bool {
    let asked = |name| amount(resources.limits.as_ref(), name).or(amount(resources.requests.as_ref(), name));
    QOS_RESOURCES.iter().any(|name| asked(name).is_some())
}

/// An absent request is the limit.
fn is_limited_to_its_requests(resources: &ResourceRequirements) -> bool {
    QOS_RESOURCES.iter().all(|name| {
        let request = amount(resources.requests.as_ref(), name);
        amount(resources.limits.as_ref(), name).is_some_and(|limit| request.is_none_or(|request| request == limit))
    })
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<quantity::Quantity> {
    quantity::parse(&list?.get(name)?.0).ok().filter(|amount| *amount > quantity::Quantity::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(resources: &str) -> PodSpec {
        serde_json::from_str(&format!(r#"{{"containers":[{{"name":"c","resources":{resources}}}]}}"#)).unwrap()
    }

    #[test]
    fn qos_follows_limits_and_requests() {
        for (resources, class) in [
            ("{}", "BestEffort"),
            (r#"{"limits":{"cpu":"0"}}"#, "BestEffort"),
            (r#"{"limits":{"cpu":"1"}}"#, "Burstable"),
            (r#"{"requests":{"memory":"1Mi"}}"#, "Burstable"),
            (r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#, "Guaranteed"),
            (r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1000m"}}"#, "Guaranteed"),
            (r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"500m"}}"#, "Burstable"),
        ] {
            assert_eq!(qos_class(&spec(resources)), class, "{resources}");
        }
    }

    #[test]
    fn the_pods_own_resources_decide_its_class() {
        let mut pod = spec(r#"{"limits":{"cpu":"1"}}"#);
        for (whole, class) in [
            ("{}", "Burstable"),
            (r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#, "Guaranteed"),
            (r#"{"requests":{"cpu":"1"}}"#, "Burstable"),
        ] {
            pod.resources = Some(serde_json::from_str(whole).unwrap());
            assert_eq!(qos_class(&pod), class, "{whole}");
        }
    }

    #[test]
    fn what_the_client_sends_for_the_server_is_dropped() {
        let mut job: Job =
            serde_json::from_str(r#"{"metadata":{"name":"a","uid":"mine","generation":9},"status":{"active":3}}"#)
                .unwrap();
        prepare_job(&mut job, "u1");
        assert_eq!((job.metadata.uid.as_deref(), job.metadata.generation), (Some("u1"), Some(1)));
        assert_eq!(job.status, Some(JobStatus::default()));
        let labels = job.spec.unwrap().template.metadata.unwrap().labels.unwrap();
        assert_eq!(labels["batch.kubernetes.io/job-name"], "a");
        assert_eq!(labels.len(), 4);
    }

    #[test]
    fn a_generated_name_does_not_replace_a_given_one() {
        let mut meta = ObjectMeta { generate_name: Some("a-".into()), ..ObjectMeta::default() };
        generate_name(&mut meta, "x4z9w");
        assert_eq!(meta.name.as_deref(), Some("a-x4z9w"));
        generate_name(&mut meta, "other");
        assert_eq!(meta.name.as_deref(), Some("a-x4z9w"));
    }
}
