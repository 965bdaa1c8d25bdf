//! Probes of a container that runs: when which is due, and what its answers make of the container.
//!
//! ```text
//!             startup probe                      liveness and readiness probes
//!  running ──► asked each period ──enough good──► asked each period ──enough bad──► Failed (liveness), NotReady
//!                    │ enough bad                        └────────────enough good──► Ready (readiness)
//!                    └──► Failed
//! ```
//!
//! Invariants: a probe is asked again only once it has answered, or been given up; liveness and readiness are asked only
//! of a container that has started; after a probe has failed for good nobody is asked whether to kill any more.
//!
//! It holds no tasks and no clock: who asks tells it what was answered and when. What is to be done about a [`Report`]
//! is the step's to decide (see [`step`](super::step)).
//!
//! Upstream: `pkg/kubelet/prober/worker.go` (`doProbe`), `prober.go` (`probe`), v1.36. There a probe first comes somewhere
//! in its first period; here it comes as soon as `initialDelaySeconds` are over.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as api;

/// How often a probe is tried at a stretch that yields neither a success nor a failure (`maxProbeRetries`).
pub const TRIES: u32 = 3;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Whether the container has come up; the others wait for it.
    Startup,
    /// Whether it is to be ended and started again.
    Liveness,
    /// Whether it takes work.
    Readiness,
}

/// When a probe is asked and what its answers count (`v1.Probe` without its handler).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFacts {
    /// `initialDelaySeconds`.
    pub initial_delay: SignedDuration,
    /// `periodSeconds`.
    pub period: SignedDuration,
    /// `timeoutSeconds`.
    pub timeout: SignedDuration,
    /// `successThreshold`.
    pub successes: u32,
    /// `failureThreshold`.
    pub failures: u32,
    /// `terminationGracePeriodSeconds` of the probe, in seconds.
    pub grace: Option<i64>,
}

/// The probes of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeSet {
    /// `startupProbe`.
    pub startup: Option<ProbeFacts>,
    /// `livenessProbe`.
    pub liveness: Option<ProbeFacts>,
    /// `readinessProbe`.
    pub readiness: Option<ProbeFacts>,
}

/// How a running container stands with its probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its startup probe has succeeded, or it has none.
    pub started: bool,
    /// Its readiness probe succeeds, or it has none.
    pub ready: bool,
}

/// What a probe said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All is well.
    Success,
    /// All is well, and something is to be told all the same.
    Warning(String),
    /// It is not well, and why.
    Failure(String),
    /// It could not be asked; this counts for nothing.
    Errored(String),
}

/// What a probe's answers have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The container has started.
    Started,
    /// It takes work.
    Ready,
    /// It takes no work.
    NotReady,
    /// It is to be ended.
    Failed,
}

/// What the node has to hear of a probe's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which probe.
    pub kind: ProbeKind,
    /// What is new about the container.
    pub change: Option<Change>,
    /// What to tell people: an Event's reason and message.
    pub told: Option<(&'static str, String)>,
}

/// The probes of one run of a container.
#[derive(Clone, Debug)]
pub struct Prober {
    checks: Vec<Check>,
    since: Timestamp,
    started: bool,
}

/// One probe.
#[derive(Clone, Debug)]
struct Check {
    kind: ProbeKind,
    facts: ProbeFacts,
    next: Timestamp,
    /// Nobody has answered yet.
    asked: bool,
    /// The last answer, and how often in a row it was given.
    run: Option<(bool, u32)>,
    /// What was last told to the node.
    verdict: Option<bool>,
    /// It has done its part.
    over: bool,
}

impl ProbeKind {
    /// The kubelet's word.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    /// Whether its failure ends the container.
    fn kills(self) -> bool {
        self != ProbeKind::Readiness
    }
}

impl ProbeFacts {
    /// What a probe says of itself; a member that is absent or zero has its default.
    pub fn of(probe: &api::Probe) -> ProbeFacts {
        let or = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        let seconds = |value: u32| SignedDuration::from_secs(i64::from(value));
        ProbeFacts {
            initial_delay: seconds(or(probe.initial_delay_seconds, 0)),
            period: seconds(or(probe.period_seconds, 10)),
            timeout: seconds(or(probe.timeout_seconds, 1)),
            successes: or(probe.success_threshold, 1),
            failures: or(probe.failure_threshold, 3),
            grace: probe.termination_grace_period_seconds,
        }
    }
}

impl ProbeSet {
    /// The probes of a container.
    pub fn of(container: &api::Container) -> ProbeSet {
        let of = |probe: &Option<api::Probe>| probe.as_ref().map(ProbeFacts::of);
        ProbeSet {
            startup: of(&container.startup_probe),
            liveness: of(&container.liveness_probe),
            readiness: of(&container.readiness_probe),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.startup.is_none() && self.liveness.is_none() && self.readiness.is_none()
    }

    /// How a container stands that nobody has asked yet.
    pub fn at_first(&self) -> Health {
        Health { started: self.startup.is_none(), ready: self.startup.is_none() && self.readiness.is_none() }
    }

    /// The probe of that kind.
    pub fn get(&self, kind: ProbeKind) -> Option<&ProbeFacts> {
        match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
        }
    }
}

impl Prober {
    /// The probes of a container that runs `since` then and stands as `health` says.
    pub fn new(set: &ProbeSet, since: Timestamp, health: Health) -> Prober {
        let check = |kind: ProbeKind| {
            let facts = set.get(kind)?.clone();
            let verdict = match kind {
                ProbeKind::Readiness => Some(health.ready),
                ProbeKind::Startup | ProbeKind::Liveness => None,
            };
            let over = kind == ProbeKind::Startup && health.started;
            let next = saturating_add(since, facts.initial_delay);
            Some(Check { kind, facts, next, asked: false, run: None, verdict, over })
        };
        let kinds = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];
        Prober { checks: kinds.into_iter().filter_map(check).collect(), since, started: health.started }
    }

    /// The probes to ask now, each with how long its answer may take. Each is to be answered by [`Prober::take`].
    pub fn due(&mut self, now: Timestamp) -> Vec<(ProbeKind, SignedDuration)> {
        let (started, since) = (self.started, self.since);
        let mut due = Vec::new();
        for check in self.checks.iter_mut().filter(|check| check.waits(started)) {
            // A clock that was put back must not put a probe off for longer than a period.
            let latest = saturating_add(now.max(since), check.facts.initial_delay.max(check.facts.period));
            check.next = check.next.min(latest);
            if check.next <= now {
                check.asked = true;
                due.push((check.kind, check.facts.timeout));
            }
        }
        due
    }

    /// When the next probe is due, if one is that has answered.
    pub fn wake(&self) -> Option<Timestamp> {
        self.checks.iter().filter(|check| check.waits(self.started)).map(|check| check.next).min()
    }

    /// Takes in an answer; the report is `None` when there is nothing that anybody has to know.
    pub fn take(&mut self, kind: ProbeKind, answer: Answer, now: Timestamp) -> Option<Report> {
        let check = self.checks.iter_mut().find(|check| check.kind == kind && check.asked)?;
        check.asked = false;
        check.next = saturating_add(check.next, check.facts.period).max(now);
        if check.over {
            return None;
        }
        let name = kind.as_str();
        let (good, told) = match answer {
            Answer::Success => (Some(true), None),
            Answer::Warning(output) => (Some(true), Some(("ProbeWarning", format!("{name} probe warning: {output}")))),
            Answer::Failure(output) => (Some(false), Some(("Unhealthy", format!("{name} probe failed: {output}")))),
            Answer::Errored(fault) => {
                (None, Some(("Unhealthy", format!("{name} probe errored and resulted in unknown state: {fault}"))))
            }
        };
        let change = good.and_then(|good| check.count(good));
        match change {
            Some(Change::Started) => {
                self.started = true;
                // The others wait no longer, and who can take work is told at once.
                for check in self.checks.iter_mut().filter(|check| check.kind != ProbeKind::Startup) {
                    check.next = check.next.max(now);
                }
            }
            Some(Change::Failed) => self.quieten(),
            Some(Change::Ready | Change::NotReady) | None => {}
        }
        (change.is_some() || told.is_some()).then_some(Report { kind, change, told })
    }

    /// The container is being ended: only whether it takes work is asked from now on.
    pub fn quieten(&mut self) {
        for check in self.checks.iter_mut().filter(|check| check.kind.kills()) {
            check.over = true;
        }
    }
}

impl Check {
    /// Whether it waits for nothing but its time.
    fn waits(&self, started: bool) -> bool {
        !self.asked && !self.over && (started || self.kind == ProbeKind::Startup)
    }

    /// Counts an answer; yields what it changes once the threshold is reached.
    fn count(&mut self, good: bool) -> Option<Change> {
        let run = match self.run {
            Some((last, run)) if last == good => run.saturating_add(1),
            _ => 1,
        };
        self.run = Some((good, run));
        let threshold = if good { self.facts.successes } else { self.facts.failures };
        if run < threshold || self.verdict == Some(good) {
            return None;
        }
        self.verdict = Some(good);
        match (self.kind, good) {
            (ProbeKind::Startup, true) => {
                self.over = true;
                Some(Change::Started)
            }
            (ProbeKind::Liveness, true) => None,
            (ProbeKind::Startup | ProbeKind::Liveness, false) => Some(Change::Failed),
            (ProbeKind::Readiness, true) => Some(Change::Ready),
            (ProbeKind::Readiness, false) => Some(Change::NotReady),
        }
    }
}

fn saturating_add(at: Timestamp, after: SignedDuration) -> Timestamp {
    at.checked_add(after).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
