//! What a key's cache must have seen before the key may be reconciled again.
//!
//! Invariant: no decision is based on a state older than the key's own last writes. This one rule replaces upstream's
//! expectations, its UID bookkeeping and its consistency store.

use stint_core::plan::Uid;

use crate::cache::Cache;

/// One thing that the cache must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// Jobs up to this revision.
    JobsAt(u64),
    /// Pods up to this revision.
    PodsAt(u64),
    /// This pod is being deleted, or gone.
    PodLeaving(Uid),
    /// This pod has no tracking finalizer, or is gone.
    PodReleased(Uid),
    /// This pod is gone.
    PodGone(Uid),
    /// This pod is no longer remembered, or pods up to this revision are: who lets go of one that is being deleted may be the last
    /// who held it, and of one that is gone no list tells a revision.
    PodLeft(Uid, u64),
}

impl Sighting {
    /// What is to be seen of a pod that was let go: it may be gone by that.
    #[must_use]
    pub fn of_let_go(self, pod: &Uid) -> Sighting {
        match self {
            Sighting::PodsAt(revision) => Sighting::PodLeft(pod.clone(), revision),
            gone => gone,
        }
    }
}

/// The sightings that one key waits for.
#[derive(Debug, Default)]
pub struct Barrier {
    awaited: Vec<Sighting>,
    /// How often each watch had begun to list afresh when the barrier went up: a list that began later shows everything.
    lists: (u64, u64),
}

impl Barrier {
    /// A barrier that waits for `sightings`, put up after the writes were answered.
    pub fn new(awaited: Vec<Sighting>, cache: &Cache) -> Barrier {
        Barrier { awaited, lists: cache.lists_begun() }
    }

    /// Whether everything was seen.
    pub fn is_down(&mut self, cache: &Cache) -> bool {
        let (jobs_fresh, pods_fresh) = cache.listed_since(self.lists);
        self.awaited.retain(|sighting| match sighting {
            Sighting::JobsAt(revision) => !jobs_fresh && cache.jobs_revision() < *revision,
            Sighting::PodsAt(revision) => !pods_fresh && cache.pods_revision() < *revision,
            Sighting::PodLeaving(uid) => !pods_fresh && cache.pod(uid).is_some_and(|pod| !pod.deleting),
            Sighting::PodReleased(uid) => !pods_fresh && cache.pod(uid).is_some_and(|pod| pod.tracked),
            Sighting::PodGone(uid) => !pods_fresh && cache.pod(uid).is_some(),
            Sighting::PodLeft(uid, revision) => {
                !pods_fresh && cache.pods_revision() < *revision && cache.pod(uid).is_some()
            }
        });
        self.awaited.is_empty()
    }
}
