//! One step of a pod: take in the event, then decide what follows from the state alone.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use super::backoff::{FORGIVEN_AFTER, PULL_ERROR_SHOWN, TOLD_AGAIN};
use super::news::news;
use super::probe::{Change, Health, ProbeKind, Report};
use super::stop;
use super::{
    Again, Attempt, Backoff, Condemned, Container, ContainerFacts, Effect, Ending, Event, Eviction, Exit, Facts,
    HookKind, HookResult, Left, Life, Place, Preparing, RestartPolicy, Role, Stage, State, Stop, Stopping, Transition,
    Unfit, status,
};

/// How long the containers of a pod may take to end that used too much, in seconds, however long they ask for: the kubelet's
/// `immediateEvictionGracePeriodSeconds`.
const EVICTION_GRACE: i64 = 1;

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
    let wake = wake(&state, now);
    Transition { state, effects, wake }
}

/// What a reader of the API would see, but for times of conditions.
fn shown(state: &State) -> PodStatus {
    status(state, &PodStatus::default(), &Place::default(), state.started_at)
}

/// The next moment at which the state changes by itself. What could have changed by now waits for something else.
fn wake(state: &State, now: Timestamp) -> Option<Timestamp> {
    let stage = match &state.stage {
        Stage::Preparing(Preparing::Failed { retry, .. }) => Some(*retry),
        _ => None,
    };
    let deadline = match &state.stage {
        Stage::Accepted | Stage::Preparing(_) | Stage::Active => deadline(state),
        Stage::Stopping { .. } | Stage::Ended { .. } => None,
    };
    let containers = state.containers.iter().filter_map(|container| match &container.life {
        Life::PullFailed { at, retry: Some(_), reason, .. } if reason == "ErrImagePull" => Some(*at + PULL_ERROR_SHOWN),
        Life::PullFailed { retry, .. } => *retry,
        Life::PullBackOff { retry, told, .. } | Life::CrashLoop { retry, told } => {
            Some((*retry).min(*told + TOLD_AGAIN))
        }
        Life::ConfigFailed { retry, .. } => Some(*retry),
        Life::PostStart { .. } | Life::Running { .. } => stop::wake(state, container),
        Life::Idle | Life::Pulling | Life::Starting | Life::Ended => None,
    });
    containers.chain(stage).chain(deadline).filter(|at| *at > now).min()
}

fn deadline(state: &State) -> Option<Timestamp> {
    // A deadline beyond the end of time is none.
    state.facts.deadline.and_then(|after| state.started_at.checked_add(after).ok())
}

/// A step being made.
pub(super) struct Step {
    pub(super) state: State,
    pub(super) effects: Vec<Effect>,
    pub(super) now: Timestamp,
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
            Event::SandboxFailed { message } | Event::VolumesFailed { message } => {
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
                self.started(container, attempt, id, at);
            }
            Event::StartFailed { container, attempt, message } => self.start_failed(&container, attempt, message),
            Event::ConfigFailed { container, attempt, reason, message } => {
                let now = self.now;
                if let Some(container) = self.under_way(&container, attempt)
                    && container.life == Life::Starting
                {
                    container.failed_configs = container.failed_configs.saturating_add(1);
                    container.is_outdated = false; // the next try is by the spec as it is then
                    let retry = now + Backoff::SETUP.after(container.failed_configs);
                    container.life = Life::ConfigFailed { retry, reason, message };
                }
            }
            Event::Exited { container, attempt, exit } => self.exited(&container, attempt, exit),
            Event::Probed { container, attempt, report } => self.probed(&container, attempt, &report),
            Event::HookEnded { container, attempt, hook, result } => self.hook_ended(&container, attempt, hook, result),
            Event::TornDown => {
                if let Stage::Ended { left: left @ Left::TearingDown, .. } = &mut self.state.stage {
                    *left = Left::Clean;
                }
            }
            Event::DeleteAsked { grace } => {
                self.state.deletion = true;
                self.stop(Stop::Deleted, grace);
            }
            Event::Joined { ephemeral } => self.joined(ephemeral),
            Event::ImageChanged { container, image } => self.image_changed(&container, image),
            Event::DeadlineChanged { deadline } => Arc::make_mut(&mut self.state.facts).deadline = deadline,
            Event::Evicted { why, message } => {
                let most = match why {
                    Eviction::OverLimit => EVICTION_GRACE,
                    Eviction::Pressure { grace } => grace,
                };
                self.stop(Stop::Evicted { why, message }, self.state.facts.grace.min(most));
            }
            Event::Rejected { reason, message } => self.stop(Stop::Rejected { reason, message }, 0),
        }
    }

    /// Takes in the containers that are new.
    fn joined(&mut self, ephemeral: Vec<ContainerFacts>) {
        if self.state.is_ended() {
            return;
        }
        for facts in ephemeral {
            if self.state.index(&facts.name).is_none() {
                Arc::make_mut(&mut self.state.facts).containers.push(facts);
                self.state.containers.push(Container::new());
            }
        }
    }

    /// Takes in another image of a container. Who waits to be tried again is tried at once, since it is another try; who
    /// runs is started again, whatever its policy, but for an init container, which is let do its part.
    /// Upstream: `computePodActions`, `containerChanged` (`kuberuntime_manager.go`, v1.36).
    fn image_changed(&mut self, name: &str, image: String) {
        let Some(index) = self.state.index(name) else { return };
        let facts = &mut Arc::make_mut(&mut self.state.facts).containers[index];
        facts.image = image;
        let stays = matches!(facts.role, Role::Init | Role::Ephemeral);
        let now = self.now;
        let container = &mut self.state.containers[index];
        match &mut container.life {
            Life::PullFailed { message, .. } | Life::PullBackOff { message, .. } => {
                let message = std::mem::take(message);
                container.failed_pulls = 0;
                container.life = Life::PullBackOff { retry: now, told: now, message };
            }
            Life::ConfigFailed { retry, .. } => *retry = now,
            Life::CrashLoop { retry, .. } => {
                *retry = now;
                container.crashes = 0;
            }
            Life::Pulling | Life::Starting | Life::PostStart { .. } | Life::Running { .. } => {
                container.is_outdated = !stays || container.life == Life::Pulling;
            }
            Life::Idle | Life::Ended => {}
        }
    }

    /// The container, if this attempt is the one under way.
    fn under_way(&mut self, container: &str, attempt: Attempt) -> Option<&mut Container> {
        let index = self.state.index(container)?;
        Some(&mut self.state.containers[index]).filter(|c| c.attempt == attempt && c.is_live())
    }

    fn image_ready(&mut self, container: &str, image_id: String) {
        let Some(index) = self.state.index(container) else { return };
        let image = self.state.facts.containers[index].image.clone();
        let attempt = self.state.containers[index].attempt;
        let container_state = &mut self.state.containers[index];
        if container_state.life != Life::Pulling {
            return;
        }
        if std::mem::take(&mut container_state.is_outdated) {
            return self.effects.push(Effect::PullImage { container: container.to_owned() });
        }
        container_state.failed_pulls = 0;
        container_state.image = Some(image);
        container_state.image_id = image_id;
        container_state.life = Life::Starting;
        self.effects.push(Effect::StartContainer { container: container.to_owned(), attempt });
    }

    fn image_failed(&mut self, name: &str, reason: String, message: String, again: Again) {
        let now = self.now;
        let Some(index) = self.state.index(name) else { return };
        let container = &mut self.state.containers[index];
        if container.life != Life::Pulling {
            return;
        }
        if std::mem::take(&mut container.is_outdated) {
            return self.effects.push(Effect::PullImage { container: name.to_owned() });
        }
        container.failed_pulls = container.failed_pulls.saturating_add(1);
        let retry = match again {
            Again::Later => Some(now + Backoff::PULL.after(container.failed_pulls)),
            Again::Never => None,
        };
        container.life = Life::PullFailed { at: now, retry, reason, message };
    }

    fn started(&mut self, name: String, attempt: Attempt, id: String, at: Timestamp) {
        let Some(index) = self.state.index(&name) else { return };
        let hooks = self.state.facts.containers[index].hooks;
        let Some(container) = self.under_way(&name, attempt).filter(|c| c.life == Life::Starting) else { return };
        container.failed_configs = 0;
        if hooks.post_start {
            container.life = Life::PostStart { id, since: at, ending: Stopping::No };
            self.effects.push(Effect::RunHook { container: name, attempt, hook: HookKind::PostStart });
        } else {
            self.runs(index, id, at, Stopping::No);
        }
    }

    /// The container runs from now on, for everybody to see.
    fn runs(&mut self, index: usize, id: String, since: Timestamp, ending: Stopping) {
        let facts = &self.state.facts.containers[index];
        let container = &mut self.state.containers[index];
        container.life = Life::Running { id, since, health: facts.probes.at_first(), ending };
        if !facts.probes.is_empty() && ending == Stopping::No {
            self.effects.push(Effect::Probe { container: facts.name.clone(), attempt: container.attempt });
        }
    }

    fn hook_ended(&mut self, name: &str, attempt: Attempt, hook: HookKind, result: HookResult) {
        let Some(index) = self.state.index(name) else { return };
        let Some(container) = self.under_way(name, attempt) else { return };
        match (hook, &mut container.life) {
            (HookKind::PostStart, Life::PostStart { id, since, ending }) => match result {
                HookResult::Done => {
                    let (id, since, ending) = (std::mem::take(id), *since, *ending);
                    self.runs(index, id, since, ending);
                }
                HookResult::Failed if *ending == Stopping::No => self.condemn(index, Unfit::PostStart),
                HookResult::Failed => {}
            },
            (HookKind::PreStop, Life::PostStart { ending, .. } | Life::Running { ending, .. })
                if *ending == Stopping::PreStop =>
            {
                *ending = Stopping::Waiting;
            }
            _ => {}
        }
    }

    /// What a probe found. Nobody who is being ended is condemned on top of it.
    fn probed(&mut self, name: &str, attempt: Attempt, report: &Report) {
        let Some(index) = self.state.index(name) else { return };
        let waits_for_readiness = self.state.facts.containers[index].probes.readiness.is_some();
        let Some(container) = self.under_way(name, attempt) else { return };
        let Life::Running { health, ending, .. } = &mut container.life else { return };
        match report.change {
            Some(Change::Started) => *health = Health { started: true, ready: !waits_for_readiness },
            Some(Change::Ready) => health.ready = true,
            Some(Change::NotReady) => health.ready = false,
            Some(Change::Failed) if *ending == Stopping::No && self.state.stage == Stage::Active => {
                self.condemn(index, if report.kind == ProbeKind::Startup { Unfit::Startup } else { Unfit::Liveness });
            }
            Some(Change::Failed) | None => {}
        }
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
            Life::PostStart { id, .. } | Life::Running { id, .. } => Some(id.clone()),
            _ => None,
        };
        self.ended(container, attempt, Ending::of(id, exit));
        self.effects.push(Effect::RemoveContainer { container: container.to_owned(), attempt });
    }

    /// An attempt is over: the container has ended, or waits for its next one.
    fn ended(&mut self, container: &str, attempt: Attempt, ending: Ending) {
        let Some(index) = self.state.index(container) else { return };
        let all = self.state.facts.clone();
        let active = self.state.stage == Stage::Active;
        let Some(container) = self.under_way(container, attempt) else { return };
        container.finish(ending);
        container.end_or_restart(&all.containers[index], active);
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
            self.condemn_outdated();
            self.end_condemned();
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
        // They are there to find out why others don't start, and wait for nobody.
        for index in (0..facts.containers.len()).filter(|index| facts.containers[*index].role == Role::Ephemeral) {
            self.go_on(index);
        }
        for index in 0..self.state.containers.len() {
            match facts.containers[index].role {
                Role::Ephemeral => {}
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
                    let mut later = self.state.containers[index + 1..].iter();
                    let lets_pass = self.state.containers[index].health().started || later.any(Container::has_begun);
                    if !lets_pass {
                        return;
                    }
                }
                Role::Main => {
                    self.go_on(index);
                    // A kubelet starts one after the other and waits for the hook; some hooks are there to be waited for.
                    let holds = facts.containers[index].hooks.post_start;
                    let life = &self.state.containers[index].life;
                    if holds && matches!(life, Life::Pulling | Life::Starting | Life::PostStart { .. }) {
                        return;
                    }
                }
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
        let due = match &mut container.life {
            Life::Idle => true,
            Life::PullFailed { at, retry: Some(retry), reason, message } => {
                let retry = *retry;
                if retry > now && reason == "ErrImagePull" && *at + PULL_ERROR_SHOWN <= now {
                    let message = std::mem::take(message);
                    container.life = Life::PullBackOff { retry, told: now, message };
                }
                retry <= now
            }
            Life::PullBackOff { retry, told, .. } | Life::CrashLoop { retry, told } => {
                if *retry > now && *told + TOLD_AGAIN <= now {
                    *told = now;
                }
                *retry <= now
            }
            Life::ConfigFailed { retry, .. } => *retry <= now,
            Life::PullFailed { retry: None, .. }
            | Life::Pulling
            | Life::Starting
            | Life::PostStart { .. }
            | Life::Running { .. }
            | Life::Ended => false,
        };
        if due {
            container.life = Life::Pulling;
            let container = self.state.facts.containers[index].name.clone();
            self.effects.push(Effect::PullImage { container });
        }
    }
}

impl Container {
    /// After an attempt ended: what comes next, by the restart policy. The first restart comes at once, later ones
    /// wait; a container that ran for long is forgiven its earlier crashes. One that was found unfit is started again
    /// whatever its code, and waits from the end before, as when a kubelet kills and starts in one go.
    pub(super) fn end_or_restart(&mut self, facts: &ContainerFacts, active: bool) {
        let Some(last) = &self.last else { return };
        let condemned = self.condemned.take();
        self.is_outdated = false;
        let again = match condemned {
            Some(Condemned { why: Unfit::Changed, .. }) => true,
            Some(_) => facts.restart_policy != RestartPolicy::Never,
            None => facts.restarts(last.code),
        };
        if matches!(condemned, Some(Condemned { why: Unfit::Changed, .. })) {
            self.crashes = 0; // those were the other image's
        }
        if !active || !again {
            self.life = Life::Ended;
            return;
        }
        let ran = last.started_at.map_or(jiff::SignedDuration::ZERO, |since| last.finished_at.duration_since(since));
        if ran >= FORGIVEN_AFTER {
            self.crashes = 0;
        }
        let since = match (condemned, &self.previous) {
            (None, _) => Some(last.finished_at),
            (Some(_), previous) => previous.as_ref().map(|end| end.finished_at),
        };
        let delay = Backoff::CRASH.after(self.crashes);
        let retry = since.map_or(last.finished_at, |since| (since + delay).max(last.finished_at));
        self.life = Life::CrashLoop { retry, told: last.finished_at };
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
