//! Containers that exist only in the world's memory. They outlive the process that started them, as real ones do.
//!
//! What a container does is in its command: `["work", FAIL, LONGEST]`, fails in FAIL of a thousand cases and takes up to
//! LONGEST milliseconds. Invariant, checked at every start: one attempt is started once.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::rng::Rng;

/// Names a run of a pod's container: the pod's UID and the attempt.
pub type ContainerKey = (String, u32);

/// All containers that were ever started.
#[derive(Debug)]
pub struct Containers {
    all: BTreeMap<ContainerKey, Container>,
    chance: Rng,
}

/// One container.
#[derive(Clone, Debug)]
pub struct Container {
    /// When it was started, by the wall clock.
    pub started_at: Timestamp,
    /// When it was started, in virtual time.
    pub started: Duration,
    /// When it ends, in virtual time.
    pub ends: Duration,
    /// Its exit code.
    pub code: i32,
    /// What it does about SIGTERM: how long it takes and its exit code; None if it ignores it.
    on_term: Option<(Duration, i32)>,
    /// Whether it got SIGTERM.
    pub signalled: bool,
}

impl Container {
    /// When it ended, by the wall clock of its start.
    pub fn finished_at(&self) -> Timestamp {
        let took = SignedDuration::try_from(self.ends.saturating_sub(self.started)).unwrap_or(SignedDuration::MAX);
        self.started_at.saturating_add(took).unwrap_or(Timestamp::MAX)
    }
}

impl Containers {
    /// No containers yet.
    pub fn new(chance: Rng) -> Containers {
        Containers { all: BTreeMap::new(), chance }
    }

    /// Starts a container. An error is a broken invariant.
    pub fn start(
        &mut self,
        key: ContainerKey,
        command: &[String],
        now: Duration,
        wall: Timestamp,
    ) -> Result<(), String> {
        let number = |at: usize| command.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let takes = self.chance.range(1, number(2).max(1));
        let code = if self.chance.chance(number(1)) { self.chance.small(1, 3) } else { 0 };
        let on_term = match self.chance.range(0, 3) {
            0 => None,
            1 => Some((Duration::from_millis(self.chance.range(0, 2000)), 0)),
            _ => Some((Duration::from_millis(self.chance.range(0, 40_000)), 143)),
        };
        let ends = now + Duration::from_millis(takes);
        let container = Container { started_at: wall, started: now, ends, code, on_term, signalled: false };
        if self.all.contains_key(&key) {
            return Err(format!("the container of pod {} was started twice for attempt {}", key.0, key.1));
        }
        if let Some(running) = self.of_pod(&key.0).find(|(_, other)| other.ends > now) {
            return Err(format!("attempt {} of pod {} was started while attempt {} ran", key.1, key.0, running.0));
        }
        self.all.insert(key, container);
        Ok(())
    }

    /// The attempts of a pod, in order.
    pub fn of_pod(&self, pod: &str) -> impl DoubleEndedIterator<Item = (u32, &Container)> {
        let (first, last) = ((pod.to_owned(), 0), (pod.to_owned(), u32::MAX));
        self.all.range(first..=last).map(|((_, attempt), container)| (*attempt, container))
    }

    /// Sends SIGTERM.
    pub fn term(&mut self, key: &ContainerKey, now: Duration) {
        let Some(container) = self.all.get_mut(key).filter(|one| one.ends > now && !one.signalled) else { return };
        container.signalled = true;
        if let Some((takes, code)) = container.on_term
            && now + takes < container.ends
        {
            (container.ends, container.code) = (now + takes, code);
        }
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self, key: &ContainerKey, now: Duration) {
        if let Some(container) = self.all.get_mut(key).filter(|one| one.ends > now) {
            (container.ends, container.code) = (now, 137);
        }
    }

    /// The pods that have a running container.
    pub fn running_pods(&self, now: Duration) -> Vec<ContainerKey> {
        self.all.iter().filter(|(_, one)| one.ends > now).map(|(key, _)| key.clone()).collect()
    }
}
