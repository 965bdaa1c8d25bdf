//! When a schedule fires next, with what the clocks do to it: for people who want to know before it happens.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::Schedule;
use super::zone::Zone;

/// A line of a preview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// It fires.
    Fires {
        /// When.
        at: Timestamp,
        /// What there is to say about it.
        remark: Option<Remark>,
    },
    /// It does not fire, since the clocks skip a time that it selects.
    Skipped {
        /// When they skip it.
        at: Timestamp,
        /// By how many seconds.
        gap: i64,
    },
}

/// What the clocks do to a fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// Its local time comes twice; this is the first.
    First,
    /// Its local time has been before, on the same day.
    Again,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Remark::First => "the clocks go back after it: this time comes again",
            Remark::Again => "the clocks have gone back: this time comes for the second time",
        })
    }
}

impl Schedule {
    /// The next `count` fires after `after`, and what is skipped among them.
    pub fn preview(self, after: Timestamp, zone: &Zone, count: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut from = after;
        for at in self.fires(after, zone).take(count) {
            rows.extend(self.skipped(from, at, zone));
            rows.push(Row::Fires { at, remark: self.remark(at, zone) });
            from = at;
        }
        rows
    }

    /// The gaps between two moments that hold a time that this schedule selects.
    fn skipped(self, from: Timestamp, until: Timestamp, zone: &Zone) -> Vec<Row> {
        let gaps = zone.changes(from).take_while(|change| change.0 <= until).filter(|change| change.2 > change.1);
        let selects = |(at, before, after): &(Timestamp, i64, i64)| {
            // As if the clocks had gone on.
            let gap = SignedDuration::from_secs(after - before);
            let next = self.next(*at - SignedDuration::from_secs(1), &Zone::fixed(*before));
            matches!(self, Schedule::Calendar(_)) && next.is_some_and(|next| next < *at + gap)
        };
        gaps.filter(selects).map(|(at, before, after)| Row::Skipped { at, gap: after - before }).collect()
    }

    fn remark(self, at: Timestamp, zone: &Zone) -> Option<Remark> {
        if matches!(self, Schedule::Every(_)) {
            return None;
        }
        let day = SignedDuration::from_hours(24);
        zone.changes(at - day).take_while(|change| change.0 <= at + day).find_map(|(change, before, after)| {
            let back = SignedDuration::from_secs(before - after);
            if back.is_negative() {
                return None;
            }
            if (change..change + back).contains(&at) {
                return Some(Remark::Again);
            }
            (change - back..change).contains(&at).then_some(Remark::First)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::zone::named;
    use super::*;

    fn preview(schedule: &str, after: &str, count: usize) -> Vec<String> {
        let zone = named("Europe/Berlin").unwrap();
        let rows = Schedule::parse(schedule).unwrap().preview(after.parse().unwrap(), &zone, count);
        rows.into_iter()
            .map(|row| match row {
                Row::Fires { at, remark: None } => at.to_string(),
                Row::Fires { at, remark: Some(remark) } => format!("{at} {remark:?}"),
                Row::Skipped { at, gap } => format!("{at} skips {gap} s"),
            })
            .collect()
    }

    #[test]
    fn what_the_clocks_skip_and_repeat_is_told() {
        assert_eq!(
            preview("30 2 * * *", "2026-03-28T00:00:00Z", 2),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z skips 3600 s", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            preview("30 2 * * *", "2026-10-24T12:00:00Z", 3),
            ["2026-10-25T00:30:00Z First", "2026-10-25T01:30:00Z Again", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(preview("0 3 * * *", "2026-03-28T12:00:00Z", 1), ["2026-03-29T01:00:00Z"]);
        assert_eq!(preview("@every 30m", "2026-10-25T00:10:00Z", 1), ["2026-10-25T00:40:00Z"]);
    }
}
