//! What it costs to find the next moment at which a schedule fires.
//!
//! `cargo bench -p stint-core --bench schedule`. The limits are those of the design: 200 ns for common schedules, 5 µs
//! for the worst. Each figure is the mean over starts that are spread over three years, so that all of a zone's changes are
//! met.

use std::hint::black_box;
use std::time::Instant;

use jiff::Timestamp;
use stint_core::schedule::Schedule;
use stint_core::schedule::zone::bundled;

const STARTS: i64 = 100_000;
/// 2026-01-01.
const FIRST: i64 = 1_767_225_600;
const THREE_YEARS: i64 = 3 * 365 * 86_400;

fn main() {
    for (what, limit, schedules) in [
        (
            "common",
            200,
            &["* * * * *", "*/5 * * * *", "0 3 * * *", "@hourly", "30 4 * * mon-fri", "0 0 1 * *", "@every 1h30m"][..],
        ),
        ("worst", 5_000, &["0 0 29 2 *", "0 0 31 2 *", "59 23 31 12 *", "0 2 29 2 mon", ", * * * *"][..]),
    ] {
        for text in schedules {
            for zone in ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Africa/Casablanca"] {
                measure(what, limit, text, zone);
            }
        }
    }
}

fn measure(what: &str, limit: u128, text: &str, zone: &str) {
    let schedule = Schedule::parse(text).expect("a schedule");
    let loaded = bundled(zone).expect("a zone");
    let began = Instant::now();
    for start in 0..STARTS {
        let after = Timestamp::from_second(FIRST + start * (THREE_YEARS / STARTS)).expect("a moment");
        black_box(schedule.next(black_box(after), &loaded));
    }
    let each = began.elapsed().as_nanos() / u128::from(STARTS.unsigned_abs());
    let verdict = if each <= limit { "" } else { "  TOO SLOW" };
    println!("{what:8} {text:18} {zone:18} {each:>6} ns{verdict}");
}
