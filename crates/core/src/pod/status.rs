//! The status that the API shows for a pod, derived from its state.
//!
//! Invariant: a pure function of the state, but for the times of conditions, which stay as long as the condition does;
//! what others wrote (`qosClass`, `PodScheduled`, conditions of other controllers) is kept.
//! Upstream: `pkg/kubelet/kubelet_pods.go` (`getPhase`, `generateAPIPodStatus`), `status/generate.go`, v1.36.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Container, ContainerFacts, Ending, Life, Preparing, RestartPolicy, Role, Stage, State};

/// How long the termination messages of all containers of a pod may be together, in bytes
/// (`MaxPodTerminationMessageLogLength`).
const MESSAGES: usize = 12 * 1024;

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not every container has been started.
    Pending,
    /// At least one container runs or is about to be restarted.
    Running,
    /// Every container ended well, and none is restarted.
    Succeeded,
    /// Every container ended, one of them badly.
    Failed,
}

impl Phase {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }
}

/// Where a pod runs, as far as its status tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// `status.hostIP`.
    pub host_ip: Option<String>,
    /// `status.podIP`.
    pub pod_ip: Option<String>,
    /// `metadata.generation` of the pod that the state was made from (`status.observedGeneration`).
    pub generation: Option<i64>,
}

/// The status of a pod: `told` is what the API has now, `place` where it runs.
pub fn status(state: &State, told: &PodStatus, place: &Place, now: Timestamp) -> PodStatus {
    let phase = match &state.stage {
        Stage::Ended { outcome, .. } => outcome.phase,
        _ => phase(state).not_yet_final(),
    };
    let mut status = told.clone();
    status.phase = Some(phase.as_str().to_owned());
    if let Stage::Ended { outcome, .. } = &state.stage {
        status.reason = outcome.reason.map(str::to_owned);
        status.message.clone_from(&outcome.message);
    }
    status.start_time = Some(time(state.started_at));
    status.observed_generation = place.generation.or(told.observed_generation);
    if let Some(ip) = &place.host_ip {
        status.host_ip = Some(ip.clone());
        status.host_ips = Some(vec![HostIP { ip: ip.clone() }]);
    }
    if let Some(ip) = &place.pod_ip {
        status.pod_ip = Some(ip.clone());
        status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]);
    }
    let of = |is_listed: fn(Role) -> bool| -> Vec<ContainerStatus> {
        let in_list = state.each().filter(|(facts, _)| is_listed(facts.role));
        in_list.map(|(facts, container)| container_status(state, facts, container)).collect()
    };
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    status.init_container_statuses = some(of(Role::is_init));
    status.container_statuses = Some(of(|role| role == Role::Main));
    status.ephemeral_container_statuses = some(of(|role| role == Role::Ephemeral));
    let kept = status.conditions.take().unwrap_or_default();
    status.conditions = Some(conditions(state, phase, &kept, place, now));
    status
}

impl Phase {
    /// Until the pod has ended on its node, its phase is not told as final: something may still run.
    fn not_yet_final(self) -> Phase {
        match self {
            Phase::Pending => Phase::Pending,
            Phase::Running | Phase::Succeeded | Phase::Failed => Phase::Running,
        }
    }
}

/// The phase that the containers make, as the kubelet's `getPhase` has it.
pub fn phase(state: &State) -> Phase {
    let over = matches!(state.stage, Stage::Stopping { .. } | Stage::Ended { .. });
    let never = state.facts.restart_policy == RestartPolicy::Never;
    let (mut pending_init, mut failed_init, mut pending_sidecars) = (0, 0, 0);
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for (facts, container) in state.each() {
        let running_now = matches!(container.life, Life::Running { .. });
        let code = container.last.as_ref().map(|end| end.code);
        match (facts.role, code) {
            (Role::Ephemeral, _) => {}
            (Role::Init, _) if running_now => pending_init += 1,
            (Role::Init, Some(0)) if container.life == Life::Ended => {}
            (Role::Init, Some(_)) if container.life == Life::Ended || over || !never => failed_init += 1,
            // It has not run, or its own policy starts it again.
            (Role::Init, _) => pending_init += 1,
            (role, _) if running_now => {
                running += 1;
                pending_sidecars += i32::from(role == Role::Sidecar && !container.health().started);
            }
            (Role::Sidecar, Some(_)) => {}
            (Role::Sidecar, None) => {
                pending_sidecars += 1;
                waiting += 1;
            }
            (Role::Main, None) => waiting += 1,
            (Role::Main, Some(code)) => {
                stopped += 1;
                succeeded += i32::from(code == 0);
            }
        }
    }
    if failed_init > 0 && (never || over) {
        return Phase::Failed;
    }
    let blocked = pending_init > 0 || (pending_sidecars > 0 && !any_main_has_run(state));
    if blocked || waiting > 0 {
        return if over && any_main_has_run(state) { Phase::Failed } else { Phase::Pending };
    }
    match (running > 0, stopped == succeeded) {
        (true, _) => Phase::Running,
        _ if !over && state.facts.restart_policy == RestartPolicy::Always => Phase::Running,
        (false, true) if stopped > 0 => Phase::Succeeded,
        (false, true) => Phase::Pending,
        _ if over || never => Phase::Failed,
        _ => Phase::Running,
    }
}

fn any_main_has_run(state: &State) -> bool {
    state.each().any(|(facts, container)| facts.role == Role::Main && container.has_run())
}

fn container_status(state: &State, facts: &ContainerFacts, container: &Container) -> ContainerStatus {
    let (now, before) = container_states(state, facts, container);
    let ran_well = facts.role == Role::Init && container.succeeded();
    let health = container.health();
    let started = now.running.is_some() && (health.started || facts.role == Role::Init);
    let is_probed = facts.role != Role::Ephemeral;
    let id = now.terminated.as_ref().or(before.as_ref().and_then(|s| s.terminated.as_ref()));
    let container_id = match &container.life {
        Life::Running { id, .. } => Some(format!("stint://{id}")),
        _ => id.and_then(|end| end.container_id.clone()),
    };
    ContainerStatus {
        name: facts.name.clone(),
        image: container.image.as_ref().unwrap_or(&facts.image).clone(),
        image_id: container.image_id.clone(),
        container_id,
        ready: health.ready && facts.role != Role::Init && is_probed || ran_well,
        started: is_probed.then_some(started),
        restart_count: i32::try_from(container.newest_run().0).unwrap_or(i32::MAX),
        state: Some(now),
        last_state: before,
        volume_mounts: (!facts.mounts.is_empty()).then(|| facts.mounts.clone()),
        allocated_resources: facts.resources.as_ref().and_then(|asked| asked.requests.clone()),
        resources: facts.resources.clone(),
        ..ContainerStatus::default()
    }
}

/// `state` and `lastState` of a container.
fn container_states(
    state: &State,
    facts: &ContainerFacts,
    container: &Container,
) -> (ContainerState, Option<ContainerState>) {
    let room = MESSAGES / state.facts.containers.len().max(1);
    let last = container.last.as_ref().map(|end| terminated(end, room));
    let previous = container.previous.as_ref().map(|end| terminated(end, room));
    match &container.life {
        Life::Running { since, .. } => {
            let running = ContainerStateRunning { started_at: Some(time(*since)) };
            (ContainerState { running: Some(running), ..ContainerState::default() }, last)
        }
        Life::PullFailed { reason, message, .. } | Life::ConfigFailed { reason, message, .. } => {
            (waiting(reason, Some(message.clone())), last)
        }
        Life::PullBackOff { message, .. } => {
            let message = format!("Back-off pulling image \"{}\": {message}", facts.image);
            (waiting("ImagePullBackOff", Some(message)), last)
        }
        Life::CrashLoop { .. } if container.crash_delay().is_zero() => (last.unwrap_or_default(), previous),
        Life::CrashLoop { .. } => {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                duration(container.crash_delay().as_secs()),
                facts.name,
                state.facts.full_name()
            );
            (waiting("CrashLoopBackOff", Some(message)), last)
        }
        Life::Idle | Life::Pulling | Life::Starting | Life::PostStart { .. } | Life::Ended => match last {
            Some(last) => (last, previous),
            None => (never_ran(state, facts, container), None),
        },
    }
}

/// The state of a container that has not run.
fn never_ran(state: &State, facts: &ContainerFacts, container: &Container) -> ContainerState {
    if container.life == Life::Ended && facts.role == Role::Main && any_main_has_run(state) {
        let end = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..ContainerStateTerminated::default()
        };
        return ContainerState { terminated: Some(end), ..ContainerState::default() };
    }
    let has_init = state.each().any(|(facts, _)| facts.role.is_init());
    let is_next = match facts.role {
        Role::Main => !initialized(state),
        Role::Init | Role::Sidecar => container.life == Life::Idle,
        Role::Ephemeral => false,
    };
    let message = match &state.stage {
        Stage::Preparing(Preparing::Failed { message, .. }) => Some(message.clone()),
        _ => None,
    };
    waiting(if has_init && is_next { "PodInitializing" } else { "ContainerCreating" }, message)
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// `room`: how long the message may be, in bytes.
fn terminated(end: &Ending, room: usize) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: end.id.as_ref().map(|id| format!("stint://{id}")),
        exit_code: end.code,
        finished_at: Some(time(end.finished_at)),
        started_at: end.started_at.map(time),
        message: end.message.as_ref().map(|message| message[..message.floor_char_boundary(room)].to_owned()),
        reason: Some(end.reason.clone()),
        signal: None, // the kubelet tells signals as exit codes only
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// Whether every init container has done its part.
fn initialized(state: &State) -> bool {
    incomplete(state).is_empty()
}

/// The init containers that have not done their part.
fn incomplete(state: &State) -> Vec<&str> {
    let done = |facts: &ContainerFacts, container: &Container| match facts.role {
        Role::Init => container.succeeded(),
        Role::Sidecar => container.health().started,
        Role::Main | Role::Ephemeral => true,
    };
    state.each().filter(|(facts, container)| !done(facts, container)).map(|(facts, _)| facts.name.as_str()).collect()
}

/// The node's conditions, after those of others, which are kept.
fn conditions(state: &State, phase: Phase, told: &[PodCondition], place: &Place, now: Timestamp) -> Vec<PodCondition> {
    let ours = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
    let set = |kind: &str, holds: Verdict| {
        let (status, reason, message) = match holds {
            Verdict::True => ("True", None, None),
            Verdict::TrueFor(reason, message) => ("True", Some(reason.to_owned()), message),
            Verdict::False => ("False", None, None),
            Verdict::FalseFor(reason, message) => ("False", Some(reason.to_owned()), message),
        };
        let since = told.iter().find(|c| c.type_ == kind && c.status == status);
        let since = since.and_then(|c| c.last_transition_time.clone()).unwrap_or_else(|| time(now));
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: Some(since),
            observed_generation: place.generation,
            ..PodCondition::default()
        }
    };
    let prepared = matches!(state.stage, Stage::Active | Stage::Stopping { .. });
    let ready = readiness(state, phase);
    let mut all = vec![
        set(ours[0], if prepared { Verdict::True } else { Verdict::False }),
        set(ours[1], initialization(state, phase)),
        set(ours[2], ready.clone()),
        set(ours[3], ready),
    ];
    if !told.iter().any(|c| c.type_ == "PodScheduled") {
        all.push(set("PodScheduled", Verdict::True));
    }
    let disrupted = match &state.stage {
        Stage::Ended { outcome, .. } if outcome.is_disrupted => outcome.message.clone(),
        _ => None,
    };
    let is_kept = |kind: &str| !ours.contains(&kind) && (disrupted.is_none() || kind != DISRUPTED);
    all.extend(told.iter().filter(|c| is_kept(&c.type_)).cloned());
    all.extend(disrupted.map(|message| set(DISRUPTED, Verdict::TrueFor("TerminationByKubelet", Some(message)))));
    all
}

/// The condition of a pod that was ended for the sake of others, and so through no fault of its own.
const DISRUPTED: &str = "DisruptionTarget";

/// Whether a condition holds, and why.
#[derive(Clone)]
enum Verdict {
    True,
    TrueFor(&'static str, Option<String>),
    False,
    FalseFor(&'static str, Option<String>),
}

fn initialization(state: &State, phase: Phase) -> Verdict {
    let incomplete = incomplete(state);
    match phase {
        Phase::Succeeded => Verdict::TrueFor("PodCompleted", None),
        _ if incomplete.is_empty() || any_main_has_run(state) => Verdict::True,
        _ => {
            let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
            Verdict::FalseFor("ContainersNotInitialized", Some(message))
        }
    }
}

fn readiness(state: &State, phase: Phase) -> Verdict {
    let unready: Vec<&str> = state
        .each()
        .filter(|(facts, _)| matches!(facts.role, Role::Main | Role::Sidecar))
        .filter(|(_, container)| !container.health().ready)
        .map(|(facts, _)| facts.name.as_str())
        .collect();
    match phase {
        Phase::Succeeded => Verdict::FalseFor("PodCompleted", None),
        Phase::Failed => Verdict::FalseFor("PodFailed", None),
        _ if unready.is_empty() => Verdict::True,
        _ => {
            let message = format!("containers with unready status: [{}]", unready.join(" "));
            Verdict::FalseFor("ContainersNotReady", Some(message))
        }
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
fn duration(seconds: i64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        _ => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

/// A Kubernetes `Time` holds whole seconds.
fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).expect("the second of a timestamp is a timestamp"))
}
