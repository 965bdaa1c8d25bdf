//! Days of the Gregorian calendar, counted from 1970-01-01, as integers: what finding the next fire costs is mostly this.
//!
//! A year is reckoned from March here, so that the leap day is its last one and months before it never move.

/// Seconds of a day without a change of the clock.
pub(super) const SECONDS_OF_DAY: i64 = 86_400;

/// Days of 400 years, after which the calendar repeats.
const ERA: i64 = 146_097;

/// Days from 0000-03-01 to 1970-01-01.
const TO_EPOCH: i64 = 719_468;

/// A day, by its number and as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Day {
    /// 1970-01-01 is 0.
    number: i64,
    /// The year.
    pub year: i32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub of_month: u32,
}

impl Day {
    /// The day in which this second since 1970 is.
    pub fn of_second(second: i64) -> Day {
        let number = second.div_euclid(SECONDS_OF_DAY);
        let (era, of_era) = ((number + TO_EPOCH).div_euclid(ERA), (number + TO_EPOCH).rem_euclid(ERA));
        // Without the leap days so far, every year has 365 days.
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        // From March on, five months have 153 days, over and over.
        let month = (5 * of_year + 2) / 153;
        let of_month = small(of_year - (153 * month + 2) / 5 + 1);
        let (month, turn) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = i32::try_from(era * 400 + year + turn).unwrap_or(i32::MAX);
        Day { number, year, month: small(month), of_month }
    }

    /// The second at which it begins.
    pub fn second(&self) -> i64 {
        self.number * SECONDS_OF_DAY
    }

    /// 0 for Sunday.
    pub fn weekday(&self) -> u32 {
        small((self.number + 4).rem_euclid(7))
    }

    /// The first day of its month.
    pub fn first_of_month(&self) -> Day {
        Day { number: self.number - i64::from(self.of_month) + 1, of_month: 1, ..*self }
    }

    /// The first day of the month after its own.
    pub fn next_month(&self) -> Day {
        let number = self.first_of_month().number + i64::from(self.days_in_month());
        let (year, month) = if self.month == 12 { (self.year + 1, 1) } else { (self.year, self.month + 1) };
        Day { number, year, month, of_month: 1 }
    }

    /// How many days its month has.
    pub fn days_in_month(&self) -> u32 {
        match self.month {
            2 if self.is_in_leap_year() => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    fn is_in_leap_year(&self) -> bool {
        self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0)
    }
}

/// What is known to be small.
fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn every_day_of_eight_centuries_is_the_one_that_jiff_has() {
        let mut expected = date(1600, 1, 1);
        let epoch = date(1970, 1, 1);
        let first = i64::from((expected - epoch).get_days());
        for number in first..first + 2 * ERA {
            let day = Day::of_second(number * SECONDS_OF_DAY + 86_399);
            let written =
                (expected.year().into(), expected.month().unsigned_abs().into(), expected.day().unsigned_abs().into());
            assert_eq!((day.year, day.month, day.of_month), written);
            assert_eq!(day.days_in_month(), u32::from(expected.days_in_month().unsigned_abs()));
            assert_eq!(day.weekday(), u32::from(expected.weekday().to_sunday_zero_offset().unsigned_abs()));
            let next = Day::of_second(day.next_month().second());
            assert_eq!((next, next.of_month), (day.next_month(), 1));
            expected = expected.tomorrow().expect("a day after it");
        }
    }
}
