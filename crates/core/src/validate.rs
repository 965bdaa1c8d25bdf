//! Validation: every rule that an object must keep before it is stored, in Kubernetes' words and order.
//!
//! Invariant: the input is defaulted (see `defaults`) and prepared (see `admit`); the answer is every fault, in the order
//! in which Kubernetes finds them, empty when the object may be stored. Where Kubernetes walks a map in random order,
//! we walk it sorted.
//! Left out: the CronJob schedule's own language; rules of Windows pods and of volume drivers beyond their required
//! fields.
//! Upstream: `pkg/apis/batch/validation/validation.go`, `pkg/apis/core/validation/validation.go`, v1.36.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Secret};

use crate::field::{Fault, Path};

mod config;
mod container;
mod cron_job;
mod env;
mod event;
mod job;
mod meta;
mod pod;
mod policy;
mod probe;
mod resources;
mod scheduling;
mod security;
mod selector;
mod status;
pub mod stored;
pub mod unhonoured;
mod update;
mod volume;
mod warnings;

pub use event::EventShape;
pub use meta::{NameRule, object_meta, object_meta_update};
pub use selector::selects;

/// What is wrong with a new Job, defaulted and prepared.
pub fn job_create(job: &Job) -> Vec<Fault> {
    let mut faults = Vec::new();
    job::create(job, &mut faults);
    faults
}

/// What is wrong with a new CronJob, defaulted and prepared.
pub fn cron_job_create(cron_job: &CronJob) -> Vec<Fault> {
    let mut faults = Vec::new();
    cron_job::create(cron_job, &mut faults);
    faults
}

/// What is wrong with replacing the CronJob `old` by `new`.
pub fn cron_job_update(old: &CronJob, new: &CronJob) -> Vec<Fault> {
    let mut faults = Vec::new();
    cron_job::update(old, new, &mut faults);
    faults
}

/// What is wrong with a new Pod, defaulted and prepared.
pub fn pod_create(pod: &Pod) -> Vec<Fault> {
    let mut faults = Vec::new();
    pod::create(pod, &mut faults);
    faults
}

/// What is wrong with replacing the ephemeral containers of the Pod `old` by those of `new`.
pub fn pod_ephemeral_update(old: &Pod, new: &Pod) -> Vec<Fault> {
    let mut faults = Vec::new();
    pod::ephemeral_update(old, new, &mut faults);
    faults
}

/// What is wrong with a new ConfigMap.
pub fn config_map_create(config_map: &ConfigMap) -> Vec<Fault> {
    let mut faults = Vec::new();
    config::config_map(config_map, &mut faults);
    faults
}

/// What is wrong with a new Secret, its `stringData` already folded into `data`.
pub fn secret_create(secret: &Secret) -> Vec<Fault> {
    let mut faults = Vec::new();
    config::secret(secret, &mut faults);
    faults
}

/// What is wrong with a new Event, sent in `shape`.
pub fn event_create(event: &Event, shape: EventShape) -> Vec<Fault> {
    let mut faults = Vec::new();
    event::create(event, shape, &mut faults);
    faults
}

/// What is wrong with replacing the Event `old` by `new`, sent in `shape`.
pub fn event_update(old: &Event, new: &Event, shape: EventShape) -> Vec<Fault> {
    let mut faults = Vec::new();
    event::update(old, new, shape, &mut faults);
    faults
}

/// What is wrong with replacing the Job `old` by `new` (spec and metadata; status is not looked at).
pub fn job_update(old: &Job, new: &Job) -> Vec<Fault> {
    let mut faults = Vec::new();
    update::job(old, new, &mut faults);
    faults
}

/// What is wrong with replacing the status (and metadata) of the Job `old` by that of `new`.
pub fn job_status_update(old: &Job, new: &Job) -> Vec<Fault> {
    let mut faults = Vec::new();
    status::update(old, new, &mut faults);
    faults
}

/// Warnings for the client that creates this Job; none of them refuses it.
pub fn job_warnings(job: &Job) -> Vec<String> {
    warnings::job(job)
}

/// Warnings for the client that updates this Job to a new generation.
pub fn job_update_warnings(job: &Job) -> Vec<String> {
    warnings::job_update(job)
}

/// How the warning about a schedule ends that no date matches, as 31 February. A cluster says nothing.
pub const NEVER_FIRES: &str = warnings::NEVER_FIRES;

/// Warnings for the client that creates this CronJob.
pub fn cron_job_warnings(cron_job: &CronJob) -> Vec<String> {
    warnings::cron_job(cron_job)
}

/// Warnings for the client that creates this Pod.
pub fn pod_warnings(pod: &Pod) -> Vec<String> {
    warnings::pod(pod)
}

/// Whom a pod spec belongs to; a template is held to fewer rules than a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Pod,
    Template,
}

/// The text of an optional string, whose absence means the empty string.
fn text(value: Option<&String>) -> &str {
    value.map_or("", String::as_str)
}

/// The items of an optional list, whose absence means the empty list.
fn items<T>(list: Option<&Vec<T>>) -> &[T] {
    list.map_or(&[], Vec::as_slice)
}

/// The entries of an optional map, whose absence means the empty map.
fn entries<V>(map: Option<&BTreeMap<String, V>>) -> impl Iterator<Item = (&String, &V)> {
    map.into_iter().flatten()
}

/// One `Invalid value` per reason.
fn invalid_for(reasons: Vec<String>, path: &Path<'_>, value: &str, faults: &mut Vec<Fault>) {
    faults.extend(reasons.into_iter().map(|reason| Fault::invalid(path, value, reason)));
}

/// ``must be greater than or equal to 0``.
fn non_negative(value: Option<i64>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if let Some(value) = value.filter(|v| *v < 0) {
        faults.push(Fault::invalid(path, value, "must be greater than or equal to 0"));
    }
}
