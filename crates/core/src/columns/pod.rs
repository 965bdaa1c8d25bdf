//! Pods in columns. Most of it is one word: the status, which tells of many containers at once.
//!
//! Upstream: `printPod` in `pkg/printers/internalversion/printers.go`, v1.36.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{AGE, Column, Condition, NAME, Row, age, docs, name, or_none, since, text, wide};
use crate::pod::{is_sidecar, lasting};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    text("Status", "The aggregate status of the containers in this pod."),
    text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has \
         restarted.",
    ),
    AGE,
    wide("IP", docs::POD_IP),
    wide("Node", docs::NODE_NAME),
    wide("Nominated Node", docs::NOMINATED_NODE),
    wide("Readiness Gates", docs::READINESS_GATES),
];

pub(super) fn row(pod: &Pod, now: Timestamp) -> Row {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let summary = Summary::of(pod, &spec, &status);
    let ip = status.pod_ip.as_deref().unwrap_or_default();
    let ip = status.pod_ips.as_deref().and_then(|ips| ips.first()).map_or(ip, |first| first.ip.as_str());
    let cells = vec![
        name(&pod.metadata),
        format!("{}/{}", summary.ready, summary.containers).into(),
        summary.word.clone().into(),
        summary.restarts(now).into(),
        age(&pod.metadata, now),
        or_none(ip).into(),
        or_none(spec.node_name.as_deref().unwrap_or_default()).into(),
        or_none(status.nominated_node_name.as_deref().unwrap_or_default()).into(),
        readiness_gates(&spec, &status).into(),
    ];
    let ended = |reason, message| Some(Condition { condition: "Completed", status: "True", reason, message });
    let condition = match status.phase.as_deref() {
        Some("Succeeded") => ended("Succeeded", "The pod has completed successfully."),
        Some("Failed") => ended("Failed", "The pod failed."),
        _ => None,
    };
    Row { cells, condition }
}

/// What a pod's containers come to.
struct Summary {
    word: String,
    ready: usize,
    containers: usize,
    restarts: i32,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Self {
        let phase = status.phase.as_deref().unwrap_or_default();
        let reason = status.reason.as_deref().unwrap_or_default();
        let gated = condition(status, "PodScheduled").is_some_and(|(_, reason)| reason == "SchedulingGated");
        let word = if gated {
            "SchedulingGated"
        } else if reason.is_empty() {
            phase
        } else {
            reason
        };
        let mut summary = Self {
            word: word.to_owned(),
            ready: 0,
            containers: lasting(spec).count(),
            restarts: 0,
            last_restart: None,
        };
        let initializing = summary.initialize(spec, status);
        if !initializing || condition(status, "Initialized").is_some_and(|(state, _)| state == "True") {
            summary.run(spec, status);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            if reason == "NodeLost" {
                "Unknown".clone_into(&mut summary.word);
            } else if !matches!(phase, "Succeeded" | "Failed") {
                "Terminating".clone_into(&mut summary.word);
            }
        }
        summary
    }

    /// Follows the init containers up to the first that is not done. Whether there is one.
    fn initialize(&mut self, spec: &PodSpec, status: &PodStatus) -> bool {
        let inits = spec.init_containers.as_deref().unwrap_or_default();
        for (at, container) in status.init_container_statuses.iter().flatten().enumerate() {
            self.restarted(container);
            let state = container.state.clone().unwrap_or_default();
            let waiting = state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default();
            self.word = match &state.terminated {
                Some(end) if end.exit_code == 0 => continue,
                _ if sidecar(spec, &container.name) && container.started == Some(true) => {
                    self.ready += usize::from(container.ready);
                    continue;
                }
                Some(end) => format!("Init:{}", outcome(end)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{at}/{}", inits.len()),
            };
            return true;
        }
        false
    }

    /// Follows the containers, from the last to the first.
    fn run(&mut self, spec: &PodSpec, status: &PodStatus) {
        (self.restarts, self.last_restart) = (0, None);
        for container in status.init_container_statuses.iter().flatten() {
            if sidecar(spec, &container.name) {
                self.restarted(container);
            }
        }
        let (mut running, mut failure) = (false, None);
        for container in status.container_statuses.iter().flatten().rev() {
            self.restarted(container);
            let state = container.state.clone().unwrap_or_default();
            let waiting = state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default();
            if !waiting.is_empty() {
                self.word = waiting;
            } else if let Some(end) = &state.terminated {
                self.word = outcome(end);
                if end.exit_code != 0 {
                    failure = Some(self.word.clone());
                }
            } else if container.ready && state.running.is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.word == "Completed" {
            let ready = condition(status, "Ready").is_some_and(|(state, _)| state == "True");
            match failure {
                _ if running && ready => "Running".clone_into(&mut self.word),
                Some(failure) => self.word = failure,
                None if running => "NotReady".clone_into(&mut self.word),
                None => {}
            }
        }
    }

    fn restarted(&mut self, container: &ContainerStatus) {
        self.restarts += container.restart_count;
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let end = last.and_then(|last| last.finished_at.as_ref()).map(|Time(end)| *end);
        self.last_restart = self.last_restart.max(end);
    }

    fn restarts(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(last) if self.restarts != 0 => format!("{} ({} ago)", self.restarts, since(Some(last), now)),
            _ => self.restarts.to_string(),
        }
    }
}

/// How a container ended, in a word.
fn outcome(end: &ContainerStateTerminated) -> String {
    match (end.reason.as_deref().unwrap_or_default(), end.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", end.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn sidecar(spec: &PodSpec, name: &str) -> bool {
    spec.init_containers.iter().flatten().find(|init| init.name == name).is_some_and(is_sidecar)
}

/// Status and reason of a condition.
fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<(&'a str, &'a str)> {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == type_)?;
    Some((&condition.status, condition.reason.as_deref().unwrap_or_default()))
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> String {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return or_none("");
    }
    let open = |gate: &str| condition(status, gate).is_some_and(|(state, _)| state == "True");
    let passed = gates.iter().filter(|gate| open(&gate.condition_type)).count();
    format!("{passed}/{}", gates.len())
}
