//! Pods by the Job that owns them, each in one of three forms.
//!
//! Invariant: every pod is known by its UID in exactly one place, and what an event costs does not depend on how many pods
//! there are.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use stint_core::job::kept::{Leftover, Settled};
use stint_core::job::view::{controller_of, is_tracked, uid_of};
use stint_core::plan::Uid;

use super::JobKey;

/// The pods.
#[derive(Debug, Default)]
pub struct Owned {
    entries: HashMap<JobKey, Entry>,
    places: HashMap<Uid, (JobKey, Place)>,
}

/// The pods of one key, each form side by side, so that a reconcile borrows them as one slice.
#[derive(Debug, Default)]
struct Entry {
    pods: Vec<Pod>,
    settled: Vec<Settled>,
    leftovers: Vec<Leftover>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Pod(usize),
    Settled(usize),
    Leftover(usize),
}

/// How it stands with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the tracking finalizer is on it.
    pub tracked: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl Owned {
    /// Takes in a pod, or its new state; returns the key that it was under before.
    pub fn put(&mut self, key: &JobKey, pod: Pod) -> Option<JobKey> {
        let uid = uid_of(&pod);
        if let Some((known, Place::Pod(at))) = self.places.get(&uid)
            && known == key
        {
            let entry = self.entries.get_mut(key).expect("a place is in an entry");
            entry.pods[*at] = pod;
            return Some(key.clone());
        }
        let before = self.remove(&uid);
        let pods = &mut self.entries.entry(key.clone()).or_default().pods;
        self.places.insert(uid, (key.clone(), Place::Pod(pods.len())));
        push(pods, pod);
        before
    }

    /// Takes in a leftover; returns the key that it was under before.
    pub fn put_leftover(&mut self, key: &JobKey, leftover: Leftover) -> Option<JobKey> {
        let before = self.remove(&leftover.uid);
        let leftovers = &mut self.entries.entry(key.clone()).or_default().leftovers;
        self.places.insert(leftover.uid.clone(), (key.clone(), Place::Leftover(leftovers.len())));
        push(leftovers, leftover);
        before
    }

    /// Takes in a settled pod; returns the key that it was under before.
    pub fn put_settled(&mut self, key: &JobKey, pod: Settled) -> Option<JobKey> {
        let before = self.remove(&pod.leftover.uid);
        let settled = &mut self.entries.entry(key.clone()).or_default().settled;
        self.places.insert(pod.leftover.uid.clone(), (key.clone(), Place::Settled(settled.len())));
        push(settled, pod);
        before
    }

    /// Makes leftovers of the pods of the Job `uid`.
    pub fn shrink(&mut self, key: &JobKey, uid: &Uid) {
        let Some(entry) = self.entries.get(key) else { return };
        let settled = entry.settled.iter().map(|settled| settled.leftover.clone());
        let leftovers = entry.pods.iter().filter_map(Leftover::of).chain(settled);
        let leftovers: Vec<Leftover> = leftovers.filter(|leftover| leftover.job == *uid).collect();
        for leftover in leftovers {
            self.put_leftover(key, leftover);
        }
    }

    /// Forgets the pods of the Job `uid`.
    pub fn forget(&mut self, key: &JobKey, uid: &Uid) {
        let Some(entry) = self.entries.get(key) else { return };
        let settled = entry.settled.iter().map(|settled| &settled.leftover);
        let leftovers = settled.chain(&entry.leftovers).filter(|leftover| leftover.job == *uid);
        let is_its = |pod: &&Pod| controller_of(pod).is_some_and(|owner| Uid::from(owner.uid.as_str()) == *uid);
        let pods = entry.pods.iter().filter(is_its).map(uid_of);
        let forgotten: Vec<Uid> = leftovers.map(|leftover| leftover.uid.clone()).chain(pods).collect();
        for uid in forgotten {
            self.remove(&uid);
        }
    }

    /// Forgets a pod; returns the key that it was under.
    pub fn remove(&mut self, uid: &Uid) -> Option<JobKey> {
        let (key, place) = self.places.remove(uid)?;
        let entry = self.entries.get_mut(&key)?;
        let moved = match place {
            Place::Pod(at) => {
                remove(&mut entry.pods, at);
                entry.pods.get(at).map(uid_of)
            }
            Place::Settled(at) => {
                remove(&mut entry.settled, at);
                entry.settled.get(at).map(|moved| moved.leftover.uid.clone())
            }
            Place::Leftover(at) => {
                remove(&mut entry.leftovers, at);
                entry.leftovers.get(at).map(|moved| moved.uid.clone())
            }
        };
        if entry.pods.is_empty() && entry.settled.is_empty() && entry.leftovers.is_empty() {
            self.entries.remove(&key);
        }
        if let Some((_, now)) = moved.and_then(|moved| self.places.get_mut(&moved)) {
            *now = place;
        }
        Some(key)
    }

    /// When the latest of the settled pods of the Job `uid` ended.
    pub fn latest_success(&self, key: &JobKey, uid: &Uid) -> Option<Timestamp> {
        let settled = self.entries.get(key)?.settled.iter().filter(|settled| settled.leftover.job == *uid);
        settled.filter_map(|settled| settled.finished_at).max()
    }

    /// The pods of a key that are neither settled nor leftovers.
    pub fn pods(&self, key: &JobKey) -> &[Pod] {
        self.entries.get(key).map_or(&[], |entry| &entry.pods)
    }

    /// The leftovers of a key.
    pub fn leftovers(&self, key: &JobKey) -> &[Leftover] {
        self.entries.get(key).map_or(&[], |entry| &entry.leftovers)
    }

    /// How it stands with a pod.
    pub fn get(&self, uid: &Uid) -> Option<Standing> {
        let (key, place) = self.places.get(uid)?;
        let entry = self.entries.get(key)?;
        Some(match place {
            Place::Pod(at) => {
                let pod = entry.pods.get(*at)?;
                Standing { tracked: is_tracked(pod), deleting: pod.metadata.deletion_timestamp.is_some() }
            }
            Place::Settled(at) => Standing { tracked: false, deleting: entry.settled.get(*at)?.leftover.deleting },
            Place::Leftover(at) => {
                let Leftover { tracked, deleting, .. } = *entry.leftovers.get(*at)?;
                Standing { tracked, deleting }
            }
        })
    }

    /// The keys that have pods.
    pub fn keys(&self) -> impl Iterator<Item = &JobKey> {
        self.entries.keys()
    }

    /// The same key, as it is known here.
    pub fn known(&self, key: &JobKey) -> Option<&JobKey> {
        self.entries.get_key_value(key).map(|(known, _)| known)
    }
}

/// Most Jobs have one pod: the first takes no more than its own room.
fn push<T>(all: &mut Vec<T>, one: T) {
    if all.is_empty() {
        all.reserve_exact(1);
    }
    all.push(one);
}

/// What is empty again keeps no room.
fn remove<T>(all: &mut Vec<T>, at: usize) {
    all.swap_remove(at);
    if all.is_empty() {
        *all = Vec::new();
    }
}
