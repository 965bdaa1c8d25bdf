//! How many pods a Job wants now, and which ones come or go (`manageJob`, v1.36).
//!
//! Invariant: at most `parallelism` pods are active after the plan, and at most one per index; creation and deletion never
//! share a plan; nothing is created before the delay of the latest failure, of the Job or of the index, is over.

use std::cmp::Reverse;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::index::{INDEX, Index, IndexSet};
use super::per_index::{Counts, FAILURES, IGNORED};
use super::suspend::{self, refresh_managed, write_managed};
use super::track::forget;
use super::view::{Class, Indexed, Seen, View, is_ready, most_restarts, phase, ready_since};
use super::{Backoff, TRACKING_FINALIZER, Tuning, parallelism, pods_that, set_gauges, shown};
use crate::names::MAX_GENERATED_BASE;
use crate::plan::{Action, Note, Phase, Plan, PodRef, Severity, Step, Wake};

/// MANAGE: the pods that are missing or too many. The end of the Job is not decided, and nothing waits to be counted.
pub(super) fn manage(view: &View<'_>, spec: &JobSpec, now: Timestamp, tuning: Tuning) -> Plan {
    let Tuning { backoff, max_pods_per_plan: most, .. } = tuning;
    if suspend::is_wanted(view) {
        return suspend::suspend(view, now, most);
    }
    let active = view.count(Class::Active);
    let want = wanted(view, spec, active);
    let surplus = surplus(view, active, want, most);
    if !surplus.is_empty() {
        let why = if view.has_begun_to_send_away() {
            "it was to go, and its finalizer is off".to_owned()
        } else {
            active_and_wanted(active, want)
        };
        return send_away(view, &surplus, &why, now);
    }
    let leaving = if view.only_replace_failed { view.count(Class::Leaving) } else { 0 };
    let missing = (want - active - leaving).max(0);
    if missing == 0 {
        return refresh_managed(view, now, &format!("{active} of {want} wanted pods are active"));
    }
    let count = usize::try_from(missing).unwrap_or(0).min(most);
    let template = new_pod(view.job, spec);
    let (pods, wake) = match &view.indexed {
        Some(indexed) if indexed.per_index.is_some() => {
            let (due, wake) = due_indexes(view, indexed, count, now, backoff);
            (
                due.into_iter().map(|(index, counts)| indexed_pod(&template, view.job, index, Some(counts))).collect(),
                wake,
            )
        }
        indexed => {
            if let Some((at, failures)) = backoff.until(view, now) {
                let wait = pods_that(missing, "waits", "wait");
                let failures =
                    if failures == 1 { "1 failure".to_owned() } else { format!("{failures} failures in a row") };
                let why = format!("{wait} until {at}, the delay after {failures}");
                return refresh_managed(view, now, &why).waking(Some(Wake { at, why }));
            }
            let pods = match indexed {
                Some(indexed) => free_indexes(view, indexed, &[], count)
                    .into_iter()
                    .map(|index| indexed_pod(&template, view.job, index, None))
                    .collect(),
                None => vec![template; count],
            };
            (pods, None)
        }
    };
    if pods.is_empty() {
        let why =
            wake.as_ref().map_or_else(|| "every index has a pod or is done".to_owned(), |wake: &Wake| wake.why.clone());
        return refresh_managed(view, now, &why).waking(wake);
    }
    grow(view, pods, active, missing, now).waking(wake)
}

/// How many pods are to be active.
fn wanted(view: &View<'_>, spec: &JobSpec, active: i32) -> i32 {
    let succeeded = view.completed();
    match spec.completions {
        Some(completions) => parallelism(spec).min(completions - succeeded).max(0),
        // A work queue: after the first success no pod is added, and those that run may finish, however few are wanted.
        None if succeeded > 0 => active,
        None => parallelism(spec),
    }
}

/// The active pods that have to go: those that have lost their finalizer, since they were sent away before and only their
/// deletion has failed, whatever is wanted now: nobody would count them. Of an Indexed Job those that have no index of it, and
/// all but one of each index. Then as many as are too many; `most` of them for now.
pub(super) fn surplus<'v, 'a>(view: &'v View<'a>, active: i32, want: i32, most: usize) -> Vec<&'v Seen<'a>> {
    let has_each_its_own = view.indexed.as_ref().is_none_or(|indexed| indexed.active.len() == active);
    if active <= want && has_each_its_own && !view.has_begun_to_send_away() {
        return Vec::new(); // without putting thousands of pods in order
    }
    let (mut candidates, mut surplus): (Vec<&Seen<'_>>, Vec<&Seen<'_>>) =
        view.class(Class::Active).partition(|seen| seen.tracked);
    candidates.sort_by_cached_key(|seen| removal_rank(seen.pod));
    if view.indexed.is_some() {
        // The last of an index in this order is the one to keep.
        let mut seen_later = IndexSet::default();
        let mut kept = Vec::new();
        for seen in candidates.into_iter().rev() {
            if seen.index.is_some_and(|index| seen_later.insert(index)) {
                kept.push(seen);
            } else {
                surplus.push(seen);
            }
        }
        kept.reverse();
        candidates = kept;
    }
    let too_many = usize::try_from(active - want).unwrap_or(0).saturating_sub(surplus.len());
    surplus.extend(candidates.into_iter().take(too_many));
    surplus.truncate(most);
    surplus
}

/// Deletes active pods, which are not counted as failed for it.
pub(super) fn send_away(view: &View<'_>, pods: &[&Seen<'_>], why: &str, now: Timestamp) -> Plan {
    let mut steps = Vec::new();
    for seen in pods {
        // Without the finalizer it is not counted: it did not fail, it was sent away.
        steps.extend(seen.tracked.then(|| forget(seen, why)));
        steps.push(Step::new(Action::DeletePod(PodRef::of(seen.pod)), why).announce(
            Severity::Normal,
            "SuccessfulDelete",
            Note::Pod("Deleted pod:"),
        ));
    }
    let removed = super::to_i32(pods.len());
    let active = view.count(Class::Active) - removed;
    let ready = view.ready() - super::to_i32(pods.iter().filter(|seen| seen.ready).count());
    let mut status = shown(view, now);
    set_gauges(&mut status, active, ready, view.count(Class::Leaving) + removed);
    steps.push(write_managed(view, status, now, why));
    Plan::of(Phase::Manage, steps)
}

/// At most `count` indexes without a pod that may have one, ascending; `taken` ones are left out.
fn free_indexes(view: &View<'_>, indexed: &Indexed, taken: &[&IndexSet], count: usize) -> Vec<Index> {
    let leaving = view.class(Class::Leaving).filter(|_| view.only_replace_failed);
    let leaving: IndexSet = leaving.filter_map(|seen| seen.index).collect();
    let mut sets = vec![&indexed.succeeded, &indexed.active, &leaving];
    sets.extend(taken);
    IndexSet::missing(&sets, indexed.completions).take(count).collect()
}

/// Of Jobs with `backoffLimitPerIndex`: of the next `count` indexes those whose delay is over, with the counts for their next
/// pod; and when the next one's is. An index that waits keeps its place: the ones after it do not overtake it
/// (`getPodCreationInfoForIndependentIndexes`).
fn due_indexes(
    view: &View<'_>,
    indexed: &Indexed,
    count: usize,
    now: Timestamp,
    backoff: Backoff,
) -> (Vec<(Index, Counts)>, Option<Wake>) {
    let Some(per_index) = &indexed.per_index else { return (Vec::new(), None) };
    let (mut due, mut waiting) = (Vec::new(), Vec::new());
    for index in free_indexes(view, indexed, &[&per_index.failed], count) {
        let awaiting = per_index.awaiting.get(&index);
        match awaiting.and_then(|awaiting| awaiting.until(backoff, now)) {
            Some(at) => waiting.push((index, at)),
            None => due.push((index, awaiting.map_or(Counts::default(), |awaiting| awaiting.counts))),
        }
    }
    let wake = waiting.into_iter().min_by_key(|(_, at)| *at).map(|(index, at)| {
        let why = format!("index {index} waits until {at}, the delay after its latest failure");
        Wake { at, why }
    });
    (due, wake)
}

fn active_and_wanted(active: i32, wanted: i32) -> String {
    let active = pods_that(active, "is active", "are active");
    format!("{active} and {wanted} {} wanted", if wanted == 1 { "is" } else { "are" })
}

fn grow(view: &View<'_>, pods: Vec<Pod>, active: i32, missing: i32, now: Timestamp) -> Plan {
    let count = super::to_i32(pods.len());
    let why = active_and_wanted(active, active + missing);
    let create = |pod| {
        Step::new(Action::CreatePod(Box::new(pod)), why.clone()).announce(
            Severity::Normal,
            "SuccessfulCreate",
            Note::Pod("Created pod:"),
        )
    };
    let mut steps: Vec<Step> = pods.into_iter().map(create).collect();
    let mut status = shown(view, now);
    set_gauges(&mut status, active + count, view.ready(), view.count(Class::Leaving));
    steps.push(write_managed(view, status, now, &why));
    // Where a quota refuses the pods, the status says so much at least: that the Job has started, or was resumed.
    Plan { otherwise: refresh_managed(view, now, &why).steps, ..Plan::of(Phase::Manage, steps) }
}

/// The order in which surplus pods go, first to go first (`ActivePods.Less`): not bound before bound, Pending before
/// Unknown before Running, not ready before ready, the latest ready first, then more restarts of one container, of one
/// sidecar, then the newer one.
pub(super) fn removal_rank(pod: &Pod) -> impl Ord + use<> {
    let bound = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    let progress = match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    // A time that is not known counts as the latest.
    let latest = |time: Option<Timestamp>| Reverse(time.unwrap_or(Timestamp::MAX));
    let created = latest(pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
    let ready = is_ready(pod).then(|| latest(ready_since(pod)));
    (bound, progress, ready, Reverse(most_restarts(pod)), created, pod.metadata.name.clone())
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

/// The pod of one index (`addCompletionIndexAnnotation`, `addCompletionIndexEnvVariables`).
fn indexed_pod(template: &Pod, job: &Job, index: Index, counts: Option<Counts>) -> Pod {
    let mut pod = template.clone();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let suffix = format!("-{index}-");
    let room = MAX_GENERATED_BASE.saturating_sub(suffix.len());
    pod.metadata.generate_name = Some(format!("{}{suffix}", &name[..name.len().min(room)]));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some(counts) = counts {
        annotations.insert(FAILURES.to_owned(), counts.failures.to_string());
        if counts.ignored > 0 {
            annotations.insert(IGNORED.to_owned(), counts.ignored.to_string());
        }
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    for container in containers {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|variable| variable.name == ENV) {
            env.push(EnvVar { name: ENV.to_owned(), value_from: Some(index_source()), ..EnvVar::default() });
        }
    }
    pod
}

/// The variable that tells a container its index.
const ENV: &str = "JOB_COMPLETION_INDEX";

fn index_source() -> EnvVarSource {
    let field_path = format!("metadata.labels['{INDEX}']");
    EnvVarSource { field_ref: Some(ObjectFieldSelector { api_version: None, field_path }), ..EnvVarSource::default() }
}
