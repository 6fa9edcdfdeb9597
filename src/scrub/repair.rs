// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making good again what is known for certain: second copies, what the primary still has, and digest
//! pages from what the image holds.
//!
//! A page that is rebuilt tells what the image holds, rotten or not, so the next sync replaces whatever
//! differs from the primary. What the generations recorded of their digests is left alone: where the rebuilt
//! table does not add up to it, they go on being reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::found::{Attempt, Found, Place, What};
use super::{frame, history};
use crate::changes::Source;
use crate::changes::source::Moving;
use crate::disk::ReadDisk;
use crate::disk::whole::{read_exact_at, write_all_at};
use crate::engine::digest::{Digest, DigestKey};
use crate::engine::{Batch, Disks, Engine, Shape, Work, WriteId};
use crate::error::Result;
use crate::format::digests::{self, PER_PAGE};
use crate::format::index::Map;
use crate::store::Store;
use crate::store::contents::buffer;
use crate::units::{Bytes, CHUNK, Chunk, PAGE};

/// Repairs what can be repaired of `found`, from the primary, and by the size of the logical blocks where there is a
/// partition table; `unknown` are digests of chunks whose page is bad.
pub(super) fn repair(
    store: &Store,
    key: &DigestKey,
    (primary, table): (Option<&Arc<dyn ReadDisk>>, Option<Bytes>),
    found: &mut [Found],
    unknown: &BTreeMap<u64, Digest>,
) -> Result<()> {
    store.prove()?;
    frame::rewrite_tables(store.disk.as_ref(), table, found)?;
    frame::rewrite_index(store, found)?;
    history::rewrite_frames(store, found)?;
    rebuild_pages(store, found, unknown)?;
    match primary {
        Some(primary) => {
            for map in &store.contents.index.maps {
                mend(store, key, primary, map, found)?;
            }
        }
        None => found
            .iter_mut()
            .filter(|one| one.what == What::Image)
            .for_each(|one| one.attempt = Attempt::NoPrimary),
    }
    store.flush()?;
    read_back(store, key, found)
}

fn rebuild_pages(store: &Store, found: &mut [Found], unknown: &BTreeMap<u64, Digest>) -> Result<()> {
    let unreadable: Vec<u64> = found
        .iter()
        .filter(|one| one.what == What::Image && !unknown.contains_key(&one.number))
        .map(|one| digests::page_of(Chunk(one.number)))
        .collect();
    let table = store.contents.table();
    let pages = found.iter_mut().filter(|one| one.what == What::DigestPage);
    for one in pages.filter(|one| !unreadable.contains(&one.number)) {
        let mut page = buffer(PAGE as usize)?;
        for (&chunk, digest) in unknown.range(one.number * PER_PAGE..(one.number + 1) * PER_PAGE) {
            page[digests::slot_of(Chunk(chunk))].copy_from_slice(&digest.0);
        }
        digests::seal(&mut page, one.number);
        if let Some(at) = table.stretch(Bytes(one.number * PAGE)).at {
            write_all_at(store.disk.as_ref(), at, &page)?;
            one.repaired = true;
        }
    }
    Ok(())
}

/// Replaces damaged chunks of the image under `map` with the primary's, where that still has them.
fn mend(
    store: &Store,
    key: &DigestKey,
    primary: &Arc<dyn ReadDisk>,
    map: &Map,
    found: &mut [Found],
) -> Result<()> {
    let damaged = |one: &&mut Found| one.what == What::Image && one.owner == u64::from(map.id);
    let mut ours: Vec<&mut Found> = found.iter_mut().filter(damaged).collect();
    if ours.is_empty() {
        return Ok(());
    }
    let mut disks = Disks::new();
    let primary = disks.add_read(primary.clone());
    let target = disks.add_write(store.disk.clone());
    let mut engine = Engine::new(disks, Shape::default())?;
    let image = store.contents.image(map);
    let source = Source::new(map, &Moving::All, primary, target.as_read(), image);
    engine.run(&mut Mend { key, source, target, planned: 0, found: &mut ours })
}

struct Mend<'a, 'b> {
    key: &'a DigestKey,
    source: Source,
    target: WriteId,
    planned: usize,
    found: &'a mut [&'b mut Found],
}

impl Work for Mend<'_, '_> {
    type Tag = std::ops::Range<usize>;

    fn next(&mut self, batch: &mut Batch) -> Result<Option<Self::Tag>> {
        let most = batch.bytes().len() / CHUNK as usize;
        let group = self.planned..(self.planned + most).min(self.found.len());
        self.planned = group.end;
        for (i, one) in self.found[group.clone()].iter().enumerate() {
            self.source.read(batch, one.number..one.number + 1, i * CHUNK as usize);
        }
        Ok((!group.is_empty()).then_some(group))
    }

    fn process(&mut self, group: Self::Tag, batch: &mut Batch) -> Result<()> {
        for (i, one) in self.found[group].iter_mut().enumerate() {
            let range = i * CHUNK as usize..(i + 1) * CHUNK as usize;
            let chunk = batch.bytes_mut()[range.clone()].first_chunk_mut().expect("a chunk is that long");
            self.source.blank(one.number..one.number + 1, chunk);
            let Some(Place { at, digest }) = one.place else { continue };
            if digest == Some(self.key.digest(chunk)) {
                batch.write(self.target, at, range);
                one.repaired = true;
            } else {
                one.attempt = Attempt::MovedOn;
            }
        }
        Ok(())
    }
}

/// Reads repaired chunks once more: a medium that took the write may still not hold it.
fn read_back(store: &Store, key: &DigestKey, found: &mut [Found]) -> Result<()> {
    let mut chunk = buffer(CHUNK as usize)?;
    for one in found.iter_mut().filter(|one| one.repaired) {
        let Some(Place { at, digest }) = one.place else { continue };
        let read = read_exact_at(store.reader(), at, &mut chunk);
        let bytes = chunk.first_chunk().expect("the buffer is one chunk");
        if read.is_err() || digest != Some(key.digest(bytes)) {
            (one.repaired, one.attempt) = (false, Attempt::Failed);
        }
    }
    Ok(())
}
