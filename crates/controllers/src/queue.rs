//! Which keys are to be reconciled, now or at a later moment.
//!
//! ```text
//!            mark                 take                    done
//!    idle ────────► dirty ───────────────► busy ─────────────────► idle
//!                     ▲                     │ mark                   │ wake, at its moment
//!                     └─────────────────────┘ (dirty again when done)┘
//! ```
//!
//! Invariants: a key is never handed out twice at once; a mark is never lost; keys leave in the order in which they
//! were marked. Pure but for what it tells: the time is an argument.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::metrics::{Running, Work};

/// The longest that a controller waits without looking at the clock: a suspended machine or a clock that steps is noticed
/// within this time.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// For how many keys there is room at all times.
const ROOM: usize = 1024;

/// How long to wait for the moment `at`: a little longer, never shorter, since timers have a granularity of 1 ms; and at most
/// a minute, also when there is nothing to wait for.
pub fn wait_for(at: Option<Timestamp>, now: Timestamp) -> Duration {
    let Some(at) = at else { return LONGEST_WAIT };
    let left = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
    (left + Duration::from_millis(1)).min(LONGEST_WAIT)
}

/// A queue of keys, each at most once.
#[derive(Debug)]
pub struct Queue<K> {
    ready: VecDeque<K>,
    /// With the moments since when they wait.
    dirty: HashMap<K, Instant>,
    busy: HashMap<K, Running>,
    /// Moments at which keys become dirty by themselves. One moment per key: the earliest that was asked for.
    wakes: BTreeSet<(Timestamp, K)>,
    wake_of: BTreeMap<K, Timestamp>,
    failures: HashMap<K, u32>,
    /// What is told of it.
    work: Work,
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// An empty queue, of which nothing is told.
    pub fn new() -> Queue<K> {
        Queue::telling(Work::default())
    }

    /// An empty queue, of which `work` tells.
    pub fn telling(work: Work) -> Queue<K> {
        Queue {
            work,
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            busy: HashMap::new(),
            wakes: BTreeSet::new(),
            wake_of: BTreeMap::new(),
            failures: HashMap::new(),
        }
    }

    /// Says that `key` is to be reconciled.
    pub fn mark(&mut self, key: K) {
        let Entry::Vacant(place) = self.dirty.entry(key.clone()) else { return };
        place.insert(Instant::now());
        self.work.added();
        if !self.busy.contains_key(&key) {
            self.ready.push_back(key);
            self.work.holds(self.ready.len());
        }
    }

    /// Says that `key` is to be reconciled at `at`. An earlier moment that was asked for stays.
    pub fn mark_at(&mut self, key: K, at: Timestamp) {
        if let Some(known) = self.wake_of.get(&key).copied() {
            if known <= at {
                return;
            }
            self.wakes.remove(&(known, key.clone()));
        }
        self.wake_of.insert(key.clone(), at);
        self.wakes.insert((at, key));
    }

    /// Takes the next dirty key for which `is_free` holds; the others stay dirty. It is busy until [`Queue::done`].
    pub fn take(&mut self, now: Timestamp, mut is_free: impl FnMut(&K) -> bool) -> Option<K> {
        while let Some((at, key)) = self.wakes.first().cloned().filter(|(at, _)| *at <= now) {
            self.wakes.remove(&(at, key.clone()));
            self.wake_of.remove(&key);
            self.mark(key);
        }
        let Some(position) = self.ready.iter().position(&mut is_free) else {
            self.let_go();
            return None;
        };
        let key = self.ready.remove(position).expect("the position was just found");
        let since = self.dirty.remove(&key);
        self.busy.insert(key.clone(), self.work.begin(since.map(|since| since.elapsed()).unwrap_or_default()));
        self.work.holds(self.ready.len());
        Some(key)
    }

    /// Gives `key` back after its plan went through.
    pub fn done(&mut self, key: &K) {
        self.failures.remove(key);
        self.give_back(key);
    }

    /// Gives `key` back after its plan failed: it is tried again after 1 s, 2 s, 4 s … 1 min, or when it is marked.
    pub fn failed(&mut self, key: &K, now: Timestamp) {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let delay = SignedDuration::from_secs(1_i64.checked_shl(*failures).unwrap_or(60).clamp(1, 60));
        *failures = failures.saturating_add(1).min(16);
        self.work.retried();
        self.give_back(key);
        self.mark_at(key.clone(), now.saturating_add(delay).unwrap_or(Timestamp::MAX));
    }

    /// When the next key becomes dirty by itself.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// How many keys are out.
    pub fn busy(&self) -> usize {
        self.busy.len()
    }

    /// Lets go of the room of a full pass over many keys, once it is over.
    fn let_go(&mut self) {
        if self.ready.is_empty() && self.ready.capacity() > ROOM {
            self.ready.shrink_to(ROOM);
            self.dirty.shrink_to(ROOM);
        }
    }

    fn give_back(&mut self, key: &K) {
        self.busy.remove(key);
        if self.dirty.contains_key(key) {
            self.ready.push_back(key.clone());
            self.work.holds(self.ready.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    const T0: Timestamp = Timestamp::UNIX_EPOCH;

    fn take(queue: &mut Queue<&'static str>, now: Timestamp) -> Option<&'static str> {
        queue.take(now, |_| true)
    }

    #[test]
    fn a_key_is_handed_out_once_however_often_it_is_marked() {
        let mut queue = Queue::new();
        for key in ["a", "b", "a"] {
            queue.mark(key);
        }
        assert_eq!(take(&mut queue, T0), Some("a"));
        queue.mark("a");
        assert_eq!(take(&mut queue, T0), Some("b"));
        assert_eq!(take(&mut queue, T0), None, "a is busy");
        queue.done(&"a");
        assert_eq!(take(&mut queue, T0), Some("a"), "the mark while it was busy is not lost");
        queue.done(&"a");
        assert_eq!(take(&mut queue, T0), None);
    }

    #[test]
    fn a_key_wakes_at_the_earliest_moment_that_was_asked_for() {
        let mut queue = Queue::new();
        queue.mark_at("a", T0 + 5.seconds());
        queue.mark_at("a", T0 + 9.seconds());
        queue.mark_at("a", T0 + 3.seconds());
        assert_eq!(queue.next_wake(), Some(T0 + 3.seconds()));
        assert_eq!(take(&mut queue, T0 + 2.seconds()), None);
        assert_eq!(take(&mut queue, T0 + 3.seconds()), Some("a"));
        queue.done(&"a");
        assert_eq!((take(&mut queue, T0 + 99.seconds()), queue.next_wake()), (None, None));
    }

    #[test]
    fn failures_in_a_row_wait_longer_and_a_success_resets_them() {
        let mut queue = Queue::new();
        let mut now = T0;
        let mut waits = Vec::new();
        for round in 0..9 {
            queue.mark("a");
            assert_eq!(take(&mut queue, now), Some("a"));
            if round == 7 {
                queue.done(&"a");
                continue;
            }
            queue.failed(&"a", now);
            let wake = queue.next_wake().unwrap();
            waits.push(wake.as_second() - now.as_second());
            now = wake;
            assert_eq!(take(&mut queue, now), Some("a"));
            queue.give_back(&"a");
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 1]);
    }

    #[test]
    fn a_key_that_is_not_free_stays_and_does_not_hold_up_others() {
        let mut queue = Queue::new();
        queue.mark("a");
        queue.mark("b");
        assert_eq!(queue.take(T0, |key| *key != "a"), Some("b"));
        assert_eq!(queue.take(T0, |_| true), Some("a"));
    }
}
