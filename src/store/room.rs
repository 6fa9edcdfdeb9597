// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much room there is, and how much is asked for. Making room is up to [`crate::history::room`].

use crate::format::geometry::Geometry;
use crate::format::index::{Index, Run, extents};
use crate::format::undo::Layout;
use crate::store::free::Free;
use crate::units::{Bytes, Generation};

/// How much room the history takes and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Extents' bytes nobody uses.
    pub free: Bytes,
    /// What dropping every generation older than the first pinned one, or than the newest, would give back.
    /// What can be had behind a pinned one is known only once it is merged.
    pub droppable: Bytes,
}

/// How much room there is now.
pub fn room(index: &Index, geometry: &Geometry) -> Room {
    let bytes = |count: u64| Bytes(count * geometry.extent.0);
    let mut emptied = index.clone();
    while drop_oldest(&mut emptied).is_some() {}
    let free = Free::of(index, geometry).count();
    Room { free: bytes(free), droppable: bytes(Free::of(&emptied, geometry).count() - free) }
}

/// Takes the oldest generation out of `index`, unless it is pinned: only the oldest of all can go without
/// touching the undo stores of others. The newest never goes.
fn drop_oldest(index: &mut Index) -> Option<Generation> {
    if index.generations.len() < 2 || index.generations[0].pinned {
        return None;
    }
    let dropped = index.generations.remove(0);
    let newest = index.generations.last().map_or(0, |record| record.map);
    index.drop_unused_maps(newest);
    Some(dropped.generation)
}

/// Extents that undo stores take.
pub fn history(index: &Index) -> u64 {
    let stores = index.generations.iter().filter_map(|record| record.undo.as_ref());
    stores.map(|undo| extents(&undo.runs)).sum()
}

/// What a sync asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Exceptions of the undo store; none if nothing changed.
    pub entries: u64,
    /// Extents of the image that are new in the next generation.
    pub fresh: u64,
}

impl Need {
    /// Extents it takes in all.
    pub fn extents(self, geometry: &Geometry) -> u64 {
        let undo = if self.entries == 0 { Bytes::ZERO } else { Layout { entries: self.entries }.size() };
        geometry.extents_for(undo) + self.fresh
    }
}

/// Runs for an undo store of `entries` exceptions, out of `free`.
pub fn take_undo(free: &mut Free, geometry: &Geometry, entries: u64) -> Option<Vec<Run>> {
    let count = geometry.extents_for(Layout { entries }.size());
    let runs = free.take(0, u32::try_from(count).ok()?)?;
    debug_assert_eq!(extents(&runs), count);
    Some(runs)
}
