//! How many pods a Job wants now, and which ones come or go (`manageJob`, v1.36).
//!
//! Invariant: at most `parallelism` pods are active after the plan; creation and deletion never share a plan; nothing is
//! created before the delay of the latest failure is over.

use std::cmp::Reverse;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::track::forget;
use super::view::{Class, Seen, View, is_ready, phase, restarts};
use super::{Backoff, MAX_PODS_PER_PLAN, TRACKING_FINALIZER, parallelism, refresh, set_gauges, shown, write};
use crate::plan::{Action, Note, Phase, Plan, PodRef, Severity, Step, Wake};

/// MANAGE: the pods that are missing or too many. The end of the Job is not decided, and nothing waits to be counted.
pub(super) fn manage(view: &View<'_>, spec: &JobSpec, now: Timestamp, backoff: Backoff) -> Plan {
    let active = view.count(Class::Active);
    let want = wanted(view, spec, active);
    if active > want {
        return shrink(view, active, want, now);
    }
    let leaving = if view.only_replace_failed { view.count(Class::Leaving) } else { 0 };
    let missing = (want - active - leaving).max(0);
    if missing == 0 {
        return refresh(view, now, &format!("{active} of {want} wanted pods are active"));
    }
    if let Some((at, failures)) = backoff.until(view, now) {
        let why = format!("{missing} pods wait until {at}, the delay after {failures} failures in a row");
        let mut plan = refresh(view, now, &why);
        plan.wake = Some(Wake { at, why });
        return plan;
    }
    grow(view, spec, active, missing, now)
}

/// How many pods are to be active.
fn wanted(view: &View<'_>, spec: &JobSpec, active: i32) -> i32 {
    let succeeded = view.status.succeeded.unwrap_or(0);
    match spec.completions {
        Some(completions) => parallelism(spec).min(completions - succeeded).max(0),
        // A work queue: after the first success no pod is added, and those that run may finish.
        None if succeeded > 0 => active.min(parallelism(spec)),
        None => parallelism(spec),
    }
}

fn shrink(view: &View<'_>, active: i32, want: i32, now: Timestamp) -> Plan {
    let mut candidates: Vec<&Seen<'_>> = view.class(Class::Active).collect();
    candidates.sort_by_key(|seen| removal_rank(seen.pod));
    let surplus = usize::try_from(active - want).unwrap_or(0).min(MAX_PODS_PER_PLAN);
    let why = format!("{active} pods are active and {want} are wanted");
    let mut steps = Vec::new();
    for seen in candidates.into_iter().take(surplus) {
        // Without the finalizer it is not counted: it did not fail, it was sent away.
        steps.push(forget(seen, &why));
        steps.push(Step::new(Action::DeletePod(PodRef::of(seen.pod)), why.clone()).announce(
            Severity::Normal,
            "SuccessfulDelete",
            Note::Pod("Deleted pod:"),
        ));
    }
    let removed = i32::try_from(surplus).unwrap_or(i32::MAX);
    let mut status = shown(view, now);
    let terminating = view.count(Class::Leaving) + removed;
    let ready = view.ready().min(active - removed);
    set_gauges(&mut status, active - removed, ready, terminating);
    steps.push(write(status, why));
    Plan::of(Phase::Manage, steps)
}

fn grow(view: &View<'_>, spec: &JobSpec, active: i32, missing: i32, now: Timestamp) -> Plan {
    let count = missing.min(super::to_i32(MAX_PODS_PER_PLAN));
    let why = format!("{active} pods are active and {} are wanted", active + missing);
    let pod = new_pod(view.job, spec);
    let mut steps: Vec<Step> = (0..count)
        .map(|_| {
            Step::new(Action::CreatePod(Box::new(pod.clone())), why.clone()).announce(
                Severity::Normal,
                "SuccessfulCreate",
                Note::Pod("Created pod:"),
            )
        })
        .collect();
    let mut status = shown(view, now);
    set_gauges(&mut status, active + count, view.ready(), view.count(Class::Leaving));
    steps.push(write(status, why));
    Plan::of(Phase::Manage, steps)
}

/// The order in which surplus pods go, first to go first (`ActivePods.Less`): not bound before bound, Pending before
/// Unknown before Running, not ready before ready, then more restarts, then the newer one.
fn removal_rank(pod: &Pod) -> impl Ord + use<> {
    let bound = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    let progress = match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (bound, progress, is_ready(pod), Reverse(restarts(pod)), Reverse(created), pod.metadata.name.clone())
}

/// The pod that this Job's template describes (`GetPodFromTemplate` with the tracking finalizer).
fn new_pod(job: &Job, spec: &JobSpec) -> Pod {
    let template = spec.template.metadata.clone().unwrap_or_default();
    let name = job.metadata.name.clone().unwrap_or_default();
    let mut finalizers = template.finalizers.unwrap_or_default();
    if !finalizers.iter().any(|f| f == TRACKING_FINALIZER) {
        finalizers.push(TRACKING_FINALIZER.to_owned());
    }
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: job.metadata.namespace.clone(),
            labels: template.labels,
            annotations: template.annotations,
            finalizers: Some(finalizers),
            owner_references: Some(vec![OwnerReference {
                api_version: "batch/v1".to_owned(),
                kind: "Job".to_owned(),
                name,
                uid: job.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: spec.template.spec.clone(),
        status: None,
    }
}
