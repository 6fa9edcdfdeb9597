// SPDX-License-Identifier: MIT OR Apache-2.0
//! One undo store: its frame, its areas, and every chunk it saved.

use super::found::{Found, UNREADABLE, What};
use super::report::Affected;
use super::sweep::{Check, Piece, Reader, pieces};
use super::tables::bad_pages;
use super::walk::{Depth, Walk};
use crate::engine::digest::CHUNK_LEN;
use crate::error::{Kind, Result};
use crate::format::digests;
use crate::format::index::Undo;
use crate::format::undo::{Companion, Layout, Record};
use crate::store::placement::Placement;
use crate::store::undo::UndoReader;
use crate::units::{Bytes, CHUNK, Chunk, Generation};

/// The undo store of a generation.
pub(super) struct Saved<'a> {
    pub(super) generation: Generation,
    /// The generation it is the way back from.
    pub(super) above: Generation,
    pub(super) undo: &'a Undo,
    /// Where the image of `above` lies.
    pub(super) before: Placement,
    /// Where the image of `generation` lies.
    pub(super) image: Placement,
    /// Chunks in that image.
    pub(super) chunks: u64,
}

/// What an area says it saved; without chunk numbers where only the companion is sound.
enum Entries {
    Known(Vec<(Chunk, Record)>),
    Nameless(Vec<Record>),
}

impl Saved<'_> {
    /// Checks all of it. The last area comes first: it holds the digests against which the rest is checked.
    pub(super) fn check(&self, walk: &mut Walk<'_>, reader: &mut Reader<'_>) -> Result<()> {
        let undo = UndoReader::new(walk.contents.undo(self.undo), self.undo, self.generation);
        self.frame(walk, reader, &undo)?;
        if walk.depth == Depth::Data {
            let what = format!("checking the history of generation {}", self.generation);
            reader.progress.begin(&what, Bytes(undo.layout.entries * CHUNK));
        }
        for area in (0..undo.layout.areas()).rev() {
            let Some(entries) = self.area(walk, reader, &undo, area)? else { continue };
            let first = undo.layout.entries_in(area).start;
            if let Entries::Known(entries) = &entries {
                self.follow(walk, &undo, first, entries)?;
            }
            if walk.depth == Depth::Data {
                let pieces = self.pieces(&undo, area);
                let mut check = SavedCheck { saved: self, walk, entries: &entries, first };
                reader.sweep(pieces, &mut check)?;
            }
        }
        Ok(())
    }

    fn frame(&self, walk: &mut Walk<'_>, reader: &mut Reader<'_>, undo: &UndoReader) -> Result<()> {
        let parts = [
            (What::UndoHeader, undo.check_header(reader.disk), "it is not as written"),
            (What::UndoEnd, undo.check_end(reader.disk), "it is not zero"),
        ];
        for (what, outcome, why) in parts {
            if let Some(why) = reason(reader, outcome, why)?.err() {
                walk.note_alone(Found::new(what, self.generation.0, 0, why));
            }
            reader.read += Bytes(CHUNK);
        }
        Ok(())
    }

    /// What area `area` says; `None` if nothing of it can be believed.
    fn area(
        &self,
        walk: &mut Walk<'_>,
        reader: &mut Reader<'_>,
        undo: &UndoReader,
        area: u64,
    ) -> Result<Option<Entries>> {
        reader.read += Bytes(CHUNK) + crate::format::undo::COMPANION;
        let sound = "it does not match its checksum";
        let companion: Companion = match reason(reader, undo.companion(reader.disk, area), sound)? {
            Ok(companion) => companion,
            Err(why) => {
                self.lose(walk, undo, What::UndoCompanion, area, why);
                return Ok(None);
            }
        };
        let records = companion.records.clone();
        Ok(Some(match reason(reader, undo.entries(reader.disk, companion), sound)? {
            Ok(found) => Entries::Known(found.entries),
            Err(why) => {
                self.lose(walk, undo, What::UndoArea, area, why);
                Entries::Nameless(records)
            }
        }))
    }

    /// Notes a lost area: neither this generation nor any before it can be put together without it.
    fn lose(&self, walk: &mut Walk<'_>, undo: &UndoReader, what: What, area: u64, why: &'static str) {
        let mut found = Found::new(what, self.generation.0, area, why);
        found.affected = Some(Affected { oldest: walk.oldest, newest: self.generation });
        walk.note_alone(found);
        walk.broken |= undo.layout.entries_in(area).end > self.undo.image_entries;
    }

    /// What the entries say: damage in the image ends here, and chunks of the digest table stand elsewhere.
    fn follow(
        &self,
        walk: &mut Walk<'_>,
        undo: &UndoReader,
        first: u64,
        entries: &[(Chunk, Record)],
    ) -> Result<()> {
        for ((chunk, _), entry) in entries.iter().zip(first..) {
            walk.end(chunk.0, self.above);
            self.supersede(walk, *chunk);
            if let Some(number) = chunk.0.checked_sub(digests::BASE.0).filter(|&n| n < walk.tables.len()) {
                walk.tables.put(number, undo.placement.stretch(Layout::data(entry)).at, &self.image)?;
            }
        }
        Ok(())
    }

    fn pieces(&self, undo: &UndoReader, area: u64) -> Vec<Piece> {
        let entries = undo.layout.entries_in(area);
        pieces(&undo.placement, Layout::data(entries.start), entries.start, entries.end - entries.start)
    }

    /// Notes that nobody reads what stands where `chunk` lay, if it lies elsewhere in the next generation:
    /// a store that was merged over that of the generation in which it still lay there has such chunks.
    fn supersede(&self, walk: &mut Walk<'_>, chunk: Chunk) {
        let place = self.image.chunk(chunk);
        if chunk.0 < self.chunks && place.is_some() && place != self.before.chunk(chunk) {
            walk.superseded.insert(chunk);
        }
    }

    /// Whether what was saved of `chunk` is what this generation reads: not if it has no place here, because
    /// it was new in the next one.
    fn is_read(&self, chunk: Chunk) -> bool {
        chunk >= digests::BASE || self.image.chunk(chunk).is_some()
    }
}

/// Tells damage from a disk that is gone: the first becomes a reason, the second stays an error.
fn reason<T>(
    reader: &Reader<'_>,
    outcome: Result<T>,
    damaged: &'static str,
) -> Result<Result<T, &'static str>> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.kind() == Kind::Damaged => Ok(Err(damaged)),
        Err(error) if error.kind() == Kind::Device => {
            reader.still_there(error)?;
            Ok(Err(UNREADABLE))
        }
        Err(error) => Err(error),
    }
}

/// Checks saved chunks.
struct SavedCheck<'a, 'b> {
    saved: &'a Saved<'a>,
    walk: &'a mut Walk<'b>,
    entries: &'a Entries,
    /// Number of the first entry.
    first: u64,
}

impl Check for SavedCheck<'_, '_> {
    fn chunk(&mut self, item: u64, _at: Bytes, bytes: Option<&[u8; CHUNK_LEN]>) -> Result<()> {
        let index = (item - self.first) as usize;
        match self.entries {
            Entries::Known(entries) => {
                let (chunk, record) = entries[index];
                if let Some(why) = self.wrong(chunk, record, bytes) {
                    self.note(chunk, why);
                }
            }
            Entries::Nameless(records) => {
                let holds = bytes.is_some_and(|bytes| crc32c::crc32c(bytes) == records[index].old_crc);
                if !holds {
                    let (owner, why) = (self.saved.generation.0, "it does not match its checksum");
                    self.walk.note_alone(Found::new(What::UndoEntry, owner, item, why));
                }
            }
        }
        Ok(())
    }
}

impl SavedCheck<'_, '_> {
    /// What is wrong with the saved bytes of `chunk`.
    fn wrong(
        &mut self,
        chunk: Chunk,
        record: Record,
        bytes: Option<&[u8; CHUNK_LEN]>,
    ) -> Option<&'static str> {
        let Some(bytes) = bytes else { return Some(UNREADABLE) };
        if crc32c::crc32c(bytes) != record.old_crc {
            return Some("it does not match its checksum");
        }
        if let Some(number) = chunk.0.checked_sub(digests::BASE.0) {
            return (bad_pages(bytes, number).0 != 0).then_some("it was damaged when it was saved");
        }
        if self.walk.broken || !self.saved.is_read(chunk) {
            return None;
        }
        let digest = self.walk.tables.get(chunk)?;
        (self.walk.key.digest(bytes) != digest).then_some("it was damaged when it was saved")
    }

    fn note(&mut self, chunk: Chunk, why: &'static str) {
        let owner = self.saved.generation.0;
        if chunk >= digests::BASE {
            let number = chunk.0 - digests::BASE.0;
            let found = Found::new(What::UndoDigests, owner, number, why);
            self.walk.note(found, chunk.0, None);
            return;
        }
        let found = Found::new(What::UndoImage, owner, chunk.0, why);
        if self.saved.is_read(chunk) {
            self.walk.note(found, chunk.0, self.saved.image.chunk(chunk));
        } else {
            self.walk.note_alone(found);
        }
    }
}

/// Writes the header and the closing area of the undo stores in `found` again: both are always the same.
pub(super) fn rewrite_frames(store: &crate::store::Store, found: &mut [Found]) -> Result<()> {
    let frames = |one: &&mut Found| matches!(one.what, What::UndoHeader | What::UndoEnd);
    for one in found.iter_mut().filter(frames) {
        let record = store.contents.index.record(Generation(one.owner));
        let Some(undo) = record.and_then(|record| record.undo.as_ref()) else { continue };
        let mut chunk = crate::store::contents::buffer(CHUNK as usize)?;
        let mut at = Layout::area(Layout { entries: undo.entries }.areas());
        if one.what == What::UndoHeader {
            crate::format::undo::pack_header(&mut chunk);
            at = Bytes::ZERO;
        }
        let place = store.contents.undo(undo).stretch(at).at;
        if let Some(place) = place {
            crate::disk::whole::write_all_at(store.disk.as_ref(), place, &chunk)?;
            one.repaired = true;
        }
    }
    Ok(())
}
