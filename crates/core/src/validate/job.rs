//! Jobs: their counts, modes, selector and pod template.
//!
//! Upstream: `pkg/apis/batch/validation/validation.go` (`ValidateJob`, `validateGeneratedSelector`, `ValidateJobSpec`),
//! v1.36.

use k8s_openapi::api::batch::v1::{Job, JobSpec, SuccessPolicy};
use k8s_openapi::api::core::v1::PodSpec;
use serde::Serialize;

use super::{NameRule, invalid_for, items, non_negative, object_meta, pod, policy, selector, text};
use crate::field::{Fault, Path, Value};
use crate::names;

const MAX_INDEXED_PARALLELISM: i32 = 100_000;
const MAX_FAILED_INDEXES: i32 = 100_000;
/// Above so many completions, the two limits below hold with `backoffLimitPerIndex`.
pub(super) const COMPLETIONS_SOFT_LIMIT: i32 = 100_000;
pub(super) const PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS: i32 = 10_000;
const FAILED_INDEXES_LIMIT_FOR_HIGH_COMPLETIONS: i32 = 10_000;
const MAX_MANAGED_BY_BYTES: usize = 63;

/// Whether the Job's pods have completion indexes.
pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub(super) fn create(job: &Job, faults: &mut Vec<Fault>) {
    let absent = JobSpec::default();
    let job_spec = job.spec.as_ref().unwrap_or(&absent);
    object_meta(&job.metadata, NameRule::DnsSubdomain, faults);
    generated_selector(job, job_spec, faults);
    let root = Path::root();
    spec(job_spec, &root.field("spec"), faults);
    let completions = job_spec.completions.unwrap_or_default();
    if is_indexed(job_spec) && completions > 0 {
        let name = text(job.metadata.name.as_ref());
        let last = format!("{name}-{}", completions - 1);
        if !names::dns_label(&last).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {last}");
            faults.push(Fault::invalid(&root.field("metadata").field("name"), name, detail));
        }
    }
}

fn generated_selector(job: &Job, spec: &JobSpec, faults: &mut Vec<Fault>) {
    if spec.manual_selector == Some(true) || spec.selector.is_none() {
        return;
    }
    let root = Path::root();
    let uid = text(job.metadata.uid.as_ref());
    let name = text(job.metadata.name.as_ref());
    if uid.is_empty() {
        faults.push(Fault::required(&root.field("metadata").field("uid"), ""));
    }
    let expected = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    let path = root.field("spec.template.metadata.labels");
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    for (key, value) in expected {
        let rule = format!("must be '{value}'");
        match labels.and_then(|labels| labels.get(key)) {
            None => faults.push(Fault::required(&path.key(key), &rule)),
            Some(actual) if actual != value => {
                faults.push(Fault::invalid(&path.key(key), Value::json(&labels), rule));
            }
            Some(_) => {}
        }
    }
    let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    if selector::matches(spec.selector.as_ref(), Some(&expected)) == Some(false) {
        let value = selector::shown(spec.selector.as_ref());
        faults.push(Fault::invalid(&root.field("spec.selector"), value, "`selector` not auto-generated"));
    }
}

/// A Job's spec with its selector.
pub(super) fn spec(spec: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    spec_without_selector(spec, path, faults);
    match &spec.selector {
        None => faults.push(Fault::required(&path.field("selector"), "")),
        Some(selector) => selector::validate(selector, &path.field("selector"), faults),
    }
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if selector::matches(spec.selector.as_ref(), labels) == Some(false) {
        let detail = "`selector` does not match template `labels`";
        faults.push(Fault::invalid(&path.field("template.metadata.labels"), Value::json(&labels), detail));
    }
}

/// What Jobs and the job templates of CronJobs have in common.
pub(super) fn spec_without_selector(spec: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    counts(spec, path, faults);
    if let Some(managed_by) = &spec.managed_by {
        let path = path.field("managedBy");
        domain_prefixed_path(managed_by, &path, faults);
        if managed_by.len() > MAX_MANAGED_BY_BYTES {
            faults.push(Fault::too_long(&path, MAX_MANAGED_BY_BYTES));
        }
    }
    completion_mode(spec, path, faults);
    policy::pod_failure(spec, &path.field("podFailurePolicy"), faults);
    success_policy(spec, &path.field("successPolicy"), faults);
    policy::pod_replacement(spec, &path.field("podReplacementPolicy"), faults);
    pod::template(&spec.template, &path.field("template"), faults);
    restart_policy(spec, &path.field("template.spec.restartPolicy"), faults);
}

fn counts(spec: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    for (field, value) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(i64::from)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        non_negative(value, &path.field(field), faults);
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        let path = path.field("backoffLimitPerIndex");
        faults.push(Fault::required(&path, "when maxFailedIndexes is specified"));
    }
}

/// Upstream: `apimachinery/pkg/util/validation`, `IsDomainPrefixedPath`.
fn domain_prefixed_path(value: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if value.is_empty() {
        faults.push(Fault::required(path, ""));
        return;
    }
    let (domain, rest) = match value.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => (domain, rest),
        _ => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            faults.push(Fault::invalid(path, value, detail));
            return;
        }
    };
    invalid_for(names::dns_subdomain(domain), path, domain, faults);
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        faults.push(Fault::invalid(path, rest, detail));
    }
}

fn completion_mode(spec: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if let Some(mode) = spec.completion_mode.as_deref().filter(|m| !matches!(*m, "NonIndexed" | "Indexed")) {
        faults.push(Fault::not_supported(&path.field("completionMode"), mode, &["NonIndexed", "Indexed"]));
    }
    if is_indexed(spec) {
        indexed(spec, path, faults);
    }
    if matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed")) {
        for (field, value) in
            [("backoffLimitPerIndex", spec.backoff_limit_per_index), ("maxFailedIndexes", spec.max_failed_indexes)]
        {
            if let Some(value) = value {
                faults.push(Fault::invalid(&path.field(field), value, "requires indexed completion mode"));
            }
        }
    }
}

fn indexed(spec: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let max_failed_path = path.field("maxFailedIndexes");
    let parallelism_path = path.field("parallelism");
    if spec.completions.is_none() {
        faults.push(Fault::required(&path.field("completions"), "when completion mode is Indexed"));
    }
    if let Some(parallelism) = spec.parallelism.filter(|p| *p > MAX_INDEXED_PARALLELISM) {
        let detail = format!("must be less than or equal to {MAX_INDEXED_PARALLELISM} when completion mode is Indexed");
        faults.push(Fault::invalid(&parallelism_path, parallelism, detail));
    }
    if let (Some(completions), Some(max_failed)) = (spec.completions, spec.max_failed_indexes)
        && max_failed > completions
    {
        faults.push(Fault::invalid(&max_failed_path, max_failed, "must be less than or equal to completions"));
    }
    if let Some(max_failed) = spec.max_failed_indexes.filter(|m| *m > MAX_FAILED_INDEXES) {
        let detail = format!("must be less than or equal to {MAX_FAILED_INDEXES}");
        faults.push(Fault::invalid(&max_failed_path, max_failed, detail));
    }
    if spec.completions.is_none_or(|c| c <= COMPLETIONS_SOFT_LIMIT) || spec.backoff_limit_per_index.is_none() {
        return;
    }
    if spec.max_failed_indexes.is_none() {
        let detail = format!("must be specified when completions is above {COMPLETIONS_SOFT_LIMIT}");
        faults.push(Fault::required(&max_failed_path, &detail));
    }
    for (path, value, limit) in [
        (&parallelism_path, spec.parallelism, PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS),
        (&max_failed_path, spec.max_failed_indexes, FAILED_INDEXES_LIMIT_FOR_HIGH_COMPLETIONS),
    ] {
        if let Some(value) = value.filter(|v| *v > limit) {
            let detail = format!(
                "must be less than or equal to {limit} when completions are above {COMPLETIONS_SOFT_LIMIT} and used with backoff limit per index"
            );
            faults.push(Fault::invalid(path, value, detail));
        }
    }
}

fn success_policy(spec: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    match &spec.success_policy {
        None => {}
        Some(success) if is_indexed(spec) => policy::success(success, spec.completions, path, faults),
        Some(success) => {
            let detail = "requires indexed completion mode";
            faults.push(Fault::invalid(path, shown_success_policy(success), detail));
        }
    }
}

/// A success policy as messages print it: upstream's internal struct.
pub(super) fn shown_success_policy(success: &SuccessPolicy) -> Value {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct GoRule<'a> {
        succeeded_indexes: Option<&'a String>,
        succeeded_count: Option<i32>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct GoPolicy<'a> {
        rules: Vec<GoRule<'a>>,
    }
    let rules = success.rules.iter().map(|rule| GoRule {
        succeeded_indexes: rule.succeeded_indexes.as_ref(),
        succeeded_count: rule.succeeded_count,
    });
    Value::json(&GoPolicy { rules: rules.collect() })
}

fn restart_policy(spec: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let absent = PodSpec::default();
    let pod = spec.template.spec.as_ref().unwrap_or(&absent);
    match text(pod.restart_policy.as_ref()) {
        // Always is what an absent policy is defaulted to, so both read as "required".
        "Always" | "" => {
            faults.push(Fault::required(path, "valid values: \"OnFailure\", \"Never\""));
        }
        "Never" => {}
        "OnFailure" if spec.pod_failure_policy.is_none() => {}
        "OnFailure" => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            faults.push(Fault::invalid(path, "OnFailure", detail));
        }
        other => faults.push(Fault::not_supported(path, other, &["OnFailure", "Never"])),
    }
}

/// The names of a Job's containers and init containers.
pub(super) fn container_names(spec: &JobSpec) -> impl Iterator<Item = &str> {
    let pod = spec.template.spec.as_ref();
    let init = pod.map_or(&[][..], |p| items(p.init_containers.as_ref()));
    let main = pod.map_or(&[][..], |p| p.containers.as_slice());
    main.iter().chain(init).map(|c| c.name.as_str())
}
