// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long no disk has appeared. Looking at disks takes seconds where they are slow, and one that appears
//! meanwhile may not have been looked at: what was found then says nothing of it, so that time does not count.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Before there is any disk, drivers are still being loaded, which takes long on a slow or busy machine: that none
/// appears says nothing for so long.
const DRIVERS: Duration = Duration::from_secs(60);

/// The disks there are, each told from one that takes its place.
pub type Disks = BTreeSet<String>;

/// Which disks there were, and since when it is these.
pub struct Quiet {
    disks: Disks,
    since: Instant,
}

/// A look at the disks that has begun.
pub struct Look {
    begun: Instant,
}

impl Quiet {
    /// No disk has been seen yet.
    pub fn begin(now: Instant) -> Self {
        Self { disks: Disks::new(), since: now }
    }

    /// Whether no disk has been seen.
    pub fn is_alone(&self) -> bool {
        self.disks.is_empty()
    }

    /// A look begins, with these disks.
    pub fn look(&mut self, disks: Disks, now: Instant) -> Look {
        self.note(disks, now);
        Look { begun: now }
    }

    /// The look is over, and there are these disks: for how long had none appeared when it began? Not at all,
    /// where one has come or gone meanwhile.
    pub fn after(&mut self, look: Look, disks: Disks, now: Instant) -> Duration {
        self.note(disks, now);
        let quiet = look.begun.saturating_duration_since(self.since);
        if self.is_alone() { quiet.saturating_sub(DRIVERS) } else { quiet }
    }

    fn note(&mut self, disks: Disks, now: Instant) {
        if disks != self.disks {
            (self.disks, self.since) = (disks, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(names: &[&str]) -> Disks {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_appears_during_a_look_starts_the_time_anew() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut quiet = Quiet::begin(start);
        assert!(quiet.is_alone());
        // Both disks appear while a look goes on that has passed the place of the second one.
        let look = quiet.look(disks(&[]), at(5));
        assert_eq!(quiet.after(look, disks(&["vda 1", "vdb 2"]), at(8)), Duration::ZERO);
        assert!(!quiet.is_alone());
        let look = quiet.look(disks(&["vda 1", "vdb 2"]), at(9));
        assert_eq!(quiet.after(look, disks(&["vda 1", "vdb 2"]), at(20)), Duration::from_secs(1));
    }

    #[test]
    fn one_in_the_place_of_another_is_a_new_one() {
        let start = Instant::now();
        let mut quiet = Quiet::begin(start);
        let look = quiet.look(disks(&["vda 1"]), start);
        assert_eq!(quiet.after(look, disks(&["vda 1"]), start), Duration::ZERO);
        let later = start + Duration::from_secs(60);
        let look = quiet.look(disks(&["vda 2"]), later);
        assert_eq!(quiet.after(look, disks(&["vda 2"]), later), Duration::ZERO);
    }

    #[test]
    fn without_any_disk_time_begins_late() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut quiet = Quiet::begin(start);
        for (seconds, counted) in [(6, 0), (59, 0), (70, 10)] {
            let look = quiet.look(disks(&[]), at(seconds));
            assert_eq!(quiet.after(look, disks(&[]), at(seconds + 1)), Duration::from_secs(counted));
        }
        let look = quiet.look(disks(&["vda"]), at(80));
        assert_eq!(quiet.after(look, disks(&["vda"]), at(81)), Duration::ZERO);
        let look = quiet.look(disks(&["vda"]), at(85));
        assert_eq!(quiet.after(look, disks(&["vda"]), at(86)), Duration::from_secs(5));
    }
}
