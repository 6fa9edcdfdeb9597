// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for a moment in which nobody writes: applications are then more likely at rest, too.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::writes::Writes;
use crate::error::{Error, Kind, Result};
use crate::sys::signal;

/// How often the counters are looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// So long without a write is quiet.
    pub quiet_for: Duration,
    /// After so long it is gone on with all the same.
    pub limit: Duration,
}

/// What was seen so far. Pure: times are those since the waiting began.
struct Watch {
    wanted: Wanted,
    last: Option<(u64, Duration)>,
}

impl Watch {
    /// Takes the next look; whether the moment is a quiet one, once that is decided.
    fn look(&mut self, now: Duration, requests: u64) -> Option<bool> {
        let still_since = match self.last {
            Some((seen, since)) if seen == requests => since,
            _ => now,
        };
        self.last = Some((requests, still_since));
        if now - still_since >= self.wanted.quiet_for {
            return Some(true);
        }
        (now >= self.wanted.limit).then_some(false)
    }
}

/// Waits; whether it became quiet within the limit. `writes` are those of the disk now.
pub fn wait(wanted: Wanted, mut writes: impl FnMut() -> Option<Writes>) -> Result<bool> {
    let start = Instant::now();
    let mut watch = Watch { wanted, last: None };
    loop {
        // Counters that cannot be read say nothing, so that it does not count as quiet.
        let requests = writes().map_or_else(|| start.elapsed().as_nanos() as u64, |it| it.requests);
        if let Some(quiet) = watch.look(start.elapsed(), requests) {
            return Ok(quiet);
        }
        if signal::interrupted() {
            let why = "a signal asked to stop";
            return Err(Error::new(Kind::Interrupted, "waiting for a quiet moment", why));
        }
        sleep(GLANCE.min(wanted.quiet_for));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { quiet_for: Duration::from_secs(5), limit: Duration::from_secs(30) };

    fn decided(looks: &[(u64, u64)]) -> Option<bool> {
        let mut watch = Watch { wanted: WANTED, last: None };
        looks.iter().find_map(|(second, requests)| watch.look(Duration::from_secs(*second), *requests))
    }

    #[test]
    fn quiet_after_five_seconds_without_a_write() {
        assert_eq!(decided(&[(0, 7), (4, 7)]), None);
        assert_eq!(decided(&[(0, 7), (4, 7), (5, 7)]), Some(true));
        assert_eq!(decided(&[(0, 7), (4, 8), (5, 8), (8, 8)]), None);
        assert_eq!(decided(&[(0, 7), (4, 8), (9, 8)]), Some(true));
    }

    #[test]
    fn not_waited_for_for_ever() {
        let busy: Vec<_> = (0..=30).map(|second| (second, second)).collect();
        assert_eq!(decided(&busy[..30]), None);
        assert_eq!(decided(&busy), Some(false));
    }
}
