//! Who belongs to whom, as the watches have shown it so far.
//!
//! Invariants: every existing object is known by its uid, but only those that have an owner, or a finalizer of garbage
//! collection, cost more than that. What an event costs follows the objects that it concerns. An event only says which
//! objects are to be looked at; `stint_core::owners` says what becomes of them.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stint_core::owners::{Item, OwnerState};
use stint_core::plan::Uid;

/// How many objects are remembered as gone, so that the API need not be asked for each of their dependents.
const REMEMBERED: usize = 4096;

/// Which kind, by its position among the served ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KindIndex(pub u16);

/// An object that garbage collection has to do with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What decisions need.
    pub item: Item,
    /// Its kind.
    pub kind: KindIndex,
    /// Its namespace, if its kind has them.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its `resourceVersion`.
    pub revision: String,
}

/// The graph.
#[derive(Debug, Default)]
pub struct Graph {
    present: HashMap<Uid, KindIndex>,
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
    gone: HashSet<Uid>,
    gone_order: VecDeque<Uid>,
    /// By kind: the uids of the list that is being read.
    listing: HashMap<KindIndex, HashSet<Uid>>,
}

impl Graph {
    /// The object with this uid, if it is more than plain.
    pub fn node(&self, uid: &Uid) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name `uid` as an owner.
    pub fn dependents(&self, uid: &Uid) -> impl Iterator<Item = &Node> + Clone {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get(uid))
    }

    /// How it stands with an owner, if the graph knows for certain.
    pub fn state(&self, owner: &Uid) -> Option<OwnerState> {
        if self.gone.contains(owner) {
            return Some(OwnerState::Gone);
        }
        self.present.get(owner)?;
        let waiting = self.nodes.get(owner).is_some_and(|node| node.item.deleting && node.item.waits);
        Some(if waiting { OwnerState::Waiting } else { OwnerState::Alive })
    }

    /// A list of `kind` begins.
    pub fn list_begins(&mut self, kind: KindIndex) {
        self.listing.insert(kind, HashSet::new());
    }

    /// The list of `kind` is complete: what it did not name is not there any more. Returns whom to look at.
    pub fn list_ends(&mut self, kind: KindIndex) -> BTreeSet<Uid> {
        let Some(listed) = self.listing.remove(&kind) else { return BTreeSet::new() };
        let is_missing = |(uid, of): &(&Uid, &KindIndex)| **of == kind && !listed.contains(*uid);
        let missing: Vec<Uid> = self.present.iter().filter(is_missing).map(|(uid, _)| uid.clone()).collect();
        missing.iter().flat_map(|uid| self.forget(uid)).collect()
    }

    /// An object of `kind` is as `meta` says. Returns whom to look at.
    pub fn apply(&mut self, kind: KindIndex, meta: &ObjectMeta) -> BTreeSet<Uid> {
        let item = Item::of(meta);
        let uid = item.uid.clone();
        if let Some(listed) = self.listing.get_mut(&kind) {
            listed.insert(uid.clone());
        }
        self.present.insert(uid.clone(), kind);
        let mut dirty = BTreeSet::new();
        let waits = item.deleting && item.waits;
        let old = if item.is_plain() {
            self.nodes.remove(&uid)
        } else {
            dirty.insert(uid.clone());
            for owner in &item.owners {
                self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            }
            let node = Node {
                item: item.clone(),
                kind,
                namespace: meta.namespace.clone(),
                name: meta.name.clone().unwrap_or_default(),
                revision: meta.resource_version.clone().unwrap_or_default(),
            };
            self.nodes.insert(uid.clone(), node)
        };
        if let Some(old) = old {
            for owner in old.item.owners.iter().filter(|was| !item.owners.iter().any(|is| is.uid == was.uid)) {
                self.unlink(&owner.uid, &uid);
                dirty.insert(owner.uid.clone());
            }
            // What no longer blocks may let its owner go.
            dirty.extend(
                old.item.owners.iter().filter(|was| was.blocks && !item.blocks(&was.uid)).map(|was| was.uid.clone()),
            );
            if waits && !(old.item.deleting && old.item.waits) {
                dirty.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
            }
        } else if waits {
            dirty.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        dirty
    }

    /// The API has said that the object `uid` was deleted. Returns whom to look at.
    pub fn delete(&mut self, uid: &Uid) -> BTreeSet<Uid> {
        let dirty = self.forget(uid);
        if self.dependents.contains_key(uid) && self.gone.insert(uid.clone()) {
            self.gone_order.push_back(uid.clone());
            if self.gone_order.len() > REMEMBERED
                && let Some(oldest) = self.gone_order.pop_front()
            {
                self.gone.remove(&oldest);
            }
        }
        dirty
    }

    fn forget(&mut self, uid: &Uid) -> BTreeSet<Uid> {
        self.present.remove(uid);
        let mut dirty: BTreeSet<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if let Some(node) = self.nodes.remove(uid) {
            for owner in node.item.owners {
                self.unlink(&owner.uid, uid);
                dirty.insert(owner.uid);
            }
        }
        dirty
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
    use stint_core::owners::FOREGROUND;

    use super::*;

    const PODS: KindIndex = KindIndex(0);
    const JOBS: KindIndex = KindIndex(1);

    fn uid(text: &str) -> Uid {
        Uid::from(text)
    }

    fn set(uids: &[&str]) -> BTreeSet<Uid> {
        uids.iter().map(|text| uid(text)).collect()
    }

    fn object(name: &str, owner: Option<&str>) -> ObjectMeta {
        let reference = |owner: &str| OwnerReference {
            uid: owner.to_owned(),
            block_owner_deletion: Some(true),
            ..OwnerReference::default()
        };
        ObjectMeta {
            uid: Some(name.to_owned()),
            name: Some(name.to_owned()),
            owner_references: owner.map(|owner| vec![reference(owner)]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn an_owners_end_makes_its_dependents_dirty_and_is_remembered() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply(JOBS, &object("j", None)), set(&[]), "a plain object is nobody's business");
        assert_eq!(graph.apply(PODS, &object("p", Some("j"))), set(&["p"]));
        assert_eq!(graph.state(&uid("j")), Some(OwnerState::Alive));
        assert_eq!(graph.delete(&uid("j")), set(&["p"]));
        assert_eq!(graph.state(&uid("j")), Some(OwnerState::Gone));
        assert_eq!(graph.state(&uid("k")), None, "of others the API has to be asked");
    }

    #[test]
    fn an_owner_that_waits_is_told_when_a_dependent_goes() {
        let mut graph = Graph::default();
        graph.apply(PODS, &object("p", Some("j")));
        let waiting = ObjectMeta {
            finalizers: Some(vec![FOREGROUND.to_owned()]),
            deletion_timestamp: Some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..object("j", None)
        };
        assert_eq!(graph.apply(JOBS, &waiting), set(&["j", "p"]));
        assert_eq!(graph.state(&uid("j")), Some(OwnerState::Waiting));
        assert_eq!(graph.delete(&uid("p")), set(&["j"]));
        assert_eq!(graph.dependents(&uid("j")).count(), 0);
    }

    #[test]
    fn a_reference_that_is_removed_frees_both_sides() {
        let mut graph = Graph::default();
        graph.apply(PODS, &object("p", Some("j")));
        assert_eq!(graph.apply(PODS, &object("p", None)), set(&["j"]));
        assert!(graph.node(&uid("p")).is_none() && graph.dependents.is_empty());
    }

    #[test]
    fn what_a_fresh_list_does_not_name_is_not_taken_for_gone_without_asking() {
        let mut graph = Graph::default();
        graph.apply(JOBS, &object("j", None));
        graph.apply(PODS, &object("p", Some("j")));
        graph.list_begins(JOBS);
        assert_eq!(graph.list_ends(JOBS), set(&["p"]));
        assert_eq!(graph.state(&uid("j")), None);
    }
}
