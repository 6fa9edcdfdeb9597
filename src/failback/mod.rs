// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bringing a machine that runs from its copy back to a disk of its own.
//!
//! While it runs, most is copied ([`mirror`]); what changes meanwhile is copied before the next start, when
//! nothing is in use ([`finish`]). Only then the disk gets its partition table, so that until then nobody can
//! take it for the one that is in use. Last the image becomes the generation again that the machine was
//! started from ([`put_back`]): history goes on as if the machine had never left its disk.

mod fence;
pub mod finish;
mod fit;
mod kept;
pub mod mirror;
pub mod plan;
pub mod put_back;
pub mod target;

use std::ops::Range;

use crate::failover::stays::Stays;
use crate::store::Contents;
use crate::store::map::left_out;
use crate::units::{Bytes, MIB, SECTOR};

/// What identifies a disk lies within so much of its beginning and its end.
const EDGE: u64 = MIB;

/// The parts of the disk that are in the copy, to the byte: its two ends, and what is between. What was left out
/// shares extents of the image with them, and on an old primary holds what nobody has elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// What may be copied at any time.
    pub body: Vec<Range<Bytes>>,
    /// The beginning and the end, which make a disk the one it is.
    pub edges: Vec<Range<Bytes>>,
}

impl Parts {
    /// Those of the image of a store. Volumes that stay on the primary are none of them.
    pub fn of(contents: &Contents, stays: Option<&Stays>) -> Self {
        let map = contents.running_map();
        let mut volumes = map.volumes.clone();
        for volume in &mut volumes {
            volume.left_out |= stays.is_some_and(|stays| stays.has(volume));
        }
        let (head, tail) = (Bytes(EDGE).min(map.disk), map.disk.saturating_sub(Bytes(EDGE)));
        let image = contents.image(map);
        let placed = |range: Range<Bytes>| {
            let stretches = image.stretches(range).filter(|stretch| stretch.at.is_some());
            stretches.map(|stretch| stretch.range).collect::<Vec<_>>()
        };
        let placed: Vec<_> = between(&left_out(&volumes, map.disk), map.disk).flat_map(placed).collect();
        let within = |limits: Range<Bytes>| -> Vec<Range<Bytes>> {
            let clip = |range: &Range<Bytes>| range.start.max(limits.start)..range.end.min(limits.end);
            placed.iter().map(clip).filter(|range| range.start < range.end).collect()
        };
        let edges = [within(tail.max(head)..map.disk), within(Bytes::ZERO..head)].concat();
        Self { body: within(head..tail.max(head)), edges }
    }

    /// How much the body is.
    pub fn size(&self) -> Bytes {
        Bytes(self.body.iter().map(|range| (range.end - range.start).0).sum())
    }
}

/// The end of a disk that is larger than what is `copied`: a backup table there speaks of something else.
fn beyond(size: Bytes, copied: Bytes) -> Option<Range<Bytes>> {
    let (start, end) =
        (size.saturating_sub(Bytes(EDGE)).max(copied).round_up(SECTOR), size.round_down(SECTOR));
    (start < end).then_some(start..end)
}

/// What of a disk lies between `ranges`, which are sorted by where they begin; one may lie within another, as a reserve
/// in a volume that stays.
fn between(ranges: &[Range<Bytes>], disk: Bytes) -> impl Iterator<Item = Range<Bytes>> {
    let ended = ranges.iter().scan(Bytes::ZERO, |last, range| {
        *last = (*last).max(range.end);
        Some(*last)
    });
    let starts = std::iter::once(Bytes::ZERO).chain(ended);
    let ends = ranges.iter().map(|range| range.start).chain([disk]);
    starts.zip(ends).map(|(start, end)| start..end).filter(|range| range.start < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_larger_disk_begins_behind_what_is_copied() {
        let of = |size: u64, copied: u64| {
            beyond(Bytes(size), Bytes(copied)).map(|range| (range.start.0, range.end.0))
        };
        assert_eq!(of(8 * MIB, 8 * MIB), None);
        assert_eq!(of(8 * MIB + 512, 8 * MIB), Some((8 * MIB, 8 * MIB + 512)));
        assert_eq!(of(8 * MIB + 512, 8 * MIB - 1), Some((8 * MIB, 8 * MIB + 512)));
        assert_eq!(of(16 * MIB, 8 * MIB), Some((15 * MIB, 16 * MIB)));
    }

    #[test]
    fn a_range_within_another_opens_nothing() {
        let ranges = [(20, 80), (40, 50), (90, 100)].map(|(start, end)| Bytes(start)..Bytes(end));
        let found: Vec<_> = between(&ranges, Bytes(120)).map(|range| (range.start.0, range.end.0)).collect();
        assert_eq!(found, [(0, 20), (80, 90), (100, 120)]);
    }
}
