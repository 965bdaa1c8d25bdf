//! One step of a pod: take in the event, then decide what follows from the state alone.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use super::backoff::{FORGIVEN_AFTER, PULL_ERROR_SHOWN};
use super::news::news;
use super::{
    Again, Attempt, Backoff, Container, ContainerFacts, DEADLINE_TOLD, Effect, Ending, Event, Exit, Facts, Left, Life,
    Outcome, Phase, Place, Preparing, RestartPolicy, Role, Stage, State, Stop, Stopping, Transition, phase, status,
};

/// What `event` makes of the pod at the time `now`. Events about attempts that are over are ignored.
pub fn step(state: State, event: Event, now: Timestamp) -> Transition {
    let (before, told) = (state.clone(), event.clone());
    let mut step = Step { state, effects: Vec::new(), now };
    step.absorb(event);
    step.advance();
    let Step { mut state, mut effects, .. } = step;
    effects.extend(news(&before, &told, &state, now).into_iter().map(Effect::Tell));
    if shown(&state) != shown(&before) {
        effects.push(Effect::WriteStatus);
    }
    if let Stage::Ended { left: left @ Left::Clean, .. } = &mut state.stage
        && state.deletion
    {
        *left = Left::Released;
        effects.push(Effect::Release);
    }
    let wake = wake(&state);
    Transition { state, effects, wake }
}

/// What a reader of the API would see, but for times of conditions.
fn shown(state: &State) -> PodStatus {
    status(state, &PodStatus::default(), &Place::default(), state.started_at)
}

/// The next moment at which the state changes by itself.
fn wake(state: &State) -> Option<Timestamp> {
    let stage = match &state.stage {
        Stage::Preparing(Preparing::Failed { retry, .. }) => Some(*retry),
        Stage::Stopping { kill_at, .. } if state.containers.iter().any(|c| !is_killed(c) && c.is_live()) => {
            Some(*kill_at)
        }
        _ => None,
    };
    let deadline = match &state.stage {
        Stage::Accepted | Stage::Preparing(_) | Stage::Active => deadline(state),
        Stage::Stopping { .. } | Stage::Ended { .. } => None,
    };
    let containers = state.containers.iter().filter_map(|container| match &container.life {
        Life::PullFailed { at, retry: Some(_), reason, .. } if reason == "ErrImagePull" => Some(*at + PULL_ERROR_SHOWN),
        Life::PullFailed { retry, .. } => *retry,
        Life::PullBackOff { retry, .. } | Life::ConfigFailed { retry, .. } | Life::CrashLoop { retry } => Some(*retry),
        Life::Idle | Life::Pulling | Life::Starting | Life::Running { .. } | Life::Ended => None,
    });
    containers.chain(stage).chain(deadline).min()
}

fn is_killed(container: &Container) -> bool {
    matches!(container.life, Life::Running { ending: Stopping::Killed, .. })
}

fn deadline(state: &State) -> Option<Timestamp> {
    // A deadline beyond the end of time is none.
    state.facts.deadline.and_then(|after| state.started_at.checked_add(after).ok())
}

/// A step being made.
struct Step {
    state: State,
    effects: Vec<Effect>,
    now: Timestamp,
}

impl Step {
    fn absorb(&mut self, event: Event) {
        match event {
            Event::Accepted | Event::Tick | Event::Pulling { .. } => {}
            Event::VolumesReady => {
                if let Stage::Preparing(_) = self.state.stage {
                    self.state.stage = Stage::Active;
                }
            }
            Event::VolumesFailed { message } => {
                if let Stage::Preparing(Preparing::InProgress { failures }) = self.state.stage {
                    let failures = failures.saturating_add(1);
                    let retry = self.now + Backoff::SETUP.after(failures);
                    self.state.stage = Stage::Preparing(Preparing::Failed { retry, failures, message });
                }
            }
            Event::ImageReady { container, image_id, .. } => self.image_ready(&container, image_id),
            Event::ImageFailed { container, reason, message, again } => {
                self.image_failed(&container, reason, message, again);
            }
            Event::Started { container, attempt, id, at } => {
                if let Some(container) = self.under_way(&container, attempt)
                    && container.life == Life::Starting
                {
                    container.failed_configs = 0;
                    container.life = Life::Running { id, since: at, ending: Stopping::No };
                }
            }
            Event::StartFailed { container, attempt, message } => self.start_failed(&container, attempt, message),
            Event::ConfigFailed { container, attempt, message } => {
                let now = self.now;
                if let Some(container) = self.under_way(&container, attempt)
                    && container.life == Life::Starting
                {
                    container.failed_configs = container.failed_configs.saturating_add(1);
                    let retry = now + Backoff::SETUP.after(container.failed_configs);
                    let reason = "CreateContainerConfigError".to_owned();
                    container.life = Life::ConfigFailed { retry, reason, message };
                }
            }
            Event::Exited { container, attempt, exit } => self.exited(&container, attempt, exit),
            Event::TornDown => {
                if let Stage::Ended { left: left @ Left::TearingDown, .. } = &mut self.state.stage {
                    *left = Left::Clean;
                }
            }
            Event::DeleteAsked { grace } => {
                self.state.deletion = true;
                self.stop(Stop::Deleted, grace);
            }
            Event::Evicted { message } => {
                let grace = self.state.facts.grace;
                self.stop(Stop::Evicted(message), grace);
            }
        }
    }

    /// The container, if this attempt is the one under way.
    fn under_way(&mut self, container: &str, attempt: Attempt) -> Option<&mut Container> {
        let index = self.state.index(container)?;
        Some(&mut self.state.containers[index]).filter(|c| c.attempt == attempt && c.is_live())
    }

    fn image_ready(&mut self, container: &str, image_id: String) {
        let Some(index) = self.state.index(container) else { return };
        let attempt = self.state.containers[index].attempt;
        let container_state = &mut self.state.containers[index];
        if container_state.life != Life::Pulling {
            return;
        }
        container_state.failed_pulls = 0;
        container_state.image_id = image_id;
        container_state.life = Life::Starting;
        self.effects.push(Effect::StartContainer { container: container.to_owned(), attempt });
    }

    fn image_failed(&mut self, container: &str, reason: String, message: String, again: Again) {
        let now = self.now;
        let Some(index) = self.state.index(container) else { return };
        let container = &mut self.state.containers[index];
        if container.life != Life::Pulling {
            return;
        }
        container.failed_pulls = container.failed_pulls.saturating_add(1);
        let retry = match again {
            Again::Later => Some(now + Backoff::PULL.after(container.failed_pulls)),
            Again::Never => None,
        };
        container.life = Life::PullFailed { at: now, retry, reason, message };
    }

    /// A start that failed counts as an end with the code 128, as containerd has it.
    fn start_failed(&mut self, container: &str, attempt: Attempt, message: String) {
        let ending = Ending {
            id: None,
            code: 128,
            signal: None,
            reason: "StartError".to_owned(),
            message: Some(message),
            started_at: None,
            finished_at: self.now,
        };
        self.ended(container, attempt, ending);
    }

    fn exited(&mut self, container: &str, attempt: Attempt, exit: Exit) {
        let Some(running) = self.under_way(container, attempt) else { return };
        let id = match &running.life {
            Life::Running { id, .. } => Some(id.clone()),
            _ => None,
        };
        self.ended(container, attempt, Ending::of(id, exit));
        self.effects.push(Effect::RemoveContainer { container: container.to_owned(), attempt });
    }

    /// An attempt is over: the container has ended, or waits for its next one.
    fn ended(&mut self, container: &str, attempt: Attempt, ending: Ending) {
        let Some(index) = self.state.index(container) else { return };
        let policy = self.state.facts.containers[index].restart_policy;
        let active = self.state.stage == Stage::Active;
        let Some(container) = self.under_way(container, attempt) else { return };
        container.finish(ending);
        container.end_or_restart(policy, active);
    }

    /// Begins to end every container, or shortens the time they have for it.
    fn stop(&mut self, why: Stop, grace: i64) {
        let asked = self.now + jiff::SignedDuration::from_secs(grace.clamp(0, i64::from(i32::MAX)));
        match &mut self.state.stage {
            Stage::Ended { .. } => {}
            Stage::Stopping { kill_at, .. } => *kill_at = asked.min(*kill_at),
            Stage::Accepted | Stage::Preparing(_) | Stage::Active => {
                self.state.stage = Stage::Stopping { why, kill_at: asked };
            }
        }
    }

    fn advance(&mut self) {
        if self.state.stage == Stage::Accepted {
            self.prepare(0);
        }
        if let Stage::Preparing(Preparing::Failed { retry, failures, .. }) = self.state.stage
            && retry <= self.now
        {
            self.prepare(failures);
        }
        let unfinished = matches!(self.state.stage, Stage::Preparing(_) | Stage::Active);
        if unfinished && deadline(&self.state).is_some_and(|at| at <= self.now) {
            let grace = self.state.facts.grace;
            self.stop(Stop::Deadline, grace);
        }
        if self.state.stage == Stage::Active {
            self.run();
        }
        if let Stage::Stopping { .. } = self.state.stage {
            self.end_all();
        }
    }

    fn prepare(&mut self, failures: u32) {
        self.state.stage = Stage::Preparing(Preparing::InProgress { failures });
        self.effects.push(Effect::PrepareVolumes);
    }

    /// While the pod is active: whose turn it is, who is tried again, and whether all is done.
    fn run(&mut self) {
        let facts = self.state.facts.clone();
        for index in 0..self.state.containers.len() {
            match facts.containers[index].role {
                Role::Init => {
                    self.go_on(index);
                    let container = &self.state.containers[index];
                    if container.life != Life::Ended {
                        return;
                    }
                    if !container.succeeded() {
                        let grace = facts.grace;
                        return self.stop(Stop::InitFailed, grace);
                    }
                }
                Role::Sidecar => {
                    self.go_on(index);
                    if !self.state.containers[index].has_run() {
                        return;
                    }
                }
                Role::Main => self.go_on(index),
            }
        }
        let ended = |(facts, container): (&ContainerFacts, &Container)| {
            facts.role != Role::Main || container.life == Life::Ended
        };
        if self.state.each().all(ended) {
            self.stop(Stop::Done, facts.grace);
        }
    }

    /// Takes one container whose turn has come further, if it waits for nothing but time.
    fn go_on(&mut self, index: usize) {
        let now = self.now;
        let container = &mut self.state.containers[index];
        let due = match &container.life {
            Life::Idle => true,
            Life::PullFailed { at, retry: Some(retry), reason, message } => {
                let retry = *retry;
                if retry > now && reason == "ErrImagePull" && *at + PULL_ERROR_SHOWN <= now {
                    container.life = Life::PullBackOff { retry, message: message.clone() };
                }
                retry <= now
            }
            Life::PullBackOff { retry, .. } | Life::ConfigFailed { retry, .. } | Life::CrashLoop { retry } => {
                *retry <= now
            }
            Life::PullFailed { retry: None, .. }
            | Life::Pulling
            | Life::Starting
            | Life::Running { .. }
            | Life::Ended => false,
        };
        if due {
            container.life = Life::Pulling;
            let container = self.state.facts.containers[index].name.clone();
            self.effects.push(Effect::PullImage { container });
        }
    }

    /// While the pod is stopping: what waits will not run, what runs is told to stop (sidecars last, in reverse order),
    /// what does not obey in time is killed.
    fn end_all(&mut self) {
        let Stage::Stopping { kill_at, .. } = self.state.stage else { return };
        for container in self.state.containers.iter_mut().filter(|c| !c.is_live()) {
            container.life = Life::Ended;
        }
        let facts = self.state.facts.clone();
        if kill_at <= self.now {
            for index in 0..facts.containers.len() {
                self.end(index, Stopping::Killed);
            }
        } else {
            let live = |state: &State, sidecar: bool| {
                let of_role = |i: &usize| (facts.containers[*i].role == Role::Sidecar) == sidecar;
                (0..facts.containers.len())
                    .filter(of_role)
                    .filter(|i| state.containers[*i].is_live())
                    .collect::<Vec<_>>()
            };
            let first = live(&self.state, false);
            let last = live(&self.state, true).pop();
            let turn = if first.is_empty() { last.into_iter().collect() } else { first };
            for index in turn {
                self.end(index, Stopping::Signalled);
            }
        }
        if self.state.containers.iter().all(|c| c.life == Life::Ended) {
            self.conclude();
        }
    }

    /// Takes the ending of a running container as far as `target`. One that is only starting is ended once it runs.
    fn end(&mut self, index: usize, target: Stopping) {
        let container = &mut self.state.containers[index];
        let attempt = container.attempt;
        let Life::Running { ending, .. } = &mut container.life else { return };
        if *ending >= target {
            return;
        }
        *ending = target;
        let container = self.state.facts.containers[index].name.clone();
        self.effects.push(match target {
            Stopping::Killed => Effect::Kill { container, attempt },
            Stopping::Signalled | Stopping::No => Effect::Signal { container, attempt },
        });
    }

    /// Every container has ended: the outcome is decided here, once.
    fn conclude(&mut self) {
        let Stage::Stopping { why, .. } = &self.state.stage else { return };
        let (reason, message) = match why {
            Stop::Deadline => (Some("DeadlineExceeded"), Some(DEADLINE_TOLD.to_owned())),
            Stop::Evicted(message) => (Some("Evicted"), Some(message.clone())),
            Stop::Done | Stop::InitFailed | Stop::Deleted => (None, None),
        };
        let phase = match (phase(&self.state), reason) {
            (Phase::Succeeded, None) => Phase::Succeeded,
            _ => Phase::Failed,
        };
        self.state.stage = Stage::Ended { outcome: Outcome { phase, reason, message }, left: Left::TearingDown };
        self.effects.push(Effect::TearDown);
    }
}

impl Container {
    /// After an attempt ended: what comes next, by the restart policy. The first restart comes at once, later ones
    /// wait; a container that ran for long is forgiven its earlier crashes.
    pub(super) fn end_or_restart(&mut self, policy: RestartPolicy, active: bool) {
        let Some(last) = &self.last else { return };
        if !active || !policy.restarts(last.code) {
            self.life = Life::Ended;
            return;
        }
        let ran = last.started_at.map_or(jiff::SignedDuration::ZERO, |since| last.finished_at.duration_since(since));
        if ran >= FORGIVEN_AFTER {
            self.crashes = 0;
        }
        self.life = Life::CrashLoop { retry: last.finished_at + Backoff::CRASH.after(self.crashes) };
        self.crashes = self.crashes.saturating_add(1);
        self.attempt = Attempt(self.attempt.0.saturating_add(1));
    }

    /// The delay that is being waited for before the next restart.
    pub(super) fn crash_delay(&self) -> jiff::SignedDuration {
        Backoff::CRASH.after(self.crashes.saturating_sub(1))
    }
}

impl Facts {
    /// How the kubelet names a pod in messages: `name_namespace(uid)`.
    pub(super) fn full_name(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }
}
