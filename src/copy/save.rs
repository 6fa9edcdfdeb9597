// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first half of a sync: every chunk that will change goes into the undo store, and what will replace
//! it is read, measured and remembered by checksum.

use std::ops::Range;

use crate::changes::{ChangeSet, Source};
use crate::disk::WriteDisk;
use crate::engine::digest::{Digest, DigestKey, DigestRoot};
use crate::engine::{Batch, Work, WriteId};
use crate::error::Result;
use crate::format::digests::{self, PER_CHUNK};
use crate::format::undo::{Layout, PER_AREA, Record};
use crate::progress::Progress;
use crate::store::space::{Space, runs};
use crate::store::table::TableReader;
use crate::store::undo::UndoWriter;
use crate::units::{Bytes, CHUNK, Chunk, PAGE, PageMask};

/// The chunks of the digest table whose digests change when the chunks of `set` do.
pub fn table_chunks(set: &ChangeSet) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut at = Chunk(0);
    while let Some(chunk) = set.iter_from(at).next() {
        let number = chunk.0 / PER_CHUNK;
        chunks.push(Chunk(digests::BASE.0 + number));
        at = Chunk((number + 1) * PER_CHUNK);
    }
    chunks
}

/// Whether pages narrow what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// Only pages that differ are written.
    Pages,
    /// Every page of each chunk is written, to refresh what the disk holds.
    Nothing,
}

/// Saves pre-images, in the order of their exceptions.
pub struct SaveUndo<'a> {
    /// What the next generation is made of.
    pub source: &'a Source,
    /// What is about to change.
    pub set: &'a ChangeSet,
    /// The exceptions: the chunks of the set, then those of the digest table.
    pub entries: std::iter::Peekable<Box<dyn Iterator<Item = Chunk> + 'a>>,
    /// Number of the next exception to plan.
    pub planned: u64,
    /// Where the protected address space stands, under the next generation's map.
    pub space: Space,
    /// The DPSR disk.
    pub target: WriteId,
    /// The same, for metadata.
    pub disk: &'a dyn WriteDisk,
    /// Takes the exceptions.
    pub undo: UndoWriter,
    /// Computes digests.
    pub key: &'a DigestKey,
    /// The digests of the last generation.
    pub table: TableReader,
    /// New extents of the image: zeros, whatever the table says.
    pub fresh: Vec<Range<u64>>,
    /// How far writes are narrowed.
    pub narrow: Narrow,
    /// The sum of digests, becoming that of the next generation.
    pub root: DigestRoot,
    /// Bytes of the image, and of what replaces them, that were read.
    pub read: Bytes,
    /// Bytes that will be written to the image.
    pub image_bytes: Bytes,
    /// Chunks of the image that did not match their recorded digest: they or it rotted on the DPSR disk.
    pub rotten: u64,
    /// The first of them of which part would stay: its new digest would be that of what it is now.
    pub unsound: Option<Chunk>,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
}

/// Exceptions that travel together.
pub struct Group {
    first: u64,
    chunks: Vec<Chunk>,
}

impl SaveUndo<'_> {
    fn record(
        &mut self,
        chunk: Chunk,
        old: &[u8; CHUNK as usize],
        new: &[u8; CHUNK as usize],
    ) -> Result<Record> {
        let old_crc = crc32c::crc32c(old);
        if chunk >= digests::BASE {
            return Ok(Record { old_crc, new_crc: 0, mask: self.table_mask(chunk) });
        }
        let mask = match self.narrow {
            Narrow::Pages => PageMask::differing(old, new),
            Narrow::Nothing => PageMask::ALL,
        };
        self.read += Bytes(2 * CHUNK);
        let recorded = self.recorded(chunk)?;
        if self.key.digest(old) != recorded {
            self.rotten += 1;
            if self.source.keeps_part_of(chunk) {
                self.unsound.get_or_insert(chunk);
            }
        }
        self.root.remove(self.key, chunk, recorded);
        self.root.add(self.key, chunk, self.key.digest(new));
        self.image_bytes += Bytes(u64::from(mask.count()) * PAGE);
        Ok(Record { old_crc, new_crc: crc32c::crc32c(new), mask })
    }

    fn recorded(&mut self, chunk: Chunk) -> Result<Digest> {
        if self.fresh.iter().any(|range| range.contains(&chunk.0)) {
            return Ok(Digest::ZERO);
        }
        self.table.get(self.disk, chunk).map(Digest)
    }

    /// Which pages of a chunk of the table will change.
    fn table_mask(&self, chunk: Chunk) -> PageMask {
        let number = chunk.0 - digests::BASE.0;
        let covered = self.set.within(number * PER_CHUNK..(number + 1) * PER_CHUNK);
        PageMask(covered.fold(0, |mask, chunk| mask | 1 << (digests::page_of(chunk) % 16)))
    }
}

impl Work for SaveUndo<'_> {
    type Tag = Group;

    /// The first half of the buffer takes the old chunks, the second what replaces them.
    fn next(&mut self, batch: &mut Batch) -> Result<Option<Group>> {
        let half = batch.bytes().len() / 2;
        let first = self.planned;
        let most = (half as u64 / CHUNK).min(PER_AREA - first % PER_AREA);
        let mut chunks: Vec<Chunk> = Vec::with_capacity(most as usize);
        while (chunks.len() as u64) < most
            && let Some(chunk) = self.entries.next_if(|chunk| {
                chunks.last().is_none_or(|last| (*last < digests::BASE) == (*chunk < digests::BASE))
            })
        {
            chunks.push(chunk);
        }
        if chunks.is_empty() {
            return Ok(None);
        }
        self.planned += chunks.len() as u64;
        for (index, run) in runs(&chunks) {
            let offset = index * CHUNK as usize;
            self.space.read(batch, self.target.as_read(), run.clone(), offset);
            if run.start < digests::BASE.0 {
                self.source.read(batch, run, half + offset);
            }
        }
        Ok(Some(Group { first, chunks }))
    }

    fn process(&mut self, group: Group, batch: &mut Batch) -> Result<()> {
        let half = batch.bytes().len() / 2;
        let len = group.chunks.len() * CHUNK as usize;
        let (old, new) = batch.bytes_mut().split_at_mut(half);
        for (index, run) in runs(&group.chunks) {
            if run.start < digests::BASE.0 {
                let count = (run.end - run.start) as usize * CHUNK as usize;
                let part = index * CHUNK as usize..index * CHUNK as usize + count;
                self.source.blank(run.clone(), &mut new[part.clone()]);
                // What stays is what is checked, not what another read of the same place brought.
                self.source.keep(run, &old[part.clone()], &mut new[part]);
            }
        }
        let (old, new) = (old.as_chunks().0, new.as_chunks().0);
        for ((chunk, old), new) in group.chunks.iter().zip(old).zip(new) {
            let record = self.record(*chunk, old, new)?;
            self.undo.push(self.disk, *chunk, record)?;
        }
        let start = Layout::data(group.first);
        for stretch in self.undo.placement.stretches(start..start + Bytes(len as u64)) {
            let range = (stretch.range.start - start).usize()..(stretch.range.end - start).usize();
            let at = stretch.at.expect("the store took whole extents for the undo store");
            batch.write(self.target, at, range);
        }
        self.progress.advance(Bytes(len as u64));
        Ok(())
    }
}
