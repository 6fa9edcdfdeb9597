// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rolling back: an interrupted sync is undone from its undo store. It needs no primary, may itself be
//! interrupted at any point, and changes nothing unless every checksum of the undo store holds.

use std::sync::Arc;

use crate::disk::WriteDisk;
use crate::engine::{Batch, Disks, Engine, Shape, Work, WriteId};
use crate::error::{Error, Kind, Result};
use crate::format::superblock::State;
use crate::format::undo::{Layout, Record};
use crate::store::contents;
use crate::store::space::Space;
use crate::store::undo::UndoReader;
use crate::store::write::Store;
use crate::units::{Bytes, CHUNK, Chunk, Generation};

/// What to do where the undo store of an interrupted sync is damaged.
const DAMAGED: &str = "it cannot be rolled back: 'dpsr export N' still reads what is sound; 'dpsr sync --full \
     --no-undo' starts afresh";

/// Rolls the store back if it was being updated. Returns the generation it is now, if it had to.
pub fn recover(store: &mut Store) -> Result<Option<Generation>> {
    roll_back(store).map_err(|error| if error.kind() == Kind::Damaged { hopeless(error) } else { error })
}

/// Says of damage that the next sync will meet it again.
fn hopeless(error: Error) -> Error {
    error.left("the interrupted sync was not rolled back, so that nothing is made worse").next(DAMAGED)
}

fn roll_back(store: &mut Store) -> Result<Option<Generation>> {
    let State::Updating { from, to, nonce, before } = store.contents.superblock.state else {
        return Ok(None);
    };
    let contents = &store.contents;
    let record = contents.record(from)?;
    let next = contents.index.record(to).expect("checked when the store was read");
    let Some(undo) = record.undo.as_ref().filter(|undo| undo.nonce == nonce) else {
        return Err(contents::damaged(store.reader(), "the interrupted sync's undo store is not there"));
    };
    let space = Space { image: contents.image(contents.map_of(next)), table: contents.table() };
    let reader = UndoReader::new(contents.undo(undo), undo, from);
    // The index to return to must be readable before anything is overwritten.
    let geometry = contents.superblock.geometry;
    let (index, _) = contents::read_index(store.reader(), contents.base, &geometry, &before)?;
    reader.check_frame(store.reader())?;
    store.prove()?;
    pass(&store.disk, &reader, &space, false)?;
    pass(&store.disk, &reader, &space, true)?;
    store.flush()?;
    store.flip(State::Clean(from), before, index)?;
    Ok(Some(from))
}

/// Goes through the whole undo store once: checks every chunk, and puts it back if `write`.
fn pass(disk: &Arc<dyn WriteDisk>, reader: &UndoReader, space: &Space, write: bool) -> Result<()> {
    let mut disks = Disks::default();
    let target = disks.add_write(disk.clone());
    let mut engine = Engine::new(disks, Shape::default())?;
    let next_area = 0;
    let loaded = Vec::new().into_iter();
    engine.run_to_end(&mut PutBack {
        disk: disk.as_ref(),
        reader,
        space,
        target,
        write,
        next_area,
        loaded,
        entry: 0,
    })
}

struct PutBack<'a> {
    disk: &'a dyn WriteDisk,
    reader: &'a UndoReader,
    space: &'a Space,
    target: WriteId,
    write: bool,
    next_area: u64,
    loaded: std::vec::IntoIter<(Chunk, Record)>,
    entry: u64,
}

impl Work for PutBack<'_> {
    type Tag = Vec<(Chunk, Record)>;

    fn next(&mut self, batch: &mut Batch) -> Result<Option<Self::Tag>> {
        if self.loaded.len() == 0 {
            if self.next_area == self.reader.layout.areas() {
                return Ok(None);
            }
            self.loaded = self.reader.area(self.disk, self.next_area)?.entries.into_iter();
            self.next_area += 1;
        }
        let most = batch.bytes().len() / CHUNK as usize;
        let group: Vec<_> = self.loaded.by_ref().take(most).collect();
        let start = Layout::data(self.entry);
        let end = Bytes(start.0 + group.len() as u64 * CHUNK);
        self.entry += group.len() as u64;
        for stretch in self.reader.placement.stretches(start..end) {
            let at = stretch.at.ok_or_else(|| self.reader.damaged(self.disk, "part of it has no place"))?;
            let range = (stretch.range.start - start).usize()..(stretch.range.end - start).usize();
            batch.read(self.target.as_read(), at, range);
        }
        Ok(Some(group))
    }

    fn process(&mut self, group: Self::Tag, batch: &mut Batch) -> Result<()> {
        for (i, (chunk, record)) in group.iter().enumerate() {
            let offset = i * CHUNK as usize;
            let saved = &batch.bytes()[offset..offset + CHUNK as usize];
            if crc32c::crc32c(saved) != record.old_crc {
                let why = format!("the saved copy of 64 KiB at {} is damaged", chunk.start().0);
                return Err(self.damage(&why));
            }
            for (place, range) in self.space.places(chunk.0..chunk.0 + 1) {
                let place = place.ok_or_else(|| self.damage("a saved chunk has no place"))?;
                for pages in record.mask.runs().filter(|_| self.write) {
                    debug_assert_eq!(range, 0..CHUNK as usize, "chunks never cross extents");
                    let at = place + Bytes(pages.start as u64);
                    batch.write(self.target, at, offset + pages.start..offset + pages.end);
                }
            }
        }
        Ok(())
    }
}

impl PutBack<'_> {
    fn damage(&self, why: &str) -> Error {
        self.reader.damaged(self.disk, why)
    }
}
