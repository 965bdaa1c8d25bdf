//! When an entry runs: cron's five fields or macro, and the same as a schedule of Kubernetes.
//!
//! The two languages differ in few places, and agree on most of what people write. So a field stays as it was written where
//! Kubernetes reads the same from it, and is written anew from its bits where it does not:
//!
//! | | cron | Kubernetes |
//! |---|---|---|
//! | Sunday | 0 and 7 | 0 |
//! | `*/2` among the day fields | counts as `*`: both days have to fit | counts as a list: either day |
//! | `5/15` | refused | from 5 on |
//! | `fri-mon` | nothing | refused |
//!
//! Invariant: a schedule selects exactly the minutes that cron's fields select.
//! Upstream: cron's `entry.c` (`load_entry`, `get_range`, `get_number`), `cron.c` (`find_jobs`).

use super::Reason;
use crate::schedule::{Calendar, STAR, Schedule};

/// When an entry runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct When {
    /// In the language of `spec.schedule`.
    pub(super) schedule: String,
    /// Whether minute or hour begins with `*`: then cron does nothing about changes of the clock.
    pub(super) is_wild: bool,
}

/// What a field may hold.
struct Bounds {
    name: &'static str,
    min: u32,
    max: u32,
    /// The names of the first values.
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Bounds; 5] = [
    Bounds { name: "minute", min: 0, max: 59, names: &[] },
    Bounds { name: "hour", min: 0, max: 23, names: &[] },
    Bounds { name: "day of the month", min: 1, max: 31, names: &[] },
    Bounds { name: "month", min: 1, max: 12, names: &MONTHS },
    Bounds { name: "day of the week", min: 0, max: 7, names: &WEEKDAYS },
];
const DAYS: usize = 2;
const WEEKDAYS_FIELD: usize = 4;

impl When {
    /// Reads the beginning of an entry; returns what follows it, without the blanks between.
    pub(super) fn read(entry: &str) -> Result<(When, &str), Reason> {
        if let Some(entry) = entry.strip_prefix('@') {
            let (word, rest) = word(entry);
            return match word {
                "reboot" => Err(Reason::Reboot),
                "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => {
                    Ok((When { schedule: format!("@{word}"), is_wild: word == "hourly" }, rest))
                }
                other => Err(Reason::Macro(other.to_owned())),
            };
        }
        let mut rest = entry;
        let mut texts = [""; 5];
        let mut bits = [0; 5];
        for ((text, bits), bounds) in texts.iter_mut().zip(&mut bits).zip(&FIELDS) {
            (*text, rest) = word(rest);
            if text.is_empty() {
                return Err(Reason::Missing(bounds.name));
            }
            *bits = field(text, bounds)?;
        }
        // Sunday is one day.
        bits[WEEKDAYS_FIELD] = (bits[WEEKDAYS_FIELD] | bits[WEEKDAYS_FIELD] >> 7) & 0x7f;
        let is_star = |field: usize| texts[field].starts_with('*');
        let fields = Fields { texts, bits, both_days: is_star(DAYS) || is_star(WEEKDAYS_FIELD) };
        let schedule = fields.schedule().ok_or(Reason::BothDays)?;
        Ok((When { schedule, is_wild: is_star(0) || is_star(1) }, rest))
    }
}

/// The text up to a blank, and what follows the blanks.
fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_start_matches([' ', '\t']))
}

/// The bits of what a field selects.
fn field(text: &str, bounds: &Bounds) -> Result<u64, Reason> {
    let fail = |why: String| Reason::Field { field: bounds.name, text: text.to_owned(), why };
    text.split(',').try_fold(0, |all, item| Ok(all | range(item, bounds).map_err(fail)?))
}

fn range(item: &str, bounds: &Bounds) -> Result<u64, String> {
    let (min, max) = (bounds.min, bounds.max);
    if item.contains('~') {
        return Err("`~` is a random value that cronie picks whenever it starts: write a fixed one".to_owned());
    }
    let (values, step) = item.split_once('/').map_or((item, None), |(values, step)| (values, Some(step)));
    let (first, last) = if values == "*" {
        (min, max)
    } else if let Some((first, last)) = values.split_once('-') {
        (value(first, bounds)?, value(last, bounds)?)
    } else {
        let only = value(values, bounds)?;
        if let Some(step) = step {
            return Err(format!("cron takes a step only after a range or `*`: write {only}-{max}/{step}"));
        }
        (only, only)
    };
    if let Some(outside) = [first, last].into_iter().find(|value| !(min..=max).contains(value)) {
        return Err(format!("{outside} is not within {min} to {max}"));
    }
    if first > last {
        return Err(format!("{values} ends before it begins, which cron never runs: write {first}-{max},{min}-{last}"));
    }
    let step = match step {
        None => 1,
        Some(step) => number(step).filter(|step| *step > 0).ok_or("a step is a number above 0")?,
    };
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    Ok((first..=last).step_by(step).fold(0, |bits, value| bits | 1 << value))
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let named = bounds.names.iter().zip(bounds.min..).find(|(name, _)| name.eq_ignore_ascii_case(text));
    let value = named.map(|(_, value)| value).or_else(|| number(text));
    value.ok_or_else(|| match bounds.names {
        [] => format!("{text:?} is no number"),
        [first, .., last] | [first @ last] => format!("{text:?} is no number and no name from {first} to {last}"),
    })
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Five fields as cron reads them.
struct Fields<'a> {
    texts: [&'a str; 5],
    /// Bit n for the value n; Sunday is 0.
    bits: [u64; 5],
    /// Whether both day fields have to fit, and not one of them.
    both_days: bool,
}

impl Fields<'_> {
    /// The schedule that selects the same; `None` if there is none.
    fn schedule(&self) -> Option<String> {
        let kept: [String; 5] = std::array::from_fn(|at| self.kept(at));
        let mut days = kept.clone();
        (days[DAYS], days[WEEKDAYS_FIELD]) = self.days();
        [kept, days].iter().map(|fields| fields.join(" ")).find(|schedule| self.is(schedule))
    }

    /// A field as it was written, or written anew.
    fn kept(&self, at: usize) -> String {
        let mut probe = ["*"; 5];
        probe[at] = self.texts[at];
        match Schedule::parse(&probe.join(" ")) {
            Ok(Schedule::Calendar(calendar)) if bits(&calendar)[at] & !STAR == self.bits[at] => {
                self.texts[at].to_owned()
            }
            _ => self.list(at),
        }
    }

    /// The day fields written anew: `*` where a field restricts nothing, so that Kubernetes asks the other alone.
    fn days(&self) -> (String, String) {
        let restricts = |at: usize| self.list(at) != all(at);
        let star = |at: usize| if restricts(at) { self.list(at) } else { "*".to_owned() };
        if self.both_days {
            (star(DAYS), star(WEEKDAYS_FIELD))
        } else if restricts(DAYS) && restricts(WEEKDAYS_FIELD) {
            (self.list(DAYS), self.list(WEEKDAYS_FIELD))
        } else {
            // One that is every day makes it every day.
            ("*".to_owned(), "*".to_owned())
        }
    }

    /// What a field selects, as ranges.
    fn list(&self, at: usize) -> String {
        let mut items: Vec<String> = Vec::new();
        let mut left = self.bits[at];
        while left != 0 {
            let first = left.trailing_zeros();
            let length = (left >> first).trailing_ones();
            left &= !(u64::MAX >> (64 - length) << first);
            items.push(if length == 1 { first.to_string() } else { format!("{first}-{}", first + length - 1) });
        }
        items.join(",")
    }

    /// Whether this schedule of Kubernetes selects the same.
    fn is(&self, schedule: &str) -> bool {
        let Ok(Schedule::Calendar(calendar)) = Schedule::parse(schedule) else { return false };
        let theirs = bits(&calendar).map(|bits| bits & !STAR);
        let fits = |bits: &[u64; 5], both: bool, day: u32, weekday: u32| {
            let (day, weekday) = (bits[DAYS] >> day & 1 == 1, bits[WEEKDAYS_FIELD] >> weekday & 1 == 1);
            if both { day && weekday } else { day || weekday }
        };
        let both = (calendar.days | calendar.weekdays) & STAR != 0;
        let same_day = |day: u32| {
            (0..7).all(|weekday| fits(&theirs, both, day, weekday) == fits(&self.bits, self.both_days, day, weekday))
        };
        [0, 1, 3].iter().all(|at| theirs[*at] == self.bits[*at]) && (1..=31).all(same_day)
    }
}

/// The list of everything that a field may hold.
fn all(at: usize) -> String {
    let last = if at == WEEKDAYS_FIELD { 6 } else { FIELDS[at].max };
    format!("{}-{last}", FIELDS[at].min)
}

fn bits(calendar: &Calendar) -> [u64; 5] {
    [calendar.minutes, calendar.hours, calendar.days, calendar.months, calendar.weekdays]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(entry: &str) -> String {
        match When::read(entry) {
            Ok((when, "x")) => when.schedule,
            other => panic!("{entry}: {other:?}"),
        }
    }

    #[test]
    fn what_both_read_alike_stays_as_it_was_written() {
        for fields in [
            "* * * * *",
            "*/5 0-23/2 1,15 jan-MAR mon-fri",
            "0 3 13 * 5",
            "09,39 00 * * *",
            "0 0 */2 * *",
            "0 0 * * */2",
            "1-10,20-40/5 1 1 1 0",
            "0 0 31 2 *",
        ] {
            assert_eq!(schedule(&format!("{} \t x", fields.replace(' ', "\t "))), fields);
        }
        for name in ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"] {
            assert_eq!(schedule(&format!("{name}  x")), name);
        }
    }

    #[test]
    fn what_they_read_differently_is_written_anew() {
        for (cron, kubernetes) in [
            ("0 0 * * 7", "0 0 * * 0"),
            ("0 0 * * 5-7", "0 0 * * 0,5-6"),
            ("0 0 * * 0-7", "0 0 * * 0-6"),
            ("0 0 1-7 * 1,7", "0 0 1-7 * 0-1"),
            ("0 0 * * 1-7/2", "0 0 * * 0-1,3,5"),
            // A list that has `*` further back is every day, and either day will do.
            ("0 0 5,* * 1", "0 0 * * *"),
            ("0 0 1 * 1,*", "0 0 * * *"),
            ("0 0 *,5 * 1", "0 0 *,5 * 1"),
            ("0 0 1-31 * */2", "0 0 * * 0,2,4,6"),
            ("0 0 */3 * 0-6", "0 0 1,4,7,10,13,16,19,22,25,28,31 * *"),
        ] {
            assert_eq!(schedule(&format!("{cron} x")), kubernetes, "{cron}");
        }
    }

    #[test]
    fn what_can_not_be_said_is_told_with_what_to_do() {
        for (entry, told) in [
            ("@reboot x", "systemd service"),
            ("@every_minute x", "cron does not know @every_minute"),
            ("@Daily x", "cron does not know @Daily"),
            ("0 0 */2 * 1 x", "cron runs it when day and weekday both fit"),
            ("0 0 1 * */2 x", "cron runs it when day and weekday both fit"),
            ("0~59 * * * * x", "its minute \"0~59\" is none: `~` is a random value"),
            ("5/15 * * * * x", "write 5-59/15"),
            ("0 0 * * fri-mon x", "fri-mon ends before it begins, which cron never runs: write 5-7,0-1"),
            ("60 * * * * x", "its minute \"60\" is none: 60 is not within 0 to 59"),
            ("0 0 0 * * x", "its day of the month \"0\" is none: 0 is not within 1 to 31"),
            ("0 0 * * 8 x", "8 is not within 0 to 7"),
            ("0 0 * foo * x", "\"foo\" is no number and no name from jan to dec"),
            ("-5 * * * * x", "\"\" is no number"),
            ("1,,2 * * * * x", "\"\" is no number"),
            ("*/0 * * * * x", "a step is a number above 0"),
            ("*/x * * * * x", "a step is a number above 0"),
            ("1/2/3 * * * * x", "write 1-59/2/3"),
            ("99999999999 * * * * x", "\"99999999999\" is no number"),
            ("hello", "its minute \"hello\" is none"),
            ("* * *", "its month is missing"),
        ] {
            let reason = When::read(entry).expect_err(entry).to_string();
            assert!(reason.contains(told), "{entry}: {reason}");
        }
    }

    /// One item of a field: value or `*`, end of the range, step.
    type Item = (Option<u32>, Option<u32>, Option<u32>);

    fn text(items: &[Item]) -> String {
        let item = |(first, last, step): &Item| {
            let mut text = first.map_or("*".to_owned(), |first| first.to_string());
            text.extend(last.map(|last| format!("-{last}")));
            text.extend(step.map(|step| format!("/{step}")));
            text
        };
        items.iter().map(item).collect::<Vec<_>>().join(",")
    }

    fn selects(items: &[Item], value: u32, min: u32, max: u32) -> bool {
        items.iter().any(|(first, last, step)| {
            let (low, high) = first.map_or((min, max), |first| (first, last.unwrap_or(first)));
            (low..=high).contains(&value) && (value - low).is_multiple_of(step.unwrap_or(1))
        })
    }

    fn items(min: u32, max: u32) -> impl Strategy<Value = Vec<Item>> {
        let step = proptest::option::of(1..max + 3);
        let item = prop_oneof![
            step.clone().prop_map(|step| (None, None, step)),
            (min..=max).prop_map(|only| (Some(only), None, None)),
            (min..=max, min..=max, step).prop_map(|(a, b, step)| (Some(a.min(b)), Some(a.max(b)), step)),
        ];
        proptest::collection::vec(item, 1..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_schedule_selects_what_crons_fields_select(
            minutes in items(0, 59), days in items(1, 31), months in items(1, 12), weekdays in items(0, 7),
        ) {
            let entry = format!("{} 3 {} {} {} x", text(&minutes), text(&days), text(&months), text(&weekdays));
            let starts_with_star = |items: &[Item]| items[0].0.is_none();
            let both = starts_with_star(&days) || starts_with_star(&weekdays);
            let on_day = |day: u32, weekday: u32| {
                let by_day = selects(&days, day, 1, 31);
                let by_weekday = selects(&weekdays, weekday, 0, 7) || weekday == 0 && selects(&weekdays, 7, 0, 7);
                if both { by_day && by_weekday } else { by_day || by_weekday }
            };
            match When::read(&entry) {
                Ok((when, rest)) => {
                    prop_assert_eq!(rest, "x");
                    let Ok(Schedule::Calendar(calendar)) = Schedule::parse(&when.schedule) else {
                        return Err(TestCaseError::fail(format!("{entry}: {}", when.schedule)));
                    };
                    for minute in 0..60 {
                        prop_assert_eq!(calendar.minutes >> minute & 1 == 1, selects(&minutes, minute, 0, 59));
                    }
                    for month in 1..=12 {
                        prop_assert_eq!(calendar.months >> month & 1 == 1, selects(&months, month, 1, 12));
                    }
                    let either = (calendar.days | calendar.weekdays) & STAR == 0;
                    for (day, weekday) in (1..=31).flat_map(|day| (0..7).map(move |weekday| (day, weekday))) {
                        let by_day = calendar.days >> day & 1 == 1;
                        let by_weekday = calendar.weekdays >> weekday & 1 == 1;
                        let fits = if either { by_day || by_weekday } else { by_day && by_weekday };
                        prop_assert_eq!(fits, on_day(day, weekday), "{} as {}", entry, when.schedule);
                    }
                }
                // Only where both have to fit, and each restricts something.
                Err(reason) => {
                    prop_assert_eq!(reason, Reason::BothDays);
                    prop_assert!(both);
                    prop_assert!((1..=31).any(|day| !selects(&days, day, 1, 31)));
                    prop_assert!((0..7).any(|weekday| (1..=31).all(|day| !on_day(day, weekday))));
                }
            }
        }
    }
}
