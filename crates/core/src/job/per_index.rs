//! Retries per index (`backoffLimitPerIndex`, KEP-3850): which indexes have failed, and which wait for another try.
//!
//! How often an index has failed is written on its pods: each replacement carries the count of the pod before it, plus
//! one. So the newest failed pod of an index keeps its finalizer until its replacement is there.
//! Upstream: `pkg/controller/job/indexed_job_utils.go` (`getPodsWithDelayedDeletionPerIndex`, `isIndexFailed`),
//! `backoff_utils.go`, v1.36.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::Backoff;
use super::index::{Index, IndexSet};
use super::policy::Judgement;
use super::view::{Indexed, Seen, View, finished_at};

/// The annotation that counts an index's failures.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The annotation that counts an index's failures that a policy ignored.
pub const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What is known of the indexes' failures.
#[derive(Debug)]
pub struct PerIndex {
    /// The failed indexes: those that the status holds, and those of pods that have just failed.
    pub failed: IndexSet,
    /// By index: the newest failed pod, where another has to take its place.
    pub awaiting: BTreeMap<Index, Awaiting>,
}

/// A failed pod whose index gets another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaiting {
    /// Its position in the view's pods.
    position: usize,
    /// What its replacement carries.
    pub counts: Counts,
    finished_at: Option<Timestamp>,
}

/// How often an index has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Failures that count.
    pub failures: i32,
    /// Failures that a policy ignored.
    pub ignored: i32,
}

impl Counts {
    fn of(pod: &Pod) -> Counts {
        let number = |name: &str| {
            let text = pod.metadata.annotations.as_ref()?.get(name)?;
            text.parse().ok().filter(|count: &i32| *count >= 0)
        };
        Counts { failures: number(FAILURES).unwrap_or(0), ignored: number(IGNORED).unwrap_or(0) }
    }

    fn total(self) -> i32 {
        self.failures.saturating_add(self.ignored)
    }
}

impl Awaiting {
    /// The pod.
    pub fn pod<'a>(&self, view: &View<'a>) -> &'a Pod {
        view.pods[self.position].pod
    }

    /// When its index may have another pod, if that lies after `now`.
    pub fn until(&self, backoff: Backoff, now: Timestamp) -> Option<Timestamp> {
        let failures = u32::try_from(self.counts.total()).unwrap_or(0);
        let at = self.finished_at?.saturating_add(backoff.delay(failures)).ok()?;
        (at > now).then_some(at)
    }
}

impl PerIndex {
    /// What the pods of `view` say, whose indexes are `indexed`.
    pub(super) fn of(view: &View<'_>, indexed: &Indexed, limit: i32) -> PerIndex {
        let Indexed { succeeded, active, .. } = indexed;
        let mut failed = indexed.failed.clone();
        let failures = || {
            let pods = view.pods.iter().enumerate();
            pods.filter(|(_, seen)| seen.tracked && view.counts_as_failed(seen))
                .filter_map(|(position, seen)| Some((position, seen, seen.index?)))
        };
        for (_, seen, index) in failures() {
            if !succeeded.contains(index) && fails_index(seen, limit) {
                failed.insert(index);
            }
        }
        let mut awaiting: BTreeMap<Index, Awaiting> = BTreeMap::new();
        for (position, seen, index) in failures() {
            if succeeded.contains(index) || failed.contains(index) || active.contains(index) {
                continue;
            }
            let had = Counts::of(seen.pod);
            let counts = match seen.judgement {
                Judgement::Ignore => Counts { ignored: had.ignored.saturating_add(1), ..had },
                _ => Counts { failures: had.failures.saturating_add(1), ..had },
            };
            let new = Awaiting { position, counts, finished_at: finished_at(seen.pod) };
            let rank = |waiting: &Awaiting| (waiting.counts.total(), waiting.finished_at);
            let newest = awaiting.entry(index).or_insert(new);
            if rank(&new) > rank(newest) {
                *newest = new;
            }
        }
        PerIndex { failed, awaiting }
    }
}

/// Whether this failed pod is the last that its index gets.
fn fails_index(seen: &Seen<'_>, limit: i32) -> bool {
    match seen.judgement {
        Judgement::FailIndex => true,
        Judgement::Ignore => false,
        Judgement::Count | Judgement::FailJob(_) => Counts::of(seen.pod).failures >= limit,
    }
}
