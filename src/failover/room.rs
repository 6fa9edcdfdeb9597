// SPDX-License-Identifier: MIT OR Apache-2.0
//! Room for what a machine writes that is started from the copy. History takes all there is on most DPSR disks,
//! so the oldest generations make way, as they do for a sync.

use crate::format::geometry::Geometry;
use crate::format::index::Index;
use crate::store::free::Free;
use crate::units::{Bytes, Generation, MIB};

/// So much of the disk's size should be free: one part in so many.
const PART: u64 = 16;

/// Where that cannot be had, so much will do: not all of history goes for what is not enough anyway.
const LEAST: Bytes = Bytes(64 * MIB);

/// Takes the oldest generations out of an index until there is room, or one is pinned, or `keep` is next; which.
pub fn make(index: &mut Index, geometry: Geometry, disk: Bytes, keep: Generation) -> Vec<Generation> {
    let extents = |bytes: Bytes| bytes.0.div_ceil(geometry.extent.0);
    let part = extents(Bytes(disk.0 / PART));
    let least = extents(LEAST).min(part);
    for wanted in [part, least] {
        let mut after = index.clone();
        let gone = drop_oldest(&mut after, geometry, wanted, keep);
        if wanted == least || Free::of(&after, &geometry).count() >= wanted {
            *index = after;
            return gone;
        }
    }
    Vec::new()
}

fn drop_oldest(index: &mut Index, geometry: Geometry, wanted: u64, keep: Generation) -> Vec<Generation> {
    let mut gone = Vec::new();
    let newest = index.maps.iter().map(|map| map.id).max().unwrap_or(0);
    while Free::of(index, &geometry).count() < wanted {
        let oldest = index.generations.first();
        let Some(oldest) = oldest.filter(|oldest| !oldest.pinned && oldest.generation < keep) else { break };
        gone.push(oldest.generation);
        index.generations.remove(0);
        index.drop_unused_maps(newest);
    }
    gone
}
