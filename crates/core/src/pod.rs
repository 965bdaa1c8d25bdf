//! The life of a pod on its node: its state, an event and the time in; the new state, what to do and when to look again
//! out.
//!
//! ```text
//!  Accepted ──► Preparing ──volumes ready──► Active ──every main container ended──────────────┐
//!                 │  ▲ │                       │ an init container failed for good            │
//!                 │  └─┘ failed: try again     │ deletion, deadline, eviction                 │
//!                 │                            ▼                                              ▼
//!                 └──deletion, deadline──► Stopping ──every container ended────────────────► Ended
//!                                                                     (TearingDown ► Clean ► Released)
//!  and of each container, while the pod is Active:
//!
//!  Idle ──its turn──► Pulling ──image──► Starting ──► (PostStart) ──► Running ──exit──► Ended
//!                      ▲ ▲ │                │ │          │
//!                      │ │ └► PullFailed ──►│ │          │ to be restarted
//!                      │ └─── PullBackOff   │ │          │
//!                      │ └─── ConfigFailed ◄┘ └──failed──┤
//!                      └───────────────────────── CrashLoop
//! ```
//!
//! Invariants: a container is started only when its image is there and its last attempt has ended, so never twice at
//! once; the phase of an ended pod never changes; no container starts once the pod is stopping; without news a step
//! yields no effect.
//!
//! A step has two halves: the event is taken in (`absorb`), then what follows from the state alone is decided
//! (`advance`). So a state that was rebuilt from disk after a crash goes on with a plain [`Event::Tick`].
//!
//! The behaviour is that of the kubelet (v1.36: `pkg/kubelet/kubelet_pods.go`, `kuberuntime/kuberuntime_manager.go`,
//! `images/image_manager.go`).
//!
//! Whom a probe finds unfit is ended by itself while the pod goes on, and then started again by its policy (see
//! [`probe`] and `stop`).
//!
//! Ephemeral containers come while the pod runs, run once, beside whatever else runs, and count for nothing.
//!
//! Left out: the restart rule `RestartAllContainers`.

mod admit;
mod backoff;
mod facts;
mod hook;
mod local_storage;
mod news;
pub mod probe;
mod recover;
mod status;
mod step;
mod stop;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

pub use admit::{Grounds, Rejection, admit};
pub use backoff::Backoff;
pub use facts::{
    ContainerFacts, Facts, PullPolicy, RestartPolicy, RestartRule, Role, as_container, find, is_sidecar, lasting,
};
pub use hook::{HookKind, Hooks};
pub use local_storage::{Limits, Used};
pub use news::{News, Origin};
pub use recover::{Found, FoundAttempt, Remains};
pub use status::{Phase, Place, phase, status};
pub use step::step;

use probe::{Health, Prober, Report};

/// What is said of a pod whose `activeDeadlineSeconds` are over.
const DEADLINE_TOLD: &str = "Pod was active on the node longer than the specified deadline";

/// Which run of a container: 0 is the first, n the n-th restart (`restartCount`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt(pub u32);

/// A pod on its node.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    facts: Arc<Facts>,
    /// When the node took the pod (`status.startTime`); `activeDeadlineSeconds` counts from here.
    started_at: Timestamp,
    stage: Stage,
    /// As in [`Facts::containers`].
    containers: Vec<Container>,
    /// Whether the API object is to be deleted.
    deletion: bool,
}

/// Where a pod stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Known, and nothing was done yet.
    Accepted,
    /// Its volumes are being prepared; no container was asked for.
    Preparing(Preparing),
    /// Its containers run: init containers one after the other, then the main ones.
    Active,
    /// Every container is being ended; none starts any more.
    Stopping {
        /// Why.
        why: Stop,
        /// From when on what still runs is killed.
        kill_at: Timestamp,
        /// Whether there is time to ask first.
        haste: Haste,
    },
    /// Every container has ended; the outcome is final.
    Ended {
        /// With what result.
        outcome: Outcome,
        /// What is left of it on the node and in the API.
        left: Left,
    },
}

/// How the preparation of volumes stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Preparing {
    /// Somebody is at it.
    InProgress {
        /// How often it failed before.
        failures: u32,
    },
    /// It failed and is tried again.
    Failed {
        /// When.
        retry: Timestamp,
        /// How often it failed.
        failures: u32,
        /// What went wrong, for the user.
        message: String,
    },
}

/// Why a pod's containers are ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The main containers have ended; only sidecars are left.
    Done,
    /// An init container failed, and the pod's restart policy is Never.
    InitFailed,
    /// The API object is to be deleted.
    Deleted,
    /// `activeDeadlineSeconds` are over.
    Deadline,
    /// The node takes back what the pod uses.
    Evicted {
        /// Whose fault it is.
        why: Eviction,
        /// What is said of it.
        message: String,
    },
    /// The node does not take the pod at all.
    Rejected {
        /// `status.reason`.
        reason: &'static str,
        /// What is said of it.
        message: String,
    },
}

/// Why a node takes back what a pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The pod used more than its own limits allow.
    OverLimit,
    /// The node runs short, and others need what there is: no fault of the pod's own (`DisruptionTarget`).
    Pressure {
        /// How long the pod's containers may take to end, in seconds, however long they ask for.
        grace: i64,
    },
}

/// Whether a container that is to be ended is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// By its stop signal.
    Asked,
    /// It is killed at once.
    Killed,
}

/// The final result of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `Succeeded` or `Failed`.
    pub phase: Phase,
    /// `status.reason`, e.g. `DeadlineExceeded`.
    pub reason: Option<&'static str>,
    /// `status.message`.
    pub message: Option<String>,
    /// Whether it was ended for the sake of others (`DisruptionTarget`).
    pub is_disrupted: bool,
}

/// What is left of an ended pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Volumes and cgroups are being removed.
    TearingDown,
    /// Nothing but its folder with the logs, and the API object.
    Clean,
    /// The API object was given up as well.
    Released,
}

/// One container of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    life: Life,
    /// The attempt that is under way, comes next, or was the last.
    attempt: Attempt,
    /// How the latest finished attempt ended.
    last: Option<Ending>,
    /// How the one before ended.
    previous: Option<Ending>,
    /// The image that the newest run is of, as the spec named it; `None` before the first.
    image: Option<String>,
    /// `imageID`, empty until the image was there.
    image_id: String,
    failed_pulls: u32,
    failed_configs: u32,
    /// Restarts since it last ran for long.
    crashes: u32,
    /// It is ended by itself, while the pod goes on.
    condemned: Option<Condemned>,
    /// What it runs from, or is being made from, is no longer what the spec says.
    is_outdated: bool,
}

/// A running container that is ended by itself, and started again by its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condemned {
    why: Unfit,
    /// From when on it is killed.
    kill_at: Timestamp,
}

/// Why a running container is ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfit {
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// Its postStart hook failed.
    PostStart,
    /// Its spec names another image now.
    Changed,
}

/// Where a container stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Life {
    /// Its turn has not come.
    Idle,
    /// Its image is being looked for, or pulled.
    Pulling,
    /// The image could not be had (`ErrImagePull`, `InvalidImageName`, …).
    PullFailed {
        /// When that was.
        at: Timestamp,
        /// When it is tried again; `None` for a failure that trying again can't mend.
        retry: Option<Timestamp>,
        /// The waiting reason.
        reason: String,
        /// What went wrong.
        message: String,
    },
    /// A while after the failed pull (`ImagePullBackOff`).
    PullBackOff {
        /// When it is tried again.
        retry: Timestamp,
        /// When people were last told.
        told: Timestamp,
        /// What went wrong.
        message: String,
    },
    /// It could not be set up from its spec (`CreateContainerConfigError`, `CreateContainerError`).
    ConfigFailed {
        /// When it is tried again.
        retry: Timestamp,
        /// The waiting reason.
        reason: String,
        /// What is missing or wrong.
        message: String,
    },
    /// The runtime was asked to start it and has not answered.
    Starting,
    /// It runs, and its postStart hook has not ended.
    PostStart {
        /// The runtime's name for it.
        id: String,
        /// Since when.
        since: Timestamp,
        /// How far its ending has come.
        ending: Stopping,
    },
    /// It runs.
    Running {
        /// The runtime's name for it.
        id: String,
        /// Since when.
        since: Timestamp,
        /// What its probes say of it.
        health: Health,
        /// How far its ending has come.
        ending: Stopping,
    },
    /// It ended and is started again (`CrashLoopBackOff`).
    CrashLoop {
        /// When.
        retry: Timestamp,
        /// When people were last told.
        told: Timestamp,
    },
    /// It ended for good, or will never run.
    Ended,
}

/// How far the ending of a running container has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// Nobody asked.
    No,
    /// Its preStop hook runs.
    PreStop,
    /// Others end before it.
    Waiting,
    /// It got its stop signal.
    Signalled {
        /// When.
        at: Timestamp,
    },
    /// It was killed and has not been reaped.
    Killed,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The runtime's name for it; `None` when it never came to run.
    pub id: Option<String>,
    /// The exit code; 128 + n for signal n.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// The termination message, or what went wrong at the start.
    pub message: Option<String>,
    /// When its program was executed; `None` when it never was.
    pub started_at: Option<Timestamp>,
    /// When it was reaped.
    pub finished_at: Timestamp,
}

/// What the agent noticed.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The node takes the pod.
    Accepted,
    /// The pod's network and every volume are there.
    VolumesReady,
    /// The pod's network can't be had now.
    SandboxFailed {
        /// Why.
        message: String,
    },
    /// A volume can't be prepared now.
    VolumesFailed {
        /// Which and why.
        message: String,
    },
    /// The container's image is not there, or is to be looked for anew, and is being pulled.
    Pulling {
        /// The container.
        container: String,
    },
    /// The container's image is there.
    ImageReady {
        /// The container.
        container: String,
        /// `imageID`; empty where there is no image.
        image_id: String,
        /// How it was come by.
        origin: Origin,
    },
    /// The container's image can't be had.
    ImageFailed {
        /// The container.
        container: String,
        /// `ErrImagePull`, `InvalidImageName`, `ImageInspectError`, `ErrImageNeverPull`, `RegistryUnavailable`.
        reason: String,
        /// What went wrong.
        message: String,
        /// Whether trying again may help.
        again: Again,
    },
    /// The container's program was executed.
    Started {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
        /// The runtime's name for it.
        id: String,
        /// When.
        at: Timestamp,
    },
    /// The runtime could not start it; nothing of the attempt is left.
    StartFailed {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
        /// What went wrong.
        message: String,
    },
    /// The container can't be set up from its spec, e.g. for want of a ConfigMap.
    ConfigFailed {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
        /// The waiting reason.
        reason: String,
        /// What is missing or wrong.
        message: String,
    },
    /// The container ended.
    Exited {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
        /// How.
        exit: Exit,
    },
    /// A probe of the container said something that matters.
    Probed {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
        /// What.
        report: Report,
    },
    /// A hook has ended.
    HookEnded {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
        /// Which hook.
        hook: HookKind,
        /// How.
        result: HookResult,
    },
    /// Volumes and cgroups of the ended pod are gone.
    TornDown,
    /// The API object is to be deleted after `grace`; 0 kills at once.
    DeleteAsked {
        /// How long the containers may take to end, in seconds.
        grace: i64,
    },
    /// `spec.activeDeadlineSeconds` is another.
    DeadlineChanged {
        /// What it is now.
        deadline: Option<SignedDuration>,
    },
    /// The node takes its resources back.
    Evicted {
        /// Whose fault it is.
        why: Eviction,
        /// What is to be said of it.
        message: String,
    },
    /// The node does not take the pod, of which nothing runs yet.
    Rejected {
        /// `status.reason`, e.g. `Evicted`.
        reason: &'static str,
        /// What is to be said of it.
        message: String,
    },
    /// The spec names another image for a container: the one field of it that may change.
    ImageChanged {
        /// The container.
        container: String,
        /// `image`.
        image: String,
    },
    /// `spec.ephemeralContainers` has more.
    Joined {
        /// Those that there are now; known ones are as they were.
        ephemeral: Vec<ContainerFacts>,
    },
    /// Time passed.
    Tick,
}

/// How a hook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookResult {
    /// Well.
    Done,
    /// Badly, or it could not be run.
    Failed,
}

/// Whether a failure may mend itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It is tried again.
    Later,
    /// Only a change of the pod can mend it.
    Never,
}

/// How the runtime saw a container end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; 128 + n for signal n.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed one of its processes because the memory limit was reached.
    pub oom_killed: bool,
    /// How it ended is not known: nobody could watch.
    pub lost: bool,
    /// When its program was executed.
    pub started_at: Timestamp,
    /// When it was reaped.
    pub finished_at: Timestamp,
    /// The termination message.
    pub message: Option<String>,
}

/// What the agent is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Prepare the pod's network and volumes; answered by `VolumesReady`, `SandboxFailed` or `VolumesFailed`.
    PrepareVolumes,
    /// See to the container's image by its pull policy; answered by `ImageReady` or `ImageFailed`, after
    /// `Pulling` where it is asked for at its registry.
    PullImage {
        /// The container.
        container: String,
    },
    /// Start the container; answered by `Started` (then later `Exited`), `StartFailed` or `ConfigFailed`.
    StartContainer {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
    },
    /// Ask the container's probes from now on (see [`State::prober`]); answered by `Probed`.
    Probe {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
    },
    /// Run a hook of the container; answered by `HookEnded`. It ends with the container.
    RunHook {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
        /// Which hook.
        hook: HookKind,
    },
    /// Send the container its stop signal.
    Signal {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
    },
    /// Kill everything in the container.
    Kill {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
    },
    /// Remove what an ended run left: cgroup and scratch. Its log stays.
    RemoveContainer {
        /// The container.
        container: String,
        /// Which run.
        attempt: Attempt,
    },
    /// Tell people, in an Event about the pod.
    Tell(News),
    /// Write the pod's status: what [`status`] says of this state.
    WriteStatus,
    /// Remove network, volumes and cgroups of the pod; answered by `TornDown`.
    TearDown,
    /// Delete the API object with grace 0: its deletion was asked for, and nothing of it runs any more.
    Release,
}

/// What a step yields.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The pod from now on.
    pub state: State,
    /// What to do, in order.
    pub effects: Vec<Effect>,
    /// When to send a [`Event::Tick`] if nothing happens before.
    pub wake: Option<Timestamp>,
}

impl State {
    /// A pod that the node has just been given. The first event is [`Event::Accepted`].
    pub fn new(facts: Arc<Facts>, now: Timestamp) -> State {
        let containers = facts.containers.iter().map(|_| Container::new()).collect();
        State { facts, started_at: now, stage: Stage::Accepted, containers, deletion: false }
    }

    /// What its spec says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Where the pod stands.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Where the container of this name stands.
    pub fn life(&self, container: &str) -> Option<&Life> {
        self.index(container).map(|i| &self.containers[i].life)
    }

    /// Which run of the container is under way, comes next or was the last.
    pub fn attempt(&self, container: &str) -> Option<Attempt> {
        self.index(container).map(|i| self.containers[i].attempt)
    }

    /// The probes of a container that runs and has any.
    pub fn prober(&self, container: &str) -> Option<Prober> {
        let index = self.index(container)?;
        let probes = &self.facts.containers[index].probes;
        match self.containers[index].life {
            Life::Running { since, health, .. } if !probes.is_empty() => Some(Prober::new(probes, since, health)),
            _ => None,
        }
    }

    /// Whether the pod's containers are ended or have ended.
    pub fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping { .. } | Stage::Ended { .. })
    }

    /// Whether every container has ended and the phase is final.
    pub fn is_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended { .. })
    }

    /// Whether nothing of the ended pod is left on the node but its folder.
    pub fn is_clean(&self) -> bool {
        matches!(self.stage, Stage::Ended { left: Left::Clean | Left::Released, .. })
    }

    fn index(&self, container: &str) -> Option<usize> {
        self.facts.containers.iter().position(|c| c.name == container)
    }

    /// Every container with what the spec says of it.
    fn each(&self) -> impl DoubleEndedIterator<Item = (&ContainerFacts, &Container)> {
        self.facts.containers.iter().zip(&self.containers)
    }
}

impl Container {
    fn new() -> Container {
        Container {
            life: Life::Idle,
            attempt: Attempt(0),
            last: None,
            previous: None,
            image: None,
            image_id: String::new(),
            failed_pulls: 0,
            failed_configs: 0,
            crashes: 0,
            condemned: None,
            is_outdated: false,
        }
    }

    /// The newest run that was made (`restartCount`): a next one counts from when it runs.
    fn newest_run(&self) -> Attempt {
        match self.life {
            Life::Running { .. } | Life::Ended => self.attempt,
            _ if self.last.is_some() => Attempt(self.attempt.0.saturating_sub(1)),
            _ => self.attempt,
        }
    }

    /// Whether a process of it may exist.
    fn is_live(&self) -> bool {
        matches!(self.life, Life::Starting | Life::PostStart { .. } | Life::Running { .. })
    }

    /// How far its ending has come, while it runs.
    fn ending(&self) -> Option<Stopping> {
        match self.life {
            Life::PostStart { ending, .. } | Life::Running { ending, .. } => Some(ending),
            _ => None,
        }
    }

    /// Whether it ever ran, or was tried to be run.
    fn has_run(&self) -> bool {
        self.last.is_some() || matches!(self.life, Life::Running { .. })
    }

    /// What its probes say of it, while it runs.
    fn health(&self) -> Health {
        match self.life {
            Life::Running { health, .. } => health,
            _ => Health { started: false, ready: false },
        }
    }

    /// Whether its turn has come.
    fn has_begun(&self) -> bool {
        self.life != Life::Idle || self.last.is_some()
    }

    fn succeeded(&self) -> bool {
        self.life == Life::Ended && self.last.as_ref().is_some_and(|end| end.code == 0)
    }

    /// The attempt ended: what was last becomes the one before.
    fn finish(&mut self, ending: Ending) {
        self.previous = self.last.replace(ending);
    }
}

impl Ending {
    /// How an exit is told in a status.
    pub fn of(id: Option<String>, exit: Exit) -> Ending {
        let reason = match &exit {
            exit if exit.lost => "ContainerStatusUnknown",
            exit if exit.oom_killed && exit.code != 0 => "OOMKilled",
            exit if exit.code == 0 => "Completed",
            _ => "Error",
        };
        Ending {
            id,
            code: exit.code,
            signal: exit.signal,
            reason: reason.to_owned(),
            message: exit.message,
            started_at: Some(exit.started_at),
            finished_at: exit.finished_at,
        }
    }
}

#[cfg(test)]
mod tests;
