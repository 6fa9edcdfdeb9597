// SPDX-License-Identifier: MIT OR Apache-2.0
//! The second half of a sync: the changed pages go into the image, and their digests into the table.

use crate::changes::Source;
use crate::disk::WriteDisk;
use crate::engine::digest::DigestKey;
use crate::engine::{Batch, Work, WriteId};
use crate::error::{Error, Kind, Result};
use crate::format::digests::PER_CHUNK;
use crate::format::undo::Record;
use crate::progress::Progress;
use crate::store::contents::buffer;
use crate::store::space::{Space, runs};
use crate::store::table::TableChunk;
use crate::store::undo::UndoReader;
use crate::sys::buffer::Buffer;
use crate::units::{Bytes, CHUNK, Chunk};

/// Overwrites the image, exception by exception as the undo store lists them.
pub struct Overwrite<'a> {
    /// What the next generation is made of.
    pub source: &'a Source,
    /// Names the primary in messages.
    pub primary: &'a str,
    /// Where the protected address space stands, under the next generation's map.
    pub space: Space,
    /// The DPSR disk.
    pub target: WriteId,
    /// The same, for metadata.
    pub disk: &'a dyn WriteDisk,
    /// Which chunks, which of their pages, and what they must contain.
    pub exceptions: Exceptions<'a>,
    /// Computes digests.
    pub key: &'a DigestKey,
    /// The chunk of the digest table being changed.
    pub table: Table,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
}

/// The exceptions of the image in an undo store, read back area by area.
pub struct Exceptions<'a> {
    reader: &'a UndoReader,
    disk: &'a dyn WriteDisk,
    left: u64,
    area: u64,
    loaded: std::iter::Peekable<std::vec::IntoIter<(Chunk, Record)>>,
}

impl<'a> Exceptions<'a> {
    /// The first `image_entries` exceptions of `reader`.
    pub fn new(reader: &'a UndoReader, disk: &'a dyn WriteDisk, image_entries: u64) -> Self {
        Self { reader, disk, left: image_entries, area: 0, loaded: Vec::new().into_iter().peekable() }
    }

    fn next(&mut self) -> Result<Option<(Chunk, Record)>> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.loaded.peek().is_none() {
            self.loaded = self.reader.area(self.disk, self.area)?.entries.into_iter().peekable();
            self.area += 1;
        }
        self.left -= 1;
        Ok(self.loaded.next())
    }
}

/// The chunk of the digest table that is being changed, and what it was.
pub struct Table {
    current: Option<TableChunk>,
    before: Buffer,
}

impl Table {
    /// None yet.
    pub fn new() -> Result<Self> {
        Ok(Self { current: None, before: buffer(CHUNK as usize)? })
    }

    /// Records `digest`, reading and writing chunks of the table as `chunk` moves on.
    fn set(&mut self, disk: &dyn WriteDisk, space: &Space, chunk: Chunk, digest: [u8; 16]) -> Result<()> {
        let number = chunk.0 / PER_CHUNK;
        if self.current.as_ref().is_none_or(|current| current.number != number) {
            self.write_back(disk, space)?;
            let found = TableChunk::read(disk, &space.table, number)?;
            self.before.copy_from_slice(found.bytes());
            self.current = Some(found);
        }
        self.current.as_mut().expect("just read").set(chunk, digest);
        Ok(())
    }

    fn write_back(&mut self, disk: &dyn WriteDisk, space: &Space) -> Result<()> {
        if let Some(mut chunk) = self.current.take() {
            chunk.write_changed(disk, &space.table, &self.before)?;
        }
        Ok(())
    }
}

impl Overwrite<'_> {
    /// Writes what is left of the digest table, once every chunk is written.
    pub fn finish(&mut self) -> Result<()> {
        self.table.write_back(self.disk, &self.space)
    }

    fn check(&self, chunk: Chunk, record: &Record, new: &[u8]) -> Result<()> {
        if crc32c::crc32c(new) == record.new_crc {
            return Ok(());
        }
        let why = format!("64 KiB at {} changed while they were being copied", chunk.start().0);
        Err(Error::new(Kind::Refused, "reading", why)
            .on(self.primary)
            .next("make sure that nothing writes to it and sync again"))
    }
}

/// Chunks that travel together, each with what its undo store says of it.
pub struct Group {
    chunks: Vec<Chunk>,
    records: Vec<Record>,
}

impl Work for Overwrite<'_> {
    type Tag = Group;

    fn next(&mut self, batch: &mut Batch) -> Result<Option<Group>> {
        let most = batch.bytes().len() / CHUNK as usize;
        let mut group = Group { chunks: Vec::with_capacity(most), records: Vec::with_capacity(most) };
        while group.chunks.len() < most
            && let Some((chunk, record)) = self.exceptions.next()?
        {
            group.chunks.push(chunk);
            group.records.push(record);
        }
        for (index, run) in runs(&group.chunks) {
            self.source.read(batch, run, index * CHUNK as usize);
        }
        Ok((!group.chunks.is_empty()).then_some(group))
    }

    fn process(&mut self, group: Group, batch: &mut Batch) -> Result<()> {
        for (index, run) in runs(&group.chunks) {
            let count = (run.end - run.start) as usize * CHUNK as usize;
            self.source.blank(run, &mut batch.bytes_mut()[index * CHUNK as usize..][..count]);
        }
        let chunks = batch.bytes().as_chunks().0;
        for ((chunk, record), new) in group.chunks.iter().zip(&group.records).zip(chunks) {
            self.check(*chunk, record, new)?;
            self.table.set(self.disk, &self.space, *chunk, self.key.digest(new).0)?;
        }
        self.write(&group, batch);
        self.progress.advance(Bytes(group.chunks.len() as u64 * CHUNK));
        Ok(())
    }
}

impl Overwrite<'_> {
    /// Asks `batch` to write the changed pages, joining what is contiguous in memory and on the disk.
    fn write(&self, group: &Group, batch: &mut Batch) {
        let mut open: Option<(Bytes, std::ops::Range<usize>)> = None;
        for (index, (chunk, record)) in group.chunks.iter().zip(&group.records).enumerate() {
            let place = self.space.image.chunk(*chunk).expect("only chunks that have a place change");
            for run in record.mask.runs() {
                let at = place + Bytes(run.start as u64);
                let range = index * CHUNK as usize + run.start..index * CHUNK as usize + run.end;
                match &mut open {
                    Some((start, whole))
                        if whole.end == range.start && *start + Bytes(whole.len() as u64) == at =>
                    {
                        whole.end = range.end;
                    }
                    _ => {
                        if let Some((start, whole)) = open.replace((at, range)) {
                            batch.write(self.target, start, whole);
                        }
                    }
                }
            }
        }
        if let Some((start, whole)) = open {
            batch.write(self.target, start, whole);
        }
    }
}
