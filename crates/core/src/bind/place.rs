//! Whether a pod may be on a node at all: cordons, taints, `nodeSelector` and node affinity.
//!
//! Left out: preferences, since there is nothing to choose between.
//! Upstream: `pkg/scheduler/framework/plugins/{nodeunschedulable,tainttoleration,nodeaffinity}`,
//! `component-helpers/scheduling/corev1/nodeaffinity/nodeaffinity.go`, v1.36.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

use super::wish::Wish;

/// The taint that stands for `spec.unschedulable`.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What decides who may be on a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub is_unschedulable: bool,
}

impl Place {
    /// Why a pod that wishes so may not be there, in the scheduler's words.
    pub fn refuses(&self, wish: &Wish) -> Option<&'static str> {
        let tolerates = |taint: &Taint| wish.tolerations.iter().any(|toleration| tolerates(toleration, taint));
        let cordon = Taint { key: UNSCHEDULABLE.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        if self.is_unschedulable && !tolerates(&cordon) {
            return Some("node(s) were unschedulable");
        }
        let repels = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        if !self.taints.iter().filter(repels).all(tolerates) {
            return Some("node(s) had untolerated taint(s)");
        }
        if !self.is_selected(wish) {
            return Some("node(s) didn't match Pod's node affinity/selector");
        }
        None
    }

    fn is_selected(&self, wish: &Wish) -> bool {
        let has = |(key, value)| self.labels.get(key) == Some(value);
        let affinity = wish.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        wish.node_selector.iter().all(has) && required.is_none_or(|selector| self.meets(selector))
    }

    /// One term is enough; one that asks for nothing is met by no node.
    fn meets(&self, selector: &NodeSelector) -> bool {
        selector.node_selector_terms.iter().any(|term| {
            let NodeSelectorTerm { match_expressions, match_fields } = term;
            let label = |it: &NodeSelectorRequirement| meets(it, self.labels.get(&it.key));
            let field = |it: &NodeSelectorRequirement| it.key == "metadata.name" && meets(it, Some(&self.name));
            let (labels, fields) = (match_expressions.iter().flatten(), match_fields.iter().flatten());
            labels.clone().chain(fields.clone()).next().is_some()
                && labels.into_iter().all(label)
                && fields.into_iter().all(field)
        })
    }
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_listed = value.is_some_and(|value| values.contains(value));
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    let bound = number(values.first());
    match requirement.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => number(value).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether a pod that has the toleration may be where the taint is.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn place() -> Place {
        let labels = [("disk", "ssd"), ("cores", "8")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        Place { name: "n".to_owned(), labels: labels.into(), ..Place::default() }
    }

    fn wish(pod: &Value) -> Wish {
        let mut spec = pod.clone();
        spec["containers"] = json!([]);
        Wish::of(&serde_json::from_value(json!({ "spec": spec })).unwrap())
    }

    fn affinity(terms: &Value) -> Wish {
        let required = json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } });
        wish(&json!({ "affinity": { "nodeAffinity": required } }))
    }

    #[test]
    fn a_taint_needs_a_toleration_of_its_key_value_and_effect() {
        for (effect, toleration, fits) in [
            ("NoSchedule", json!([]), false),
            ("NoExecute", json!([]), false),
            ("PreferNoSchedule", json!([]), true),
            ("NoSchedule", json!([{ "key": "k", "value": "v" }]), true),
            ("NoSchedule", json!([{ "key": "k", "operator": "Equal", "value": "w" }]), false),
            ("NoSchedule", json!([{ "key": "k", "operator": "Exists" }]), true),
            ("NoSchedule", json!([{ "key": "k", "operator": "Exists", "effect": "NoExecute" }]), false),
            ("NoSchedule", json!([{ "key": "l", "operator": "Exists" }]), false),
            ("NoSchedule", json!([{ "operator": "Exists" }]), true),
        ] {
            let taint = Taint { key: "k".into(), value: Some("v".into()), effect: effect.into(), time_added: None };
            let place = Place { taints: vec![taint], ..place() };
            let refusal = place.refuses(&wish(&json!({ "tolerations": toleration })));
            assert_eq!(refusal, (!fits).then_some("node(s) had untolerated taint(s)"), "{effect} {toleration}");
        }
    }

    #[test]
    fn a_cordoned_node_takes_only_who_tolerates_that() {
        let place = Place { is_unschedulable: true, ..place() };
        assert_eq!(place.refuses(&wish(&json!({}))), Some("node(s) were unschedulable"));
        let toleration = json!([{ "key": UNSCHEDULABLE, "operator": "Exists", "effect": "NoSchedule" }]);
        assert_eq!(place.refuses(&wish(&json!({ "tolerations": toleration }))), None);
    }

    #[test]
    fn selector_and_affinity_must_both_be_met() {
        let labels = |key: &str, operator: &str, values: Value| json!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }]);
        let name =
            |name: &str| json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] });
        for (wish, fits) in [
            (wish(&json!({ "nodeSelector": { "disk": "ssd" } })), true),
            (wish(&json!({ "nodeSelector": { "disk": "ssd", "gpu": "yes" } })), false),
            (affinity(&labels("disk", "In", json!(["hdd", "ssd"]))), true),
            (affinity(&labels("disk", "NotIn", json!(["ssd"]))), false),
            (affinity(&labels("gpu", "NotIn", json!(["yes"]))), true),
            (affinity(&labels("disk", "Exists", json!(null))), true),
            (affinity(&labels("gpu", "Exists", json!(null))), false),
            (affinity(&labels("gpu", "DoesNotExist", json!(null))), true),
            (affinity(&labels("cores", "Gt", json!(["7"]))), true),
            (affinity(&labels("cores", "Lt", json!(["8"]))), false),
            (affinity(&labels("disk", "Gt", json!(["1"]))), false),
            (affinity(&json!([name("n")])), true),
            (affinity(&json!([name("m")])), false),
            (affinity(&json!([name("m"), labels("disk", "Exists", json!(null))[0]])), true),
            (affinity(&json!([{}])), false),
        ] {
            let refusal = place().refuses(&wish);
            assert_eq!(refusal, (!fits).then_some("node(s) didn't match Pod's node affinity/selector"), "{wish:?}");
        }
    }
}
