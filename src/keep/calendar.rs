// SPDX-License-Identifier: MIT OR Apache-2.0
//! From seconds since 1970 to dates and weeks of UTC.

use std::fmt;

const DAY: u64 = 86400;

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// The year.
    pub year: u64,
    /// The month, from 1 on.
    pub month: u64,
    /// The day of the month, from 1 on.
    pub day: u64,
}

impl Date {
    /// Its month: `2026-11`.
    pub fn month_name(&self) -> String {
        format!("{:04}-{:02}", self.year, self.month)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// A week of ISO 8601: it starts on Monday and belongs to the year its Thursday lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Week {
    /// The year it belongs to.
    pub year: u64,
    /// Its number, from 1 on.
    pub week: u64,
}

impl fmt::Display for Week {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-W{:02}", self.year, self.week)
    }
}

/// The day a time lies in.
pub fn civil(seconds: u64) -> Date {
    date(seconds / DAY)
}

/// The date of a day, counted from the start of 1970. (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`.)
fn date(days: u64) -> Date {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    Date { year: year_of_era + era * 400 + u64::from(month <= 2), month, day }
}

/// The hour of its day.
pub fn hour(seconds: u64) -> u64 {
    seconds / 3600 % 24
}

/// The week a time lies in.
pub fn iso_week(seconds: u64) -> Week {
    let day = seconds / DAY;
    // The first day of 1970 was a Thursday, the fourth day of its week.
    let thursday = day + 3 - (day + 3) % 7;
    let year = date(thursday).year;
    let mut first = thursday;
    while first >= 7 && date(first - 7).year == year {
        first -= 7;
    }
    Week { year, week: (thursday - first) / 7 + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_too_late() {
        let _ = (civil(u64::MAX), iso_week(u64::MAX), hour(u64::MAX));
    }

    #[test]
    fn known_days() {
        let of = |seconds| civil(seconds).to_string();
        let shown = [0, 951_782_400, 1_795_161_600, 1_767_225_599].map(of);
        assert_eq!(shown, ["1970-01-01", "2000-02-29", "2026-11-20", "2025-12-31"]);
    }

    /// From `date --utc +%G-W%V`.
    #[test]
    fn known_weeks() {
        let of = |seconds| iso_week(seconds).to_string();
        let cases = [
            (0, "1970-W01"),
            (1_795_161_600, "2026-W47"),
            (1_767_225_599, "2026-W01"),
            (1_609_459_200, "2020-W53"),
            (1_609_718_399, "2020-W53"),
            (1_609_718_400, "2021-W01"),
            (1_230_508_800, "2009-W01"),
            (1_262_476_799, "2009-W53"),
        ];
        for (seconds, week) in cases {
            assert_eq!(of(seconds), week, "{seconds}");
        }
    }
}
