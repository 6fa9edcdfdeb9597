// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a generation, or one volume of it, from start to end, and checking every byte on the way: saved
//! chunks by their checksum, all chunks by their digest.

use std::collections::VecDeque;
use std::ops::Range;

use super::View;
use super::digests::ViewDigests;
use super::segments::{Segment, Segments};
use crate::disk::ReadDisk;
use crate::engine::digest::DigestKey;
use crate::engine::{Batch, Engine, ReadId, Work};
use crate::error::Result;
use crate::progress::Progress;
use crate::units::{Bytes, CHUNK, Chunk};

/// Takes what is read, in order.
pub trait Sink {
    /// `range` of the image reads as zeros.
    fn zeros(&mut self, range: Range<Bytes>) -> Result<()>;

    /// `range` of the image stands in the buffer of `batch` from `offset` on.
    fn data(&mut self, batch: &mut Batch, range: Range<Bytes>, offset: usize) -> Result<()>;
}

/// Reads `range` of a view into a sink.
pub struct Reading<'a> {
    /// The generation.
    pub view: &'a View<'a>,
    /// The DPSR disk, for metadata.
    pub disk: &'a dyn ReadDisk,
    /// The same, in the engine.
    pub id: ReadId,
    /// Which bytes of the image.
    pub range: Range<Bytes>,
    /// Computes digests.
    pub key: &'a DigestKey,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
}

impl Reading<'_> {
    /// Reads everything, and returns the chunks that did not match what was recorded of them.
    pub fn run(&self, engine: &mut Engine, sink: &mut dyn Sink) -> Result<Vec<Chunk>> {
        let chunks = Chunk::covering(&self.range);
        let segments = Segments::of(self.view, self.disk, chunks)?;
        let digests = ViewDigests::of(self.view, self.disk)?;
        let damaged = Vec::new();
        let mut work = ReadWork { reading: self, segments, digests, sink, planned: VecDeque::new(), damaged };
        engine.run(&mut work)?;
        Ok(work.damaged)
    }
}

struct ReadWork<'a> {
    reading: &'a Reading<'a>,
    segments: Segments<'a>,
    digests: ViewDigests<'a>,
    sink: &'a mut dyn Sink,
    /// Segments planned but not processed, in order.
    planned: VecDeque<Segment>,
    damaged: Vec<Chunk>,
}

impl Work for ReadWork<'_> {
    /// How many of the planned segments the batch holds.
    type Tag = usize;

    fn next(&mut self, batch: &mut Batch) -> Result<Option<usize>> {
        let most = batch.bytes().len() as u64 / CHUNK;
        let (mut filled, mut count) = (0, 0);
        while filled < most {
            let Some(segment) = self.segments.next(most - filled)? else { break };
            count += 1;
            let Some(at) = segment.at else {
                self.planned.push_back(segment);
                break;
            };
            let len = segment.chunks.end - segment.chunks.start;
            let start = (filled * CHUNK) as usize;
            batch.read(self.reading.id, at, start..start + (len * CHUNK) as usize);
            filled += len;
            self.planned.push_back(segment);
        }
        Ok((count > 0).then_some(count))
    }

    fn process(&mut self, count: usize, batch: &mut Batch) -> Result<()> {
        let mut offset = 0;
        for _ in 0..count {
            let segment = self.planned.pop_front().expect("planned together with the batch");
            let range = Chunk(segment.chunks.start).start()..Chunk(segment.chunks.end).start();
            let asked = &self.reading.range;
            let clipped = range.start.max(asked.start)..range.end.min(asked.end);
            self.reading.progress.advance(clipped.end.saturating_sub(clipped.start));
            if segment.at.is_none() {
                self.sink.zeros(clipped)?;
                continue;
            }
            self.check(&segment, &batch.bytes()[offset..])?;
            let inside = offset + (clipped.start - range.start).usize();
            self.sink.data(batch, clipped, inside)?;
            offset += (range.end - range.start).usize();
        }
        Ok(())
    }
}

impl ReadWork<'_> {
    fn check(&mut self, segment: &Segment, bytes: &[u8]) -> Result<()> {
        let (chunks, _) = bytes.as_chunks();
        for (chunk, bytes) in segment.chunks.clone().zip(chunks) {
            let digest = self.digests.get(Chunk(chunk))?;
            let crc_holds = segment.crc.is_none_or(|crc| crc32c::crc32c(bytes) == crc);
            if !crc_holds || self.reading.key.digest(bytes).0 != digest {
                self.damaged.push(Chunk(chunk));
            }
        }
        Ok(())
    }
}
