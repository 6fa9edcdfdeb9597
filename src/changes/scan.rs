// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two ways to find changes: by digest, which reads the primary only, and by comparing both disks.

use std::ops::Range;

use crate::changes::set::ChangeSet;
use crate::changes::source::Source;
use crate::changes::walk::{Step, Walk};
use crate::disk::ReadDisk;
use crate::engine::digest::DigestKey;
use crate::engine::{Batch, ReadId, Work};
use crate::error::Result;
use crate::format::digests;
use crate::progress::Progress;
use crate::store::placement::Placement;
use crate::store::table::TableReader;
use crate::units::{Bytes, CHUNK, Chunk};

/// What a scan shares whatever the way.
pub struct Scan<'a> {
    /// What the next generation is made of.
    pub source: &'a Source,
    /// In which order it is visited.
    pub walk: Walk<'a>,
    /// Extents of the image that are new in the next generation: they hold zeros, whatever the digest
    /// table still says of them. What it says wrongly counts as a change, so that it is put right.
    pub fresh: Vec<Range<u64>>,
    /// What was found.
    pub set: ChangeSet,
    /// Bytes read to find it.
    pub read: Bytes,
    /// Told how far the scan is.
    pub progress: &'a dyn Progress,
}

impl Scan<'_> {
    fn is_fresh(&self, chunk: u64) -> bool {
        self.fresh.iter().any(|range| range.contains(&chunk))
    }

    fn advance(&mut self, step: &Step, reads: u64) {
        let bytes = Bytes((step.chunks.end - step.chunks.start) * CHUNK);
        self.progress.advance(bytes);
        let reads = if step.zeros { reads - 1 } else { reads };
        self.read += Bytes(bytes.0 * reads);
    }
}

/// Finds changes by digest: a chunk has changed if the table has another digest for it.
pub struct DigestScan<'a> {
    /// What is scanned.
    pub scan: Scan<'a>,
    /// Computes digests.
    pub key: &'a DigestKey,
    /// The digests of the last generation.
    pub table: TableReader,
    /// The disk the table stands on.
    pub table_disk: &'a dyn ReadDisk,
}

impl DigestScan<'_> {
    fn visit(&mut self, chunk: u64, new: digests::Raw) -> Result<()> {
        let differs = self.table.get(self.table_disk, Chunk(chunk))? != new;
        if differs || new != [0; digests::DIGEST] && self.scan.is_fresh(chunk) {
            self.scan.set.insert(Chunk(chunk));
        }
        Ok(())
    }
}

impl Work for DigestScan<'_> {
    type Tag = Step;

    fn next(&mut self, batch: &mut Batch) -> Result<Option<Step>> {
        let most = batch.bytes().len() as u64 / CHUNK;
        let step = self.scan.walk.next(most, u64::MAX)?;
        if let Some(Step { chunks, zeros: false }) = &step {
            self.scan.source.read(batch, chunks.clone(), 0);
        }
        Ok(step)
    }

    fn process(&mut self, step: Step, batch: &mut Batch) -> Result<()> {
        self.scan.advance(&step, 1);
        if step.zeros {
            return step.chunks.into_iter().try_for_each(|chunk| self.visit(chunk, [0; digests::DIGEST]));
        }
        self.scan.source.blank(step.chunks.clone(), batch.bytes_mut());
        let (chunks, _) = batch.bytes().as_chunks();
        for (chunk, bytes) in step.chunks.zip(chunks) {
            self.visit(chunk, self.key.digest(bytes).0)?;
        }
        Ok(())
    }
}

/// Finds changes by comparing the primary with the image: trusts no table, and looks into it only to put
/// right what it says of new extents, and, where damage is known of, of everything: a chunk that equals the
/// primary need not be the one its digest is of.
pub struct CompareScan<'a> {
    /// What is scanned.
    pub scan: Scan<'a>,
    /// The disk the image stands on.
    pub image_disk: ReadId,
    /// Where the image stands; fresh extents have no place yet, and are not read.
    pub image: Placement,
    /// The digests of the last generation.
    pub table: TableReader,
    /// The disk the table stands on.
    pub table_disk: &'a dyn ReadDisk,
    /// Computes digests, where those of the table are held against what is read. Where the disks are memory that is a
    /// fifth more work, so it is not done where nothing is known to be damaged.
    pub key: Option<&'a DigestKey>,
}

impl CompareScan<'_> {
    /// Whether the table says something else of `chunk`, which the image holds as `bytes`.
    fn is_stale(&mut self, chunk: u64, bytes: &[u8; CHUNK as usize]) -> Result<bool> {
        let digest = match self.key {
            Some(key) => key.digest(bytes).0,
            None if self.scan.is_fresh(chunk) => [0; digests::DIGEST],
            None => return Ok(false),
        };
        Ok(self.table.get(self.table_disk, Chunk(chunk))? != digest)
    }
}

impl Work for CompareScan<'_> {
    type Tag = Step;

    /// The first half of the buffer takes the image, the second the primary.
    fn next(&mut self, batch: &mut Batch) -> Result<Option<Step>> {
        let half = batch.bytes().len() / 2;
        let most = half as u64 / CHUNK;
        let Some(step) = self.scan.walk.next(most, most)? else { return Ok(None) };
        let start = Chunk(step.chunks.start).start();
        for stretch in self.image.stretches(start..Chunk(step.chunks.end).start()) {
            let range = (stretch.range.start - start).usize()..(stretch.range.end - start).usize();
            if let Some(at) = stretch.at {
                batch.read(self.image_disk, at, range);
            }
        }
        if !step.zeros {
            self.scan.source.read(batch, step.chunks.clone(), half);
        }
        Ok(Some(step))
    }

    fn process(&mut self, step: Step, batch: &mut Batch) -> Result<()> {
        self.scan.advance(&step, 2);
        let half = batch.bytes().len() / 2;
        let (old, new) = batch.bytes_mut().split_at_mut(half);
        if step.zeros {
            new.fill(0);
        } else {
            self.scan.source.blank(step.chunks.clone(), new);
        }
        let pairs = old.as_chunks_mut().0.iter_mut().zip(new.as_chunks().0);
        for (chunk, (old, new)) in step.chunks.zip(pairs) {
            if self.scan.is_fresh(chunk) {
                old.fill(0);
            }
            if old != new || self.is_stale(chunk, new)? {
                self.scan.set.insert(Chunk(chunk));
            }
        }
        Ok(())
    }
}
