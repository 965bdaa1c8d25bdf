//! The end of a namespace: its pods go, then everything else in it, then the namespace itself.
//!
//! ```text
//!   Active ──delete──▶ Terminating: pods ──▶ the rest ──▶ waits for finalizers ──▶ finalized
//! ```
//!
//! Invariant: a namespace is finalized only when a consistent read has found nothing in it.
//! Upstream: `pkg/controller/namespace/deletion/namespaced_resources_deleter.go`, v1.36. Two differences: upstream waits 5 s
//! before it begins, so that its API servers have all seen the deletion (there is one here, which refuses new content
//! at once); and its message about what remains names kinds in random order.

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The finalizer in `spec.finalizers` that this controller removes.
pub const FINALIZER: &str = "kubernetes";

/// What was found of one kind in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// `pods`.
    pub plural: String,
    /// Its group; empty for core.
    pub group: String,
    /// How many objects there are.
    pub count: usize,
    /// How many of them are already being deleted.
    pub deleting: usize,
    /// By finalizer: how many objects have it.
    pub finalizers: BTreeMap<String, usize>,
}

/// What is to be done about a namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Nothing.
    Rest,
    /// Write this status if it is given, then delete all objects of these kinds (as `Remains` had them, by position), then
    /// look again after a while.
    Clear {
        /// The status to write, if it says something new.
        status: Option<Box<NamespaceStatus>>,
        /// Positions in the remains.
        delete: Vec<usize>,
    },
    /// Write this status if it is given, and remove [`FINALIZER`] from `spec.finalizers`.
    Finalize {
        /// The status to write, if it says something new.
        status: Option<Box<NamespaceStatus>>,
    },
}

/// Whether `namespace` is on its way out and still held by this controller.
pub fn is_terminating(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
        && namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()).any(|name| name == FINALIZER)
}

/// Decides about `namespace`, in which `remains` was found.
pub fn reconcile(namespace: &Namespace, remains: &[Remains], now: Timestamp) -> Plan {
    if !is_terminating(namespace) {
        return Plan::Rest;
    }
    let old = namespace.status.clone().unwrap_or_default();
    let new = status(&old, remains, now);
    let status = (new != old).then(|| Box::new(new));
    if remains.iter().all(|kind| kind.count == 0) {
        return Plan::Finalize { status };
    }
    let is_pods = |kind: &Remains| kind.plural == "pods" && kind.group.is_empty();
    let pods_first = remains.iter().any(|kind| is_pods(kind) && kind.count > 0);
    let delete = remains
        .iter()
        .enumerate()
        .filter(|(_, kind)| kind.count > kind.deleting && is_pods(kind) == pods_first)
        .map(|(position, _)| position)
        .collect();
    Plan::Clear { status, delete }
}

/// The status with upstream's five conditions.
fn status(old: &NamespaceStatus, remains: &[Remains], now: Timestamp) -> NamespaceStatus {
    let mut left = String::new();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for kind in remains.iter().filter(|kind| kind.count > 0) {
        let comma = if left.is_empty() { "" } else { ", " };
        let _ = write!(left, "{comma}{}.{} has {} resource instances", kind.plural, kind.group, kind.count);
        for (name, count) in &kind.finalizers {
            *finalizers.entry(name).or_default() += count;
        }
    }
    let held: Vec<String> =
        finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let mut set = |type_: &str, bad: Option<(&str, String)>, good: (&str, &str)| {
        let (is, reason, message) = match bad {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", good.0, good.1.to_owned()),
        };
        let new = NamespaceCondition {
            type_: type_.to_owned(),
            status: is.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
        };
        match conditions.iter_mut().find(|known| known.type_ == type_) {
            Some(known) if known.status == new.status => {
                let since = known.last_transition_time.clone();
                *known = NamespaceCondition { last_transition_time: since, ..new };
            }
            Some(known) => *known = new,
            None => conditions.push(new),
        }
    };
    let discovered = "All resources successfully discovered";
    set("NamespaceDeletionDiscoveryFailure", None, ("ResourcesDiscovered", discovered));
    let parsed = "All legacy kube types successfully parsed";
    set("NamespaceDeletionGroupVersionParsingFailure", None, ("ParsedGroupVersions", parsed));
    let deleted = "All content successfully deleted, may be waiting on finalization";
    set("NamespaceDeletionContentFailure", None, ("ContentDeleted", deleted));
    set(
        "NamespaceContentRemaining",
        (!left.is_empty()).then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {left}"))),
        ("ContentRemoved", "All content successfully removed"),
    );
    set(
        "NamespaceFinalizersRemaining",
        (!held.is_empty()).then(|| {
            let held = held.join(", ");
            ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {held}"))
        }),
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
    );
    NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(conditions) }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NamespaceSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn going() -> Namespace {
        Namespace {
            metadata: ObjectMeta { deletion_timestamp: Some(Time(NOW)), ..ObjectMeta::default() },
            spec: Some(NamespaceSpec { finalizers: Some(vec![FINALIZER.to_owned()]) }),
            status: None,
        }
    }

    fn remains(plural: &str, count: usize, deleting: usize, finalizer: Option<&str>) -> Remains {
        Remains {
            plural: plural.to_owned(),
            group: String::new(),
            count,
            deleting,
            finalizers: finalizer.map(|name| (name.to_owned(), count)).into_iter().collect(),
        }
    }

    fn cleared(remains: &[Remains]) -> Vec<usize> {
        match reconcile(&going(), remains, NOW) {
            Plan::Clear { delete, .. } => delete,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pods_go_before_everything_else() {
        let found = [remains("configmaps", 2, 0, None), remains("pods", 1, 0, None), remains("jobs", 1, 0, None)];
        assert_eq!(cleared(&found), [1]);
        let found = [remains("configmaps", 2, 0, None), remains("pods", 1, 1, None)];
        assert_eq!(cleared(&found), [0; 0], "the pods are on their way: wait");
        let found = [remains("configmaps", 2, 0, None), remains("pods", 0, 0, None), remains("jobs", 1, 1, None)];
        assert_eq!(cleared(&found), [0]);
    }

    #[test]
    fn an_empty_namespace_is_finalized_and_an_active_one_left_alone() {
        assert!(matches!(reconcile(&going(), &[remains("pods", 0, 0, None)], NOW), Plan::Finalize { .. }));
        assert_eq!(reconcile(&Namespace::default(), &[], NOW), Plan::Rest);
        let done = Namespace { spec: None, ..going() };
        assert_eq!(reconcile(&done, &[], NOW), Plan::Rest);
    }

    #[test]
    fn the_conditions_say_what_remains_and_are_written_once() {
        let found = [remains("pods", 2, 2, Some("example.com/x"))];
        let Plan::Clear { status: Some(status), .. } = reconcile(&going(), &found, NOW) else { panic!("no status") };
        let condition = |type_: &str| {
            let conditions = status.conditions.as_ref().unwrap();
            let found = conditions.iter().find(|c| c.type_ == type_).unwrap();
            (found.status.clone(), found.message.clone().unwrap())
        };
        assert_eq!(
            condition("NamespaceContentRemaining"),
            ("True".into(), "Some resources are remaining: pods. has 2 resource instances".into())
        );
        assert_eq!(condition("NamespaceFinalizersRemaining").0, "True");
        assert_eq!(condition("NamespaceDeletionContentFailure").0, "False");
        let told = Namespace { status: Some(*status), ..going() };
        let later = Timestamp::from_second(100).unwrap();
        let Plan::Clear { status, .. } = reconcile(&told, &found, later) else { panic!("no plan to clear") };
        assert_eq!(status, None, "saying it twice changes nothing");
    }
}
