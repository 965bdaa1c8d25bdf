//! Which time of a schedule was due last, and how many passed.
//!
//! Upstream: `pkg/controller/cronjob/utils.go` (`mostRecentScheduleTime`, `nextScheduleTimeDuration`), v1.36. What it
//! estimates by stepping from a guess is found here exactly; its estimate is kept where it shows, in the warning about
//! too many missed times.

use jiff::{SignedDuration, Timestamp};

use crate::schedule::Schedule;
use crate::schedule::zone::Zone;

/// Counting ends here: nobody needs to know better.
const MOST: usize = 100_000;

/// What a schedule says about a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It has no time within five years.
    Never,
    /// Its first time is yet to come.
    NotYet,
    /// This time was the last one.
    At {
        /// The time.
        at: Timestamp,
        /// How many times there were, as upstream estimates it from the first two.
        estimate: i64,
    },
}

/// What was due after `base` and not later than `now`.
pub(super) fn due(schedule: Schedule, base: Timestamp, now: Timestamp, zone: &Zone) -> Due {
    let Some(first) = schedule.next(base, zone) else { return Due::Never };
    if now < first {
        return Due::NotYet;
    }
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return Due::At { at: first, estimate: 1 };
    };
    let interval = second.duration_since(first).as_secs().max(1);
    let estimate = now.duration_since(first).as_secs() / interval + 1;
    Due::At { at: latest(schedule, first, now, zone), estimate }
}

/// The last time of `schedule` that is not later than `now`; `first` is one of its times, not later either.
pub fn latest(schedule: Schedule, first: Timestamp, now: Timestamp, zone: &Zone) -> Timestamp {
    if let Schedule::Every(interval) = schedule {
        let passed = now.duration_since(first).as_secs() / interval.as_secs().max(1);
        let later = interval.as_secs().checked_mul(passed).map(SignedDuration::from_secs);
        return later.and_then(|later| first.checked_add(later).ok()).unwrap_or(first);
    }
    // Look back twice as far each time: what is walked then is at most the second half.
    let mut back = SignedDuration::from_mins(2);
    loop {
        let start = now.checked_sub(back).map_or(first, |start| start.max(first));
        let found = schedule.fires(start, zone).take_while(|at| *at <= now).last();
        if let Some(found) = found {
            return found;
        }
        if start == first {
            return first;
        }
        back = back.saturating_mul(2);
    }
}

/// How many times of `schedule` are later than `base` and not later than `until`; counting ends at 100,000.
pub fn missed(schedule: Schedule, base: Timestamp, until: Timestamp, zone: &Zone) -> usize {
    schedule.fires(base, zone).take_while(|at| *at <= until).take(MOST).count()
}

/// The first time after `now`, of a schedule that counts from `base`.
pub(super) fn upcoming(schedule: Schedule, base: Timestamp, now: Timestamp, zone: &Zone) -> Option<Timestamp> {
    let first = schedule.next(base, zone)?;
    if now < first { Some(first) } else { schedule.next(latest(schedule, first, now, zone), zone) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn of(schedule: &str, base: &str, now: &str) -> Due {
        due(Schedule::parse(schedule).unwrap(), at(base), at(now), &Zone::utc())
    }

    #[test]
    fn the_most_recent_time_is_found_whatever_the_gaps() {
        for (schedule, base, now, last, estimate) in [
            ("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z", "2026-01-01T01:00:00Z", 1),
            ("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T09:30:00Z", "2026-01-01T09:00:00Z", 9),
            ("@every 20s", "2026-01-01T00:00:07Z", "2026-01-01T00:01:08Z", "2026-01-01T00:01:07Z", 3),
            // The first two are a minute apart: upstream's estimate looks for the last one in the last minute.
            ("* 9 * * *", "2026-01-01T08:00:00Z", "2026-01-02T12:00:00Z", "2026-01-02T09:59:00Z", 1621),
            ("30 6-16/4 * * 1-5", "2026-01-02T10:30:00Z", "2026-01-05T08:00:00Z", "2026-01-05T06:30:00Z", 2),
            ("@yearly", "2016-05-01T00:00:00Z", "2026-12-31T23:59:59Z", "2026-01-01T00:00:00Z", 11),
            ("* * * * *", "2016-01-01T00:00:00Z", "2026-01-01T00:00:30Z", "2026-01-01T00:00:00Z", 5_260_320),
        ] {
            assert_eq!(of(schedule, base, now), Due::At { at: at(last), estimate }, "{schedule} from {base} to {now}");
        }
        assert_eq!(of("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:59:59.9Z"), Due::NotYet);
        assert_eq!(of("0 0 31 2 *", "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"), Due::Never);
    }

    #[test]
    fn an_interval_keeps_step_with_what_it_counts_from() {
        let every = Schedule::parse("@every 7m").unwrap();
        let next = upcoming(every, at("2026-01-01T00:00:00Z"), at("2026-01-01T00:30:00Z"), &Zone::utc());
        assert_eq!(next, Some(at("2026-01-01T00:35:00Z")));
        assert_eq!(missed(every, at("2026-01-01T00:00:00Z"), at("2026-01-01T00:35:00Z"), &Zone::utc()), 5);
    }
}
