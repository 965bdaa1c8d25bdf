//! A small node that plays the kubelet over the world's containers, through the API only.
//!
//! It is level-triggered: for each pod, what the containers say it should look like is compared with what the watch
//! showed last, and at most one thing is done about the difference.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    self as v1, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, Node, Pod,
    PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, utils::Backoff};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use stint_core::job::view::{phase, restarts};
use stint_core::pod::is_sidecar;

use crate::chaos::Bug;
use crate::containers::Container;
use crate::world::World;

/// The node's name.
pub const NODE: &str = "sim-node";
/// What it has: too little for all that the users want at once, enough for each of it.
const HAS: [(&str, &str); 2] = [("cpu", "2"), ("pods", "6")];
/// How long after a failed request it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it looks at everything.
const LOOK: Duration = Duration::from_secs(10);

/// What is to be done about a pod.
pub enum Next {
    /// Nothing, until virtual time has come this far.
    Wait(Option<Duration>),
    /// Start this attempt.
    Start(u32),
    /// Tell this status.
    Tell(Box<PodStatus>),
    /// Send SIGTERM to this attempt.
    Term(u32),
    /// Kill this attempt.
    Kill(u32),
    /// Delete the object for good.
    Release,
}

/// Runs the node.
pub async fn run(world: World, client: Client) {
    tokio::spawn(register(client.clone()));
    let api: Api<Pod> = Api::default_namespaced(client);
    let of_node = watcher::Config::default().fields(&format!("spec.nodeName={NODE}"));
    let mut events = pin!(watcher::watcher(api.clone(), of_node).backoff(Steady).boxed());
    let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
    let mut listed: Option<BTreeMap<String, Pod>> = None;
    let born = world.state().elapsed();
    let mut complete = false;
    loop {
        let mut wait = LOOK;
        if complete {
            let now = world.state().elapsed();
            for pod in pods.values() {
                wait = wait.min(settle(&world, &api, pod, born).await.saturating_sub(now));
            }
            end_lost(&world, &pods);
        }
        let wait = wait.max(Duration::from_millis(1));
        tokio::select! {
            biased;
            Some(event) = events.next() => match event {
                Ok(Event::Apply(pod)) => drop(pods.insert(pod.uid().unwrap_or_default(), pod)),
                Ok(Event::Delete(pod)) => drop(pods.remove(&pod.uid().unwrap_or_default())),
                Ok(Event::Init) => listed = Some(BTreeMap::new()),
                Ok(Event::InitApply(pod)) => {
                    listed.get_or_insert_default().insert(pod.uid().unwrap_or_default(), pod);
                }
                Ok(Event::InitDone) => {
                    pods = listed.take().unwrap_or_default();
                    complete = true;
                }
                Err(_) => {}
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// The node's manifest.
pub fn has() -> Value {
    let allocatable: BTreeMap<&str, &str> = HAS.into();
    json!({ "metadata": { "name": NODE }, "status": { "allocatable": allocatable } })
}

/// Shows itself, until the API has taken it.
async fn register(client: Client) {
    let api: Api<Node> = Api::all(client);
    let node: Node = serde_json::from_value(has()).expect("the manifest is a Node");
    while let Err(error) = api.create(&PostParams::default(), &node).await {
        if matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists") {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Kills what runs for pods that are gone.
fn end_lost(world: &World, pods: &BTreeMap<String, Pod>) {
    let mut state = world.state();
    let now = state.elapsed();
    for key in state.containers.running_pods(now) {
        if !pods.contains_key(&key.0) {
            state.tell(|| format!("node kills {} of a pod that is gone", crate::history::short(&key.0)));
            state.containers.kill(&key, now);
        }
    }
}

/// Does what is to be done about a pod now; returns the virtual time at which to look again.
async fn settle(world: &World, api: &Api<Pod>, pod: &Pod, born: Duration) -> Duration {
    let uid = pod.uid().unwrap_or_default();
    for _ in 0..4 {
        let (next, now) = {
            let mut state = world.state();
            if state.crashed {
                return Duration::MAX;
            }
            let (now, wall) = (state.elapsed(), state.now());
            let forgets = state.chaos.bug == Bug::ForgetfulNode;
            let all = state.containers.of_pod(&uid);
            let attempts: Vec<(u32, Container)> =
                all.filter(|(_, one)| !forgets || one.started >= born).map(|(n, one)| (n, one.clone())).collect();
            let next = decide(pod, &attempts, now, wall);
            match next {
                Next::Start(attempt) => {
                    let command = pod.spec.as_ref().and_then(|s| s.containers.first()?.command.clone());
                    let name = pod.name_any();
                    state.tell(|| format!("node starts {name} attempt {attempt}"));
                    let started =
                        state.containers.start((uid.clone(), attempt), &command.unwrap_or_default(), now, wall);
                    if let Err(broken) = started {
                        world.breaks(&mut state, broken);
                        return Duration::MAX;
                    }
                    continue;
                }
                Next::Term(attempt) => {
                    state.containers.term(&(uid.clone(), attempt), now);
                    continue;
                }
                Next::Kill(attempt) => {
                    state.containers.kill(&(uid.clone(), attempt), now);
                    continue;
                }
                next => (next, now),
            }
        };
        let done = match next {
            Next::Tell(status) => {
                let patch = json!({ "metadata": { "uid": uid }, "status": status });
                api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            Next::Release => {
                let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                api.delete(&pod.name_any(), &params.grace_period(0)).await.map(drop)
            }
            Next::Wait(until) => return until.unwrap_or(Duration::MAX),
            Next::Start(_) | Next::Term(_) | Next::Kill(_) => unreachable!("done above"),
        };
        // What was written comes back by the watch; a refusal for good, too.
        return match done {
            Ok(()) => Duration::MAX,
            Err(_) => now + RETRY,
        };
    }
    Duration::ZERO
}

/// What is to be done about a pod whose attempts these are.
pub fn decide(pod: &Pod, attempts: &[(u32, Container)], now: Duration, wall: Timestamp) -> Next {
    let meta = &pod.metadata;
    let has_ended = matches!(phase(pod), "Succeeded" | "Failed");
    let last = attempts.last();
    let running = last.filter(|(_, one)| one.ends > now);
    if let Some((attempt, container)) = running {
        if has_ended {
            return Next::Kill(*attempt);
        }
        if let Some(deletion) = &meta.deletion_timestamp {
            let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
            if grace == 0 || deletion.0 <= wall {
                return Next::Kill(*attempt);
            }
            if !container.signalled {
                return Next::Term(*attempt);
            }
        }
    }
    if has_ended {
        // Without grace and finalizers the API takes it away by itself, unless it crashed before it came to that.
        let is_held = meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        let waits = meta.deletion_grace_period_seconds.unwrap_or(0) == 0 && is_held;
        return if meta.deletion_timestamp.is_some() && !waits { Next::Release } else { Next::Wait(None) };
    }
    let leaving = meta.deletion_timestamp.is_some();
    let on_failure = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    let mut until = None;
    let status = match (last, running) {
        (_, Some((_, container))) => {
            until = Some(container.ends);
            if let Some(deletion) = &meta.deletion_timestamp {
                let left = Duration::try_from(deletion.0.duration_since(wall)).unwrap_or(Duration::ZERO);
                until = Some(container.ends.min(now + left + Duration::from_millis(1)));
            }
            status(pod, attempts, "Running", true)
        }
        (None, _) if !leaving => return Next::Start(0),
        (None, _) => PodStatus {
            phase: Some("Failed".to_owned()),
            reason: Some("NeverStarted".to_owned()),
            ..PodStatus::default()
        },
        (Some((attempt, container)), None) => {
            let restarts = on_failure && container.code != 0 && !leaving;
            if restarts {
                let delay = Duration::from_secs(10 << (*attempt).min(5));
                if now >= container.ends + delay {
                    return Next::Start(attempt + 1);
                }
                until = Some(container.ends + delay);
                status(pod, attempts, "Running", false)
            } else {
                let phase = if container.code == 0 { "Succeeded" } else { "Failed" };
                status(pod, attempts, phase, false)
            }
        }
    };
    if shows(pod, &status) { Next::Wait(until) } else { Next::Tell(Box::new(status)) }
}

/// The status that the attempts make.
fn status(pod: &Pod, attempts: &[(u32, Container)], phase: &str, is_running: bool) -> PodStatus {
    let (attempt, container) = attempts.last().expect("the caller has looked");
    let state = if is_running {
        ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(seconds(container.started_at)) }),
            ..ContainerState::default()
        }
    } else {
        ended(container.started_at, container.finished_at(), container.code)
    };
    let ready = PodCondition {
        type_: "Ready".to_owned(),
        status: if is_running { "True" } else { "False" }.to_owned(),
        last_transition_time: Some(seconds(if is_running { container.started_at } else { container.finished_at() })),
        ..PodCondition::default()
    };
    // What others have said of the pod stays.
    let told = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let others = told.filter(|condition| condition.type_ != "Ready").cloned();
    let shown = |name: &str, restart_count, state| ContainerStatus {
        name: name.to_owned(),
        image: "sim:1".to_owned(),
        ready: is_running,
        restart_count,
        state: Some(state),
        ..ContainerStatus::default()
    };
    let attempt = i32::try_from(*attempt).unwrap_or(i32::MAX);
    let beside = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    // A sidecar goes the way of the main container; another init container has done its work before.
    let init = |one: &v1::Container| match (is_sidecar(one), is_running) {
        (true, true) => shown(&one.name, attempt, state.clone()),
        (true, false) => shown(&one.name, attempt, ended(container.started_at, container.finished_at(), 0)),
        (false, _) => shown(&one.name, 0, ended(container.started_at, container.started_at, 0)),
    };
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(others.chain([ready]).collect()),
        init_container_statuses: Some(beside.map(init).collect::<Vec<_>>()).filter(|all| !all.is_empty()),
        container_statuses: Some(vec![shown("main", attempt, state.clone())]),
        ..PodStatus::default()
    }
}

fn ended(started: Timestamp, finished: Timestamp, exit_code: i32) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code,
        reason: Some(if exit_code == 0 { "Completed" } else { "Error" }.to_owned()),
        started_at: Some(seconds(started)),
        finished_at: Some(seconds(finished)),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// Whether the pod shows this status already, as far as anybody asks.
fn shows(pod: &Pod, status: &PodStatus) -> bool {
    let shown = Pod { status: Some(status.clone()), ..Pod::default() };
    phase(pod) == phase(&shown)
        && stint_core::job::view::is_ready(pod) == stint_core::job::view::is_ready(&shown)
        && restarts(pod) == restarts(&shown)
}

fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// One second between attempts.
pub struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(RETRY)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}
