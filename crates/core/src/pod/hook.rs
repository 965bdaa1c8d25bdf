//! Hooks: what a container does right after its start and right before its end.
//!
//! ```text
//!   Starting ──program runs──► PostStart ──hook ends──► Running ──to be ended──► (preStop hook) ──► stop signal
//!                                  └──hook fails──► ended, and started again by its policy
//! ```
//!
//! Invariants: a container whose postStart hook has not ended is not told to run, and the containers after it wait; a
//! preStop hook is run once, and never beyond the time that the container has to end. The states are in
//! [`Life`](super::Life) and [`Stopping`](super::Stopping); this file holds what both hooks share.
//!
//! Upstream: `kuberuntime_container.go` (`startContainer`, `executePreStopHook`, `killContainer`), v1.36.

use k8s_openapi::api::core::v1::Container;

/// Which hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// `lifecycle.postStart`.
    PostStart,
    /// `lifecycle.preStop`.
    PreStop,
}

/// Which hooks a container has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// `lifecycle.postStart` is set.
    pub post_start: bool,
    /// `lifecycle.preStop` is set.
    pub pre_stop: bool,
}

impl Hooks {
    /// The hooks of a container.
    pub fn of(container: &Container) -> Hooks {
        let lifecycle = container.lifecycle.as_ref();
        Hooks {
            post_start: lifecycle.is_some_and(|hooks| hooks.post_start.is_some()),
            pre_stop: lifecycle.is_some_and(|hooks| hooks.pre_stop.is_some()),
        }
    }
}

impl HookKind {
    /// What people are told when it fails: an Event's reason and message. Not why, since that may hold secrets.
    pub(super) fn failure(self) -> (&'static str, &'static str) {
        match self {
            HookKind::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
            HookKind::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
        }
    }
}
