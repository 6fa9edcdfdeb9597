// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first copy, and every copy without undo. It goes window by window, so that it can be resumed: the
//! image is flushed, then its digests, then the mark that says how far it came.

use std::ops::Range;

use crate::changes::Source;
use crate::changes::walk::{Step, Walk};
use crate::disk::{ReadDisk, WriteDisk};
use crate::engine::digest::DigestKey;
use crate::engine::{Batch, Engine, Work, WriteId};
use crate::error::{Error, Kind, Result};
use crate::format::digests::{DIGEST, PER_CHUNK};
use crate::progress::Progress;
use crate::store::placement::Placement;
use crate::store::table::TableChunk;
use crate::units::{Bytes, CHUNK, Chunk};

/// Chunks of the table in a window: the digests of about 4 GiB.
const WINDOW: u64 = 16;

/// What a filling copy needs to know.
pub struct Filling<'a> {
    /// What the generation is made of.
    pub source: &'a Source,
    /// The primary.
    pub primary: &'a dyn ReadDisk,
    /// Where the image lies.
    pub image: Placement,
    /// Where the digest table lies.
    pub table: Placement,
    /// Chunks in the image.
    pub chunks: u64,
    /// The DPSR disk.
    pub target: WriteId,
    /// The same, for metadata.
    pub disk: &'a dyn WriteDisk,
    /// Computes digests.
    pub key: &'a DigestKey,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
}

/// What a filling copy did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filled {
    /// Bytes read from the primary.
    pub read: Bytes,
    /// Bytes written to the image, zeroed ranges not counted.
    pub written: Bytes,
}

impl Filling<'_> {
    /// Copies everything; chunks below `done` hold a copy already and are only written where they differ.
    /// `mark` is called with the new `done` after each window is durable.
    pub fn run(
        &self,
        engine: &mut Engine,
        done: u64,
        mut mark: impl FnMut(u64) -> Result<()>,
    ) -> Result<Filled> {
        let mut filled = Filled::default();
        let mut first = 0;
        while first * PER_CHUNK < self.chunks {
            let chunks = first * PER_CHUNK..((first + WINDOW) * PER_CHUNK).min(self.chunks);
            self.window(engine, chunks.clone(), done, &mut filled)?;
            if chunks.end > done {
                mark(chunks.end)?;
            }
            first += WINDOW;
        }
        Ok(filled)
    }

    fn window(&self, engine: &mut Engine, chunks: Range<u64>, done: u64, filled: &mut Filled) -> Result<()> {
        let numbers = chunks.start / PER_CHUNK..chunks.end.div_ceil(PER_CHUNK);
        let table = numbers.map(|number| {
            let known = number * PER_CHUNK < done;
            if known { self.known(number) } else { TableChunk::blank(number) }
        });
        let table: Vec<TableChunk> = table.collect::<Result<_>>()?;
        let before = if chunks.start < done { self.forget(&table)? } else { copies(&table) };
        let clipped = self.image.placed(self.chunks).filter_map(|place| {
            let clip = place.start.max(chunks.start)..place.end.min(chunks.end);
            (clip.start < clip.end).then_some(clip)
        });
        let walk = Walk::new(self.source, self.primary, clipped.collect());
        let mut window = Window { filling: self, walk, table, done, filled };
        engine.run(&mut window)?;
        let mut table = window.table;
        self.flush()?;
        for (chunk, before) in table.iter_mut().zip(&before) {
            chunk.write_changed(self.disk, &self.table, before)?;
        }
        self.flush()
    }

    /// Chunk `number` of the table as an interrupted copy left it. It may have been cut while this very chunk
    /// was written; then no digest in it is known, and what it covers is copied again.
    fn known(&self, number: u64) -> Result<TableChunk> {
        match TableChunk::read(self.disk, &self.table, number) {
            Err(error) if error.kind() == Kind::Damaged => {
                let mut chunk = TableChunk::unknown(number)?;
                chunk.write(self.disk, &self.table)?;
                Ok(chunk)
            }
            found => found,
        }
    }

    /// Makes the digests of a window that is visited again unknown on the disk, before its image changes: an
    /// interruption would leave digests of what the image held before, and hide that it holds something else.
    fn forget(&self, table: &[TableChunk]) -> Result<Vec<Vec<u8>>> {
        let unknown = table.iter().map(|chunk| TableChunk::unknown(chunk.number));
        let mut unknown: Vec<TableChunk> = unknown.collect::<Result<_>>()?;
        for (unknown, known) in unknown.iter_mut().zip(table) {
            unknown.write_changed(self.disk, &self.table, known.bytes())?;
        }
        self.flush()?;
        Ok(copies(&unknown))
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush().map_err(|error| Error::device("flushing", self.disk.name(), &error))
    }
}

fn copies(table: &[TableChunk]) -> Vec<Vec<u8>> {
    table.iter().map(|chunk| chunk.bytes().to_vec()).collect()
}

/// One window on its way.
struct Window<'a, 'b> {
    filling: &'a Filling<'b>,
    walk: Walk<'a>,
    table: Vec<TableChunk>,
    done: u64,
    filled: &'a mut Filled,
}

impl Window<'_, '_> {
    fn table(&mut self, chunk: u64) -> &mut TableChunk {
        let first = self.table[0].number;
        &mut self.table[(chunk / PER_CHUNK - first) as usize]
    }

    /// Records a digest; whether the chunk must be written.
    fn record(&mut self, chunk: u64, digest: [u8; DIGEST]) -> bool {
        let done = self.done;
        let table = self.table(chunk);
        let must = chunk >= done || table.get(Chunk(chunk)) != digest;
        table.set(Chunk(chunk), digest);
        must
    }

    fn zeros(&mut self, chunks: Range<u64>) -> Result<()> {
        let disk = self.filling.disk;
        let mut pending = chunks.start..chunks.start;
        for chunk in chunks {
            if self.record(chunk, [0; DIGEST]) {
                if pending.end != chunk {
                    self.zero(disk, &pending)?;
                    pending.start = chunk;
                }
                pending.end = chunk + 1;
            }
        }
        self.zero(disk, &pending)
    }

    fn zero(&self, disk: &dyn WriteDisk, chunks: &Range<u64>) -> Result<()> {
        for stretch in self.filling.image.stretches(Chunk(chunks.start).start()..Chunk(chunks.end).start()) {
            let at = stretch.at.expect("the walk visits only chunks that have a place");
            let end = at + (stretch.range.end - stretch.range.start);
            disk.zero(at..end).map_err(|error| {
                Error::device(format!("zeroing {} at {} of", end - at, at.0), disk.name(), &error)
            })?;
        }
        Ok(())
    }

    /// Asks `batch` to write chunks of its buffer, which starts with chunk `first`.
    fn write(&self, batch: &mut Batch, first: u64, chunks: &Range<u64>) {
        let start = Chunk(first).start();
        for stretch in self.filling.image.stretches(Chunk(chunks.start).start()..Chunk(chunks.end).start()) {
            let at = stretch.at.expect("the walk visits only chunks that have a place");
            let range = (stretch.range.start - start).usize()..(stretch.range.end - start).usize();
            batch.write(self.filling.target, at, range);
        }
    }
}

impl Work for Window<'_, '_> {
    type Tag = Step;

    fn next(&mut self, batch: &mut Batch) -> Result<Option<Step>> {
        let most = batch.bytes().len() as u64 / CHUNK;
        let step = self.walk.next(most, u64::MAX)?;
        if let Some(Step { chunks, zeros: false }) = &step {
            self.filling.source.read(batch, chunks.clone(), 0);
        }
        Ok(step)
    }

    fn process(&mut self, step: Step, batch: &mut Batch) -> Result<()> {
        let Step { chunks, zeros } = step;
        let size = Bytes((chunks.end - chunks.start) * CHUNK);
        self.filling.progress.advance(size);
        if zeros {
            return self.zeros(chunks);
        }
        self.filled.read += size;
        self.filling.source.blank(chunks.clone(), batch.bytes_mut());
        let mut pending = chunks.start..chunks.start;
        for (i, chunk) in chunks.clone().enumerate() {
            let digest = self.filling.key.digest(&batch.bytes().as_chunks().0[i]);
            if self.record(chunk, digest.0) {
                if pending.end != chunk {
                    self.write(batch, chunks.start, &pending);
                    pending.start = chunk;
                }
                pending.end = chunk + 1;
                self.filled.written += Bytes(CHUNK);
            }
        }
        self.write(batch, chunks.start, &pending);
        Ok(())
    }
}
