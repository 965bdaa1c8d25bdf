//! Defaulting: the values that an API server fills in for fields left out.
//!
//! Invariant: defaulting twice changes nothing. It runs at every decode, of requests and of what was stored.
//! Left out: what creation fills in (see `admit`), and what depends on other objects (service account, priority).
//! Upstream: `pkg/apis/batch/v1/defaults.go`, `pkg/apis/core/v1/defaults.go`, v1.36.

use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EphemeralContainer, HTTPGetAction, ImageVolumeSource, Pod, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, Secret, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

use crate::quantity;

/// The grace period of a pod that names none.
pub const TERMINATION_GRACE_PERIOD_SECONDS: i64 = 30;
/// How often the pods of a Job may fail that names no limit.
pub const BACKOFF_LIMIT: i32 = 6;

/// Fills in a Job's defaults, those of its pod template included.
pub fn job(job: &mut Job) {
    let spec = job.spec.get_or_insert_default();
    job_spec(spec);
    pod_template(&mut spec.template);
    // Shared with the template at every decode, so that clearing a Job's labels brings these back.
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if let Some(labels) = labels.filter(|l| !l.is_empty())
        && job.metadata.labels.as_ref().is_none_or(BTreeMap::is_empty)
    {
        job.metadata.labels = Some(labels.clone());
    }
}

fn job_spec(spec: &mut JobSpec) {
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    spec.parallelism.get_or_insert(1);
    let per_index = spec.backoff_limit_per_index.is_some();
    spec.backoff_limit.get_or_insert(if per_index { i32::MAX } else { BACKOFF_LIMIT });
    if let Some(policy) = &mut spec.pod_failure_policy {
        for pattern in policy.rules.iter_mut().flat_map(|r| r.on_pod_conditions.iter_mut().flatten()) {
            text(&mut pattern.status, "True");
        }
    }
    let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
    spec.completion_mode.get_or_insert_with(|| "NonIndexed".to_owned());
    spec.suspend.get_or_insert(false);
    spec.manual_selector.get_or_insert(false);
    spec.pod_replacement_policy.get_or_insert_with(|| replacement.to_owned());
}

/// Fills in a CronJob's defaults; its job template gets none but the pod template's.
pub fn cron_job(cron_job: &mut CronJob) {
    let spec = &mut cron_job.spec;
    text(&mut spec.concurrency_policy, "Allow");
    spec.suspend.get_or_insert(false);
    spec.successful_jobs_history_limit.get_or_insert(3);
    spec.failed_jobs_history_limit.get_or_insert(1);
    spec.job_template.metadata.get_or_insert_default();
    pod_template(&mut spec.job_template.spec.get_or_insert_default().template);
}

/// Fills in a Pod's defaults, among them some that a template does not get.
pub fn pod(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    pod_spec(spec);
    let host_network = spec.host_network == Some(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(resources) = &mut container.resources {
            requests_from_limits(resources);
        }
        for port in container.ports.iter_mut().flatten().filter(|_| host_network) {
            if port.host_port.unwrap_or_default() == 0 {
                port.host_port = Some(port.container_port);
            }
        }
    }
    spec.enable_service_links.get_or_insert(true);
}

/// Fills in a Secret's type.
pub fn secret(secret: &mut Secret) {
    text(&mut secret.type_, "Opaque");
}

/// Fills in a pod template's defaults.
pub fn pod_template(template: &mut PodTemplateSpec) {
    let _: &mut ObjectMeta = template.metadata.get_or_insert_default();
    pod_spec(template.spec.get_or_insert_default());
}

/// Fills in a pod spec's defaults, as both pods and templates get them.
pub fn pod_spec(spec: &mut PodSpec) {
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(TERMINATION_GRACE_PERIOD_SECONDS);
    // One field under two names, the second deprecated.
    match (is_set(spec.service_account_name.as_ref()), is_set(spec.service_account.as_ref())) {
        (false, true) => spec.service_account_name.clone_from(&spec.service_account),
        (true, _) => spec.service_account.clone_from(&spec.service_account_name),
        (false, false) => {}
    }
    for volume in spec.volumes.iter_mut().flatten() {
        self::volume(volume);
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        self::container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        ephemeral_container(container);
    }
    if let Some(overhead) = &mut spec.overhead {
        amounts(overhead);
    }
}

fn container(container: &mut Container) {
    container_texts(
        &mut container.image_pull_policy,
        &mut container.termination_message_path,
        &mut container.termination_message_policy,
        container.image.as_deref().unwrap_or_default(),
    );
    resources(container.resources.get_or_insert_default());
    for port in container.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
    }
    for source in container.env.iter_mut().flatten().filter_map(|v| v.value_from.as_mut()) {
        if let Some(field) = &mut source.field_ref {
            text(&mut field.api_version, "v1");
        }
        if let Some(file) = &mut source.file_key_ref {
            file.optional.get_or_insert(false);
        }
    }
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
        probe.iter_mut().for_each(self::probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        for hook in lifecycle.post_start.iter_mut().chain(&mut lifecycle.pre_stop) {
            hook.http_get.iter_mut().for_each(http_get);
        }
    }
}

fn ephemeral_container(container: &mut EphemeralContainer) {
    container_texts(
        &mut container.image_pull_policy,
        &mut container.termination_message_path,
        &mut container.termination_message_policy,
        container.image.as_deref().unwrap_or_default(),
    );
    container.resources.get_or_insert_default();
}

fn container_texts(
    pull_policy: &mut Option<String>,
    message_path: &mut Option<String>,
    message_policy: &mut Option<String>,
    image: &str,
) {
    text(pull_policy, if is_latest(image) { "Always" } else { "IfNotPresent" });
    text(message_path, "/dev/termination-log");
    text(message_policy, "File");
}

/// Whether an image reference means the tag `latest`: named, or neither tag nor digest is.
///
/// Upstream: `pkg/util/parsers/parsers.go`, `ParseImageName`; a reference that it can't read has no tag at all.
fn is_latest(image: &str) -> bool {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    let (repository, tag) = match last.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (last, None),
    };
    let readable = !repository.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:/[]".contains(&b))
        && !repository.bytes().any(|b| b.is_ascii_uppercase());
    readable && (tag == Some("latest") || (tag.is_none() && digest.is_none()))
}

fn resources(resources: &mut ResourceRequirements) {
    for list in resources.limits.iter_mut().chain(&mut resources.requests) {
        amounts(list);
    }
}

/// Resource amounts are held in thousandths at the finest, in canonical form.
fn amounts(list: &mut BTreeMap<String, Quantity>) {
    for amount in list.values_mut() {
        if let Ok(parsed) = quantity::parse(&amount.0) {
            amount.0 = parsed.round_up_to_milli().to_string();
        }
    }
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = &resources.limits else {
        return;
    };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

fn probe(probe: &mut Probe) {
    number(&mut probe.timeout_seconds, 1);
    number(&mut probe.period_seconds, 10);
    number(&mut probe.success_threshold, 1);
    number(&mut probe.failure_threshold, 3);
    probe.http_get.iter_mut().for_each(http_get);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn http_get(http: &mut HTTPGetAction) {
    text(&mut http.path, "/");
    text(&mut http.scheme, "HTTP");
}

fn volume(volume: &mut Volume) {
    let empty = Volume { name: volume.name.clone(), ..Volume::default() };
    if *volume == empty {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(0o644);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(0o644);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(0o644);
        for file in source.items.iter_mut().flatten() {
            if let Some(field) = &mut file.field_ref {
                text(&mut field.api_version, "v1");
            }
        }
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(0o644);
        source.sources.iter_mut().flatten().for_each(projection);
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.image {
        image_volume(source);
    }
    if let Some(source) = &mut volume.iscsi {
        text(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut volume.rbd {
        text(&mut source.pool, "rbd");
        text(&mut source.user, "admin");
        text(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut volume.azure_disk {
        source.caching_mode.get_or_insert_with(|| "ReadWrite".to_owned());
        source.kind.get_or_insert_with(|| "Shared".to_owned());
        source.fs_type.get_or_insert_with(|| "ext4".to_owned());
        source.read_only.get_or_insert(false);
    }
    if let Some(source) = &mut volume.scale_io {
        text(&mut source.storage_mode, "ThinProvisioned");
        text(&mut source.fs_type, "xfs");
    }
    let claim = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut());
    if let Some(claim) = claim {
        claim.spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    }
}

fn projection(projection: &mut VolumeProjection) {
    if let Some(token) = &mut projection.service_account_token {
        token.expiration_seconds.get_or_insert(3600);
    }
    if let Some(source) = &mut projection.downward_api {
        for file in source.items.iter_mut().flatten() {
            if let Some(field) = &mut file.field_ref {
                text(&mut field.api_version, "v1");
            }
        }
    }
}

fn image_volume(source: &mut ImageVolumeSource) {
    let image = source.reference.as_deref().unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    text(&mut source.pull_policy, policy);
}

fn is_set(value: Option<&String>) -> bool {
    value.is_some_and(|v| !v.is_empty())
}

/// Sets a text that is absent or empty, which Go does not tell apart.
fn text(value: &mut Option<String>, default: &str) {
    if !is_set(value.as_ref()) {
        *value = Some(default.to_owned());
    }
}

/// Sets a number that is absent or zero, which Go does not tell apart.
fn number(value: &mut Option<i32>, default: i32) {
    if value.unwrap_or_default() == 0 {
        *value = Some(default);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_latest_and_untagged_images_are_always_pulled() {
        for image in ["busybox", "x:latest", "a.b:5000/x", "a.b:5000/x/y:latest"] {
            assert!(is_latest(image), "{image}");
        }
        for image in ["x:1", "a.b:5000/x:1", "x@sha256:00", "", "X", "x y"] {
            assert!(!is_latest(image), "{image}");
        }
    }

    #[test]
    fn defaulting_twice_changes_nothing() {
        let mut once: Job = serde_json::from_str(
            r#"{"metadata":{"name":"a"},"spec":{"template":{"metadata":{"labels":{"x":"y"}},"spec":{
                "containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"0.5"}}}],
                "volumes":[{"name":"v"},{"name":"s","secret":{"secretName":"s"}}]}}}}"#,
        )
        .unwrap();
        job(&mut once);
        let mut twice = once.clone();
        job(&mut twice);
        assert_eq!(once, twice);
        let spec = once.spec.unwrap();
        assert_eq!((spec.completions, spec.parallelism, spec.backoff_limit), (Some(1), Some(1), Some(6)));
        assert_eq!(once.metadata.labels.unwrap()["x"], "y");
    }

    #[test]
    fn a_work_queue_job_keeps_its_completions_open() {
        let mut queue = Job::default();
        queue.spec.get_or_insert_default().parallelism = Some(3);
        job(&mut queue);
        assert_eq!(queue.spec.unwrap().completions, None);
    }
}
