//! The schedule language a second time, from its description and without cleverness: what the real one is compared with.
//!
//! A field is a list of values here, a day is tried after the other, and local time is what jiff tells, minute by minute.
//! Left out: why something is refused, and what Go does with fractions of a nanosecond.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Model {
    /// Minute, hour, day of the month, month, day of the week.
    Fields([Field; 5]),
    /// An interval, in seconds.
    Every(i128),
}

/// What a field selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// In order.
    pub values: Vec<i8>,
    /// Whether it counts as `*`.
    pub is_star: bool,
}

const MONTHS: &str = "jan feb mar apr may jun jul aug sep oct nov dec";
const WEEKDAYS: &str = "sun mon tue wed thu fri sat";

impl Model {
    /// Reads a schedule without a zone before it; `None` if it is refused.
    pub fn read(text: &str) -> Option<Model> {
        if let Some(interval) = text.strip_prefix("@every ") {
            return Some(Model::Every(nanoseconds(interval)?.max(1_000_000_000) / 1_000_000_000));
        }
        let written_out = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return None,
            other => other,
        };
        let texts: Vec<&str> = written_out.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = texts[..] else { return None };
        Some(Model::Fields([
            Field::read(minute, 0..=59, "", 0)?,
            Field::read(hour, 0..=23, "", 0)?,
            Field::read(day, 1..=31, "", 0)?,
            Field::read(month, 1..=12, MONTHS, 1)?,
            Field::read(weekday, 0..=6, WEEKDAYS, 0)?,
        ]))
    }

    /// Every moment after `from` and not later than `until` that it selects, found by looking at the clock on the wall
    /// each minute. An interval selects none: it counts from something.
    pub fn walk(&self, zone: &TimeZone, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let mut found = Vec::new();
        let mut second = from.as_second() + i64::from(from.subsec_nanosecond() >= 0);
        while let Some(at) = Timestamp::from_second(second).ok().filter(|at| *at <= until) {
            let local = zone.to_datetime(at);
            if local.second() == 0 && self.selects(local) {
                found.push(at);
            }
            // Local minutes begin anew where the clock changes: some were off by seconds.
            let next = Timestamp::from_second(second + 60).unwrap_or(Timestamp::MAX);
            let is_even = local.second() == 0 && zone.to_offset(next) == zone.to_offset(at);
            second += if is_even { 60 } else { 1 };
        }
        found
    }

    /// The first moment after `from`, found by trying each day until the end of the fifth year after; an interval has none.
    pub fn first(&self, zone: &TimeZone, from: Timestamp) -> Option<Timestamp> {
        let Model::Fields([minutes, hours, ..]) = self else { return None };
        let second = from.as_second() + i64::from(from.subsec_nanosecond() >= 0);
        let today = zone.to_datetime(Timestamp::from_second(second).ok()?).date();
        let last = today.year().checked_add(5)?;
        // Where midnight comes twice, some moments of a day are later than some of the next.
        let mut day = today.yesterday().ok()?;
        let mut best: Option<Timestamp> = None;
        let mut days_left = 3;
        while day.year() <= last && days_left > 0 {
            if self.selects_day(day) {
                for hour in &hours.values {
                    for minute in &minutes.values {
                        let found = moments(zone, day.at(*hour, *minute, 0, 0)).into_iter().filter(|at| *at > from);
                        best = found.chain(best).min();
                    }
                }
            }
            days_left -= i32::from(best.is_some());
            day = day.tomorrow().ok()?;
        }
        best
    }

    fn selects(&self, at: DateTime) -> bool {
        let Model::Fields([minutes, hours, ..]) = self else { return false };
        minutes.values.contains(&at.minute()) && hours.values.contains(&at.hour()) && self.selects_day(at.date())
    }

    fn selects_day(&self, day: Date) -> bool {
        let Model::Fields([_, _, days, months, weekdays]) = self else { return false };
        let by_day = days.values.contains(&day.day());
        let by_weekday = weekdays.values.contains(&day.weekday().to_sunday_zero_offset());
        let either = !days.is_star && !weekdays.is_star;
        months.values.contains(&day.month()) && if either { by_day || by_weekday } else { by_day && by_weekday }
    }
}

impl Field {
    fn read(text: &str, bounds: std::ops::RangeInclusive<i8>, names: &str, first: i8) -> Option<Field> {
        let mut field = Field { values: Vec::new(), is_star: false };
        for item in text.split(',') {
            if item.is_empty() {
                continue;
            }
            let parts: Vec<&str> = item.split('/').collect();
            let (range, step) = match parts[..] {
                [range] => (range, None),
                [range, step] => (range, Some(number(step)?)),
                _ => return None,
            };
            let ends: Vec<&str> = range.split('-').collect();
            let value = |text: &str| {
                let name = names.split(' ').position(|name| !name.is_empty() && name == lower(text));
                name.map(|place| i128::try_from(place).unwrap_or(0) + i128::from(first)).or_else(|| number(text))
            };
            let (min, max) = (i128::from(*bounds.start()), i128::from(*bounds.end()));
            let is_any = ends[0] == "*" || ends[0] == "?";
            let (low, high) = match ends[..] {
                _ if is_any => (min, max),
                [low] if step.is_some() => (value(low)?, max),
                [low] => (value(low)?, value(low)?),
                [low, high] => (value(low)?, value(high)?),
                _ => return None,
            };
            // After `*-` anything goes, and after it a step is no open end: which is the same here.
            let step = step.unwrap_or(1);
            if low < min || high > max || low > high || step == 0 {
                return None;
            }
            field.is_star |= is_any && step == 1;
            field.values.extend(bounds.clone().filter(|value| {
                let value = i128::from(*value);
                low <= value && value <= high && (value - low) % step == 0
            }));
        }
        field.values.sort_unstable();
        field.values.dedup();
        Some(field)
    }
}

/// In lower case, a character for a character, as Go does it.
fn lower(text: &str) -> String {
    text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect()
}

/// A number that is not negative, below 2^63, with or without a sign.
fn number(text: &str) -> Option<i128> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let number = counted(digits)?;
    (number == 0 || !is_negative && number < 1 << 63).then_some(number)
}

/// Digits, worth no more than 2^63.
fn counted(digits: &str) -> Option<i128> {
    let worth = |digit: char| digit.to_digit(10).map(i128::from);
    let add = |sum: i128, digit: char| Some(sum * 10 + worth(digit)?).filter(|sum| *sum <= 1 << 63);
    if digits.is_empty() { None } else { digits.chars().try_fold(0, add) }
}

/// A Go duration, in nanoseconds.
fn nanoseconds(text: &str) -> Option<i128> {
    let is_negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0_i128;
    while !rest.is_empty() {
        let (amount, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        sum += if whole.is_empty() { 0 } else { counted(whole)? * scale };
        let mut worth = scale;
        for digit in fraction.chars() {
            worth /= 10;
            sum += i128::from(digit.to_digit(10)?) * worth;
        }
        if sum > 1 << 63 {
            return None;
        }
        rest = after;
    }
    if is_negative { Some(-sum) } else { Some(sum).filter(|sum| *sum < 1 << 63) }
}

/// When it is so late on the wall: never, once or twice.
fn moments(zone: &TimeZone, local: DateTime) -> Vec<Timestamp> {
    let utc = |offset: jiff::tz::Offset| offset.to_timestamp(local).ok();
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => utc(offset).into_iter().collect(),
        AmbiguousOffset::Gap { .. } => Vec::new(),
        AmbiguousOffset::Fold { before, after } => utc(before).into_iter().chain(utc(after)).collect(),
    }
}
