//! The full pass over all CronJobs, the safety net below events and times.
//!
//! Invariant: it is spread evenly over its period, so that it is never felt: of 100,000 CronJobs a few are looked at every
//! 0.4 s, not all of them at once every ten minutes.

use jiff::{SignedDuration, Timestamp};

use super::cache::{Cache, Key};

/// How many are looked at together.
const PIECE: usize = 64;

/// A pass, over and over.
#[derive(Debug)]
pub struct Pass {
    period: SignedDuration,
    /// How far it is; `None` between two of them.
    last: Option<Key>,
    /// When it goes on, or the next one begins.
    next: Timestamp,
    /// How long it waits after each piece.
    pause: SignedDuration,
}

impl Pass {
    /// A pass in each `period`, the first one a period after `now`.
    pub fn new(now: Timestamp, period: SignedDuration) -> Pass {
        Pass { period, last: None, next: later(now, period), pause: period }
    }

    /// When there is something to be looked at.
    pub fn next(&self) -> Timestamp {
        self.next
    }

    /// What is to be looked at now.
    pub fn take(&mut self, now: Timestamp, cache: &Cache) -> Vec<Key> {
        if now < self.next {
            return Vec::new();
        }
        if self.last.is_none() {
            let pieces = cache.len().div_ceil(PIECE).max(1);
            self.pause = self.period / i32::try_from(pieces).unwrap_or(i32::MAX);
        }
        self.next = later(now, self.pause);
        let keys = cache.after(self.last.as_ref(), PIECE);
        self.last = keys.last().filter(|_| keys.len() == PIECE).cloned();
        keys
    }
}

fn later(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.saturating_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::batch::v1::CronJob;
    use kube::runtime::watcher::Event;

    use super::*;

    /// How many keys are looked at when, in seconds, until `end`.
    fn looks(count: usize, end: i64) -> Vec<(i64, usize)> {
        let mut cache = Cache::default();
        for number in 0..count {
            let mut cron_job = CronJob::default();
            cron_job.metadata.name = Some(number.to_string());
            cache.cron_job_event(Event::Apply(cron_job));
        }
        let begin = Timestamp::UNIX_EPOCH;
        let mut pass = Pass::new(begin, SignedDuration::from_mins(10));
        let (mut looks, mut seen) = (Vec::new(), BTreeSet::new());
        while pass.next().as_second() < end {
            let now = pass.next();
            let keys = pass.take(now, &cache);
            assert!(pass.take(now, &cache).is_empty(), "not twice at a time");
            if keys.iter().any(|key| seen.contains(key)) {
                assert_eq!(seen.len(), count, "none is left out");
                seen.clear();
            }
            seen.extend(keys.iter().cloned());
            looks.push((now.as_second(), keys.len()));
        }
        looks
    }

    #[test]
    fn a_pass_over_a_few_is_one_look_each_period() {
        assert_eq!(looks(3, 1900), [(600, 3), (1200, 3), (1800, 3)]);
        assert_eq!(looks(0, 700), [(600, 0)]);
    }

    #[test]
    fn a_pass_over_many_takes_its_period_and_leaves_none_out() {
        let all = looks(200, 1900);
        assert_eq!(all[..5], [(600, 64), (750, 64), (900, 64), (1050, 8), (1200, 64)]);
        let all = looks(10_000, 1800);
        let most = all.windows(2).map(|two| two[1].0 - two[0].0).max();
        assert_eq!((all.len(), most), (315, Some(4)), "evenly");
    }
}
