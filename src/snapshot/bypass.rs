// SPDX-License-Identifier: MIT OR Apache-2.0
//! Notices writes to the raw disk that did not come through device-mapper: they changed what the snapshot
//! shows.
//!
//! What was written to the raw disk must be what was written to the disk node, to left-out partitions and to
//! whatever else lies on the raw disk together.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::writes::Writes;
use crate::pair::sysfs::{BlockNode, DevNum, Roots};
use crate::wrap::Wrapped;

/// For how long an instant is looked for in which nothing is on its way, so that the counters agree; and how
/// long before, and after, whatever is on its way at one instant began and has ended for sure.
const SETTLED: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(10);

type Through = BTreeMap<DevNum, u64>;

/// Counters of the raw disk at one instant, and of what lies on it at that instant; where writes never rest,
/// a little before it and a little after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    raw: u64,
    before: Through,
    after: Through,
}

/// One look. What is counted by what lies on the raw disk is counted by that before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    raw: u64,
    through: Through,
    /// Nothing was on its way.
    still: bool,
}

impl Counters {
    /// Now; `real` is the snapshot's own layer on the raw disk. `None` where the counters cannot be read.
    pub fn now(roots: &Roots, wrapped: &Wrapped, real: Option<DevNum>) -> Option<Self> {
        let first = look(roots, wrapped, real)?;
        let start = Instant::now();
        while start.elapsed() < SETTLED {
            let (one, other) = (look(roots, wrapped, real)?, look(roots, wrapped, real)?);
            if one.still && one == other {
                return Some(Self { raw: one.raw, before: one.through, after: other.through });
            }
            sleep(GLANCE);
        }
        let raw = look(roots, wrapped, real)?.raw;
        sleep(SETTLED);
        Some(Self { raw, before: first.through, after: look(roots, wrapped, real)?.through })
    }

    /// Sectors that had been written to a device on the raw disk.
    pub fn through(&self, device: DevNum) -> Option<u64> {
        self.before.get(&device).copied()
    }

    /// Sectors of the raw disk that were written past everything since `earlier`, at the least.
    pub fn past(&self, earlier: &Self) -> u64 {
        let since = |(device, now): (&DevNum, &u64)| {
            now.saturating_sub(earlier.before.get(device).copied().unwrap_or_default())
        };
        let through: u64 = self.after.iter().map(since).sum();
        self.raw.saturating_sub(earlier.raw).saturating_sub(through)
    }
}

fn look(roots: &Roots, wrapped: &Wrapped, real: Option<DevNum>) -> Option<Look> {
    let disk = roots.node(wrapped.raw)?;
    let mut nodes: Vec<BlockNode> = disk.partitions();
    nodes.extend(disk.holders());
    nodes.retain(|node| Some(node.number) != real && node.number != wrapped.disk.number);
    nodes.push(roots.node(wrapped.disk.number)?);
    let raw = Writes::at(&disk)?;
    let mut look = Look { raw: raw.sectors, through: Through::new(), still: raw.under_way == 0 };
    for node in nodes {
        let writes = Writes::at(&node)?;
        look.still &= writes.under_way == 0;
        look.through.insert(node.number, writes.sectors);
    }
    Some(look)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(counts: &[(u64, u64)]) -> Through {
        counts.iter().map(|(minor, sectors)| (DevNum { major: 253, minor: *minor }, *sectors)).collect()
    }

    fn counters(raw: u64, counts: &[(u64, u64)]) -> Counters {
        Counters { raw, before: through(counts), after: through(counts) }
    }

    #[test]
    fn only_what_nothing_accounts_for() {
        let before = counters(100, &[(0, 40), (3, 7)]);
        assert_eq!(counters(150, &[(0, 80), (3, 17)]).past(&before), 0);
        assert_eq!(counters(158, &[(0, 80), (3, 17)]).past(&before), 8);
        // A device that came to be since counts from zero.
        assert_eq!(counters(158, &[(0, 80), (3, 17), (4, 8)]).past(&before), 0);
        // Where writes never rest, those that may have been on their way count for them.
        let busy = Counters { raw: 158, before: through(&[]), after: through(&[(0, 90), (3, 17)]) };
        assert_eq!(busy.past(&before), 0);
    }
}
