// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of the moment a generation stands at: how far it is one that the primary itself was in.

use serde::Serialize;

/// Record flag: not quiet.
const BUSY: u8 = 4;
/// Record flag: not one instant.
const TORN: u8 = 8;

/// The quality of a moment. The flags on the disk say what is wrong with it, so that a record without any is
/// of the best: a primary nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Whether no writes were going on when it was taken.
    pub quiet: bool,
    /// Whether all volumes stand at one instant: no write went past the snapshot.
    pub one_instant: bool,
}

impl Default for Moment {
    /// That of a primary nobody uses.
    fn default() -> Self {
        Self { quiet: true, one_instant: true }
    }
}

impl Moment {
    /// The flags of a record that belong to it.
    pub const FLAGS: u8 = BUSY | TORN;

    /// As flags of a record.
    pub fn flags(self) -> u8 {
        (if self.quiet { 0 } else { BUSY }) | (if self.one_instant { 0 } else { TORN })
    }

    /// From the flags of a record; others are not looked at.
    pub fn of_flags(flags: u8) -> Self {
        Self { quiet: flags & BUSY == 0, one_instant: flags & TORN == 0 }
    }

    /// What is wrong with it, in words, the worse last.
    pub fn flaws(self) -> impl Iterator<Item = &'static str> {
        let flaws = [(self.quiet, "not quiet"), (self.one_instant, "not one instant")];
        flaws.into_iter().filter_map(|(good, flaw)| (!good).then_some(flaw))
    }
}

#[cfg(test)]
mod tests {
    use super::Moment;

    #[test]
    fn flags_there_and_back() {
        for (flags, quiet, one_instant) in
            [(0, true, true), (4, false, true), (8, true, false), (12, false, false)]
        {
            let moment = Moment { quiet, one_instant };
            assert_eq!((moment.flags(), Moment::of_flags(flags)), (flags, moment));
            assert_eq!(Moment::of_flags(flags | 3), moment, "others are not looked at");
        }
        assert_eq!(Moment::default().flags(), 0, "old records have none");
    }
}
