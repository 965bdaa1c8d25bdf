//! The language of `spec.schedule`: what robfig/cron's standard parser takes, with its errors, since users see them.
//!
//! ```text
//!   30 3 1-15/2 * mon     five fields: minute, hour, day of the month, month, day of the week
//!   @daily                or a macro
//!   @every 1h30m          or an interval, a Go duration
//!   TZ=Europe/Berlin …    before any of them, a zone (which the API refuses: it has `spec.timeZone`)
//! ```
//!
//! Invariant: a [`Schedule`] is bit sets, without a pointer. When it fires is in [`next`], where zones are from in
//! [`zone`].
//! Upstream: `github.com/robfig/cron/v3` (`parser.go`, `ParseStandard`), Go's `time.ParseDuration` and `strconv.Atoi`.

mod civil;
mod duration;
mod next;
pub mod preview;
mod words;
pub mod zone;

use jiff::SignedDuration;

use crate::field::quote;

/// When something is due, as users write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the moments of the calendar that all fields select.
    Calendar(Calendar),
    /// After this time, over and over: at least a second, in whole seconds.
    Every(SignedDuration),
}

/// Which minutes, hours and days: bit n of a field stands for the value n, bit 63 for a field that was `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// 0 to 59.
    pub minutes: u64,
    /// 0 to 23.
    pub hours: u64,
    /// 1 to 31.
    pub days: u64,
    /// 1 to 12.
    pub months: u64,
    /// 0 (Sunday) to 6.
    pub weekdays: u64,
}

/// The bit that says that a field was `*` or `?`, with no step but 1: then the other day field decides alone.
pub const STAR: u64 = 1 << 63;

/// Why a text is no schedule, in the parser's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

/// What a field may hold.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
    /// The value of the first name.
    first: u32,
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[], first: 0 };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[], first: 0 };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[], first: 0 };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    first: 1,
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"], first: 0 };

impl Schedule {
    /// Reads a schedule. A zone before it has to exist; [`Schedule::zone_in`] tells it.
    ///
    /// # Errors
    ///
    /// What the parser says, letter by letter; where it panics, what a controller says that catches the panic.
    pub fn parse(text: &str) -> Result<Schedule, ParseError> {
        let fail = |why: String| Err(ParseError(why));
        if text.is_empty() {
            return fail("empty spec string".to_owned());
        }
        let mut rest = text;
        if let Some(zoned) = after_prefix(text) {
            let Some((zone, schedule)) = zoned.split_once(' ') else {
                return fail("invalid schedule format: runtime error: slice bounds out of range [:-1]".to_owned());
            };
            if let Err(why) = zone::find(zone) {
                return fail(format!("provided bad location {zone}: {why}"));
            }
            rest = schedule.trim();
        }
        if rest.starts_with('@') {
            return descriptor(rest);
        }
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let &[minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return fail(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        Ok(Schedule::Calendar(Calendar {
            minutes: field(minutes, &MINUTES)?,
            hours: field(hours, &HOURS)?,
            days: field(days, &DAYS)?,
            months: field(months, &MONTHS)?,
            weekdays: field(weekdays, &WEEKDAYS)?,
        }))
    }

    /// The zone that stands before the schedule in `text`.
    pub fn zone_in(text: &str) -> Option<&str> {
        after_prefix(text)?.split_once(' ').map(|(zone, _)| zone)
    }
}

fn after_prefix(text: &str) -> Option<&str> {
    text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="))
}

fn descriptor(text: &str) -> Result<Schedule, ParseError> {
    let all = |bounds: &Bounds| bits(bounds.min, bounds.max, 1) | STAR;
    let first = |bounds: &Bounds| 1 << bounds.min;
    let daily = Calendar {
        minutes: first(&MINUTES),
        hours: first(&HOURS),
        days: all(&DAYS),
        months: all(&MONTHS),
        weekdays: all(&WEEKDAYS),
    };
    let calendar = match text {
        "@yearly" | "@annually" => Calendar { days: first(&DAYS), months: first(&MONTHS), ..daily },
        "@monthly" => Calendar { days: first(&DAYS), ..daily },
        "@weekly" => Calendar { weekdays: first(&WEEKDAYS), ..daily },
        "@daily" | "@midnight" => daily,
        "@hourly" => Calendar { hours: all(&HOURS), ..daily },
        _ => {
            let Some(interval) = text.strip_prefix("@every ") else {
                return Err(ParseError(format!("unrecognized descriptor: {text}")));
            };
            let interval = duration::parse(interval)
                .map_err(|why| ParseError(format!("failed to parse duration {text}: {why}")))?;
            return Ok(Schedule::Every(SignedDuration::from_secs(interval.as_secs().max(1))));
        }
    };
    Ok(Schedule::Calendar(calendar))
}

/// A comma-separated list. An empty item counts for nothing, so that a field of commas never matches.
fn field(text: &str, bounds: &Bounds) -> Result<u64, ParseError> {
    text.split(',').filter(|item| !item.is_empty()).try_fold(0, |all, item| Ok(all | range(item, bounds)?))
}

fn range(item: &str, bounds: &Bounds) -> Result<u64, ParseError> {
    let fail = |why: String| Err(ParseError(why));
    let mut parts = item.split('/');
    let values = parts.next().unwrap_or_default();
    let step = parts.next();
    let mut ends = values.split('-');
    let (low, high) = (ends.next().unwrap_or_default(), ends.next());
    let (first, mut last, mut star);
    if matches!(low, "*" | "?") {
        (first, last, star) = (i64::from(bounds.min), i64::from(bounds.max), STAR);
    } else {
        first = value(low, bounds)?;
        last = match high {
            None => first,
            Some(_) if ends.next().is_some() => return fail(format!("too many hyphens: {item}")),
            Some(high) => value(high, bounds)?,
        };
        star = 0;
    }
    let step = match step {
        None => 1,
        Some(_) if parts.next().is_some() => return fail(format!("too many slashes: {item}")),
        Some(step) => {
            let step = number(step)?;
            if high.is_none() {
                last = i64::from(bounds.max); // `n/step` means from n on
            }
            if step > 1 {
                star = 0;
            }
            step
        }
    };
    let (min, max) = (i64::from(bounds.min), i64::from(bounds.max));
    if first < min {
        return fail(format!("beginning of range ({first}) below minimum ({min}): {item}"));
    }
    if last > max {
        return fail(format!("end of range ({last}) above maximum ({max}): {item}"));
    }
    if first > last {
        return fail(format!("beginning of range ({first}) beyond end of range ({last}): {item}"));
    }
    if step == 0 {
        return fail(format!("step of range should be a positive number: {item}"));
    }
    let within = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(bits(within(first), within(last), within(step)) | star)
}

/// The bits of every `step`-th value.
fn bits(first: u32, last: u32, step: u32) -> u64 {
    (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX)).fold(0, |bits, value| bits | 1 << value)
}

fn value(text: &str, bounds: &Bounds) -> Result<i64, ParseError> {
    // Go writes all of it in lower case, and for Go that of `İ` is an `i`.
    let text_as_read = text.replace('\u{130}', "i");
    match bounds.names.iter().position(|name| name.eq_ignore_ascii_case(&text_as_read)) {
        Some(place) => Ok(i64::from(bounds.first) + i64::try_from(place).unwrap_or(0)),
        None => number(text),
    }
}

/// A number as Go's `Atoi` reads it, a sign included; below zero it is refused.
fn number(text: &str) -> Result<i64, ParseError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let why = if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        "invalid syntax"
    } else {
        match text.parse::<i64>() {
            Ok(number) if number < 0 => {
                return Err(ParseError(format!("negative number ({number}) not allowed: {text}")));
            }
            Ok(number) => return Ok(number),
            Err(_) => "value out of range",
        }
    };
    Err(ParseError(format!("failed to parse int from {text}: strconv.Atoi: parsing {}: {why}", quote(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calendar(text: &str) -> Calendar {
        match Schedule::parse(text) {
            Ok(Schedule::Calendar(calendar)) => calendar,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn list(bits: u64) -> Vec<u32> {
        (0..63).filter(|bit| bits & 1 << bit != 0).collect()
    }

    #[test]
    fn fields_are_lists_of_ranges_with_steps_and_names() {
        assert_eq!(list(calendar("5/15 * * * *").minutes), [5, 20, 35, 50]);
        assert_eq!(list(calendar("* 1-10/3,22 * * *").hours), [1, 4, 7, 10, 22]);
        assert_eq!(list(calendar("* * * JAN-mar,Dec *").months), [1, 2, 3, 12]);
        assert_eq!(list(calendar("* * * * mon-FRI").weekdays), [1, 2, 3, 4, 5]);
        assert_eq!(list(calendar("* * * * FR\u{130}").weekdays), [5], "as in Go");
        assert_eq!(list(calendar(" +5\t0 1 1 ? ").minutes), [5]);
        assert_eq!(list(calendar(", * * * *").minutes), [0_u32; 0]);
        assert_eq!(list(calendar("*/100 * * * *").minutes), [0], "a step beyond the range is legal");
    }

    #[test]
    fn a_star_is_told_from_a_list_of_everything() {
        let star = |text: &str| calendar(text).days & STAR != 0;
        assert!(star("* * * * *") && star("* * ? * *") && star("* * */1 * *") && star("* * *-5 * *"));
        assert!(!star("* * */2 * *") && !star("* * 1-31 * *"));
    }

    #[test]
    fn macros_and_intervals_are_understood() {
        assert_eq!(calendar("@yearly"), calendar("@annually"));
        assert_eq!(calendar("@daily"), calendar("0 0 * * *"));
        assert_eq!(calendar("@weekly"), calendar("0 0 * * 0"));
        assert_eq!(calendar("TZ=Europe/Berlin  @hourly"), calendar("0 * * * *"));
        let every = |seconds| Ok(Schedule::Every(SignedDuration::from_secs(seconds)));
        for (text, seconds) in [("1h30m", 5400), ("1.5h", 5400), ("300ms", 1), ("-1h", 1), ("2.9s", 2)] {
            assert_eq!(Schedule::parse(&format!("@every {text}")), every(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_the_parsers_words() {
        for (text, why) in [
            ("", "empty spec string"),
            ("* *", "expected exactly 5 fields, found 2: [* *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("9-3 * * * *", "beginning of range (9) beyond end of range (3): 9-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("*/-1 * * * *", "negative number (-1) not allowed: -1"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            (
                "99999999999999999999 * * * *",
                "failed to parse int from 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
            ),
            ("@reboot", "unrecognized descriptor: @reboot"),
            ("@every", "unrecognized descriptor: @every"),
            ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
            ("TZ=UTC", "invalid schedule format: runtime error: slice bounds out of range [:-1]"),
            ("TZ=Foo/Bar 0 0 * * *", "provided bad location Foo/Bar: unknown time zone Foo/Bar"),
            ("TZ=../etc 0 0 * * *", "provided bad location ../etc: time: invalid location name"),
        ] {
            assert_eq!(Schedule::parse(text), Err(ParseError(why.to_owned())), "{text}");
        }
    }
}
