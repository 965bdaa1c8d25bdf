//! Warnings: what a client should know about an object that is accepted all the same. Those that a cluster gives are here,
//! those about fields that this node does not honour in `unhonoured`.
//!
//! Upstream: `pkg/registry/batch/job/strategy.go` (`WarningsOnCreate`), `pkg/api/pod/warnings.go`,
//! `pkg/api/node/util.go`, v1.36.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Volume, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{entries, items, job as rules, pod as pods, text, unhonoured};
use crate::field::{Path, quote};
use crate::schedule::Schedule;
use crate::{names, quantity};

/// How the warning about a schedule ends that no date matches.
pub(super) const NEVER_FIRES: &str = "never fires: no moment of any year matches it";

pub(super) fn job(job: &Job) -> Vec<String> {
    let mut warnings = name(&job.metadata);
    warnings.extend(job_update(job));
    warnings
}

pub(super) fn job_update(job: &Job) -> Vec<String> {
    let root = Path::root();
    job.spec.as_ref().map_or_else(Vec::new, |spec| job_spec(spec, &root.field("spec")))
}

pub(super) fn cron_job(cron_job: &CronJob) -> Vec<String> {
    let mut warnings = name(&cron_job.metadata);
    let root = Path::root();
    let schedule = &cron_job.spec.schedule;
    if Schedule::parse(schedule).is_ok_and(|schedule| schedule.is_never()) {
        warnings.push(format!("spec.schedule: {} {NEVER_FIRES}", quote(schedule)));
    }
    if let Some(spec) = &cron_job.spec.job_template.spec {
        warnings.extend(job_spec(spec, &root.field("spec.jobTemplate.spec")));
    }
    warnings
}

pub(super) fn pod(pod: &Pod) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(spec) = &pod.spec {
        pod_spec(spec, &pod.metadata, &Path::root(), &mut warnings);
    }
    warnings
}

fn name(meta: &ObjectMeta) -> Vec<String> {
    let reasons = names::dns_label(text(meta.name.as_ref()));
    if reasons.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
        reasons.join(" ")
    )]
}

fn job_spec(spec: &JobSpec, path: &Path<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let completions = spec.completions.unwrap_or_default();
    let parallelism = spec.parallelism.unwrap_or_default();
    if rules::is_indexed(spec)
        && completions > rules::COMPLETIONS_SOFT_LIMIT
        && parallelism > rules::PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS
    {
        warnings.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    let no_meta = ObjectMeta::default();
    if let Some(pod) = &spec.template.spec {
        let meta = spec.template.metadata.as_ref().unwrap_or(&no_meta);
        pod_spec(pod, meta, &path.field("template"), &mut warnings);
    }
    warnings
}

fn pod_spec(spec: &PodSpec, meta: &ObjectMeta, template: &Path<'_>, warnings: &mut Vec<String>) {
    let path = template.field("spec");
    let metadata = template.field("metadata");
    let annotations = metadata.field("annotations");
    node_labels(spec, &path, warnings);
    for (key, text) in [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
        ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ] {
        if meta.annotations.as_ref().is_some_and(|a| a.contains_key(key)) {
            warnings.push(format!("{}: {text}", annotations.key(key)));
        }
    }
    let volumes = items(spec.volumes.as_ref());
    deprecated_volumes(volumes, &path.field("volumes"), warnings);
    overlapping_paths(volumes, warnings);
    let aliases = items(spec.host_aliases.as_ref()).iter().map(|a| a.ip.as_str());
    duplicates(aliases, "ip", &path.field("hostAliases"), warnings);
    let secrets_path = path.field("imagePullSecrets");
    let secrets = items(spec.image_pull_secrets.as_ref());
    duplicates(secrets.iter().map(|s| s.name.as_str()), "name", &secrets_path, warnings);
    for (i, _) in secrets.iter().enumerate().filter(|(_, s)| s.name.is_empty()) {
        warnings.push(format!("{}: invalid empty name \"\"", secrets_path.index(i).field("name")));
    }
    for resource in ["memory", "ephemeral-storage"] {
        let amount = spec.overhead.as_ref().and_then(|o| o.get(resource)).map(|q| q.0.as_str());
        fractional(amount, &path.field("overhead").key(resource), warnings);
    }
    seccomp_annotations(spec, meta, &annotations, warnings);
    for (list, i, container) in pods::visit(spec) {
        let list = path.field(list);
        self::container(container, &list.index(i), warnings);
    }
    ports(spec, &path, warnings);
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            path.field("terminationGracePeriodSeconds")
        ));
    }
    null_selectors(spec, &path, warnings);
    unhonoured::warn(spec, &path, warnings);
}

/// The message for a node label that Kubernetes no longer sets.
fn deprecated_node_label(label: &str) -> Option<&'static str> {
    Some(match label {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        _ => return None,
    })
}

fn node_labels(spec: &PodSpec, path: &Path<'_>, warnings: &mut Vec<String>) {
    let selector = path.field("nodeSelector");
    for (label, _) in entries(spec.node_selector.as_ref()) {
        if let Some(text) = deprecated_node_label(label) {
            warnings.push(format!("{}: {text}", selector.key(label)));
        }
    }
    if let Some(node) = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()) {
        let affinity = path.field("affinity");
        let affinity = affinity.field("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            let terms = affinity.field("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
            for (i, term) in required.node_selector_terms.iter().enumerate() {
                selector_term(term, &terms.index(i), warnings);
            }
        }
        let terms = affinity.field("preferredDuringSchedulingIgnoredDuringExecution");
        let preferred = items(node.preferred_during_scheduling_ignored_during_execution.as_ref());
        for (i, term) in preferred.iter().enumerate() {
            let path = terms.index(i);
            selector_term(&term.preference, &path.field("preference"), warnings);
        }
    }
    let spread = path.field("topologySpreadConstraints");
    for (i, constraint) in items(spec.topology_spread_constraints.as_ref()).iter().enumerate() {
        let path = spread.index(i);
        if let Some(text) = deprecated_node_label(&constraint.topology_key) {
            let key = &constraint.topology_key;
            warnings.push(format!("{}: {key} is {text}", path.field("topologyKey")));
        }
        if constraint.label_selector.is_none() {
            null_selector(&path.field("labelSelector"), warnings);
        }
    }
}

fn selector_term(term: &NodeSelectorTerm, path: &Path<'_>, warnings: &mut Vec<String>) {
    let expressions = path.field("matchExpressions");
    for (i, expression) in items(term.match_expressions.as_ref()).iter().enumerate() {
        if let Some(text) = deprecated_node_label(&expression.key) {
            let key = &expression.key;
            warnings.push(format!("{}: {key} is {text}", expressions.index(i).field("key")));
        }
    }
}

fn null_selector(path: &Path<'_>, warnings: &mut Vec<String>) {
    warnings.push(format!("{path}: a null labelSelector results in matching no pod"));
}

fn null_selectors(spec: &PodSpec, path: &Path<'_>, warnings: &mut Vec<String>) {
    let Some(affinity) = &spec.affinity else {
        return;
    };
    let root = path.field("affinity");
    let mut check = |field: &str, required: &[PodAffinityTerm], preferred: &[WeightedPodAffinityTerm]| {
        let path = root.field(field);
        let terms = path.field("requiredDuringSchedulingIgnoredDuringExecution");
        for (i, _) in required.iter().enumerate().filter(|(_, t)| t.label_selector.is_none()) {
            null_selector(&terms.index(i).field("labelSelector"), warnings);
        }
        let terms = path.field("preferredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in preferred.iter().enumerate() {
            if term.pod_affinity_term.label_selector.is_none() {
                null_selector(&terms.index(i).field("podAffinityTerm.labelSelector"), warnings);
            }
        }
    };
    if let Some(pods) = &affinity.pod_affinity {
        check(
            "podAffinity",
            items(pods.required_during_scheduling_ignored_during_execution.as_ref()),
            items(pods.preferred_during_scheduling_ignored_during_execution.as_ref()),
        );
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        check(
            "podAntiAffinity",
            items(pods.required_during_scheduling_ignored_during_execution.as_ref()),
            items(pods.preferred_during_scheduling_ignored_during_execution.as_ref()),
        );
    }
}

fn deprecated_volumes(volumes: &[Volume], path: &Path<'_>, warnings: &mut Vec<String>) {
    for (i, volume) in volumes.iter().enumerate() {
        for (field, used, text) in [
            (
                "photonPersistentDisk",
                volume.photon_persistent_disk.is_some(),
                "deprecated in v1.11, non-functional in v1.16+",
            ),
            ("gitRepo", volume.git_repo.is_some(), "deprecated in v1.11, and disabled by default in v1.33+"),
            ("scaleIO", volume.scale_io.is_some(), "deprecated in v1.16, non-functional in v1.22+"),
            ("flocker", volume.flocker.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
            ("storageOS", volume.storageos.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
            ("quobyte", volume.quobyte.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
            ("glusterfs", volume.glusterfs.is_some(), "deprecated in v1.25, non-functional in v1.26+"),
            ("cephfs", volume.cephfs.is_some(), "deprecated in v1.28, non-functional in v1.31+"),
            ("rbd", volume.rbd.is_some(), "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if used {
                warnings.push(format!("{}: {text}", path.index(i).field(field)));
            }
        }
    }
}

fn overlapping_paths(volumes: &[Volume], warnings: &mut Vec<String>) {
    for volume in volumes {
        let name = quote(&volume.name);
        if let Some(source) = &volume.config_map {
            let paths = items(source.items.as_ref()).iter().map(|i| i.path.as_str());
            overlaps(paths, &format!("volume {name} (ConfigMap {}): overlapping paths", quote(&source.name)), warnings);
        }
        if let Some(source) = &volume.secret {
            let paths = items(source.items.as_ref()).iter().map(|i| i.path.as_str());
            let secret = quote(text(source.secret_name.as_ref()));
            overlaps(paths, &format!("volume {name} (Secret {secret}): overlapping paths"), warnings);
        }
        if let Some(source) = &volume.downward_api {
            let paths = items(source.items.as_ref()).iter().map(|i| i.path.as_str());
            overlaps(paths, &format!("volume {name} (DownwardAPI): overlapping paths"), warnings);
        }
    }
}

fn overlaps<'a>(paths: impl Iterator<Item = &'a str>, text: &str, warnings: &mut Vec<String>) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for path in paths.map(|p| p.trim_end_matches('/')).filter(|p| !p.is_empty()) {
        let meets = |other: &&&str| format!("{other}/").starts_with(path) || format!("{path}/").starts_with(**other);
        if let Some(other) = seen.iter().find(meets) {
            warnings.push(format!("{text}: {} with {}", quote(path), quote(other)));
        }
        seen.insert(path);
    }
}

fn duplicates<'a>(values: impl Iterator<Item = &'a str>, field: &str, path: &Path<'_>, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, value) in values.enumerate() {
        if !seen.insert(value) {
            let path = path.index(i);
            warnings.push(format!("{}: duplicate {field} {}", path.field(field), quote(value)));
        }
    }
}

fn fractional(amount: Option<&str>, path: &Path<'_>, warnings: &mut Vec<String>) {
    if let Some(amount) = amount.and_then(|a| quantity::parse(a).ok()).filter(|a| !a.is_integer()) {
        warnings.push(format!("{path}: fractional byte value \"{amount}\" is invalid, must be an integer"));
    }
}

fn seccomp_annotations(spec: &PodSpec, meta: &ObjectMeta, path: &Path<'_>, warnings: &mut Vec<String>) {
    let has = |key: &str| meta.annotations.as_ref().is_some_and(|a| a.contains_key(key));
    let text = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    let pod_key = "seccomp.security.alpha.kubernetes.io/pod";
    let pod = spec.security_context.as_ref();
    if pod.is_none_or(|c| c.seccomp_profile.is_none()) && has(pod_key) {
        warnings.push(format!("{}: {text}", path.key(pod_key)));
    }
    for (_, _, container) in pods::visit(spec) {
        let own = container.security_context.as_ref();
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", container.name);
        if own.is_none_or(|c| c.seccomp_profile.is_none()) && has(&key) {
            warnings.push(format!("{}: {text}", path.key(&key)));
        }
        let key = format!("container.apparmor.security.beta.kubernetes.io/{}", container.name);
        let profile = own.and_then(|c| c.app_armor_profile.as_ref());
        if profile.or(pod.and_then(|c| c.app_armor_profile.as_ref())).is_none() && has(&key) {
            let text = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
            warnings.push(format!("{}: {text}", path.key(&key)));
        }
    }
}

fn container(container: &Container, path: &Path<'_>, warnings: &mut Vec<String>) {
    if let Some(resources) = &container.resources {
        let path = path.field("resources");
        for resource in ["memory", "ephemeral-storage"] {
            for (field, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
                let amount = list.as_ref().and_then(|l| l.get(resource)).map(|q| q.0.as_str());
                fractional(amount, &path.field(field).key(resource), warnings);
            }
        }
    }
    let path = path.field("env");
    let mut seen = BTreeSet::new();
    for (i, var) in items(container.env.as_ref()).iter().enumerate() {
        if seen.insert(&var.name) {
            continue;
        }
        let reference = format!("$({})", var.name);
        let value = text(var.value.as_ref());
        // `X=$(X)more` builds on the earlier value; anything else loses it.
        if var.value_from.is_some() || value == reference || !value.contains(&reference) {
            warnings.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                path.index(i),
                quote(&var.name)
            ));
        }
    }
}

fn ports(spec: &PodSpec, path: &Path<'_>, warnings: &mut Vec<String>) {
    let mut seen: BTreeMap<(i32, &str), Vec<(String, &ContainerPort)>> = BTreeMap::new();
    for (list, i, container) in pods::visit(spec) {
        let list = path.field(list);
        let path = list.index(i);
        let path = path.field("ports");
        for (j, port) in items(container.ports.as_ref()).iter().enumerate() {
            let here = path.index(j).to_string();
            let others = seen.entry((port.container_port, text(port.protocol.as_ref()))).or_default();
            for (place, other) in others.iter() {
                let (ip, other_ip) = (text(port.host_ip.as_ref()), text(other.host_ip.as_ref()));
                let host = port.host_port.unwrap_or_default();
                let other_host = other.host_port.unwrap_or_default();
                let kind = if ip == other_ip && host == other_host {
                    "duplicate"
                } else if host == 0 || other_host == 0 {
                    "overlapping"
                } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                warnings.push(format!("{here}: {kind} port definition with {place}"));
            }
            others.push((here, port));
        }
    }
}
