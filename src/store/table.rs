// SPDX-License-Identifier: MIT OR Apache-2.0
//! The digest table in motion: a window that moves forward over it, page by page checked.

use std::ops::Range;

use crate::disk::whole::{read_exact_at, write_all_at};
use crate::disk::{ReadDisk, WriteDisk};
use crate::engine::digest::{Digest, DigestKey, DigestRoot};
use crate::error::{Error, Kind, Result};
use crate::format::Parsed;
use crate::format::digests::{self, PER_CHUNK};
use crate::store::contents::buffer;
use crate::store::placement::Placement;
use crate::sys::buffer::Buffer;
use crate::units::{Bytes, CHUNK, Chunk, PAGE, PAGES_PER_CHUNK};

/// Table chunks in the window: 1 MiB of table, the digests of about 4 GiB.
const WINDOW: u64 = 16;

/// Reads digests of chunks in ascending order.
pub struct TableReader {
    placement: Placement,
    window: Buffer,
    /// Table chunks in the window.
    loaded: Range<u64>,
    table_chunks: u64,
}

impl TableReader {
    /// A reader for the table at `placement` of an image of `chunks` chunks.
    pub fn new(placement: Placement, chunks: u64) -> Result<Self> {
        let table_chunks = chunks.div_ceil(PER_CHUNK);
        let size = WINDOW.min(table_chunks.max(1)) * CHUNK;
        Ok(Self { placement, window: buffer(size as usize)?, loaded: 0..0, table_chunks })
    }

    /// The digest of `chunk`.
    pub fn get(&mut self, disk: &dyn ReadDisk, chunk: Chunk) -> Result<digests::Raw> {
        let table_chunk = chunk.0 / PER_CHUNK;
        if !self.loaded.contains(&table_chunk) {
            self.load(disk, table_chunk)?;
        }
        let page = digests::page_of(chunk) - self.loaded.start * PAGES_PER_CHUNK;
        let page = &self.window[(page * PAGE) as usize..][..PAGE as usize];
        Ok(page[digests::slot_of(chunk)].try_into().expect("a slot is one digest long"))
    }

    fn load(&mut self, disk: &dyn ReadDisk, first: u64) -> Result<()> {
        let end = (first + WINDOW).min(self.table_chunks);
        self.loaded = 0..0;
        let bytes = &mut self.window[..((end - first) * CHUNK) as usize];
        read_placed(disk, &self.placement, Chunk(first).start(), bytes)?;
        check_pages(disk, bytes, first * PAGES_PER_CHUNK)?;
        self.loaded = first..end;
        Ok(())
    }
}

/// The sum of the digests of the chunks in `places`: what a generation's record says it must be.
pub fn sum(
    disk: &dyn ReadDisk,
    table: &mut TableReader,
    places: impl Iterator<Item = Range<u64>>,
    key: &DigestKey,
) -> Result<DigestRoot> {
    let mut root = DigestRoot::default();
    for chunk in places.flatten().map(Chunk) {
        root.add(key, chunk, Digest(table.get(disk, chunk)?));
    }
    Ok(root)
}

/// One chunk of the table, to be changed and written back.
pub struct TableChunk {
    /// Its number within the table.
    pub number: u64,
    bytes: Buffer,
}

impl TableChunk {
    /// Chunk `number` as all zeros.
    pub fn blank(number: u64) -> Result<Self> {
        Ok(Self { number, bytes: buffer(CHUNK as usize)? })
    }

    /// Chunk `number` with no digest known.
    pub fn unknown(number: u64) -> Result<Self> {
        let mut chunk = Self::blank(number)?;
        chunk.covers().for_each(|covered| chunk.set(Chunk(covered), digests::UNKNOWN));
        chunk.seal();
        Ok(chunk)
    }

    /// Reads and checks chunk `number` of the table at `placement`.
    pub fn read(disk: &dyn ReadDisk, placement: &Placement, number: u64) -> Result<Self> {
        let mut chunk = Self::blank(number)?;
        read_placed(disk, placement, Chunk(number).start(), &mut chunk.bytes)?;
        check_pages(disk, &chunk.bytes, number * PAGES_PER_CHUNK)?;
        Ok(chunk)
    }

    /// The chunks of the image whose digests it holds.
    pub fn covers(&self) -> Range<u64> {
        self.number * PER_CHUNK..(self.number + 1) * PER_CHUNK
    }

    /// The digest of `chunk`.
    pub fn get(&self, chunk: Chunk) -> digests::Raw {
        self.bytes[self.slot(chunk)].try_into().expect("a slot is one digest long")
    }

    /// Records the digest of `chunk`.
    pub fn set(&mut self, chunk: Chunk, digest: digests::Raw) {
        let slot = self.slot(chunk);
        self.bytes[slot].copy_from_slice(&digest);
    }

    fn slot(&self, chunk: Chunk) -> Range<usize> {
        let page = digests::page_of(chunk) - self.number * PAGES_PER_CHUNK;
        let slot = digests::slot_of(chunk);
        let start = (page * PAGE) as usize;
        start + slot.start..start + slot.end
    }

    /// Seals every page and returns the bytes.
    pub fn seal(&mut self) -> &[u8] {
        for (page, number) in self.bytes.chunks_mut(PAGE as usize).zip(self.number * PAGES_PER_CHUNK..) {
            digests::seal(page, number);
        }
        &self.bytes
    }

    /// Seals the pages and writes them all.
    pub fn write(&mut self, disk: &dyn WriteDisk, placement: &Placement) -> Result<()> {
        let at = placement.chunk(Chunk(self.number)).ok_or_else(|| no_place(disk))?;
        write_all_at(disk, at, self.seal())
    }

    /// Seals the pages and writes those in which any byte differs from `before`.
    pub fn write_changed(
        &mut self,
        disk: &dyn WriteDisk,
        placement: &Placement,
        before: &[u8],
    ) -> Result<Bytes> {
        let at = placement.chunk(Chunk(self.number)).ok_or_else(|| no_place(disk))?;
        let bytes = self.seal();
        let mask = crate::units::PageMask::differing(before, bytes);
        for run in mask.runs() {
            write_all_at(disk, at + Bytes(run.start as u64), &bytes[run])?;
        }
        Ok(Bytes(u64::from(mask.count()) * PAGE))
    }

    /// The bytes as they stand.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the bytes of a table chunk that was read elsewhere, and checks them.
    pub fn fill_from(&mut self, disk: &dyn ReadDisk, number: u64, at: Bytes) -> Result<()> {
        self.number = number;
        read_exact_at(disk, at, &mut self.bytes)?;
        check_pages(disk, &self.bytes, number * PAGES_PER_CHUNK)
    }
}

/// Makes the table read as zeros from its chunk `first` on: none of those digests is known.
pub fn clear(disk: &dyn WriteDisk, placement: &Placement, first: u64) -> Result<()> {
    for stretch in placement.stretches(Chunk(first).start()..placement.size()) {
        let at = stretch.at.ok_or_else(|| no_place(disk))?;
        let end = at + (stretch.range.end - stretch.range.start);
        disk.zero(at..end)
            .map_err(|error| Error::device("clearing the digest table on", disk.name(), &error))?;
    }
    Ok(())
}

fn read_placed(disk: &dyn ReadDisk, placement: &Placement, at: Bytes, bytes: &mut [u8]) -> Result<()> {
    for stretch in placement.stretches(at..at + Bytes(bytes.len() as u64)) {
        let part = (stretch.range.start - at).usize()..(stretch.range.end - at).usize();
        read_exact_at(disk, stretch.at.ok_or_else(|| no_place(disk))?, &mut bytes[part])?;
    }
    Ok(())
}

fn check_pages(disk: &dyn ReadDisk, bytes: &[u8], first: u64) -> Result<()> {
    for (page, number) in bytes.chunks(PAGE as usize).zip(first..) {
        if let Parsed::Damaged(why) = digests::check(page, number) {
            let error =
                Error::new(Kind::Damaged, "reading the digest table on", format!("page {number}: {why}"));
            return Err(error.on(disk.name()).next("run 'dpsr scrub --repair' to rebuild it from the image"));
        }
    }
    Ok(())
}

fn no_place(disk: &(impl ReadDisk + ?Sized)) -> Error {
    Error::new(Kind::Damaged, "reading the digest table on", "part of it has no place").on(disk.name())
}
