//! A schedule in words, for people: `every day at 03:00`.
//!
//! Left out: rows of times that have no short name. They are told as lists of minutes and hours.

use jiff::SignedDuration;

use super::{Calendar, STAR, Schedule};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Above this many times of day they are told as minutes and hours.
const MOST_TIMES: usize = 4;

impl Schedule {
    /// When it fires, in words.
    pub fn words(&self) -> String {
        match self {
            Schedule::Every(interval) => format!("every {}", duration(*interval)),
            Schedule::Calendar(calendar) if calendar.is_never() => "never".to_owned(),
            Schedule::Calendar(calendar) => calendar.words(),
        }
    }
}

impl Calendar {
    fn words(&self) -> String {
        let (time, day) = (self.time(), self.day());
        let daily = day.is_empty();
        match time.strip_prefix("at ") {
            Some(_) if daily => format!("every day {time}"),
            Some(_) => format!("{day} {time}"),
            None if daily => time,
            None => format!("{time} {day}"),
        }
    }

    fn time(&self) -> String {
        let (minutes, hours) = (values(self.minutes), values(self.hours));
        if hours.len() == 24 {
            return match minutes.as_slice() {
                all if all.len() == 60 => "every minute".to_owned(),
                [0] => "every hour".to_owned(),
                _ => match step(&minutes, 60) {
                    Some(step) => format!("every {step} minutes"),
                    None => format!("every hour at {}", plural("minute", &minutes)),
                },
            };
        }
        if minutes.len() * hours.len() <= MOST_TIMES {
            let times =
                hours.iter().flat_map(|hour| minutes.iter().map(move |minute| format!("{hour:02}:{minute:02}")));
            return format!("at {}", join(&times.collect::<Vec<_>>()));
        }
        let hours = match step(&hours, 24) {
            Some(step) => {
                format!("of every {}", if step == 2 { "second hour".to_owned() } else { format!("{step} hours") })
            }
            None => format!("of the hours {}", ranges(&hours, |hour| hour.to_string())),
        };
        match minutes.as_slice() {
            all if all.len() == 60 => format!("every minute {hours}"),
            _ => match step(&minutes, 60) {
                Some(step) => format!("every {step} minutes {hours}"),
                None => format!("at {} {hours}", plural("minute", &minutes)),
            },
        }
    }

    /// On which days, or nothing if on every one.
    fn day(&self) -> String {
        let (days, weekdays, months) = (values(self.days), values(self.weekdays), values(self.months));
        let by_day = (days.len() < 31).then(|| {
            let what = if days.len() == 1 { "day" } else { "days" };
            format!("on {what} {} of the month", ranges(&days, |day| day.to_string()))
        });
        let by_weekday =
            (weekdays.len() < 7).then(|| format!("on {}", ranges(&weekdays, |day| WEEKDAYS[day % 7].to_owned())));
        let alone = (self.days | self.weekdays) & STAR != 0;
        let mut day = match (by_day, by_weekday) {
            (Some(day), Some(weekday)) if alone => format!("{day}, if it is {}", weekday.trim_start_matches("on ")),
            (Some(day), Some(weekday)) => format!("{day} and {weekday}"),
            // Without a `*` one field that holds every value makes every day one.
            (Some(_), None) | (None, Some(_)) if !alone => String::new(),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => String::new(),
        };
        if months.len() < 12 {
            let months = format!("in {}", ranges(&months, |month| MONTHS[(month + 11) % 12].to_owned()));
            day = if day.is_empty() { format!("every day {months}") } else { format!("{day} {months}") };
        }
        day
    }
}

/// The values whose bits are set.
fn values(bits: u64) -> Vec<usize> {
    (0..63).filter(|bit| bits >> bit & 1 == 1).collect()
}

/// If these are 0, n, 2n … up to `end`: n.
fn step(values: &[usize], end: usize) -> Option<usize> {
    let step = *values.get(1)?;
    let all = (0..end).step_by(step.max(1)).eq(values.iter().copied());
    (all && end.is_multiple_of(step) && values[0] == 0).then_some(step)
}

fn plural(what: &str, values: &[usize]) -> String {
    let s = if values.len() == 1 { "" } else { "s" };
    format!("{what}{s} {}", ranges(values, |value| value.to_string()))
}

/// `1`, `1 and 5`, `1 to 4 and 9`.
fn ranges(values: &[usize], name: impl Fn(usize) -> String) -> String {
    let mut parts = Vec::new();
    let mut rest = values;
    while let Some(first) = rest.first() {
        let run = rest.iter().enumerate().take_while(|(place, value)| **value == first + place).count();
        if run > 2 {
            parts.push(format!("{} to {}", name(*first), name(first + run - 1)));
            rest = &rest[run..];
        } else {
            parts.push(name(*first));
            rest = &rest[1..];
        }
    }
    join(&parts)
}

fn join(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// `1h30m`, as users write it.
fn duration(time: SignedDuration) -> String {
    let seconds = time.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_told_in_words() {
        for (schedule, words) in [
            ("0 3 * * *", "every day at 03:00"),
            ("@daily", "every day at 00:00"),
            ("@hourly", "every hour"),
            ("@every 90m", "every 1h30m"),
            ("* * * * *", "every minute"),
            ("*/5 * * * *", "every 5 minutes"),
            ("*/7 * * * *", "every hour at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56"),
            ("30 4 * * mon-fri", "on Monday to Friday at 04:30"),
            ("0 9,17 * * 6,0", "on Sunday and Saturday at 09:00 and 17:00"),
            ("0 0 1 1 *", "on day 1 of the month in January at 00:00"),
            ("0 0 1,15 * *", "on days 1 and 15 of the month at 00:00"),
            ("0 0 13 * 5", "on day 13 of the month and on Friday at 00:00"),
            ("0 0 13 * */2", "on day 13 of the month and on Sunday, Tuesday, Thursday and Saturday at 00:00"),
            ("0 12 * 6-8 *", "every day in June to August at 12:00"),
            ("*/15 9-17 * * *", "every 15 minutes of the hours 9 to 17"),
            ("* */2 * * 1", "every minute of every second hour on Monday"),
            ("5 * * * *", "every hour at minute 5"),
            ("0 */6 * * *", "every day at 00:00, 06:00, 12:00 and 18:00"),
            ("0 0 31 2 *", "never"),
        ] {
            assert_eq!(Schedule::parse(schedule).unwrap().words(), words, "{schedule}");
        }
    }
}
