//! Updates of a Job: which members may change, and when its template may.
//!
//! Upstream: `pkg/registry/batch/job/strategy.go` (`ValidateUpdate`, `validationOptionsForJob`),
//! `pkg/apis/batch/validation/validation.go` (`ValidateJobUpdate`, `validatePodTemplateUpdate`), v1.36.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Affinity, Container, PodTemplateSpec};
use serde::Serialize;

use super::{items, job, meta, object_meta_update, selector};
use crate::field::{Fault, Path, Value};

pub(super) fn job(old: &Job, new: &Job, faults: &mut Vec<Fault>) {
    // Upstream validates the new object as if it were created, and its spec once more as an update; so do causes read.
    meta::before_update(&old.metadata, &new.metadata, faults);
    create_rules(old, new, faults);
    object_meta_update(&old.metadata, &new.metadata, faults);
    let absent = JobSpec::default();
    let old_spec = old.spec.as_ref().unwrap_or(&absent);
    let spec = new.spec.as_ref().unwrap_or(&absent);
    let root = Path::root();
    let path = root.field("spec");
    job::spec(spec, &path, faults);
    completions(old_spec, spec, &path, faults);
    if old_spec.selector != spec.selector {
        immutable(selector::shown(spec.selector.as_ref()), &path.field("selector"), faults);
    }
    template(old, old_spec, spec, &path, faults);
    let show = |value: Option<&String>| value.map_or_else(|| Value::bare("null"), Value::from);
    if old_spec.completion_mode != spec.completion_mode {
        immutable(show(spec.completion_mode.as_ref()), &path.field("completionMode"), faults);
    }
    if old_spec.pod_failure_policy != spec.pod_failure_policy {
        immutable(internal(spec.pod_failure_policy.as_ref()), &path.field("podFailurePolicy"), faults);
    }
    if old_spec.backoff_limit_per_index != spec.backoff_limit_per_index {
        let value = Value::json(&spec.backoff_limit_per_index);
        immutable(value, &path.field("backoffLimitPerIndex"), faults);
    }
    if old_spec.managed_by != spec.managed_by {
        immutable(show(spec.managed_by.as_ref()), &path.field("managedBy"), faults);
    }
    if old_spec.success_policy != spec.success_policy {
        immutable(internal_success(spec), &path.field("successPolicy"), faults);
    }
}

fn create_rules(old: &Job, new: &Job, faults: &mut Vec<Fault>) {
    let labels = |job: &Job| {
        let meta = job.spec.as_ref()?.template.metadata.clone()?;
        meta.labels
    };
    let had = labels(old).unwrap_or_default();
    let prefixed = ["batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"];
    let required = prefixed.iter().all(|key| had.contains_key(*key));
    let before = faults.len();
    job::create(new, faults);
    if !required {
        // A Job from before the prefixed labels need not gain them.
        let optional =
            |field: &str| prefixed.iter().any(|key| field == format!("spec.template.metadata.labels[{key}]"));
        let kept: Vec<Fault> = faults.drain(before..).filter(|f| !optional(&f.field)).collect();
        faults.extend(kept);
    }
}

fn immutable(value: Value, path: &Path<'_>, faults: &mut Vec<Fault>) {
    faults.push(Fault::invalid(path, value, "field is immutable"));
}

fn completions(old: &JobSpec, new: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let path = path.field("completions");
    if old.completions == new.completions {
        return;
    }
    if !job::is_indexed(new) {
        immutable(Value::json(&new.completions), &path, faults);
        return;
    }
    // An Indexed Job without completions has its fault already.
    if let Some(completions) = new.completions.filter(|_| new.completions != new.parallelism) {
        let detail = "can only be modified in tandem with spec.parallelism";
        faults.push(Fault::invalid(&path, completions, detail));
    }
}

/// Whether scheduling directives and resources in the template may change: the Job stands still.
fn is_template_open(old: &Job) -> bool {
    let spec = old.spec.as_ref();
    let status = old.status.as_ref();
    let suspended = spec.and_then(|s| s.suspend) == Some(true);
    let active = status.and_then(|s| s.active).unwrap_or_default();
    let started = status.is_some_and(|s| s.start_time.is_some());
    let conditions = items(status.and_then(|s| s.conditions.as_ref()));
    let stopped = conditions.iter().any(|c| c.type_ == "Suspended" && c.status == "True");
    suspended && active == 0 && (!started || stopped)
}

fn template(old: &Job, old_spec: &JobSpec, spec: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let new = &spec.template;
    let mut allowed = old_spec.template.clone();
    // Off by default upstream, and dropped from requests.
    if let (Some(old_pod), Some(new_pod)) = (&mut allowed.spec, &new.spec) {
        old_pod.scheduling_group.clone_from(&new_pod.scheduling_group);
    }
    let open = is_template_open(old);
    if open {
        open_up(&mut allowed, new);
    }
    if allowed == *new {
        return;
    }
    let path = path.field("template");
    if open {
        immutable(Value::json(&new.spec), &path.field("spec"), faults);
    } else {
        immutable(Value::json(new), &path, faults);
    }
}

/// Copies into `old` what may change, so that only forbidden differences remain.
fn open_up(old: &mut PodTemplateSpec, new: &PodTemplateSpec) {
    let new_meta = new.metadata.clone().unwrap_or_default();
    let mut meta = old.metadata.take().unwrap_or_default();
    meta.labels = new_meta.labels;
    meta.annotations = new_meta.annotations;
    old.metadata = new.metadata.as_ref().map(|_| meta);
    let (Some(old), Some(new)) = (&mut old.spec, &new.spec) else {
        return;
    };
    match (&mut old.affinity, &new.affinity) {
        (Some(affinity), None) => {
            affinity.node_affinity = None;
            if *affinity == Affinity::default() {
                old.affinity = None;
            }
        }
        (None, Some(affinity)) => {
            old.affinity = Some(Affinity { node_affinity: affinity.node_affinity.clone(), ..Affinity::default() });
        }
        (Some(affinity), Some(new)) => affinity.node_affinity.clone_from(&new.node_affinity),
        (None, None) => {}
    }
    old.node_selector.clone_from(&new.node_selector);
    old.tolerations.clone_from(&new.tolerations);
    old.scheduling_gates.clone_from(&new.scheduling_gates);
    resources(&mut old.containers, &new.containers);
    if let (Some(old), Some(new)) = (&mut old.init_containers, &new.init_containers) {
        resources(old, new);
    }
}

fn resources(old: &mut [Container], new: &[Container]) {
    let same = old.len() == new.len() && old.iter().zip(new).all(|(old, new)| old.name == new.name);
    if same {
        for (old, new) in old.iter_mut().zip(new) {
            old.resources.clone_from(&new.resources);
        }
    }
}

/// The failure policy as messages print it; only the shape of an empty one is upstream's to the letter.
fn internal(policy: Option<&impl Serialize>) -> Value {
    let Ok(serde_json::Value::Object(members)) = serde_json::to_value(policy) else {
        return Value::bare("null");
    };
    let renamed: serde_json::Map<_, _> =
        members.into_iter().map(|(name, value)| (name[..1].to_uppercase() + &name[1..], value)).collect();
    Value::json(&renamed)
}

fn internal_success(spec: &JobSpec) -> Value {
    let Some(policy) = &spec.success_policy else {
        return Value::bare("null");
    };
    job::shown_success_policy(policy)
}
