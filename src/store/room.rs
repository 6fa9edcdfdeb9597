// SPDX-License-Identifier: MIT OR Apache-2.0
//! Room for the next undo store: the oldest unpinned generations make way, never the current one, and
//! never before it is certain that there will be enough.

use crate::error::{Error, Kind, Result};
use crate::format::geometry::Geometry;
use crate::format::index::{Index, Run, extents};
use crate::format::superblock::State;
use crate::format::undo::Layout;
use crate::store::free::Free;
use crate::store::write::Store;
use crate::units::{Bytes, CHUNK, Generation};

/// Index bytes that must stay free for the generation being made: its record, a map, and its runs.
const INDEX_MARGIN: u64 = 64 * 1024;

/// How much room the history takes and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Extents' bytes nobody uses.
    pub free: Bytes,
    /// What dropping every generation that may be dropped would give back.
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

/// Takes the oldest unpinned generation out of `index`. Only the oldest of all can go without touching the
/// undo stores of others; behind a pinned one nothing goes. The newest never goes.
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
fn history(index: &Index) -> u64 {
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
    fn extents(self, geometry: &Geometry) -> u64 {
        let undo = if self.entries == 0 { Bytes::ZERO } else { Layout { entries: self.entries }.size() };
        geometry.extents_for(undo) + self.fresh
    }
}

/// How room can be made: nothing is written before it is certain that it will do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The generations that go, oldest first.
    pub dropped: Vec<Generation>,
    index: Index,
}

/// Finds room for `need`, and keeps history within `limit`, by leaving out the oldest generations.
pub fn plan(store: &Store, need: Need, limit: Option<Bytes>) -> Result<Plan> {
    let geometry = store.contents.superblock.geometry;
    let wanted = need.extents(&geometry);
    let capacity = store.index_capacity().0.saturating_sub(INDEX_MARGIN + 12 * wanted);
    let mut index = store.contents.index.clone();
    let mut dropped = Vec::new();
    let limit = limit.map_or(u64::MAX, |limit| limit.0 / geometry.extent.0);
    loop {
        let fits = Free::of(&index, &geometry).count() >= wanted && index.pack().len() as u64 <= capacity;
        let over = history(&index) + (wanted - need.fresh) > limit;
        if fits && !over {
            break;
        }
        match drop_oldest(&mut index) {
            // A limit is kept as far as it goes; it never stands in the way of the newest generation.
            None if fits => break,
            Some(generation) => dropped.push(generation),
            None => return Err(too_small(store, wanted, need)),
        }
    }
    Ok(Plan { dropped, index })
}

impl Plan {
    /// Drops the generations, in a flip of its own that is finished before their extents are reused.
    /// Returns the generations that went.
    pub fn make(self, store: &mut Store) -> Result<Vec<Generation>> {
        if !self.dropped.is_empty() {
            let state = store.contents.superblock.state;
            debug_assert!(
                matches!(state, State::Clean(_)),
                "generations are dropped from a clean store only"
            );
            store.change(state, self.index)?;
        }
        Ok(self.dropped)
    }
}

fn too_small(store: &Store, wanted: u64, need: Need) -> Error {
    let geometry = store.contents.superblock.geometry;
    let room = room(&store.contents.index, &geometry);
    let kept = match need.fresh {
        0 => String::new(),
        fresh => {
            let size = Bytes(fresh * geometry.extent.0);
            format!(" and {size} newly kept, which count twice: as image and as what must be undone,")
        }
    };
    let why = format!(
        "{} of changes{kept} need {} of history room, and only {} can be had",
        Bytes(need.entries * CHUNK),
        Bytes(wanted * geometry.extent.0),
        room.free + room.droppable
    );
    Error::new(Kind::NoRoom, "keeping the last generation on", why)
        .on(store.disk.name())
        .left("no generation was dropped and the last one is intact")
        .next("use a larger DPSR disk, or give up all history with 'dpsr sync --full --no-undo'")
}

/// Runs for an undo store of `entries` exceptions, out of `free`.
pub fn take_undo(free: &mut Free, geometry: &Geometry, entries: u64) -> Option<Vec<Run>> {
    let count = geometry.extents_for(Layout { entries }.size());
    let runs = free.take(0, u32::try_from(count).ok()?)?;
    debug_assert_eq!(extents(&runs), count);
    Some(runs)
}
