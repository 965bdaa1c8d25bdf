//! `topologySpreadConstraints` that must be met, on a cluster of one node.
//!
//! One node is one domain of every topology, so that pods are never spread unevenly; what is left of a constraint is that
//! the node has the label, and that there are as many domains as it asks for.
//! Upstream: `pkg/scheduler/framework/plugins/podtopologyspread/filtering.go` (`Filter`), v1.36.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;

use super::wish::Identity;
use crate::validate::selects;

/// A constraint that must be met.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// `topologyKey`.
    topology_key: String,
    /// `labelSelector`, with what the pod has for `matchLabelKeys`. None selects nothing.
    selector: Option<LabelSelector>,
    /// `maxSkew`.
    max_skew: usize,
    /// `minDomains`, 1 without.
    min_domains: i32,
}

/// Why a node does not meet a constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uneven {
    /// It is in no domain: it lacks the label.
    Nowhere,
    /// Too many such pods are there for the domains that are wanted.
    Crowded,
}

impl Spread {
    /// The constraints of `pod` that must be met.
    pub fn of(pod: &Pod) -> Vec<Spread> {
        let constraints = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref());
        let must = |it: &&TopologySpreadConstraint| it.when_unsatisfiable == "DoNotSchedule";
        let of = |it: &TopologySpreadConstraint| Spread {
            topology_key: it.topology_key.clone(),
            selector: selector(it, pod.metadata.labels.as_ref()),
            max_skew: usize::try_from(it.max_skew).unwrap_or(0),
            min_domains: it.min_domains.unwrap_or(1),
        };
        constraints.unwrap_or_default().iter().filter(must).map(of).collect()
    }

    fn counts(&self, owner: &Identity, other: &Identity) -> bool {
        let is_selected = |selector: &LabelSelector| selects(selector, Some(&other.labels));
        other.namespace == owner.namespace && !other.is_leaving && self.selector.as_ref().is_some_and(is_selected)
    }
}

/// What keeps the pod `owner` with these constraints off a node that has these labels and these pods.
pub fn uneven<'a>(
    constraints: &[Spread],
    owner: &Identity,
    labels: &BTreeMap<String, String>,
    there: &(impl Iterator<Item = &'a Identity> + Clone),
) -> Option<Uneven> {
    if constraints.iter().any(|it| !labels.contains_key(&it.topology_key)) {
        return Some(Uneven::Nowhere);
    }
    let is_crowded = |it: &Spread| {
        let more = usize::from(it.counts(owner, owner));
        let here = there.clone().filter(|other| it.counts(owner, other)).count();
        // The emptiest domain is this one, unless there are to be others: those have none.
        let least = if it.min_domains > 1 { 0 } else { here };
        here + more > least + it.max_skew
    };
    constraints.iter().any(is_crowded).then_some(Uneven::Crowded)
}

/// The selector of a constraint, narrowed to pods that have what this one has for `matchLabelKeys`.
fn selector(constraint: &TopologySpreadConstraint, labels: Option<&BTreeMap<String, String>>) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone()?;
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = labels.and_then(|labels| labels.get(key)) {
            selector.match_labels.get_or_insert_default().insert(key.clone(), value.clone());
        }
    }
    Some(selector)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(labels: &Value, constraint: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "namespace": "a", "labels": labels },
            "spec": { "containers": [], "topologySpreadConstraints": [constraint] },
        }))
        .unwrap()
    }

    #[test]
    fn on_one_node_its_label_and_the_number_of_domains_count() {
        let web = json!({ "app": "web", "hash": "1" });
        let old = json!({ "app": "web", "hash": "0" });
        for (there, labels, more, expected) in [
            (vec![&web, &web, &web], &web, json!({}), None),
            (vec![], &web, json!({ "topologyKey": "zone" }), Some(Uneven::Nowhere)),
            (vec![], &web, json!({ "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway" }), None),
            (vec![], &web, json!({ "minDomains": 2 }), None),
            (vec![&web], &web, json!({ "minDomains": 2 }), Some(Uneven::Crowded)),
            (vec![&web], &web, json!({ "minDomains": 2, "maxSkew": 2 }), None),
            (vec![&web], &web, json!({ "minDomains": 1 }), None),
            (vec![&old], &web, json!({ "minDomains": 2, "matchLabelKeys": ["hash"] }), None),
            (vec![&web], &json!({ "app": "db" }), json!({ "minDomains": 2 }), None),
            (vec![&web], &web, json!({ "minDomains": 2, "labelSelector": null }), None),
        ] {
            let mut constraint = json!({
                "topologyKey": "host", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": { "matchLabels": { "app": "web" } },
            });
            constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let new = pod(labels, &constraint);
            let there: Vec<Identity> = there.iter().map(|it| Identity::of(&pod(it, &constraint))).collect();
            let node = BTreeMap::from([("host".to_owned(), "n".to_owned())]);
            assert_eq!(uneven(&Spread::of(&new), &Identity::of(&new), &node, &there.iter()), expected, "{more}");
        }
    }

    #[test]
    fn a_pod_that_is_going_does_not_count() {
        let labels = json!({ "app": "web" });
        let constraint = json!({
            "topologyKey": "host", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2,
            "labelSelector": { "matchLabels": labels },
        });
        let new = pod(&labels, &constraint);
        let there = Identity { is_leaving: true, ..Identity::of(&new) };
        let node = BTreeMap::from([("host".to_owned(), "n".to_owned())]);
        assert_eq!(uneven(&Spread::of(&new), &Identity::of(&new), &node, &[&there].into_iter()), None);
    }
}
