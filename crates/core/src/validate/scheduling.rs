//! Where a pod may run: affinity, tolerations, topology spread.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`validateAffinity`, `ValidateTolerations`,
//! `validateTopologySpreadConstraints`), v1.36.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, Toleration, TopologySpreadConstraint,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;

use super::{invalid_for, items, selector, text};
use crate::field::{Fault, Path, Value};
use crate::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NO_OPERATOR: &str = "not a valid selector operator";

pub(super) fn affinity(affinity: &Affinity, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.field("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            let path = path.field(REQUIRED);
            let path = path.field("nodeSelectorTerms");
            if required.node_selector_terms.is_empty() {
                faults.push(Fault::required(&path, "must have at least one node selector term"));
            }
            for (i, term) in required.node_selector_terms.iter().enumerate() {
                node_selector_term(term, &path.index(i), faults);
            }
        }
        let preferred = items(node.preferred_during_scheduling_ignored_during_execution.as_ref());
        let path = path.field(PREFERRED);
        for (i, term) in preferred.iter().enumerate() {
            let path = path.index(i);
            weight(term.weight, &path, faults);
            node_selector_term(&term.preference, &path.field("preference"), faults);
        }
    }
    if let Some(pods) = &affinity.pod_affinity {
        let path = path.field("podAffinity");
        let required = items(pods.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred = items(pods.preferred_during_scheduling_ignored_during_execution.as_ref());
        pod_terms(required, preferred, &path, faults);
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        let path = path.field("podAntiAffinity");
        let required = items(pods.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred = items(pods.preferred_during_scheduling_ignored_during_execution.as_ref());
        pod_terms(required, preferred, &path, faults);
    }
}

fn weight(weight: i32, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if !(1..=100).contains(&weight) {
        faults.push(Fault::invalid(&path.field("weight"), weight, "must be in the range 1-100"));
    }
}

fn node_selector_term(term: &NodeSelectorTerm, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let expressions = path.field("matchExpressions");
    for (i, requirement) in items(term.match_expressions.as_ref()).iter().enumerate() {
        node_label(requirement, &expressions.index(i), faults);
    }
    let fields = path.field("matchFields");
    for (i, requirement) in items(term.match_fields.as_ref()).iter().enumerate() {
        node_field(requirement, &fields.index(i), faults);
    }
}

fn node_label(requirement: &NodeSelectorRequirement, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let values = items(requirement.values.as_ref());
    let values_path = path.field("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            faults.push(Fault::required(&values_path, detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            faults.push(Fault::forbidden(&values_path, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            faults.push(Fault::required(&values_path, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => faults.push(Fault::invalid(&path.field("operator"), other, NO_OPERATOR)),
    }
    label_name(&requirement.key, &path.field("key"), faults);
    if matches!(requirement.operator.as_str(), "In" | "NotIn") {
        for (i, value) in values.iter().enumerate() {
            invalid_for(names::label_value(value), &values_path.index(i), value, faults);
        }
    }
}

fn node_field(requirement: &NodeSelectorRequirement, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let values = items(requirement.values.as_ref());
    let values_path = path.field("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            faults.push(Fault::required(&values_path, detail));
        }
        "In" | "NotIn" => {}
        other => faults.push(Fault::invalid(&path.field("operator"), other, NO_OPERATOR)),
    }
    if requirement.key == "metadata.name" {
        for (i, value) in values.iter().enumerate() {
            invalid_for(names::dns_subdomain(value), &values_path.index(i), value, faults);
        }
    } else {
        let detail = "not a valid field selector key";
        faults.push(Fault::invalid(&path.field("key"), &requirement.key, detail));
    }
}

fn label_name(name: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    invalid_for(names::qualified_name(name), path, name, faults);
}

fn pod_terms(
    required: &[PodAffinityTerm],
    preferred: &[WeightedPodAffinityTerm],
    path: &Path<'_>,
    faults: &mut Vec<Fault>,
) {
    let required_path = path.field(REQUIRED);
    for (i, term) in required.iter().enumerate() {
        pod_term(term, &required_path.index(i), faults);
    }
    let preferred_path = path.field(PREFERRED);
    for (i, term) in preferred.iter().enumerate() {
        let path = preferred_path.index(i);
        weight(term.weight, &path, faults);
        pod_term(&term.pod_affinity_term, &path.field("podAffinityTerm"), faults);
    }
}

fn pod_term(term: &PodAffinityTerm, path: &Path<'_>, faults: &mut Vec<Fault>) {
    for (field, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            selector::validate(selector, &path.field(field), faults);
        }
    }
    for namespace in items(term.namespaces.as_ref()) {
        invalid_for(names::dns_label(namespace), &path.field("namespace"), namespace, faults);
    }
    let matched = items(term.match_label_keys.as_ref());
    let mismatched = items(term.mismatch_label_keys.as_ref());
    for (field, keys) in [("matchLabelKeys", matched), ("mismatchLabelKeys", mismatched)] {
        let path = path.field(field);
        if !keys.is_empty() && term.label_selector.is_none() {
            faults.push(Fault::forbidden(&path, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            label_name(key, &path.index(i), faults);
        }
    }
    for (i, key) in matched.iter().enumerate().filter(|(_, key)| mismatched.contains(key)) {
        let path = path.field("matchLabelKeys");
        faults.push(Fault::invalid(&path.index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"));
    }
    if term.topology_key.is_empty() {
        faults.push(Fault::required(&path.field("topologyKey"), "can not be empty"));
    }
    label_name(&term.topology_key, &path.field("topologyKey"), faults);
}

pub(super) fn tolerations(tolerations: &[Toleration], path: &Path<'_>, faults: &mut Vec<Fault>) {
    for (i, toleration) in tolerations.iter().enumerate() {
        self::toleration(toleration, &path.index(i), faults);
    }
}

fn toleration(toleration: &Toleration, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let key = text(toleration.key.as_ref());
    let operator = text(toleration.operator.as_ref());
    let effect = text(toleration.effect.as_ref());
    let value = text(toleration.value.as_ref());
    let operator_path = path.field("operator");
    if !key.is_empty() {
        label_name(key, &path.field("key"), faults);
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        faults.push(Fault::invalid(&operator_path, operator, detail));
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        faults.push(Fault::invalid(&path.field("effect"), effect, detail));
    }
    match operator {
        "" | "Equal" => {
            let reasons = names::label_value(value);
            if !reasons.is_empty() {
                faults.push(Fault::invalid(&operator_path, value, reasons.join(";")));
            }
        }
        "Exists" if value.is_empty() => {}
        "Exists" => {
            let detail = "value must be empty when `operator` is 'Exists'";
            faults.push(Fault::invalid(&operator_path, shown(toleration), detail));
        }
        other => faults.push(Fault::not_supported(&operator_path, other, &["Equal", "Exists"])),
    }
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !effect.is_empty() && !effects.contains(&effect) {
        faults.push(Fault::not_supported(&path.field("effect"), effect, &effects));
    }
}

/// The toleration as messages print it: upstream's internal struct.
fn shown(toleration: &Toleration) -> Value {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Go<'a> {
        key: &'a str,
        operator: &'a str,
        value: &'a str,
        effect: &'a str,
        toleration_seconds: Option<i64>,
    }
    Value::json(&Go {
        key: text(toleration.key.as_ref()),
        operator: text(toleration.operator.as_ref()),
        value: text(toleration.value.as_ref()),
        effect: text(toleration.effect.as_ref()),
        toleration_seconds: toleration.toleration_seconds,
    })
}

pub(super) fn topology_spread(constraints: &[TopologySpreadConstraint], path: &Path<'_>, faults: &mut Vec<Fault>) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        let action = constraint.when_unsatisfiable.as_str();
        if constraint.max_skew <= 0 {
            faults.push(Fault::invalid(&path.field("maxSkew"), constraint.max_skew, "must be greater than zero"));
        }
        if constraint.topology_key.is_empty() {
            faults.push(Fault::required(&path.field("topologyKey"), "can not be empty"));
        }
        if !ACTIONS.contains(&action) {
            faults.push(Fault::not_supported(&path.field("whenUnsatisfiable"), action, &ACTIONS));
        }
        let same = |other: &TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if constraints[i + 1..].iter().any(same) {
            let pair = format!("{{{}, {action}}}", constraint.topology_key);
            faults.push(Fault::duplicate(&path.field("{topologyKey, whenUnsatisfiable}"), &pair));
        }
        if let Some(domains) = constraint.min_domains {
            let path = path.field("minDomains");
            if domains <= 0 {
                faults.push(Fault::invalid(&path, domains, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                faults.push(Fault::invalid(&path, domains, detail));
            }
        }
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            if let Some(policy) = policy.as_deref().filter(|p| !matches!(*p, "Honor" | "Ignore")) {
                faults.push(Fault::not_supported(&path.field(field), policy, &["Honor", "Ignore"]));
            }
        }
        let keys = items(constraint.match_label_keys.as_ref());
        let selector = constraint.label_selector.as_ref();
        spread_keys(keys, selector, &path.field("matchLabelKeys"), faults);
        if let Some(selector) = selector {
            selector::validate(selector, &path.field("labelSelector"), faults);
        }
    }
}

fn spread_keys(keys: &[String], selector: Option<&LabelSelector>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if keys.is_empty() {
        return;
    }
    let mut selected = BTreeSet::new();
    if let Some(selector) = selector {
        selected.extend(selector.match_labels.iter().flat_map(|labels| labels.keys()));
        selected.extend(items(selector.match_expressions.as_ref()).iter().map(|e| &e.key));
    } else {
        faults.push(Fault::forbidden(path, "must not be specified when labelSelector is not set"));
    }
    for (i, key) in keys.iter().enumerate() {
        let path = path.index(i);
        label_name(key, &path, faults);
        if selected.contains(key) {
            faults.push(Fault::invalid(&path, key, "exists in both matchLabelKeys and labelSelector"));
        }
    }
}
