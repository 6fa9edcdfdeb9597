// SPDX-License-Identifier: MIT OR Apache-2.0
//! How full the room is in which a machine that runs from its copy keeps what it overwrites, or, from an older
//! generation, all that it writes.

use serde::Serialize;

use crate::config::PairConfig;
use crate::dm::{Mapper, Name};
use crate::format::superblock::State as Holds;
use crate::snapshot::State;
use crate::units::Bytes;
use crate::wrap::DiskId;

/// Parts in a hundred at which somebody is told, once for each.
const STEPS: [u64; 4] = [50, 75, 90, 97];

/// From this part on the status is red.
const RED: u64 = 90;

/// How much of the room is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fill {
    /// Taken.
    pub used: Bytes,
    /// There is.
    pub size: Bytes,
}

impl Fill {
    /// That of the running machine; `None` where it does not run from the copy of the pair, or keeps nothing.
    pub fn of(config: &PairConfig, holds: Holds) -> Option<Self> {
        let id = DiskId::recorded(config);
        let name = match holds {
            Holds::Live(_) => kept(&id),
            Holds::Aside(_) => id.disk(),
            _ => return None,
        };
        Self::told(&Mapper::open().ok()?, &name.name)
    }

    /// What the kernel says of the snapshot `name`.
    pub fn told(mapper: &Mapper, name: &str) -> Option<Self> {
        let rows = mapper.status(name).ok()?;
        let [(_, _, _, words)] = &rows[..] else { return None };
        match State::parse(words) {
            State::Stands(usage) => Some(Self { used: usage.used, size: usage.total }),
            State::Lost | State::Unknown => None,
        }
    }

    /// In a hundred parts.
    pub fn percent(self) -> u64 {
        u64::try_from(u128::from(self.used.0) * 100 / u128::from(self.size.0.max(1))).unwrap_or(100)
    }

    /// The last of the steps at which somebody is told that has been reached.
    pub fn step(self) -> Option<u64> {
        STEPS.into_iter().rev().find(|step| self.percent() >= *step)
    }

    /// Whether somebody has to do something.
    pub fn is_red(self) -> bool {
        self.percent() >= RED
    }
}

/// The device that keeps the newest generation while a machine runs from it.
pub fn kept(id: &DiskId) -> Name {
    id.private("kept")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_once_each() {
        let fill = |used| Fill { used: Bytes(used), size: Bytes(1000) };
        let steps = [0, 499, 500, 749, 750, 899, 900, 969, 970, 1000].map(|used| fill(used).step());
        let [a, b, c, d] = STEPS.map(Some);
        assert_eq!(steps, [None, None, a, a, b, b, c, c, d, d]);
        assert!(!fill(899).is_red() && fill(900).is_red());
        assert_eq!(Fill { used: Bytes(u64::MAX), size: Bytes(u64::MAX) }.percent(), 100);
        assert_eq!(Fill { used: Bytes(0), size: Bytes(0) }.percent(), 0);
    }
}
