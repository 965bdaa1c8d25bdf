//! A pod's state rebuilt from what is on disk, after the agent was started again.
//!
//! Invariant: what ran still runs or ended as recorded; nothing is started here. The next step, with a plain
//! [`Event::Tick`](super::Event::Tick), goes on from what was found.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::admit;
use super::probe::Health;
use super::{
    Attempt, Container, ContainerFacts, Ending, Exit, Facts, Left, Life, Outcome, Phase, Stage, State, Stopping,
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

impl State {
    /// The pod as it was found: `told` is the status that the API has, `found` every attempt on disk in any order,
    /// `volumes` whether its volumes are still there (they are gone after a reboot).
    ///
    /// A container that the API saw running and of which nothing was found ended in a way that nobody knows.
    pub fn recovered(facts: Arc<Facts>, told: &PodStatus, found: Vec<Found>, volumes: bool, now: Timestamp) -> State {
        let mut state = State::new(facts, told.start_time.as_ref().map_or(now, |time| time.0));
        let outcome = terminal(told);
        let active = outcome.is_none();
        for status in statuses(told) {
            if let Some(index) = state.index(&status.name) {
                state.containers[index].image_id.clone_from(&status.image_id);
            }
        }
        let mut found = found;
        found.sort_by_key(|one| one.attempt);
        for one in found {
            let Some(index) = state.index(&one.container) else { continue };
            let facts = &state.facts.containers[index];
            let health = health(told, &one).unwrap_or(facts.probes.at_first());
            state.containers[index].take(one, facts, health, active);
        }
        for lost in statuses(told) {
            let Some(index) = state.index(&lost.name) else { continue };
            let running = lost.state.as_ref().and_then(|s| s.running.as_ref());
            let Some(running) = running.filter(|_| !state.containers[index].has_run()) else { continue };
            let since = running.started_at.as_ref().map_or(now, |time| time.0);
            let exit = Exit {
                code: 137,
                signal: None,
                oom_killed: false,
                lost: true,
                started_at: since,
                finished_at: now,
                message: Some("The container could not be located when the agent was started".to_owned()),
            };
            let one = Found {
                container: lost.name.clone(),
                attempt: Attempt(u32::try_from(lost.restart_count).unwrap_or(0)),
                id: lost.container_id.clone().unwrap_or_default().trim_start_matches("stint://").to_owned(),
                life: FoundAttempt::Exited(exit),
            };
            let facts = &state.facts.containers[index];
            state.containers[index].take(one, facts, facts.probes.at_first(), active);
        }
        state.stage = match outcome {
            Some(outcome) => Stage::Ended { outcome, left: Left::TearingDown },
            None if volumes => Stage::Active,
            None => Stage::Accepted,
        };
        state
    }
}

impl Container {
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
