//! When a schedule fires next: arithmetic on bit sets, a stretch of constant offset at a time.
//!
//! ```text
//!   local time   ──────────────┐     ┌────────────    a day is found by its month's days as bits,
//!                    +01:00    │     │   +01:00       a minute by the bits of hours and minutes;
//!                              └─────┘                a stretch ends where the zone's offset changes
//!   UTC          ──────────────┴─────┴────────────►
//! ```
//!
//! Invariant: a calendar fires at every moment whose local time its fields select, at second 0, and at no other. So what
//! a gap skips does not fire, and what an overlap repeats fires twice. Nothing is allocated, and no minute is walked.
//! Upstream: `github.com/robfig/cron/v3` (`spec.go`, `constantdelay.go`). It walks, and so misses two kinds of moments
//! that this finds: a day whose midnight is skipped east of Greenwich, and the rest of an hour of which a shift by less
//! than an hour takes the beginning.

use jiff::Timestamp;

use super::civil::{Day, SECONDS_OF_DAY};
use super::zone::Zone;
use super::{Calendar, STAR, Schedule};

/// How many years after the one that is asked about are searched; then it is never.
const YEARS: i32 = 5;

impl Schedule {
    /// The first moment later than `after` that this schedule selects, with local time as in `zone`; `None` if there is
    /// none within five years.
    pub fn next(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let before_epoch = i64::from(after.subsec_nanosecond() < 0);
        let second = after.as_second() - before_epoch;
        let next = match self {
            Schedule::Every(interval) => second.checked_add(interval.as_secs())?,
            Schedule::Calendar(calendar) => calendar.first_from(second + 1, zone)?,
        };
        Timestamp::from_second(next).ok()
    }

    /// Every moment later than `after` that this schedule selects.
    pub fn fires(self, after: Timestamp, zone: &Zone) -> impl Iterator<Item = Timestamp> {
        std::iter::successors(self.next(after, zone), move |at| self.next(*at, zone))
    }

    /// Whether no year has a moment that this schedule selects, as on 31 February or with an empty field.
    pub fn is_never(&self) -> bool {
        match self {
            Schedule::Every(_) => false,
            Schedule::Calendar(calendar) => calendar.is_never(),
        }
    }
}

impl Calendar {
    /// The first selected moment at or after `start`, both in seconds since 1970.
    fn first_from(&self, start: i64, zone: &Zone) -> Option<i64> {
        let stretches = zone.stretches_from(start);
        let first = stretches.first()?;
        let last_year = Day::of_second(start + first.offset).year + YEARS;
        let mut from = start;
        for (place, stretch) in stretches.iter().enumerate() {
            let end = stretches.get(place + 1).map_or(i64::MAX, |next| next.from);
            let last = if end == i64::MAX { None } else { Some(Day::of_second(end + stretch.offset)) };
            let last = last.map_or((last_year, 12), |day| (day.year, day.month).min((last_year, 12)));
            let found = self.first_local(from + stretch.offset, last).map(|local| local - stretch.offset);
            if let Some(at) = found.filter(|at| *at < end) {
                return Some(at);
            }
            if last >= (last_year, 12) {
                return None;
            }
            from = end;
        }
        None
    }

    /// The first selected local time from `from` on in seconds, as if the offset never changed; not looked for in months
    /// after `last`.
    fn first_local(&self, from: i64, last: (i32, u32)) -> Option<i64> {
        // A minute that has begun is over: its second 0 has passed.
        let minute = from.div_euclid(60) + i64::from(from.rem_euclid(60) > 0);
        let today = Day::of_second(minute * 60);
        let of_day = u32::try_from(minute.rem_euclid(SECONDS_OF_DAY / 60)).ok()?;
        if self.days_of(&today.first_of_month()) >> today.of_month & 1 == 1
            && let Some(at) = self.time_from(of_day / 60, of_day % 60)
        {
            return Some(today.second() + at);
        }
        let time = self.time_from(0, 0)?;
        let (mut month, mut after) = (today.first_of_month(), today.of_month);
        while (month.year, month.month) <= last {
            let days = self.days_of(&month) & u64::MAX << after << 1;
            if days != 0 {
                return Some(month.second() + i64::from(days.trailing_zeros() - 1) * SECONDS_OF_DAY + time);
            }
            after = 0;
            month = month.next_month();
        }
        None
    }

    /// The selected days of the month that begins with `first`, bit n for day n.
    fn days_of(&self, first: &Day) -> u64 {
        if self.months >> first.month & 1 == 0 {
            0
        } else {
            self.selected_days(first.weekday()) & in_month(first.days_in_month())
        }
    }

    /// The selected days of a month that begins on this weekday (0 is Sunday): both day fields where one of them is `*`,
    /// either of them otherwise.
    fn selected_days(&self, first_weekday: u32) -> u64 {
        let week = self.weekdays & 0x7f;
        // Bit 0 for the weekday of the first of the month.
        let turned = (week >> first_weekday | week << (7 - first_weekday)) & 0x7f;
        let by_weekday = (turned * 0x0102_0408_1020_4081) << 1;
        let by_day = self.days & !STAR;
        if (self.days | self.weekdays) & STAR != 0 { by_day & by_weekday } else { by_day | by_weekday }
    }

    /// The first selected time of a day at or after this one, in seconds from midnight.
    fn time_from(&self, hour: u32, minute: u32) -> Option<i64> {
        let (hours, minutes) = (self.hours & !STAR, self.minutes & !STAR);
        if minutes == 0 {
            return None;
        }
        let left = minutes & u64::MAX << minute;
        let later = hours & u64::MAX << hour << 1;
        let (hour, minute) = if hours >> hour & 1 == 1 && left != 0 {
            (hour, left.trailing_zeros())
        } else if later != 0 {
            (later.trailing_zeros(), minutes.trailing_zeros())
        } else {
            return None;
        };
        Some(i64::from(hour * 60 + minute) * 60)
    }

    pub(super) fn is_never(&self) -> bool {
        let longest = |month: u32| match month {
            2 => 29,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let some_day = |month: u32| (0..7).any(|weekday| self.selected_days(weekday) & in_month(longest(month)) != 0);
        self.time_from(0, 0).is_none() || !(1..=12).any(|month| self.months >> month & 1 == 1 && some_day(month))
    }
}

/// Bits 1 to `days`.
fn in_month(days: u32) -> u64 {
    (1 << (days + 1)) - 2
}
