//! The pods on a node, as far as the affinity and the spread of others, and theirs to others, ask for them.
//!
//! Left out: a `namespaceSelector` that selects by other labels than `kubernetes.io/metadata.name`, which every namespace
//! has from the API; by others it selects none.
//! Upstream: `pkg/scheduler/framework/plugins/interpodaffinity/filtering.go`, v1.36.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm};

use super::spread::{Uneven, uneven};
use super::wish::{Identity, Wish};
use crate::plan::Uid;
use crate::validate::selects;

/// The label by which a namespace is selected.
const NAME: &str = "kubernetes.io/metadata.name";

/// What stands between a pod and those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quarrel {
    /// They are not spread as it must be.
    Uneven(Uneven),
    /// None of them is one that it must be with.
    Lonely,
    /// One of them is one that it must not be with.
    Avoids,
    /// One of them must not be with it. Whether that is so depends on more than what it wishes.
    Avoided,
}

/// The pods that are there.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    pods: BTreeMap<Uid, Identity>,
    /// Those that want others away, with what they require.
    repelling: BTreeMap<Uid, Vec<PodAffinityTerm>>,
}

impl Neighbours {
    /// A pod is there.
    pub fn put(&mut self, uid: Uid, identity: Identity, wish: &Wish) {
        let terms = repulsion(wish.affinity.as_ref());
        if !terms.is_empty() {
            self.repelling.insert(uid.clone(), terms.to_vec());
        }
        self.pods.insert(uid, identity);
    }

    /// A pod is gone.
    pub fn remove(&mut self, uid: &Uid) {
        self.pods.remove(uid);
        self.repelling.remove(uid);
    }

    /// What stands between them and a pod, on a node with these labels.
    pub fn quarrel(&self, wish: &Wish, identity: &Identity, labels: &BTreeMap<String, String>) -> Option<Quarrel> {
        if let Some(uneven) = uneven(&wish.spread, identity, labels, &self.pods.values()) {
            return Some(Quarrel::Uneven(uneven));
        }
        let is_here = |term: &&PodAffinityTerm| labels.contains_key(&term.topology_key);
        let attraction = attraction(wish.affinity.as_ref());
        if !attraction.is_empty() {
            let wanted = |other: &Identity| attraction.iter().all(|term| concerns(term, identity, other));
            // The first of those that want to be together has nobody yet to be with.
            let is_met = self.pods.values().any(wanted) || wanted(identity);
            if !attraction.iter().all(|term| is_here(&term)) || !is_met {
                return Some(Quarrel::Lonely);
            }
        }
        let avoids = |term: &PodAffinityTerm| self.pods.values().any(|other| concerns(term, identity, other));
        if repulsion(wish.affinity.as_ref()).iter().filter(is_here).any(avoids) {
            return Some(Quarrel::Avoids);
        }
        let is_avoided = self.repelling.iter().any(|(uid, terms)| {
            let owner = &self.pods[uid];
            terms.iter().filter(is_here).any(|term| concerns(term, owner, identity))
        });
        is_avoided.then_some(Quarrel::Avoided)
    }
}

/// The terms of affinity to pods that must be met.
pub fn attraction(affinity: Option<&Affinity>) -> &[PodAffinityTerm] {
    let affinity = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

fn repulsion(affinity: Option<&Affinity>) -> &[PodAffinityTerm] {
    let affinity = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

/// Whether a term of the pod `owner` is about `other`.
fn concerns(term: &PodAffinityTerm, owner: &Identity, other: &Identity) -> bool {
    let named = term.namespaces.as_deref().unwrap_or_default();
    let is_in_namespace = match &term.namespace_selector {
        None if named.is_empty() => owner.namespace == other.namespace,
        selector => {
            let name = BTreeMap::from([(NAME.to_owned(), other.namespace.clone())]);
            named.contains(&other.namespace) || selector.as_ref().is_some_and(|it| selects(it, Some(&name)))
        }
    };
    is_in_namespace && term.label_selector.as_ref().is_some_and(|selector| selects(selector, Some(&other.labels)))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    fn pod(namespace: &str, app: &str, affinity: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "namespace": namespace, "labels": { "app": app } },
            "spec": { "containers": [], "affinity": affinity },
        }))
        .unwrap()
    }

    fn term(kind: &str, app: &str, more: &Value) -> Value {
        let mut term = json!({ "topologyKey": "host", "labelSelector": { "matchLabels": { "app": app } } });
        term.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ kind: { "requiredDuringSchedulingIgnoredDuringExecution": [term] } })
    }

    fn quarrel(there: &[Pod], pod: &Pod) -> Option<Quarrel> {
        let mut neighbours = Neighbours::default();
        for (number, pod) in there.iter().enumerate() {
            neighbours.put(Uid::from(number.to_string().as_str()), Identity::of(pod), &Wish::of(pod));
        }
        let labels = BTreeMap::from([("host".to_owned(), "n".to_owned())]);
        neighbours.quarrel(&Wish::of(pod), &Identity::of(pod), &labels)
    }

    #[test]
    fn affinity_and_its_opposite_are_kept_in_both_directions() {
        let none = json!(null);
        let plain = pod("a", "web", &none);
        let to = |app| term("podAffinity", app, &json!({}));
        let from = |app| term("podAntiAffinity", app, &json!({}));
        for (there, new, expected) in vec![
            (vec![], plain.clone(), None),
            (vec![plain.clone()], pod("a", "db", &to("web")), None),
            (vec![plain.clone()], pod("a", "db", &to("cache")), Some(Quarrel::Lonely)),
            (vec![plain.clone()], pod("b", "db", &to("web")), Some(Quarrel::Lonely)),
            (vec![], pod("a", "db", &to("db")), None),
            (vec![plain.clone()], pod("a", "db", &from("web")), Some(Quarrel::Avoids)),
            (vec![plain.clone()], pod("b", "db", &from("web")), None),
            (vec![pod("a", "db", &from("web"))], plain.clone(), Some(Quarrel::Avoided)),
            (vec![pod("a", "web", &from("web"))], pod("a", "web", &from("web")), Some(Quarrel::Avoids)),
        ] {
            assert_eq!(quarrel(&there, &new), expected, "{new:?}");
        }
    }

    #[test]
    fn a_term_says_in_which_namespaces_it_looks() {
        let there = [pod("a", "web", &json!(null))];
        let by_name = json!({ "matchLabels": { "kubernetes.io/metadata.name": "a" } });
        for (more, expected) in [
            (json!({ "namespaces": ["a"] }), Some(Quarrel::Avoids)),
            (json!({ "namespaces": ["b"] }), None),
            (json!({ "namespaceSelector": {} }), Some(Quarrel::Avoids)),
            (json!({ "namespaceSelector": by_name }), Some(Quarrel::Avoids)),
            (json!({ "namespaceSelector": { "matchLabels": { "team": "x" } } }), None),
            (json!({ "namespaces": ["a"], "topologyKey": "zone" }), None),
        ] {
            let new = pod("b", "db", &term("podAntiAffinity", "web", &more));
            assert_eq!(quarrel(&there, &new), expected, "{more}");
        }
    }
}
