// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the volumes of the primary to the extents of the image: holes are whole extents, and the edges of
//! a left-out partition lie in allocated extents that hold zeros.

use std::ops::Range;

use crate::format::geometry::Geometry;
use crate::format::index::{Map, Run, Volume};
use crate::store::free::Free;
use crate::units::Bytes;

/// The ranges of the disk that are left out, sorted and disjoint.
pub fn left_out(volumes: &[Volume], disk: Bytes) -> Vec<Range<Bytes>> {
    let end = |volume: &Volume| (volume.start + volume.size).min(disk);
    let out = volumes.iter().filter(|volume| volume.left_out && volume.size > Bytes::ZERO);
    let mut ranges: Vec<_> = out.map(|volume| volume.start.min(disk)..end(volume)).collect();
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// The extents of the image that hold at least one kept byte, as ranges of extent numbers.
pub fn needed(volumes: &[Volume], disk: Bytes, geometry: &Geometry) -> Vec<Range<u32>> {
    let mut needed = Vec::new();
    let mut next = 0u64;
    for out in left_out(volumes, disk) {
        // Only whole extents inside the left-out range are holes; at the end of the disk a partial one is.
        let first = out.start.div_ceil(geometry.extent.0).max(next);
        let last = if out.end == disk { geometry.extents_for(disk) } else { out.end.0 / geometry.extent.0 };
        if first < last {
            needed.push(next..first);
            next = last;
        }
    }
    needed.push(next..geometry.extents_for(disk));
    let narrow = |n: u64| u32::try_from(n).expect("an image has fewer extents than 2^32");
    needed
        .into_iter()
        .filter(|range| range.start < range.end)
        .map(|r| narrow(r.start)..narrow(r.end))
        .collect()
}

/// How many extents an image with these volumes takes.
pub fn needed_count(volumes: &[Volume], disk: Bytes, geometry: &Geometry) -> u64 {
    needed(volumes, disk, geometry).iter().map(|range| u64::from(range.end - range.start)).sum()
}

/// What an image takes before any extent is taken for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The extents it keeps from the map before, in order.
    pub kept: Vec<Run>,
    /// The extents of the image that need a place yet, in order.
    pub fresh: Vec<Range<u32>>,
}

impl Outline {
    /// How many extents need a place.
    pub fn fresh_count(&self) -> u64 {
        self.fresh.iter().map(|range| u64::from(range.end - range.start)).sum()
    }
}

/// What an image with these volumes takes, and what of it `old` already has.
pub fn outline(old: &Map, volumes: &[Volume], geometry: &Geometry) -> Outline {
    let (mut kept, mut fresh) = (Vec::new(), Vec::new());
    for range in needed(volumes, old.disk, geometry) {
        let mut at = range.start;
        while at < range.end {
            let (placed, end) = placed_at(&old.runs, at);
            let end = end.min(range.end);
            match placed {
                Some(extent) => kept.push(Run { at, extent, count: end - at }),
                None => fresh.push(at..end),
            }
            at = end;
        }
    }
    Outline { kept, fresh }
}

/// A map for `volumes` that keeps every extent `old` already has, and the runs that are new in it; `None`
/// if `free` runs out. Nothing of `free` is given back then, so the caller works on a copy.
pub fn follow(
    old: &Map,
    volumes: Vec<Volume>,
    geometry: &Geometry,
    free: &mut Free,
) -> Option<(Map, Vec<Run>)> {
    let outline = outline(old, &volumes, geometry);
    let mut fresh = Vec::new();
    for range in &outline.fresh {
        fresh.extend(free.take(range.start, range.end - range.start)?);
    }
    let mut runs = outline.kept;
    runs.extend_from_slice(&fresh);
    runs.sort_by_key(|run| run.at);
    Some((Map { id: old.id + 1, volumes, runs: joined(runs), ..old.clone() }, fresh))
}

/// The extent of the store that holds extent `at` of the image, if any, and where the answer changes.
fn placed_at(runs: &[Run], at: u32) -> (Option<crate::units::Extent>, u32) {
    let next = runs.partition_point(|run| run.at <= at);
    match next.checked_sub(1).map(|i| runs[i]) {
        Some(run) if at - run.at < run.count => {
            (Some(crate::units::Extent(run.extent.0 + (at - run.at))), run.at + run.count)
        }
        _ => (None, runs.get(next).map_or(u32::MAX, |run| run.at)),
    }
}

fn joined(runs: Vec<Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.at + last.count == run.at && last.extent.0 + last.count == run.extent.0 => {
                last.count += run.count;
            }
            _ => joined.push(run),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::extents;
    use crate::units::{Extent, KIB, MIB};

    fn volume(id: &str, start: u64, size: u64, left_out: bool) -> Volume {
        let (start, size) = (Bytes(start), Bytes(size));
        Volume { id: id.into(), name: id.into(), label: String::new(), start, size, left_out, group: false }
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list that happens to have one range")]
    fn holes_are_whole_extents_inside_what_is_left_out() {
        let geometry = Geometry::choose(Bytes(64 * MIB)).unwrap();
        let e = geometry.extent.0;
        let disk = Bytes(10 * e + 512);
        let of = |volumes: &[Volume]| needed(volumes, disk, &geometry);
        assert_eq!(of(&[volume("1", e / 2, 9 * e, false)]), [0..11]);
        assert_eq!(of(&[volume("1", e / 2, 3 * e, true)]), [0..1, 3..11]);
        assert_eq!(of(&[volume("1", e, 2 * e, true), volume("2", 3 * e, e, true)]), [0..1, 4..11]);
        assert_eq!(of(&[volume("1", 10 * e, 512, true)]), [0..10]);
        assert_eq!(of(&[volume("1", e / 4, e / 2, true)]), [0..11]);
    }

    #[test]
    fn repartitioning_keeps_what_stays_and_takes_what_is_new() {
        let geometry = Geometry::choose(Bytes(64 * MIB)).unwrap();
        assert_eq!(geometry.extent, Bytes(256 * KIB));
        let e = geometry.extent.0;
        let runs =
            vec![Run { at: 0, extent: Extent(5), count: 2 }, Run { at: 6, extent: Extent(7), count: 4 }];
        let old = Map {
            id: 1,
            disk: Bytes(10 * e),
            block: Bytes(512),
            volumes: vec![volume("1", 2 * e, 4 * e, true)],
            runs,
        };
        let index_free = || Free::of(&empty_index(), &geometry);
        let mut free = index_free();
        free.take(0, 20).unwrap();
        let (map, fresh) = follow(&old, vec![volume("1", 4 * e, 4 * e, true)], &geometry, &mut free).unwrap();
        assert_eq!(fresh, [Run { at: 2, extent: Extent(20), count: 2 }]);
        assert_eq!(
            map.runs,
            [
                Run { at: 0, extent: Extent(5), count: 2 },
                Run { at: 2, extent: Extent(20), count: 2 },
                Run { at: 8, extent: Extent(9), count: 2 }
            ]
        );
        assert_eq!((map.id, extents(&map.runs)), (2, 6));
    }

    fn empty_index() -> crate::format::index::Index {
        crate::format::index::Index {
            store: uuid::Uuid::nil(),
            secret: [0; 32],
            primary: String::new(),
            digests: vec![],
            maps: vec![],
            generations: vec![],
            objects: vec![],
            scrub: Default::default(),
        }
    }
}
