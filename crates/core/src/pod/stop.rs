//! How containers are ended: all of them with their pod, or one by itself.
//!
//! ```text
//!   No ──► (PreStop) ──► Waiting ──its turn, or no time left──► Signalled ──did not end in time──► Killed
//!    └────────────────────────────no time was given at all────────────────────────────────────────▲
//! ```
//!
//! Invariant: who is asked to end has at least two seconds for it, even when its turn comes late; only who is given no
//! time at all is killed unasked. A time that was given is never made longer.
//!
//! Upstream: `kuberuntime_container.go` (`killContainer`, `setTerminationGracePeriod`),
//! `kuberuntime_termination_order.go`, v1.36.

use jiff::{SignedDuration, Timestamp};

use super::step::Step;
use super::{
    Condemned, Container, DEADLINE_TOLD, Effect, Eviction, Haste, HookKind, Left, Life, Outcome, Phase, Role, Stage,
    State, Stop, Stopping, Unfit, phase,
};

/// How long a container has at least from its stop signal (`minimumGracePeriodInSeconds`).
const SHORTEST: SignedDuration = SignedDuration::from_secs(2);
/// What the message of a pod begins with that the node did not take (`pkg/kubelet/kubelet.go`, `rejectPod`).
pub(super) const REJECTED: &str = "Pod was rejected: ";

/// Whether a container is to be ended yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Others end before it.
    Later,
    /// It is its turn.
    Now,
}

/// When the ending of a running container goes on by itself.
pub(super) fn wake(state: &State, container: &Container) -> Option<Timestamp> {
    let ending = container.ending()?;
    let limit = match (&state.stage, container.condemned) {
        (Stage::Stopping { kill_at, .. }, Some(own)) => own.kill_at.min(*kill_at),
        (Stage::Stopping { kill_at, .. }, None) => *kill_at,
        (_, Some(own)) => own.kill_at,
        (_, None) => return None,
    };
    match ending {
        Stopping::No | Stopping::PreStop | Stopping::Waiting => Some(limit),
        Stopping::Signalled { at } => Some(limit.max(at + SHORTEST)),
        Stopping::Killed => None,
    }
}

impl Step {
    /// Begins to end every container, or shortens the time they have for it.
    pub(super) fn stop(&mut self, why: Stop, grace: i64) {
        let asked = self.now + seconds(grace);
        let asked_haste = if grace <= 0 { Haste::Killed } else { Haste::Asked };
        match &mut self.state.stage {
            Stage::Ended { .. } => {}
            Stage::Stopping { kill_at, haste, .. } => {
                *kill_at = asked.min(*kill_at);
                if asked_haste == Haste::Killed {
                    *haste = Haste::Killed;
                }
            }
            Stage::Accepted | Stage::Preparing(_) | Stage::Active => {
                self.state.stage = Stage::Stopping { why, kill_at: asked, haste: asked_haste };
            }
        }
    }

    /// Begins to end one container, while the pod goes on.
    pub(super) fn condemn(&mut self, index: usize, why: Unfit) {
        let probes = &self.state.facts.containers[index].probes;
        let probe = match why {
            Unfit::Liveness => probes.liveness.as_ref(),
            Unfit::Startup => probes.startup.as_ref(),
            Unfit::PostStart | Unfit::Changed => None,
        };
        let grace = probe.and_then(|probe| probe.grace).unwrap_or(self.state.facts.grace);
        let kill_at = self.now + seconds(grace);
        self.state.containers[index].condemned = Some(Condemned { why, kill_at });
    }

    /// Begins to end those that run from what their spec no longer says.
    pub(super) fn condemn_outdated(&mut self) {
        for index in 0..self.state.containers.len() {
            let container = &self.state.containers[index];
            if container.is_outdated && container.ending().is_some() && container.condemned.is_none() {
                self.condemn(index, Unfit::Changed);
            }
        }
    }

    /// Takes the ending of those further that are ended by themselves.
    pub(super) fn end_condemned(&mut self) {
        for index in 0..self.state.containers.len() {
            if let Some(Condemned { kill_at, .. }) = self.state.containers[index].condemned {
                self.end(index, kill_at, Turn::Now);
            }
        }
    }

    /// While the pod is stopping: what waits will not run, what runs is told to stop (sidecars last, in reverse order),
    /// what does not obey in time is killed.
    pub(super) fn end_all(&mut self) {
        let Stage::Stopping { kill_at, haste, .. } = self.state.stage else { return };
        for container in self.state.containers.iter_mut().filter(|c| !c.is_live()) {
            container.life = Life::Ended;
        }
        let facts = self.state.facts.clone();
        let is_sidecar = |index: usize| facts.containers[index].role == Role::Sidecar;
        let live: Vec<usize> = (0..facts.containers.len()).filter(|i| self.state.containers[*i].is_live()).collect();
        let first_to_go = live.iter().copied().find(|index| !is_sidecar(*index)).or(live.last().copied());
        for index in live {
            if haste == Haste::Killed {
                self.advance_ending(index, Stopping::Killed);
                continue;
            }
            let turn = if !is_sidecar(index) || Some(index) == first_to_go { Turn::Now } else { Turn::Later };
            let own = self.state.containers[index].condemned;
            self.end(index, own.map_or(kill_at, |own| own.kill_at.min(kill_at)), turn);
        }
        if self.state.containers.iter().all(|c| c.life == Life::Ended) {
            self.conclude();
        }
    }

    /// Takes the ending of a running container as far as it can come now. One that is only starting is ended once it
    /// runs.
    fn end(&mut self, index: usize, limit: Timestamp, turn: Turn) {
        let is_late = limit <= self.now;
        let has_hook = self.state.facts.containers[index].hooks.pre_stop;
        while let Some(ending) = self.state.containers[index].ending() {
            let next = match ending {
                Stopping::No if has_hook && !is_late => Stopping::PreStop,
                Stopping::PreStop if !is_late => return,
                Stopping::No | Stopping::PreStop => Stopping::Waiting,
                Stopping::Waiting if turn == Turn::Now || is_late => Stopping::Signalled { at: self.now },
                Stopping::Signalled { at } if limit.max(at + SHORTEST) <= self.now => Stopping::Killed,
                Stopping::Waiting | Stopping::Signalled { .. } | Stopping::Killed => return,
            };
            self.advance_ending(index, next);
        }
    }

    fn advance_ending(&mut self, index: usize, next: Stopping) {
        let container = &mut self.state.containers[index];
        let attempt = container.attempt;
        let (Life::PostStart { ending, .. } | Life::Running { ending, .. }) = &mut container.life else { return };
        if std::mem::replace(ending, next) == next {
            return;
        }
        let container = self.state.facts.containers[index].name.clone();
        self.effects.extend(match next {
            Stopping::No | Stopping::Waiting => None,
            Stopping::PreStop => Some(Effect::RunHook { container, attempt, hook: HookKind::PreStop }),
            Stopping::Signalled { .. } => Some(Effect::Signal { container, attempt }),
            Stopping::Killed => Some(Effect::Kill { container, attempt }),
        });
    }

    /// Every container has ended: the outcome is decided here, once.
    fn conclude(&mut self) {
        let Stage::Stopping { why, .. } = &self.state.stage else { return };
        let is_disrupted = matches!(why, Stop::Evicted { why: Eviction::Pressure { .. }, .. });
        let (reason, message) = match why {
            Stop::Deadline => (Some("DeadlineExceeded"), Some(DEADLINE_TOLD.to_owned())),
            Stop::Evicted { message, .. } => (Some("Evicted"), Some(message.clone())),
            Stop::Rejected { reason, message } => (Some(*reason), Some(format!("{REJECTED}{message}"))),
            Stop::Done | Stop::InitFailed | Stop::Deleted => (None, None),
        };
        let phase = match (phase(&self.state), reason) {
            (Phase::Succeeded, None) => Phase::Succeeded,
            _ => Phase::Failed,
        };
        let outcome = Outcome { phase, reason, message, is_disrupted };
        self.state.stage = Stage::Ended { outcome, left: Left::TearingDown };
        self.effects.push(Effect::TearDown);
    }
}

fn seconds(grace: i64) -> SignedDuration {
    SignedDuration::from_secs(grace.clamp(0, i64::from(i32::MAX)))
}
