// SPDX-License-Identifier: MIT OR Apache-2.0
//! Neighbouring chunks travel together: one request for a run of them, not one for each.

use std::ops::Range;

use crate::engine::{Batch, ReadId, WriteId};
use crate::format::digests;
use crate::store::placement::Placement;
use crate::units::{Bytes, CHUNK, Chunk};

/// Splits sorted chunk numbers into runs of neighbours, each with the index of its first chunk.
pub fn runs(chunks: &[Chunk]) -> impl Iterator<Item = (usize, Range<u64>)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let first = next;
        let start = chunks.get(first)?.0;
        while chunks.get(next).is_some_and(|chunk| chunk.0 == start + (next - first) as u64) {
            next += 1;
        }
        Some((first, start..start + (next - first) as u64))
    })
}

/// Where the chunks of the protected address space stand: the image, and behind it the digest table.
#[derive(Clone, Debug)]
pub struct Space {
    /// Where the image lies.
    pub image: Placement,
    /// Where the digest table lies.
    pub table: Placement,
}

impl Space {
    /// The stretches that hold `chunks`, which all belong to the image or all to the table: for each, its
    /// place on the disk and its bytes counted from the start of `chunks`.
    pub fn places(&self, chunks: Range<u64>) -> impl Iterator<Item = (Option<Bytes>, Range<usize>)> {
        let base = digests::BASE.0;
        let (placement, first) = if chunks.start >= base {
            (&self.table, chunks.start - base)
        } else {
            (&self.image, chunks.start)
        };
        let start = Chunk(first).start();
        let end = Bytes(start.0 + (chunks.end - chunks.start) * CHUNK);
        placement.stretches(start..end).map(move |stretch| {
            let range = (stretch.range.start - start).usize()..(stretch.range.end - start).usize();
            (stretch.at, range)
        })
    }

    /// Asks `batch` to read `chunks` into its buffer from `offset` on.
    pub fn read(&self, batch: &mut Batch, disk: ReadId, chunks: Range<u64>, offset: usize) {
        for (at, range) in self.places(chunks) {
            let at = at.expect("only chunks that have a place are read");
            batch.read(disk, at, offset + range.start..offset + range.end);
        }
    }

    /// Asks `batch` to write `chunks` from its buffer at `offset`.
    pub fn write(&self, batch: &mut Batch, disk: WriteId, chunks: Range<u64>, offset: usize) {
        for (at, range) in self.places(chunks) {
            let at = at.expect("only chunks that have a place are written");
            batch.write(disk, at, offset + range.start..offset + range.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_run_together() {
        let chunks = [3, 4, 5, 9, 11, 12].map(Chunk);
        assert_eq!(runs(&chunks).collect::<Vec<_>>(), [(0, 3..6), (3, 9..10), (4, 11..13)]);
        assert_eq!(runs(&[]).count(), 0);
    }
}
