//! What a node tells people about a pod: Kubernetes Events in the kubelet's words.
//!
//! Invariant: news follow from what a step changed; a step that changes nothing tells nothing.
//! Upstream: `pkg/kubelet/events/event.go`, `kuberuntime/kuberuntime_container.go`, `images/image_manager.go`,
//! `active_deadline.go`, `prober/prober.go`, v1.36. A back-off is told when it begins and then again and again, as with each sync of a kubelet.
//! Left out: news of the node itself.

use jiff::SignedDuration;

use super::probe::{ProbeKind, Report};
use super::stop::REJECTED;
use super::{
    Container, Event, Facts, HookResult, Life, Preparing, RestartPolicy, Role, Stage, State, Stop, Stopping, Timestamp,
    Unfit,
};
use crate::plan::Severity;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// `involvedObject.fieldPath`: the container that it is about. `None`: the whole pod.
    pub part: Option<String>,
    /// `type`.
    pub severity: Severity,
    /// `reason`.
    pub reason: String,
    /// `message`.
    pub message: String,
}

impl News {
    /// The image of a volume is not there, or is to be looked for anew, and is being pulled.
    pub fn pulling_volume(image: &str) -> News {
        let message = format!("Pulling image {image:?}");
        News { part: None, severity: Severity::Normal, reason: "Pulling".to_owned(), message }
    }

    /// The image of a volume is there.
    pub fn pulled_volume(image: &str, origin: &Origin, now: Timestamp) -> Option<News> {
        let message = pulled(image, origin, now)?;
        Some(News { part: None, severity: Severity::Normal, reason: "Pulled".to_owned(), message })
    }
}

/// How a container's image was come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// There is no image; the container has the machine's own root filesystem.
    Host,
    /// It was on the node.
    Present,
    /// It was pulled.
    Pulled {
        /// Since when.
        since: Timestamp,
        /// How large it is, in bytes.
        bytes: u64,
    },
}

/// What is to be told of the step from `before` to `after` that `event` made at the time `now`.
pub(super) fn news(before: &State, event: &Event, after: &State, now: Timestamp) -> Vec<News> {
    let mut all = of_pod(before, event, after);
    for (index, (old, new)) in before.containers.iter().zip(&after.containers).enumerate() {
        let ends = before.is_stopping();
        let teller = Teller { facts: &after.facts, index, ends, all: &mut all };
        teller.tell(old, event, new, now);
    }
    all
}

/// News of the pod as a whole.
fn of_pod(before: &State, event: &Event, after: &State) -> Vec<News> {
    let mut all = Vec::new();
    let mut tell = |severity, reason: &str, message: &str| {
        all.push(News { part: None, severity, reason: reason.to_owned(), message: message.to_owned() });
    };
    if let (Stage::Preparing(Preparing::InProgress { .. }), Stage::Preparing(Preparing::Failed { message, .. })) =
        (&before.stage, &after.stage)
    {
        match event {
            Event::SandboxFailed { .. } => {
                let message = format!("Failed to create pod sandbox: {message}");
                tell(Severity::Warning, "FailedCreatePodSandBox", &message);
            }
            _ => tell(Severity::Warning, "FailedMount", message),
        }
    }
    if stopped_for(before).is_none()
        && let Some((severity, reason, message)) = stopped_for(after)
    {
        tell(severity, reason, message);
    }
    all
}

/// Why the pod is or was ended, where people are told.
fn stopped_for(state: &State) -> Option<(Severity, &'static str, &str)> {
    let deadline = || (Severity::Normal, "DeadlineExceeded", super::DEADLINE_TOLD);
    match &state.stage {
        Stage::Stopping { why: Stop::Deadline, .. } => Some(deadline()),
        Stage::Stopping { why: Stop::Evicted { message, .. }, .. } => Some((Severity::Warning, "Evicted", message)),
        Stage::Stopping { why: Stop::Rejected { reason, message }, .. } => Some((Severity::Warning, reason, message)),
        Stage::Ended { outcome, .. } => match outcome.reason? {
            "DeadlineExceeded" => Some(deadline()),
            reason => {
                let message = outcome.message.as_deref().unwrap_or_default();
                Some((Severity::Warning, reason, message.strip_prefix(REJECTED).unwrap_or(message)))
            }
        },
        _ => None,
    }
}

/// Tells of one container.
struct Teller<'a> {
    facts: &'a Facts,
    index: usize,
    /// Whether the pod was being ended before.
    ends: bool,
    all: &'a mut Vec<News>,
}

impl Teller<'_> {
    fn tell(mut self, old: &Container, event: &Event, new: &Container, now: Timestamp) {
        let own = self.facts.containers[self.index].name.as_str();
        match event {
            Event::Pulling { container } if container == own && new.life == Life::Pulling => {
                self.normal("Pulling", format!("Pulling image {:?}", self.image()));
            }
            Event::ImageReady { container, origin, .. } if container == own && old.life == Life::Pulling => {
                self.image_ready(origin, now);
            }
            Event::ImageFailed { container, reason, message, .. } if container == own && old.life == Life::Pulling => {
                self.image_failed(reason, message);
            }
            Event::StartFailed { container, attempt, message } if container == own && is_starting(old, *attempt) => {
                self.normal("Created", "Container created".to_owned());
                self.warning("Failed", format!("Error: {message}"));
            }
            Event::Probed { container, attempt, report } if container == own && old.attempt == *attempt => {
                self.probed(old, report);
            }
            Event::HookEnded { container, attempt, hook, result: HookResult::Failed }
                if container == own && old.attempt == *attempt && old.is_live() =>
            {
                let (reason, message) = hook.failure();
                self.warning(reason, message.to_owned());
            }
            _ => {}
        }
        self.life_changed(old, new);
    }

    /// What a container says that is being ended is not news.
    fn probed(&mut self, old: &Container, report: &Report) {
        let ends = self.ends || is_ending(old);
        match &report.told {
            Some((reason, message)) if !ends || report.kind == ProbeKind::Readiness => {
                self.warning(reason, message.clone());
            }
            _ => {}
        }
    }

    fn image_ready(&mut self, origin: &Origin, now: Timestamp) {
        if let Some(message) = pulled(self.image(), origin, now) {
            self.normal("Pulled", message);
        }
    }

    fn image_failed(&mut self, reason: &str, message: &str) {
        match reason {
            "InvalidImageName" | "ImageInspectError" => self.warning("InspectFailed", message.to_owned()),
            "ErrImageNeverPull" => self.warning(reason, message.to_owned()),
            _ => self.warning("Failed", format!("Failed to pull image {:?}: {message}", self.image())),
        }
        self.warning("Failed", format!("Error: {reason}"));
    }

    fn life_changed(&mut self, old: &Container, new: &Container) {
        match (&old.life, &new.life) {
            (Life::PullBackOff { told: old, .. }, Life::PullBackOff { told: new, .. })
            | (Life::CrashLoop { told: old, .. }, Life::CrashLoop { told: new, .. })
                if old == new => {}
            (_, Life::PullBackOff { .. }) => {
                self.normal("BackOff", format!("Back-off pulling image {:?}", self.image()));
                self.warning("Failed", "Error: ImagePullBackOff".to_owned());
            }
            (Life::Starting, Life::ConfigFailed { message, .. }) => self.warning("Failed", format!("Error: {message}")),
            (Life::Starting, Life::PostStart { .. } | Life::Running { .. }) => {
                self.normal("Created", "Container created".to_owned());
                self.normal("Started", "Container started".to_owned());
            }
            (_, Life::CrashLoop { .. }) if !new.crash_delay().is_zero() => {
                let name = &self.facts.containers[self.index].name;
                let pod = self.facts.full_name();
                self.warning("BackOff", format!("Back-off restarting failed container {name} in pod {pod}"));
            }
            _ => {}
        }
        if !is_ending(old) && is_ending(new) {
            self.normal("Killing", self.why_it_is_ended(new));
        }
    }

    /// As `kuberuntime_manager.go` says it (`computePodActions`, `computeInitContainerActions`).
    fn why_it_is_ended(&self, container: &Container) -> String {
        let facts = &self.facts.containers[self.index];
        let name = &facts.name;
        let Some(condemned) = container.condemned.filter(|_| !self.ends) else {
            return format!("Stopping container {name}");
        };
        let probe = match condemned.why {
            Unfit::Liveness => "liveness",
            Unfit::Startup => "startup",
            Unfit::PostStart => return "FailedPostStartHook".to_owned(),
            Unfit::Changed if facts.role == Role::Sidecar => {
                return format!("Init container {name} definition changed");
            }
            Unfit::Changed => return format!("Container {name} definition changed, will be restarted"),
        };
        match (facts.role, facts.restart_policy) {
            (Role::Init | Role::Sidecar, _) => format!("Init container {name} failed {probe} probe"),
            (Role::Main | Role::Ephemeral, RestartPolicy::Never) => format!("Container {name} failed {probe} probe"),
            (Role::Main | Role::Ephemeral, _) => format!("Container {name} failed {probe} probe, will be restarted"),
        }
    }

    fn image(&self) -> &str {
        &self.facts.containers[self.index].image
    }

    fn normal(&mut self, reason: &str, message: String) {
        self.push(Severity::Normal, reason, message);
    }

    fn warning(&mut self, reason: &str, message: String) {
        self.push(Severity::Warning, reason, message);
    }

    fn push(&mut self, severity: Severity, reason: &str, message: String) {
        let facts = &self.facts.containers[self.index];
        let list = match facts.role {
            Role::Init | Role::Sidecar => "initContainers",
            Role::Main => "containers",
            Role::Ephemeral => "ephemeralContainers",
        };
        let part = Some(format!("spec.{list}{{{}}}", facts.name));
        self.all.push(News { part, severity, reason: reason.to_owned(), message });
    }
}

/// What is said of an image that is there.
fn pulled(image: &str, origin: &Origin, now: Timestamp) -> Option<String> {
    match origin {
        Origin::Host => None,
        Origin::Present => {
            Some(format!("Container image {image:?} already present on machine and can be accessed by the pod"))
        }
        Origin::Pulled { since, bytes } => {
            // Those who wait for the same image wait for the one pull, so that waiting is pulling.
            let took = duration(now.duration_since(*since));
            Some(format!(
                "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {bytes} bytes."
            ))
        }
    }
}

fn is_starting(container: &Container, attempt: super::Attempt) -> bool {
    container.life == Life::Starting && container.attempt == attempt
}

fn is_ending(container: &Container) -> bool {
    container.ending().is_some_and(|ending| ending != Stopping::No)
}

/// A duration in whole milliseconds as Go prints it: `0s`, `350ms`, `1.5s`, `2m0.25s`, `1h0m0s`.
fn duration(took: SignedDuration) -> String {
    let millis = took.as_millis().max(0);
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_go_does() {
        for (millis, text) in [
            (-5, "0s"),
            (0, "0s"),
            (350, "350ms"),
            (1500, "1.5s"),
            (10_000, "10s"),
            (61_020, "1m1.02s"),
            (120_000, "2m0s"),
            (3_600_001, "1h0m0.001s"),
        ] {
            assert_eq!(duration(SignedDuration::from_millis(millis)), text);
        }
    }
}
