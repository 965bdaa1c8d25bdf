//! Garbage collection: what becomes of an object whose owners are gone or going, and of the dependents of one that goes.
//!
//! ```text
//!   owners (ownerReferences)                      what happens to the object
//!   ─────────────────────────────────────────     ─────────────────────────────────────────────
//!   none named, or one that nobody can look up    it stays
//!   at least one alive                            it stays; references to the others are removed
//!   all gone                                      it is deleted
//!   none alive, one waits for its dependents      it is deleted, before the owner
//!
//!   the object is being deleted, and has          then
//!   ─────────────────────────────────────────     ─────────────────────────────────────────────
//!   the finalizer `orphan`                        its dependents lose their reference to it, then it loses this
//!   the finalizer `foregroundDeletion`            it loses this once no dependent blocks it any more
//! ```
//!
//! Invariant: nothing is deleted on account of an owner that may be alive. Whoever says [`OwnerState::Gone`] has asked
//! the API, not only a cache.
//! Upstream: `pkg/controller/garbagecollector/garbagecollector.go` (`attemptToDeleteItem`, `attemptToOrphan`), v1.36.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::plan::Uid;

/// The finalizer that leaves dependents alone (`metav1.FinalizerOrphanDependents`).
pub const ORPHAN: &str = "orphan";
/// The finalizer that waits for dependents (`metav1.FinalizerDeleteDependents`).
pub const FOREGROUND: &str = "foregroundDeletion";

/// What garbage collection needs to know of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// `metadata.uid`.
    pub uid: Uid,
    /// Those that it belongs to.
    pub owners: Box<[Owner]>,
    /// Whether it has a `deletionTimestamp`.
    pub deleting: bool,
    /// Whether it has the finalizer [`ORPHAN`].
    pub orphans: bool,
    /// Whether it has the finalizer [`FOREGROUND`].
    pub waits: bool,
}

/// One of an object's owner references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `apiVersion`.
    pub api_version: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `name`.
    pub name: Box<str>,
    /// `uid`.
    pub uid: Uid,
    /// `blockOwnerDeletion`: an owner that is deleted in the foreground waits for this object.
    pub blocks: bool,
}

impl Item {
    /// What `meta` says.
    pub fn of(meta: &ObjectMeta) -> Item {
        let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        Item {
            uid: Uid::of(meta),
            owners: meta.owner_references.iter().flatten().map(Owner::of).collect(),
            deleting: meta.deletion_timestamp.is_some(),
            orphans: has(ORPHAN),
            waits: has(FOREGROUND),
        }
    }

    /// Whether it holds up the deletion of its owner `uid`.
    pub fn blocks(&self, uid: &Uid) -> bool {
        self.owners.iter().any(|owner| owner.blocks && owner.uid == *uid)
    }

    /// Whether garbage collection may ever have to do with it other than as an owner.
    pub fn is_plain(&self) -> bool {
        self.owners.is_empty() && !self.orphans && !self.waits
    }
}

impl Owner {
    fn of(reference: &OwnerReference) -> Owner {
        Owner {
            api_version: reference.api_version.as_str().into(),
            kind: reference.kind.as_str().into(),
            name: reference.name.as_str().into(),
            uid: Uid::from(reference.uid.as_str()),
            blocks: reference.block_owner_deletion == Some(true),
        }
    }
}

/// How it stands with an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It exists, and is not waiting for its dependents.
    Alive,
    /// It is being deleted and waits for its dependents ([`FOREGROUND`]).
    Waiting,
    /// The API says that no object of this kind, name and uid exists.
    Gone,
    /// Nobody can say: its kind is not served here, or it can't be in a namespace where this object is not.
    Unknown,
}

/// What is to be done to an object, or to its dependents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delete the object, with this policy, if it is still the one that was looked at.
    Delete(Propagation),
    /// Remove the references to these owners from the object.
    Disown(Vec<Uid>),
    /// Remove the reference to the object from this dependent.
    Orphan(Uid),
    /// Set `blockOwnerDeletion` of every reference of the object to false: a circle of owners that wait for each other.
    Unblock,
    /// Remove this finalizer from the object.
    Finalize(&'static str),
}

/// What becomes of the dependents of an object that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// An action and why it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to write.
    pub action: Action,
    /// Why, in a sentence for the log.
    pub why: &'static str,
}

/// What is to be done about `item`, in order, until a step fails. `owners` are the states of `item.owners`, in their
/// order, and `dependents` the objects that name it as an owner (walked no further than needed). Nothing: it is as it should
/// be, or waits for others.
pub fn reconcile<'a>(
    item: &Item,
    owners: &[OwnerState],
    dependents: impl Iterator<Item = &'a Item> + Clone,
) -> Vec<Step> {
    debug_assert_eq!(item.owners.len(), owners.len(), "one state per owner");
    if item.deleting {
        return leave(item, dependents);
    }
    if item.owners.is_empty() || owners.contains(&OwnerState::Unknown) {
        return Vec::new();
    }
    let alive = owners.contains(&OwnerState::Alive);
    let waiting = owners.contains(&OwnerState::Waiting);
    let step = |action, why| vec![Step { action, why }];
    if alive {
        let others: Vec<Uid> = item
            .owners
            .iter()
            .zip(owners)
            .filter(|(_, state)| **state != OwnerState::Alive)
            .map(|(owner, _)| owner.uid.clone())
            .collect();
        return if others.is_empty() {
            Vec::new()
        } else {
            step(Action::Disown(others), "another owner of it is alive, these are gone or going")
        };
    }
    if waiting && dependents.clone().next().is_some() {
        let mut steps = Vec::new();
        if dependents.clone().any(|dependent| dependent.waits) {
            steps.push(Step {
                action: Action::Unblock,
                why: "a dependent of it waits for its own: they may wait in a circle",
            });
        }
        steps.push(Step {
            action: Action::Delete(Propagation::Foreground),
            why: "its owner waits for it, and it has dependents of its own",
        });
        return steps;
    }
    let propagation = match (item.orphans, item.waits) {
        (true, _) => Propagation::Orphan,
        (false, true) => Propagation::Foreground,
        (false, false) => Propagation::Background,
    };
    let why = if waiting { "its owner waits for it" } else { "all its owners are gone" };
    step(Action::Delete(propagation), why)
}

/// What holds an object that is being deleted.
fn leave<'a>(item: &Item, mut dependents: impl Iterator<Item = &'a Item>) -> Vec<Step> {
    let finalize = |finalizer, why| Step { action: Action::Finalize(finalizer), why };
    if item.orphans {
        let mut steps: Vec<Step> = dependents
            .map(|dependent| Step {
                action: Action::Orphan(dependent.uid.clone()),
                why: "its owner is deleted and leaves it",
            })
            .collect();
        steps.push(finalize(ORPHAN, "its dependents no longer name it"));
        return steps;
    }
    if item.waits && !dependents.any(|dependent| dependent.blocks(&item.uid)) {
        return vec![finalize(FOREGROUND, "no dependent blocks its deletion")];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(uid: &str, owners: &[&str]) -> Item {
        let owner = |uid: &&str| Owner {
            api_version: "batch/v1".into(),
            kind: "Job".into(),
            name: format!("job-{uid}").into(),
            uid: Uid::from(*uid),
            blocks: true,
        };
        Item {
            uid: Uid::from(uid),
            owners: owners.iter().map(owner).collect(),
            deleting: false,
            orphans: false,
            waits: false,
        }
    }

    fn actions(item: &Item, owners: &[OwnerState], dependents: &[&Item]) -> Vec<Action> {
        reconcile(item, owners, dependents.iter().copied()).into_iter().map(|step| step.action).collect()
    }

    #[test]
    fn an_object_lives_as_long_as_one_owner_may_be_alive() {
        use OwnerState::{Alive, Gone, Unknown, Waiting};
        let uid = |uid: &str| Uid::from(uid);
        let two = item("x", &["a", "b"]);
        assert_eq!(actions(&item("x", &[]), &[], &[]), []);
        assert_eq!(actions(&two, &[Alive, Alive], &[]), []);
        assert_eq!(actions(&two, &[Alive, Gone], &[]), [Action::Disown(vec![uid("b")])]);
        assert_eq!(actions(&two, &[Waiting, Alive], &[]), [Action::Disown(vec![uid("a")])]);
        assert_eq!(actions(&two, &[Unknown, Gone], &[]), []);
        assert_eq!(actions(&two, &[Gone, Gone], &[]), [Action::Delete(Propagation::Background)]);
        assert_eq!(actions(&two, &[Gone, Waiting], &[]), [Action::Delete(Propagation::Background)]);
    }

    #[test]
    fn the_finalizers_of_an_orphaned_object_decide_about_its_own_dependents() {
        let gone = [OwnerState::Gone];
        let keeps = Item { orphans: true, ..item("x", &["a"]) };
        assert_eq!(actions(&keeps, &gone, &[]), [Action::Delete(Propagation::Orphan)]);
        let waits = Item { waits: true, ..item("x", &["a"]) };
        assert_eq!(actions(&waits, &gone, &[]), [Action::Delete(Propagation::Foreground)]);
    }

    #[test]
    fn an_owner_that_waits_takes_the_whole_tree_before_it() {
        let middle = item("m", &["top"]);
        let leaf = item("l", &["m"]);
        assert_eq!(actions(&middle, &[OwnerState::Waiting], &[&leaf]), [Action::Delete(Propagation::Foreground)]);
        let circle = Item { waits: true, deleting: true, ..leaf };
        assert_eq!(
            actions(&middle, &[OwnerState::Waiting], &[&circle]),
            [Action::Unblock, Action::Delete(Propagation::Foreground)]
        );
    }

    #[test]
    fn the_foreground_finalizer_goes_when_nothing_blocks() {
        let top = Item { deleting: true, waits: true, ..item("top", &[]) };
        let blocking = item("x", &["top"]);
        let mut idle = blocking.clone();
        idle.owners[0].blocks = false;
        assert_eq!(actions(&top, &[], &[&blocking]), []);
        assert_eq!(actions(&top, &[], &[&idle]), [Action::Finalize(FOREGROUND)]);
        assert_eq!(actions(&top, &[], &[]), [Action::Finalize(FOREGROUND)]);
    }

    #[test]
    fn orphans_lose_their_reference_before_the_owner_goes() {
        let top = Item { deleting: true, orphans: true, ..item("top", &[]) };
        let child = item("x", &["top"]);
        assert_eq!(actions(&top, &[], &[&child]), [Action::Orphan(Uid::from("x")), Action::Finalize(ORPHAN)]);
    }

    #[test]
    fn an_object_on_its_way_out_is_left_alone() {
        let going = Item { deleting: true, ..item("x", &["a"]) };
        assert_eq!(actions(&going, &[OwnerState::Gone], &[]), []);
    }
}
