// SPDX-License-Identifier: MIT OR Apache-2.0
//! Free extents: whatever the index does not mention.

use std::ops::Range;

use crate::format::geometry::Geometry;
use crate::format::index::{Index, Run};
use crate::units::Extent;

/// The free extents as sorted, disjoint ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Free {
    ranges: Vec<Range<u32>>,
}

impl Free {
    /// What `index` leaves free.
    pub fn of(index: &Index, geometry: &Geometry) -> Self {
        let used = index.all_runs().flatten().map(|run| run.extent.0..run.extent.0 + run.count);
        let mut used: Vec<Range<u32>> = used.collect();
        used.sort_by_key(|range| range.start);
        let mut ranges = Vec::new();
        let mut next = 0;
        for range in used {
            if next < range.start {
                ranges.push(next..range.start);
            }
            next = next.max(range.end);
        }
        if next < geometry.extents() {
            ranges.push(next..geometry.extents());
        }
        Self { ranges }
    }

    /// What `index` leaves free, without the extents of `runs`.
    pub fn without(index: &Index, geometry: &Geometry, runs: &[Run]) -> Self {
        let mut taken = index.clone();
        taken.digests.extend_from_slice(runs);
        Self::of(&taken, geometry)
    }

    /// How many extents are free.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|range| u64::from(range.end - range.start)).sum()
    }

    /// Takes `count` extents for an object from its extent `at` on: the first range that holds them all,
    /// or else the first ones there are. `None`, and nothing taken, if there are not enough.
    pub fn take(&mut self, at: u32, count: u32) -> Option<Vec<Run>> {
        if self.count() < u64::from(count) {
            return None;
        }
        let whole = self.ranges.iter().position(|range| range.end - range.start >= count);
        let mut runs = Vec::new();
        let mut taken = 0;
        let mut i = whole.unwrap_or(0);
        while taken < count {
            let range = &mut self.ranges[i];
            let part = (range.end - range.start).min(count - taken);
            runs.push(Run { at: at + taken, extent: Extent(range.start), count: part });
            range.start += part;
            taken += part;
            i += 1;
        }
        self.ranges.retain(|range| !range.is_empty());
        Some(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_where_possible_scattered_where_not() {
        let mut free = Free { ranges: vec![0..2, 5..10, 20..21] };
        let run = |at, extent, count| Run { at, extent: Extent(extent), count };
        assert_eq!(free.take(7, 4), Some(vec![run(7, 5, 4)]));
        assert_eq!(free.take(0, 5), None);
        assert_eq!(free.take(0, 4), Some(vec![run(0, 0, 2), run(2, 9, 1), run(3, 20, 1)]));
        assert_eq!(free.count(), 0);
        assert_eq!(free.take(0, 0), Some(vec![]));
    }
}
