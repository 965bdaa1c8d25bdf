//! From readings to verdicts: which conditions the node has, and whether something has to be given back.
//!
//! ```text
//!   fine ──crossed──► noticed ──for its grace (hard: at once)──► to be reclaimed
//!    ▲                  │  ▲                                          │
//!    └──above the threshold and what is to be reclaimed beyond it◄────┘
//! ```
//!
//! Invariants: a condition stays for the transition period after its last shortage, so that a node does not swing between
//! full and empty; a shortage that was acted on is over only when so much more than its threshold is free as was asked for.
//! Upstream: `pkg/kubelet/eviction/eviction_manager.go` (`synchronize`), v1.36.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::signal::{Amount, Condition, Readings, Signal};
use super::threshold::{Grace, Level};
use crate::quantity::Quantity;

/// When a node is short of something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Thresholds that are acted on at once (the kubelet's `evictionHard`).
    pub hard: Vec<(Signal, Level)>,
    /// Thresholds that are acted on after a grace (`evictionSoft` with `evictionSoftGracePeriod`).
    pub soft: Vec<(Signal, Level, Grace)>,
    /// How much more has to be free than a threshold says before its shortage is over (`evictionMinimumReclaim`).
    pub reclaim: Vec<(Signal, Level)>,
    /// How long a condition stays after its last shortage (`evictionPressureTransitionPeriod`).
    pub transition: SignedDuration,
    /// How long the containers of a pod may take to end that is evicted for a soft threshold, in seconds
    /// (`evictionMaxPodGracePeriod`).
    pub soft_grace: i64,
}

/// One threshold.
#[derive(Clone, Copy, Debug)]
struct Threshold {
    signal: Signal,
    level: Level,
    /// For how long it may be crossed. `None`: it is a hard one.
    grace: Option<Grace>,
}

/// What follows from readings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The conditions that the node has.
    pub conditions: BTreeSet<Condition>,
    /// What has to be given back, if anything.
    pub crossed: Option<Crossed>,
}

/// A threshold that is to be acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// What is short.
    pub signal: Signal,
    /// Below how much it is.
    pub threshold: Quantity,
    /// How much is left.
    pub available: Quantity,
    /// How long the containers of a pod that goes may take to end, in seconds.
    pub grace: i64,
}

/// How long the containers of a pod may take to end that is evicted for a hard threshold, in seconds (the kubelet's
/// `immediateEvictionGracePeriodSeconds`).
const HARD_GRACE: i64 = 1;

/// What was seen so far.
#[derive(Clone, Debug)]
pub struct Monitor {
    thresholds: Vec<Threshold>,
    settings: Settings,
    /// Since when each threshold is crossed, by its place.
    crossed_since: BTreeMap<usize, Timestamp>,
    /// When each condition last held.
    pressed_at: BTreeMap<Condition, Timestamp>,
}

impl Monitor {
    /// One that has seen nothing.
    pub fn new(settings: Settings) -> Monitor {
        let hard = settings.hard.iter().map(|&(signal, level)| Threshold { signal, level, grace: None });
        let soft = settings.soft.iter().map(|&(signal, level, grace)| Threshold { signal, level, grace: Some(grace) });
        let mut thresholds: Vec<Threshold> = hard.chain(soft).collect();
        // Of two thresholds of one signal the hard one tells how it is acted on.
        thresholds.sort_by_key(|threshold| (threshold.signal, threshold.grace.is_some()));
        Monitor { thresholds, settings, crossed_since: BTreeMap::new(), pressed_at: BTreeMap::new() }
    }

    /// Whether anything is watched at all.
    pub fn is_idle(&self) -> bool {
        self.thresholds.is_empty()
    }

    /// Takes readings.
    pub fn observe(&mut self, readings: &Readings, now: Timestamp) -> Verdict {
        let mut since = BTreeMap::new();
        for (place, threshold) in self.thresholds.iter().enumerate() {
            let before = self.crossed_since.get(&place).copied();
            let Some(amount) = readings.get(&threshold.signal) else { continue };
            let extra = if before.is_some() { self.extra(threshold.signal, *amount) } else { 0 };
            if threshold.is_crossed(*amount, extra) {
                since.insert(place, before.unwrap_or(now));
                self.pressed_at.insert(threshold.signal.condition(), now);
            }
        }
        self.crossed_since = since;
        let lasts = |at: &Timestamp| *at == now || now.duration_since(*at) < self.settings.transition;
        self.pressed_at.retain(|_, at| lasts(at));
        let due = self.crossed_since.iter().find_map(|(place, since)| {
            let threshold = &self.thresholds[*place];
            let is_due = threshold.grace.is_none_or(|grace| now.duration_since(*since) >= grace);
            is_due.then_some(threshold)
        });
        let crossed = due.map(|threshold| {
            let amount = readings.get(&threshold.signal).copied().unwrap_or_default();
            Crossed {
                signal: threshold.signal,
                threshold: Quantity::binary(threshold.level.of(amount)),
                available: Quantity::binary(amount.available),
                grace: if threshold.grace.is_some() { self.settings.soft_grace } else { HARD_GRACE },
            }
        });
        Verdict { conditions: self.pressed_at.keys().copied().collect(), crossed }
    }

    /// Whether after reclaiming nothing is short any more, with what was asked for beyond the thresholds.
    pub fn is_relieved(&self, readings: &Readings) -> bool {
        self.thresholds.iter().all(|threshold| {
            let amount = readings.get(&threshold.signal);
            amount.is_none_or(|amount| !threshold.is_crossed(*amount, self.extra(threshold.signal, *amount)))
        })
    }

    fn extra(&self, signal: Signal, amount: Amount) -> u64 {
        let asked = self.settings.reclaim.iter().find(|(of, _)| *of == signal);
        asked.map_or(0, |(_, level)| level.of(amount))
    }
}

impl Threshold {
    fn is_crossed(&self, amount: Amount, extra: u64) -> bool {
        amount.available < self.level.of(amount).saturating_add(extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pressure::{graces, levels, reclaims};

    const T0: Timestamp = Timestamp::UNIX_EPOCH;

    fn texts(text: &str) -> Vec<String> {
        text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    fn settings(hard: &str, soft: &str, grace: &str, reclaim: &str) -> Settings {
        let graces = graces(&texts(grace)).unwrap();
        let soft = levels(&texts(soft)).unwrap().into_iter().zip(graces);
        Settings {
            hard: levels(&texts(hard)).unwrap(),
            soft: soft.map(|((signal, level), (_, grace))| (signal, level, grace)).collect(),
            reclaim: reclaims(&texts(reclaim)).unwrap(),
            transition: SignedDuration::from_mins(5),
            soft_grace: 30,
        }
    }

    fn readings(all: &[(Signal, u64)]) -> Readings {
        all.iter().map(|&(signal, available)| (signal, Amount { available, capacity: 1000 })).collect()
    }

    fn at(seconds: i64) -> Timestamp {
        T0 + SignedDuration::from_secs(seconds)
    }

    /// What is short after each reading of memory, and whether the node says so.
    fn story(monitor: &mut Monitor, steps: &[(i64, u64)]) -> Vec<(bool, bool)> {
        let step = |&(seconds, available): &(i64, u64)| {
            let verdict = monitor.observe(&readings(&[(Signal::MemoryAvailable, available)]), at(seconds));
            (verdict.crossed.is_some(), verdict.conditions.contains(&Condition::MemoryPressure))
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn a_hard_threshold_is_acted_on_at_once_and_its_condition_outlasts_it() {
        let mut monitor = Monitor::new(settings("memory.available<100", "", "", ""));
        let steps = [(0, 100), (10, 99), (20, 100), (300, 500), (309, 500), (310, 500)];
        let (no, yes) = (false, true);
        assert_eq!(story(&mut monitor, &steps), [(no, no), (yes, yes), (no, yes), (no, yes), (no, yes), (no, no)]);
    }

    #[test]
    fn a_soft_threshold_is_acted_on_after_its_grace_and_begins_anew() {
        let mut monitor = Monitor::new(settings("", "memory.available<200", "memory.available=1m", ""));
        let steps = [(0, 150), (59, 150), (60, 150), (70, 200), (80, 150), (139, 150), (140, 150)];
        let acted: Vec<bool> = story(&mut monitor, &steps).into_iter().map(|(acted, _)| acted).collect();
        assert_eq!(acted, [false, false, true, false, false, false, true]);
        let verdict = monitor.observe(&readings(&[(Signal::MemoryAvailable, 1)]), at(150));
        assert_eq!(verdict.crossed.unwrap().grace, 30);
    }

    #[test]
    fn a_shortage_is_over_when_what_was_asked_for_beyond_the_threshold_is_free() {
        let mut monitor = Monitor::new(settings("memory.available<100", "", "", "memory.available=50"));
        let steps = [(0, 120), (10, 99), (20, 120), (30, 149), (40, 150), (50, 120)];
        let acted: Vec<bool> = story(&mut monitor, &steps).into_iter().map(|(acted, _)| acted).collect();
        assert_eq!(acted, [false, true, true, true, false, false]);
        assert!(!monitor.is_relieved(&readings(&[(Signal::MemoryAvailable, 149)])));
        assert!(monitor.is_relieved(&readings(&[(Signal::MemoryAvailable, 150)])));
    }

    #[test]
    fn memory_comes_first_and_what_could_not_be_measured_is_enough() {
        let all = "pid.available<100,nodefs.available<10%,memory.available<100";
        let mut monitor = Monitor::new(settings(all, "", "", ""));
        let short = readings(&[(Signal::PidAvailable, 5), (Signal::NodefsAvailable, 99), (Signal::MemoryAvailable, 5)]);
        let verdict = monitor.observe(&short, T0);
        assert_eq!(verdict.crossed.unwrap().signal, Signal::MemoryAvailable);
        assert_eq!(verdict.conditions, BTreeSet::from(Condition::ALL));
        let verdict = monitor.observe(&readings(&[(Signal::NodefsAvailable, 99)]), T0);
        let crossed = verdict.crossed.unwrap();
        assert_eq!((crossed.signal, crossed.threshold.to_string().as_str()), (Signal::NodefsAvailable, "100"));
        assert_eq!(monitor.observe(&Readings::new(), T0).crossed, None);
        assert!(Monitor::new(Settings::default()).is_idle());
    }

    #[test]
    fn of_two_thresholds_of_one_signal_the_hard_one_is_acted_on() {
        let mut monitor =
            Monitor::new(settings("memory.available<100", "memory.available<200", "memory.available=1s", ""));
        let verdict = monitor.observe(&readings(&[(Signal::MemoryAvailable, 50)]), T0);
        assert_eq!(verdict.crossed.unwrap().grace, HARD_GRACE);
    }
}
