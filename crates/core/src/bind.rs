//! The scheduler's part on one node: which waiting pod gets the node next, and why the others do not.
//!
//! ```text
//!             fits: next                  the watch shows it there
//!   waiting ─────────────► reserved ────────────────────────────► assigned ──► over, gone: its room is free
//!    ▲   │                  │
//!    │   └─ does not fit:   └─ refused: its room is free, until it is seen again
//!    │      stuck until room is free
//!    └────── by priority, then age; a small pod passes a big one that does not fit
//! ```
//!
//! Invariants: more than the node has is never reserved; a pod that may be bound keeps its room until it is known not to be.
//! Pods that wish for the same wait in one group and are looked at once for all of them, so that the cost of a pod that ends
//! is that of the different wishes that wait, and not of the pods.
//! Left out: preemption (pods of lower priority are left alone), and devices that are claimed.
//! Upstream: `pkg/scheduler/schedule_one.go`, `pkg/scheduler/framework/types.go` (`FitError`), v1.36.

mod claims;
mod group;
mod neighbours;
mod place;
mod room;
mod scheduler;
mod spread;
#[cfg(test)]
mod tests;
mod wish;

use k8s_openapi::api::core::v1::Pod;

use crate::job::view::phase;
pub use place::tolerates;
pub use room::Room;
pub use scheduler::{Scheduler, Seat};
pub use wish::{Amounts, Wish, amounts};

/// What a pod is to a scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It waits for a node.
    Waits,
    /// It is on this node, and takes room there.
    Assigned(&'a str),
    /// It has no node and is being deleted.
    Leaves,
    /// It takes no room, and is to be left alone, for this reason.
    Leave(&'static str),
}

/// What `pod` is to the default scheduler.
pub fn standing(pod: &Pod) -> Standing<'_> {
    let Some(spec) = &pod.spec else { return Standing::Leave("it has no spec") };
    if matches!(phase(pod), "Succeeded" | "Failed") {
        return Standing::Leave("it is over");
    }
    if let Some(node) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Standing::Assigned(node);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Standing::Leaves;
    }
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return Standing::Leave("it has scheduling gates");
    }
    if spec.scheduler_name.as_deref().is_some_and(|name| name != "default-scheduler") {
        return Standing::Leave("another scheduler is to bind it");
    }
    Standing::Waits
}
