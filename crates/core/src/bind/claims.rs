//! The claims that pods name: whether they are bound, and who has those that only one pod may have.
//!
//! Upstream: `pkg/scheduler/framework/plugins/volumebinding/volume_binding.go` (`podHasPVCs`),
//! `…/volumerestrictions/volume_restrictions.go`, v1.36. Left out: which nodes a volume can be reached from; there is one.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde::Serialize;

use super::wish::Wish;
use crate::storage::{ClaimKey, claims_of, key};

/// A claim that a pod names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Wanted {
    /// Its namespace and name.
    pub key: ClaimKey,
    /// Whether it is made for the pod.
    pub is_ephemeral: bool,
}

/// The claims that `pod` names, each once.
pub fn wanted(pod: &Pod) -> Vec<Wanted> {
    let made: Vec<String> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter(|volume| volume.ephemeral.is_some())
        .map(|volume| crate::storage::ephemeral_name(pod, &volume.name))
        .collect();
    let all = claims_of(pod).into_iter().map(|key| Wanted { is_ephemeral: made.contains(&key.1), key });
    let mut all: Vec<Wanted> = all.collect();
    all.sort();
    all.dedup();
    all
}

/// What is known of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    is_bound: bool,
    is_leaving: bool,
    /// `ReadWriteOncePod`.
    is_for_one: bool,
}

/// Why a pod has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// For something that no node could help with.
    Everywhere(String),
    /// For another pod.
    Here(&'static str),
}

/// All claims.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    known: BTreeMap<ClaimKey, Known>,
    /// How many pods on the node name each.
    taken: BTreeMap<ClaimKey, usize>,
}

impl Claims {
    /// A claim is so now; returns whether that is news.
    pub fn see(&mut self, claim: &PersistentVolumeClaim) -> bool {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
        let known = Known {
            is_bound: phase == Some("Bound"),
            is_leaving: claim.metadata.deletion_timestamp.is_some(),
            is_for_one: modes.iter().any(|mode| mode == "ReadWriteOncePod"),
        };
        self.known.insert(key(claim), known) != Some(known)
    }

    /// A claim is gone.
    pub fn gone(&mut self, key: &ClaimKey) {
        self.known.remove(key);
    }

    /// The claims that there are.
    pub fn keys(&self) -> impl Iterator<Item = &ClaimKey> {
        self.known.keys()
    }

    /// A pod that wishes so is on the node.
    pub fn take(&mut self, wish: &Wish) {
        for wanted in &wish.claims {
            *self.taken.entry(wanted.key.clone()).or_default() += 1;
        }
    }

    /// It is no longer.
    pub fn give_back(&mut self, wish: &Wish) {
        for wanted in &wish.claims {
            if let Some(count) = self.taken.get_mut(&wanted.key) {
                *count -= 1;
            }
        }
        self.taken.retain(|_, count| *count > 0);
    }

    /// Why a pod that wishes so can't be bound.
    pub fn refuse(&self, wish: &Wish) -> Option<Refusal> {
        let mut is_unbound = false;
        for wanted in &wish.claims {
            let name = &wanted.key.1;
            match self.known.get(&wanted.key) {
                None if wanted.is_ephemeral => {
                    let why = "waiting for ephemeral volume controller to create the persistentvolumeclaim";
                    return Some(Refusal::Everywhere(format!("{why} {name:?}")));
                }
                None => return Some(Refusal::Everywhere(format!("persistentvolumeclaim {name:?} not found"))),
                Some(known) if known.is_leaving => {
                    return Some(Refusal::Everywhere(format!("persistentvolumeclaim {name:?} is being deleted")));
                }
                Some(known) => is_unbound |= !known.is_bound,
            }
        }
        if is_unbound {
            return Some(Refusal::Everywhere("pod has unbound immediate PersistentVolumeClaims".to_owned()));
        }
        let is_alone = |wanted: &Wanted| self.known.get(&wanted.key).is_some_and(|known| known.is_for_one);
        let is_taken = wish.claims.iter().any(|wanted| is_alone(wanted) && self.taken.contains_key(&wanted.key));
        is_taken.then_some(Refusal::Here(
            "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
        ))
    }
}
