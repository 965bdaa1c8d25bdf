//! The users and groups of the host that those of a pod in its own user namespace (`hostUsers: false`) are: 65,536 of each,
//! which no other pod has.
//!
//! Invariant: whose ids they are stands in the pod's folder before anything runs with them, and goes with the folder, when
//! nothing of the pod is left. So each range has one pod after a crash, too.
//! Upstream: `pkg/kubelet/userns/userns_manager.go`, v1.36.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::PoisonError;

use k8s_openapi::api::core::v1::Pod;

use crate::agent::Shared;
use crate::error::Error;
use crate::folder::PodFolder;
use crate::worker::Context;

/// How many ids a pod has.
pub(crate) const COUNT: u32 = 65_536;

/// How many ranges there are: the first is the host's own, and ids beyond 2³¹ are not for every program.
const RANGES: u32 = i32::MAX.cast_unsigned() / COUNT;

/// Whether the pod is to have a user namespace.
fn is_asked_for(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_users == Some(false))
}

impl Context {
    /// The host's first id of the pod's range, if it is to have one; each time the same.
    pub(crate) fn ids(&self) -> Result<Option<u32>, Error> {
        if !is_asked_for(&self.pod) {
            return Ok(None);
        }
        let Shared { config, ranges, .. } = &*self.shared;
        let _alone = ranges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(range) = read(&self.folder) {
            return Ok(Some(range * COUNT));
        }
        let others = config.folders.pods();
        let taken = others.iter().filter_map(|uid| read(&PodFolder::new(&config.folders, uid).ok()?)).collect();
        let range = choose(&self.identity.uid, &taken)
            .ok_or_else(|| Error::config("all ranges of user ids are taken by other pods with hostUsers: false"))?;
        self.folder.make(&self.identity)?;
        let file = self.folder.ids();
        fs::write(&file, range.to_string()).map_err(Error::io("write", &file))?;
        Ok(Some(range * COUNT))
    }
}

fn read(folder: &PodFolder) -> Option<u32> {
    fs::read_to_string(folder.ids()).ok()?.trim().parse().ok().filter(|range| (1..RANGES).contains(range))
}

/// A range that is not taken. Where to begin to look follows from the pod's uid, so that pods of another agent on the same
/// machine hardly ever get the same.
fn choose(uid: &str, taken: &BTreeSet<u32>) -> Option<u32> {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    let count = u64::from(RANGES - 1);
    let first = u32::try_from(hasher.finish() % count).unwrap_or(0);
    (0..RANGES - 1).map(|step| 1 + (first + step) % (RANGES - 1)).find(|range| !taken.contains(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_have_the_same_ids_and_none_the_hosts() {
        let mut taken = BTreeSet::new();
        for pod in 0..RANGES - 1 {
            let range = choose(&format!("uid-{pod}"), &taken).unwrap();
            assert!(range > 0 && range.checked_mul(COUNT).and_then(|first| first.checked_add(COUNT)).is_some());
            assert!(taken.insert(range));
        }
        assert_eq!(choose("one more", &taken), None);
    }
}
