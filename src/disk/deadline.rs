// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a disk may be silent.

use std::env;
use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// Longer than the kernel goes on by itself: a SCSI disk that fails is asked six times, for 30 s each, and to flush for
/// 60 s each. (`drivers/scsi/sd.h`)
const DEADLINE: Duration = Duration::from_secs(400);
const SECONDS: RangeInclusive<u64> = 1..=86_400;

/// How long a disk may leave everything it was asked unanswered: as many seconds as the environment variable
/// `DPSR_DEADLINE` says, else 400.
pub fn deadline() -> Result<Duration> {
    env::var_os("DPSR_DEADLINE").map_or(Ok(DEADLINE), |value| parse(&value))
}

fn parse(value: &OsStr) -> Result<Duration> {
    let seconds = value.to_str().and_then(|value| value.parse().ok());
    match seconds.filter(|seconds| SECONDS.contains(seconds)) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => {
            let why = format!("\"{}\" is no number of seconds from 1 to 86400", value.display());
            Err(Error::new(Kind::Usage, "reading the environment variable DPSR_DEADLINE", why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_from_one_to_a_day() {
        for (value, seconds) in [("1", 1), ("600", 600), ("86400", 86_400)] {
            assert_eq!(parse(OsStr::new(value)).unwrap(), Duration::from_secs(seconds));
        }
        for value in ["", "0", "86401", "-1", "1.5", "soon"] {
            assert_eq!(parse(OsStr::new(value)).unwrap_err().kind(), Kind::Usage, "{value}");
        }
    }
}
