//! The metadata rules that hold for every kind: identity, generation, deletion.
//!
//! Invariant: uid, creation time and generation of a stored object are never the client's.
//! Upstream: `apiserver/pkg/registry/rest/{create,update,delete}.go`, `registry/generic/registry/store.go`
//! (`markAsDeleting`, `ShouldDeleteDuringUpdate`), v1.36.
//! Left out: `managedFields` (see `managed.rs`).

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

pub(crate) use stint_core::owners::Propagation;
use stint_core::owners::{FOREGROUND, ORPHAN};

use crate::strategy::{Deletion, Object};

/// Whole seconds, as times in metadata have.
pub(crate) fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).expect("a timestamp's whole seconds are in range"))
}

/// Gives a new object its identity.
pub(crate) fn create(meta: &mut ObjectMeta, uid: &str, now: Timestamp, generation: bool) {
    meta.uid = Some(uid.to_owned());
    meta.creation_timestamp = Some(seconds(now));
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
    meta.resource_version = None;
    meta.generation = generation.then_some(1);
    omit_empty(meta);
}

/// Overwrites in `new` what no client decides, and fills in what it may leave out.
pub(crate) fn update(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.generation = old.generation;
    new.creation_timestamp.clone_from(&old.creation_timestamp);
    new.self_link = None;
    new.resource_version = None;
    if new.uid.as_deref().is_none_or(str::is_empty) {
        new.uid.clone_from(&old.uid);
    }
    if old.deletion_timestamp.is_some() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    omit_empty(new);
}

/// Leaves out what is empty: an object that lost its last finalizer has none, not a list of none.
fn omit_empty(meta: &mut ObjectMeta) {
    meta.finalizers = meta.finalizers.take().filter(|finalizers| !finalizers.is_empty());
    meta.owner_references = meta.owner_references.take().filter(|owners| !owners.is_empty());
    meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
}

/// Whether this update takes away what held a terminating object.
pub(crate) fn releases(new: &dyn Object, old: &ObjectMeta) -> bool {
    old.deletion_timestamp.is_some()
        && old.deletion_grace_period_seconds.unwrap_or(0) == 0
        && new.meta().finalizers.as_ref().is_none_or(Vec::is_empty)
        && !new.is_held()
}

/// What a deletion does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Take the object away.
    Now,
    /// Write the marked object.
    Mark,
    /// Write the marked object, then take it away: watchers of a graceful kind see both.
    MarkThenNow,
    /// It is on its way already.
    Nothing,
}

/// Marks `object` for deletion, as far as it needs that.
pub(crate) fn delete(
    object: &mut dyn Object,
    period: Option<i64>,
    propagation: Propagation,
    now: Timestamp,
) -> Removal {
    let removal = mark(object, period, propagation, now);
    if matches!(removal, Removal::Mark | Removal::MarkThenNow) {
        object.mark_deleted();
    }
    removal
}

fn mark(object: &mut dyn Object, period: Option<i64>, propagation: Propagation, now: Timestamp) -> Removal {
    let deletion = object.deletion();
    let kept = object.is_held();
    let meta = object.meta_mut();
    let graceful = match (deletion, &meta.deletion_timestamp, meta.deletion_grace_period_seconds) {
        // Marked, but with no period: nothing to wait for.
        (Deletion::Immediate, _, _) | (_, Some(_), None) => None,
        (Deletion::Graceful(_), Some(ends), Some(given)) => {
            if given == 0 && meta.finalizers.as_ref().is_none_or(Vec::is_empty) {
                // A crash came between the two writes of an earlier deletion. Upstream would leave it lying.
                return Removal::Now;
            }
            // It can only end earlier.
            let Some(period) = period.map(at_least_one_if_negative).filter(|period| *period < given) else {
                return Removal::Nothing;
            };
            let began = ends.0.as_second() - given;
            meta.deletion_timestamp = Some(at(began.saturating_add(period)));
            meta.deletion_grace_period_seconds = Some(period);
            Some(period)
        }
        (Deletion::Graceful(usual), None, _) => {
            let period = if usual == 0 { 0 } else { at_least_one_if_negative(period.unwrap_or(usual)) };
            meta.deletion_timestamp = Some(at(now.as_second().saturating_add(period)));
            meta.deletion_grace_period_seconds = Some(period);
            meta.generation = meta.generation.map(|generation| generation + 1);
            Some(period)
        }
    };
    set_finalizers(meta, propagation);
    let held = kept || meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
    match (graceful, held) {
        (Some(0), false) => Removal::MarkThenNow,
        (Some(_), _) => Removal::Mark,
        (None, false) => Removal::Now,
        (None, true) => {
            if meta.deletion_grace_period_seconds.is_none() {
                meta.generation = meta.generation.map(|generation| generation + 1);
            }
            if meta.deletion_timestamp.as_ref().is_none_or(|time| time.0 > now) {
                meta.deletion_timestamp = Some(seconds(now));
            }
            meta.deletion_grace_period_seconds = Some(0);
            Removal::Mark
        }
    }
}

fn at_least_one_if_negative(period: i64) -> i64 {
    if period < 0 { 1 } else { period }
}

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap_or(Timestamp::MAX))
}

/// What the client asked for; else what the object's finalizers say; else what its kind does by default.
pub(crate) fn propagation(asked: Option<Propagation>, meta: &ObjectMeta, orphans_by_default: bool) -> Propagation {
    let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
    if let Some(asked) = asked {
        asked
    } else if has(ORPHAN) {
        Propagation::Orphan
    } else if has(FOREGROUND) {
        Propagation::Foreground
    } else if orphans_by_default {
        Propagation::Orphan
    } else {
        Propagation::Background
    }
}

fn set_finalizers(meta: &mut ObjectMeta, propagation: Propagation) {
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let mut finalizers = meta.finalizers.take().unwrap_or_default();
    finalizers.retain(|name| (name != ORPHAN && name != FOREGROUND) || wanted == Some(name));
    if let Some(wanted) = wanted.filter(|wanted| !finalizers.iter().any(|name| name == wanted)) {
        finalizers.push(wanted.to_owned());
    }
    meta.finalizers = Some(finalizers).filter(|finalizers| !finalizers.is_empty());
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::core::v1::{Pod, PodSpec};

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn pod(node: Option<&str>) -> Pod {
        let spec = PodSpec { node_name: node.map(str::to_owned), ..PodSpec::default() };
        Pod {
            metadata: ObjectMeta { generation: Some(1), ..ObjectMeta::default() },
            spec: Some(spec),
            ..Pod::default()
        }
    }

    #[test]
    fn a_bound_pod_gets_its_period_and_an_unbound_one_none() {
        let mut bound = pod(Some("n"));
        assert_eq!(delete(&mut bound, None, Propagation::Background, NOW), Removal::Mark);
        assert_eq!(bound.metadata.deletion_grace_period_seconds, Some(30));
        assert_eq!(bound.metadata.deletion_timestamp, Some(at(30)));
        assert_eq!(bound.metadata.generation, Some(2));
        assert_eq!(delete(&mut pod(None), Some(30), Propagation::Background, NOW), Removal::MarkThenNow);
    }

    #[test]
    fn a_second_deletion_may_only_shorten_the_period() {
        let mut bound = pod(Some("n"));
        delete(&mut bound, Some(20), Propagation::Background, NOW);
        assert_eq!(delete(&mut bound, None, Propagation::Background, NOW), Removal::Nothing);
        assert_eq!(delete(&mut bound, Some(20), Propagation::Background, NOW), Removal::Nothing);
        assert_eq!(delete(&mut bound, Some(5), Propagation::Background, NOW), Removal::Mark);
        assert_eq!(bound.metadata.deletion_timestamp, Some(at(5)));
        assert_eq!(delete(&mut bound, Some(0), Propagation::Background, NOW), Removal::MarkThenNow);
        assert_eq!(bound.metadata.generation, Some(2), "the first deletion only is a new generation");
    }

    #[test]
    fn a_deletion_that_stopped_between_its_two_writes_is_finished_by_the_next() {
        let mut pod = pod(None);
        assert_eq!(delete(&mut pod, None, Propagation::Background, NOW), Removal::MarkThenNow);
        assert_eq!(delete(&mut pod, None, Propagation::Background, NOW), Removal::Now);
    }

    #[test]
    fn a_finalizer_holds_an_object_and_its_deletion_is_one_generation() {
        let meta = ObjectMeta { generation: Some(1), ..ObjectMeta::default() };
        let mut job = Job { metadata: meta, ..Job::default() };
        assert_eq!(delete(&mut job, None, Propagation::Foreground, NOW), Removal::Mark);
        assert_eq!(job.metadata.finalizers, Some(vec![FOREGROUND.to_owned()]));
        assert_eq!(delete(&mut job, None, Propagation::Foreground, NOW), Removal::Mark);
        assert_eq!(job.metadata.generation, Some(2));
        assert_eq!(delete(&mut job, None, Propagation::Background, NOW), Removal::Now);
    }

    #[test]
    fn the_policy_is_the_clients_then_the_objects_then_the_kinds() {
        let held = ObjectMeta { finalizers: Some(vec![FOREGROUND.to_owned()]), ..ObjectMeta::default() };
        assert_eq!(propagation(Some(Propagation::Orphan), &held, false), Propagation::Orphan);
        assert_eq!(propagation(None, &held, true), Propagation::Foreground);
        assert_eq!(propagation(None, &ObjectMeta::default(), true), Propagation::Orphan);
        assert_eq!(propagation(None, &ObjectMeta::default(), false), Propagation::Background);
    }
}
