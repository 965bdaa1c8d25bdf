//! Who belongs to whom, as the watches have shown it so far.
//!
//! Invariants: every existing object is known by its uid, but only those that have an owner, or a finalizer of garbage
//! collection, cost more than that. What an event costs follows the objects that it concerns, and so does a list that
//! misses nothing. An event only says which objects are to be looked at; `stint_core::owners` says what becomes of them.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stint_core::owners::{Item, OwnerState};
use stint_core::plan::Uid;

use crate::texts::Texts;

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
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Box<str>,
    /// Its `resourceVersion`.
    pub revision: Box<str>,
}

/// The graph.
#[derive(Debug, Default)]
pub struct Graph {
    /// The objects that nothing can be done about, except as owners.
    plain: HashMap<Uid, KindIndex>,
    /// The others.
    nodes: HashMap<Uid, Node>,
    /// How many objects of each kind there are.
    counts: HashMap<KindIndex, usize>,
    dependents: HashMap<Uid, Dependents>,
    gone: HashSet<Uid>,
    gone_order: VecDeque<Uid>,
    /// By kind: the uids of the list that is being read.
    listing: HashMap<KindIndex, HashSet<Uid>>,
    /// Namespaces, and names of kinds.
    texts: Texts,
}

/// Those that name an object as an owner: mostly one, a pod its Job.
#[derive(Debug)]
enum Dependents {
    One(Uid),
    Many(BTreeSet<Uid>),
}

impl Dependents {
    fn iter(&self) -> impl Iterator<Item = &Uid> + Clone {
        let (one, many) = match self {
            Dependents::One(uid) => (Some(uid), None),
            Dependents::Many(uids) => (None, Some(uids)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn add(&mut self, new: Uid) {
        match self {
            Dependents::One(uid) if *uid == new => {}
            Dependents::One(uid) => *self = Dependents::Many(BTreeSet::from([uid.clone(), new])),
            Dependents::Many(uids) => drop(uids.insert(new)),
        }
    }

    /// Removes one; returns whether none is left.
    fn remove(&mut self, old: &Uid) -> bool {
        match self {
            Dependents::One(uid) => uid == old,
            Dependents::Many(uids) => {
                uids.remove(old);
                uids.is_empty()
            }
        }
    }
}

impl Graph {
    /// The object with this uid, if it is more than plain.
    pub fn node(&self, uid: &Uid) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name `uid` as an owner.
    pub fn dependents(&self, uid: &Uid) -> impl Iterator<Item = &Node> + Clone {
        self.named_by(uid).filter_map(|uid| self.nodes.get(uid))
    }

    fn named_by(&self, uid: &Uid) -> impl Iterator<Item = &Uid> + Clone {
        self.dependents.get(uid).into_iter().flat_map(Dependents::iter)
    }

    /// How it stands with an owner, if the graph knows for certain.
    pub fn state(&self, owner: &Uid) -> Option<OwnerState> {
        if self.gone.contains(owner) {
            return Some(OwnerState::Gone);
        }
        match self.nodes.get(owner) {
            Some(node) if node.item.deleting && node.item.waits => Some(OwnerState::Waiting),
            Some(_) => Some(OwnerState::Alive),
            None => self.plain.contains_key(owner).then_some(OwnerState::Alive),
        }
    }

    /// A list of `kind` begins.
    pub fn list_begins(&mut self, kind: KindIndex) {
        self.listing.insert(kind, HashSet::new());
    }

    /// The list of `kind` is complete: what it did not name is not there any more. Returns whom to look at.
    pub fn list_ends(&mut self, kind: KindIndex) -> BTreeSet<Uid> {
        let Some(listed) = self.listing.remove(&kind) else { return BTreeSet::new() };
        if self.counts.get(&kind).is_none_or(|count| *count == listed.len()) {
            return BTreeSet::new();
        }
        let known = self.plain.iter().map(|(uid, kind)| (uid, *kind));
        let known = known.chain(self.nodes.iter().map(|(uid, node)| (uid, node.kind)));
        let is_missing = |(uid, of): &(&Uid, KindIndex)| *of == kind && !listed.contains(*uid);
        let missing: Vec<Uid> = known.filter(is_missing).map(|(uid, _)| uid.clone()).collect();
        missing.iter().flat_map(|uid| self.forget(uid)).collect()
    }

    /// An object of `kind` is as `meta` says. Returns whom to look at.
    pub fn apply(&mut self, kind: KindIndex, meta: &ObjectMeta) -> BTreeSet<Uid> {
        let mut item = Item::of(meta);
        let uid = item.uid.clone();
        if let Some(listed) = self.listing.get_mut(&kind) {
            listed.insert(uid.clone());
        }
        let was_plain = self.plain.remove(&uid).is_some();
        let old = self.nodes.remove(&uid);
        if !was_plain && old.is_none() {
            *self.counts.entry(kind).or_default() += 1;
        }
        let mut dirty = BTreeSet::new();
        let was_waiting = old.as_ref().is_some_and(|old| old.item.deleting && old.item.waits);
        if item.deleting && item.waits && !was_waiting {
            dirty.extend(self.named_by(&uid).cloned());
        }
        for was in old.iter().flat_map(|old| &old.item.owners) {
            if !item.owners.iter().any(|is| is.uid == was.uid) {
                self.unlink(&was.uid, &uid);
                dirty.insert(was.uid.clone());
            }
            // What no longer blocks may let its owner go.
            if was.blocks && !item.blocks(&was.uid) {
                dirty.insert(was.uid.clone());
            }
        }
        if item.is_plain() {
            self.plain.insert(uid, kind);
            return dirty;
        }
        for owner in &mut item.owners {
            owner.api_version = self.texts.share(&owner.api_version);
            owner.kind = self.texts.share(&owner.kind);
            self.dependents
                .entry(owner.uid.clone())
                .and_modify(|dependents| dependents.add(uid.clone()))
                .or_insert_with(|| Dependents::One(uid.clone()));
        }
        let node = Node {
            item,
            kind,
            namespace: meta.namespace.as_deref().map(|namespace| self.texts.share(namespace)),
            name: meta.name.as_deref().unwrap_or_default().into(),
            revision: meta.resource_version.as_deref().unwrap_or_default().into(),
        };
        self.nodes.insert(uid.clone(), node);
        dirty.insert(uid);
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
        let mut dirty: BTreeSet<Uid> = self.named_by(uid).cloned().collect();
        let node = self.nodes.remove(uid);
        let kind = self.plain.remove(uid).or(node.as_ref().map(|node| node.kind));
        if let Some(count) = kind.and_then(|kind| self.counts.get_mut(&kind)) {
            *count -= 1;
        }
        for owner in node.into_iter().flat_map(|node| node.item.owners) {
            self.unlink(&owner.uid, uid);
            dirty.insert(owner.uid);
        }
        dirty
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        if self.dependents.get_mut(owner).is_some_and(|dependents| dependents.remove(dependent)) {
            self.dependents.remove(owner);
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

    #[test]
    fn an_owner_of_several_is_told_of_each_and_a_list_of_those_that_it_misses() {
        let mut graph = Graph::default();
        graph.apply(JOBS, &object("j", None));
        for pod in ["p", "q", "r"] {
            graph.apply(PODS, &object(pod, Some("j")));
        }
        let dependents =
            |graph: &Graph| graph.dependents(&uid("j")).map(|node| node.name.to_string()).collect::<Vec<_>>();
        assert_eq!(dependents(&graph), ["p", "q", "r"]);
        assert_eq!(graph.delete(&uid("q")), set(&["j"]));
        graph.list_begins(PODS);
        graph.apply(PODS, &object("p", Some("j")));
        assert_eq!(graph.list_ends(PODS), set(&["j"]), "r was not named");
        assert_eq!(dependents(&graph), ["p"]);
        graph.list_begins(PODS);
        graph.apply(PODS, &object("p", Some("j")));
        assert_eq!(graph.list_ends(PODS), set(&[]));
        assert_eq!(graph.delete(&uid("p")), set(&["j"]));
        assert!(graph.dependents.is_empty() && graph.counts[&PODS] == 0);
    }
}
