// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading what a store says about itself. Nothing is written here, so every verb may do it.

use std::ops::Range;

use crate::disk::ReadDisk;
use crate::disk::whole::read_exact_at;
use crate::error::{Error, Kind, Result};
use crate::format::Parsed;
use crate::format::geometry::Geometry;
use crate::format::index::{Index, LIVE_STORE, Map, Object, PRE_IMAGES, Record, Run, Undo};
use crate::format::superblock::{self, IndexRoot, State, Superblock};
use crate::store::placement::Placement;
use crate::sys::buffer::Buffer;
use crate::units::{Bytes, Generation, PAGE, list};

/// Everything a store says about itself.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Where the store partition starts on its disk.
    pub base: Bytes,
    /// The winning superblock.
    pub superblock: Superblock,
    /// The index it names.
    pub index: Index,
    /// Superblock copies that are unreadable, damaged or older than the winner.
    pub stale_superblocks: u32,
    /// Index blocks of which one copy is bad.
    pub bad_index_blocks: u64,
}

/// Reads the store in `partition` of `disk`; `None` if there is no trace of one.
pub fn read(disk: &dyn ReadDisk, partition: &Range<Bytes>) -> Result<Option<Contents>> {
    let Some((superblock, stale_superblocks)) = read_superblock(disk, partition)? else {
        return Ok(None);
    };
    let base = partition.start;
    let (index, bad_index_blocks) = read_index(disk, base, &superblock.geometry, &superblock.index)?;
    if index.store != superblock.store {
        return Err(damaged(disk, "the index belongs to another store"));
    }
    let contents = Contents { base, superblock, index, stale_superblocks, bad_index_blocks };
    contents.check_state(disk)?;
    Ok(Some(contents))
}

/// The winning superblock and how many copies differ from it.
fn read_superblock(disk: &dyn ReadDisk, partition: &Range<Bytes>) -> Result<Option<(Superblock, u32)>> {
    let size = partition.end - partition.start;
    let mut copies: Vec<Superblock> = Vec::new();
    let mut reasons = Vec::new();
    let (mut newest, mut failed) = (0, None);
    for location in Geometry::superblocks_in(size) {
        let mut block = buffer(superblock::SIZE)?;
        match read_exact_at(disk, partition.start + location, &mut block) {
            Ok(()) => {
                newest = newest.max(Superblock::sequence_of(&block, location).unwrap_or(0));
                match Superblock::unpack(&block, location) {
                    Parsed::Ours(found) if found.geometry.store == size.round_down(PAGE) => {
                        copies.push(found)
                    }
                    Parsed::Ours(_) => {
                        reasons.push("it was made for a partition of another size".to_string())
                    }
                    Parsed::Damaged(why) => reasons.push(why),
                    Parsed::NotOurs => {}
                }
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let Some(winner) = copies.iter().max_by_key(|copy| copy.sequence).cloned() else {
        return match (failed, reasons.first()) {
            (Some(error), _) => Err(error),
            (None, None) => Ok(None),
            (None, Some(why)) => Err(damaged(disk, &format!("no superblock copy is good: {why}"))),
        };
    };
    if copies.iter().any(|copy| copy.sequence == winner.sequence && *copy != winner) {
        return Err(damaged(disk, "two superblock copies with the same sequence differ"));
    }
    if copies.iter().any(|copy| copy.store != winner.store) {
        return Err(damaged(disk, "its superblock copies belong to different stores"));
    }
    if newest > winner.sequence {
        // It is whole, so it is not stale rubbish: a later version wrote a state this one cannot judge.
        let why = reasons.first().map_or("unknown", String::as_str);
        return Err(damaged(disk, &format!("its newest superblock copy cannot be understood: {why}")));
    }
    let same = copies.iter().filter(|copy| **copy == winner).count() as u32;
    Ok(Some((winner, 3 - same)))
}

/// The index `root` names, and how many of its blocks have one bad copy.
pub fn read_index(
    disk: &dyn ReadDisk,
    base: Bytes,
    geometry: &Geometry,
    root: &IndexRoot,
) -> Result<(Index, u64)> {
    let size = Bytes(Index::blocks_for(root.len) * PAGE);
    if size > geometry.index_slot {
        return Err(damaged(disk, "the index is larger than its slot"));
    }
    let locations = [0, 1].map(|copy| geometry.index(root.slot, copy));
    let mut copies = [buffer(size.usize())?, buffer(size.usize())?];
    let mut failed = None;
    for (copy, location) in copies.iter_mut().zip(locations) {
        // A copy that cannot be read is a bad copy: zeros parse as such.
        if let Err(error) = read_exact_at(disk, base + location, copy) {
            copy.fill(0);
            failed = Some(error);
        }
    }
    let (payload, bad) = Index::assemble(root, [&copies[0], &copies[1]], locations).map_err(|why| {
        failed.unwrap_or_else(|| damaged(disk, &format!("the index cannot be read: {why}")))
    })?;
    let index = Index::unpack(&payload, geometry)
        .map_err(|why| damaged(disk, &format!("the index does not hold together: {why}")))?;
    Ok((index, bad))
}

/// Aligned memory for metadata.
pub fn buffer(len: usize) -> Result<Buffer> {
    Buffer::new(len).map_err(|error| Error::new(Kind::Internal, "taking memory", error.to_string()))
}

/// What ends the state of a store from which a machine runs.
const FAILBACK: &str = "'dpsr failback' brings that system back to a disk of its own";

/// An error about a store that is ours but not in order.
pub fn damaged(disk: &dyn ReadDisk, why: &str) -> Error {
    Error::new(Kind::Damaged, "reading the store on", why)
        .on(disk.name())
        .left("nothing was written")
        .next("keep the disk as it is; docs/FORMAT.md and tests/reader.py read what is left")
}

impl Contents {
    /// The newest generation the store can be opened as: after a roll-back where one is due.
    pub fn current(&self) -> Option<Generation> {
        match self.superblock.state {
            State::Clean(generation) => Some(generation),
            State::Updating { from, .. } => Some(from),
            State::Live(from) | State::Returning(from) | State::Aside(from) => Some(from),
            State::Filling { .. } | State::NoValid { .. } | State::LiveNoHistory(_) => None,
        }
    }

    /// The newest generation whose undo store, if it has one, lies over the image: of an interrupted sync the
    /// one it was making, for what it has overwritten so far stands in the undo store of the one before.
    pub fn newest(&self) -> Option<Generation> {
        match self.superblock.state {
            State::Updating { to, .. } => Some(to),
            _ => self.current(),
        }
    }

    /// The record of `generation`, or an error that lists what there is.
    pub fn record(&self, generation: Generation) -> Result<&Record> {
        let current = self.current();
        let found = self.index.record(generation).filter(|_| current.is_some_and(|last| generation <= last));
        found.ok_or_else(|| {
            let all = self.index.generations.iter().map(|record| record.generation);
            let all: Vec<_> = all.filter(|one| current.is_some_and(|last| *one <= last)).collect();
            let why = match &all[..] {
                [] => "the store holds no complete generation yet".into(),
                all => format!("the store keeps {}", list(all)),
            };
            Error::new(Kind::NotFound, format!("looking for generation {generation}"), why)
                .next("'dpsr generations' lists them")
        })
    }

    /// The map of `record`.
    pub fn map_of(&self, record: &Record) -> &Map {
        self.index.map(record.map).expect("checked when the index was read")
    }

    /// The map the image follows now: that of the newest record, or the only one while filling.
    pub fn newest_map(&self) -> &Map {
        let newest = self.index.maps.iter().max_by_key(|map| map.id);
        newest.expect("a store has a map from its creation on")
    }

    /// The map of what a machine runs from: the newest, or that of an older generation.
    pub fn running_map(&self) -> &Map {
        let older = self.aside().and_then(|from| self.index.record(from));
        older.map_or_else(|| self.newest_map(), |record| self.map_of(record))
    }

    /// Where the image lies under `map`.
    pub fn image(&self, map: &Map) -> Placement {
        Placement::new(&map.runs, self.superblock.geometry, self.base)
    }

    /// Where the digest table lies.
    pub fn table(&self) -> Placement {
        Placement::new(&self.index.digests, self.superblock.geometry, self.base)
    }

    /// Where what a machine that runs from the image overwrites is kept.
    pub fn live_store(&self) -> Option<&Object> {
        self.index.objects.iter().find(|object| object.kind == LIVE_STORE)
    }

    /// Room that is kept for pre-images of the primary.
    pub fn pre_images(&self) -> Option<&[Run]> {
        let object = self.index.objects.iter().find(|object| object.kind == PRE_IMAGES)?;
        Some(&object.runs)
    }

    /// The older generation from which a machine runs, or ran; its writes are in the live store.
    pub fn aside(&self) -> Option<Generation> {
        let about = &self.live_store()?.about;
        let word = about.get(8..16).filter(|_| matches!(self.superblock.state, State::Aside(_)))?;
        Some(Generation(u64::from_le_bytes(word.try_into().expect("eight bytes"))))
    }

    /// When a machine began to run from it: seconds since 1970, UTC. Not known where what that overwrites is not kept.
    pub fn live_since(&self) -> Option<u64> {
        let word = self.live_store()?.about.get(..8)?;
        Some(u64::from_le_bytes(word.try_into().expect("eight bytes")))
    }

    /// Refuses a store that belongs to a machine until that has a disk of its own again: whoever would change it.
    pub fn refuse_in_use(&self, doing: &str) -> Result<()> {
        let State::Aside(_) = self.superblock.state else { return self.refuse_live(doing) };
        let from = self.aside().map_or(String::new(), |from| format!(", from generation {from}"));
        let why = format!("a system was started from it{from}, and what that wrote is there");
        Err(Error::new(Kind::Refused, doing, why).left("nothing was written").next(FAILBACK))
    }

    /// Refuses a store from which a machine runs or ran: its image is no generation.
    pub fn refuse_live(&self, doing: &str) -> Result<()> {
        let (why, next) = match self.superblock.state {
            State::Live(from) | State::LiveNoHistory(from) => (
                format!("a system was started from it, at generation {from}, and has written to it"),
                FAILBACK,
            ),
            State::Returning(from) => (
                format!("it is being made generation {from} again, and that was cut off"),
                "restart the machine: that is ended before anything else; if it fails each time, 'dpsr sync --full \
                 --no-undo' gives up all history and copies afresh",
            ),
            _ => return Ok(()),
        };
        Err(Error::new(Kind::Refused, doing, why).left("nothing was written").next(next))
    }

    /// Where an undo store lies.
    pub fn undo(&self, undo: &Undo) -> Placement {
        Placement::new(&undo.runs, self.superblock.geometry, self.base)
    }

    fn check_state(&self, disk: &dyn ReadDisk) -> Result<()> {
        let known = |generation| self.index.record(generation).is_some();
        let sound = match self.superblock.state {
            State::Clean(generation) => known(generation),
            State::Updating { from, to, .. } => known(from) && known(to),
            State::Live(from) | State::Returning(from) => known(from) && self.live_store().is_some(),
            State::Aside(newest) => known(newest) && self.aside().is_some_and(known),
            State::Filling { .. } | State::NoValid { .. } | State::LiveNoHistory(_) => true,
        };
        if !sound || self.index.maps.is_empty() {
            return Err(damaged(disk, "the superblock and the index do not agree"));
        }
        Ok(())
    }
}
