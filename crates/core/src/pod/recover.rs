//! A pod's state rebuilt from what is on disk and what the API was told, after the agent was started again.
//!
//! Invariants: what ran still runs or ended as recorded; what had ended has ended, and is not run again but by its policy;
//! nothing is started here. The next step, with a plain [`Event::Tick`](super::Event::Tick), goes on from what was found.
//!
//! A run's record goes once the API knows how the run ended, so of earlier runs the status alone tells.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodStatus};

use super::admit;
use super::probe::Health;
use super::{
    Attempt, Container, ContainerFacts, Ending, Exit, Facts, Left, Life, Outcome, Phase, RestartPolicy, Role, Stage,
    State, Stopping,
};

/// What the disk says of one attempt of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The container.
    pub container: String,
    /// Which run.
    pub attempt: Attempt,
    /// The runtime's name for it.
    pub id: String,
    /// How it stands.
    pub life: FoundAttempt,
}

/// How an attempt was found.
#[derive(Clone, Debug, PartialEq)]
pub enum FoundAttempt {
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It ended while nobody looked, or before.
    Exited(Exit),
}

/// What is left on the node of the pod as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// Nothing, or nothing that can be gone on with: the pod is new here, or the machine was started again.
    Nothing,
    /// What its containers have written, while none runs.
    Files,
    /// Containers that run, with all that they need.
    Containers,
}

impl State {
    /// The pod as it was found: `told` is the status that the API has, `found` every attempt on disk in any order.
    ///
    /// A container that the API saw running and of which nothing was found ended in a way that nobody knows. After a reboot
    /// init containers are run anew, as by a kubelet, if others are to be started again: what they made may be gone.
    pub fn recovered(
        facts: &Arc<Facts>,
        told: &PodStatus,
        mut found: Vec<Found>,
        remains: Remains,
        now: Timestamp,
    ) -> State {
        let mut state = State::new(Arc::clone(facts), told.start_time.as_ref().map_or(now, |time| time.0));
        let outcome = terminal(told);
        let active = outcome.is_none();
        let mut untold = vec![Attempt(0); facts.containers.len()];
        for status in statuses(told) {
            if let Some(index) = state.index(&status.name) {
                untold[index] = state.containers[index].recall(status, &facts.containers[index], active, now);
            }
        }
        found.sort_by_key(|one| one.attempt);
        for one in found {
            let Some(index) = state.index(&one.container) else { continue };
            if one.attempt >= untold[index] {
                let health = health(told, &one).unwrap_or(facts.containers[index].probes.at_first());
                state.containers[index].take(one, &facts.containers[index], health, active);
            }
        }
        for lost in statuses(told) {
            let Some(index) = state.index(&lost.name) else { continue };
            let Some(one) = state.containers[index].lost(lost, now) else { continue };
            let health = facts.containers[index].probes.at_first();
            state.containers[index].take(one, &facts.containers[index], health, active);
        }
        if remains == Remains::Nothing && active {
            state.begin_anew();
        }
        state.stage = match outcome {
            Some(outcome) => Stage::Ended { outcome, left: Left::TearingDown },
            None if remains == Remains::Containers => Stage::Active,
            None => Stage::Accepted,
        };
        state
    }

    /// Init containers that have done their part do it again, unless nothing comes after them.
    fn begin_anew(&mut self) {
        let goes_on = self.each().any(|(facts, own)| facts.role == Role::Main && own.life != Life::Ended);
        if self.facts.restart_policy == RestartPolicy::Never || !goes_on {
            return;
        }
        for (facts, own) in self.facts.containers.iter().zip(&mut self.containers) {
            if facts.role == Role::Init && own.succeeded() {
                own.life = Life::Idle;
                own.attempt = Attempt(own.attempt.0.saturating_add(1));
            }
        }
    }
}

impl Container {
    /// Takes in what the API was told of the runs of the container; returns the first one whose end it does not know.
    fn recall(&mut self, told: &ContainerStatus, facts: &ContainerFacts, active: bool, now: Timestamp) -> Attempt {
        self.image_id.clone_from(&told.image_id);
        let newest = run_of(told);
        self.attempt = newest;
        self.crashes = self.attempt.0;
        self.image = Some(told.image.clone());
        let is = |state: &Option<ContainerState>| state.as_ref().and_then(|state| ending(state, now));
        let is_running = told.state.as_ref().is_some_and(|state| state.running.is_some());
        self.is_outdated = is_running && facts.role != Role::Init && told.image != facts.image;
        if is_running {
            self.last = is(&told.last_state);
            return newest;
        }
        match (is(&told.state), is(&told.last_state)) {
            (Some(last), previous) => (self.last, self.previous) = (Some(last), previous),
            (None, Some(last)) => self.last = Some(last),
            (None, None) => {
                self.image = None;
                return newest;
            }
        }
        self.end_or_restart(facts, active);
        Attempt(newest.0.saturating_add(1))
    }

    /// Takes in what was found of an attempt; attempts come in ascending order.
    fn take(&mut self, found: Found, facts: &ContainerFacts, health: Health, active: bool) {
        self.attempt = found.attempt;
        match found.life {
            FoundAttempt::Running { since } => {
                self.life = Life::Running { id: found.id, since, health, ending: Stopping::No };
            }
            FoundAttempt::Exited(exit) => {
                self.finish(Ending::of(Some(found.id), exit));
                self.end_or_restart(facts, active);
            }
        }
    }

    /// The run that the API saw last, if it saw it run and it was not found.
    fn lost(&self, told: &ContainerStatus, now: Timestamp) -> Option<Found> {
        let running = told.state.as_ref()?.running.as_ref()?;
        if self.life != Life::Idle {
            return None;
        }
        let exit = Exit {
            code: 137,
            signal: None,
            oom_killed: false,
            lost: true,
            started_at: running.started_at.as_ref().map_or(now, |time| time.0),
            finished_at: now,
            message: Some("The container could not be located when the agent was started".to_owned()),
        };
        Some(Found {
            container: told.name.clone(),
            attempt: run_of(told),
            id: told.container_id.as_deref().map(runtime_id).unwrap_or_default(),
            life: FoundAttempt::Exited(exit),
        })
    }
}

/// The newest run that the API was told of.
fn run_of(told: &ContainerStatus) -> Attempt {
    Attempt(u32::try_from(told.restart_count).unwrap_or(0))
}

/// The runtime's name for a run, of what the API has.
fn runtime_id(told: &str) -> String {
    told.strip_prefix("stint://").unwrap_or(told).to_owned()
}

/// How a run ended, as the API was told it. What no run was ever made of did not end.
fn ending(state: &ContainerState, now: Timestamp) -> Option<Ending> {
    let end = state.terminated.as_ref()?;
    Some(Ending {
        id: end.container_id.as_deref().map(runtime_id),
        code: end.exit_code,
        signal: None,
        reason: end.reason.clone().unwrap_or_default(),
        message: end.message.clone(),
        started_at: end.started_at.as_ref().map(|time| time.0),
        finished_at: end.finished_at.as_ref().map_or(now, |time| time.0),
    })
}

/// What the API was told of every container.
fn statuses(told: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [&told.init_container_statuses, &told.container_statuses, &told.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten()
}

/// What the API was told of the probes of a run that goes on.
fn health(told: &PodStatus, found: &Found) -> Option<Health> {
    let is_it = |id: &String| id.strip_prefix("stint://") == Some(&found.id);
    let status = statuses(told).find(|status| status.container_id.as_ref().is_some_and(is_it))?;
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    running.then(|| Health { started: status.started == Some(true), ready: status.ready })
}

/// The outcome that the API already knows: it never changes.
fn terminal(told: &PodStatus) -> Option<Outcome> {
    let phase = match told.phase.as_deref() {
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        _ => return None,
    };
    let reason = match told.reason.as_deref() {
        Some("DeadlineExceeded") => Some("DeadlineExceeded"),
        Some("Evicted") => Some("Evicted"),
        other => admit::REASONS.into_iter().find(|known| Some(*known) == other),
    };
    let is_disrupted = told.conditions.iter().flatten().any(|it| it.type_ == "DisruptionTarget" && it.status == "True");
    Some(Outcome { phase, reason, message: told.message.clone(), is_disrupted })
}
