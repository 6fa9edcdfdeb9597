// SPDX-License-Identifier: MIT OR Apache-2.0
//! Times for people.

use crate::keep::calendar::civil;

/// A time in UTC: `2026-11-20 08:15:02Z`.
pub fn utc(seconds: u64) -> String {
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{} {hour:02}:{minute:02}:{second:02}Z", civil(seconds))
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn known_instants() {
        assert_eq!(utc(0), "1970-01-01 00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(utc(1_795_161_600 + 3661), "2026-11-20 09:01:01Z");
    }
}
