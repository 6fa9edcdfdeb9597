// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing what a view gives to a disk.

use std::ops::Range;

use crate::disk::WriteDisk;
use crate::engine::{Batch, WriteId};
use crate::error::{Error, Result};
use crate::units::{Bytes, CHUNK, SECTOR};
use crate::view::read::Sink;

/// Puts bytes of the image on a disk: image byte `start` goes to byte `at` of it.
pub struct DiskSink<'a> {
    disk: &'a dyn WriteDisk,
    target: WriteId,
    start: Bytes,
    at: Bytes,
    /// Ranges of the image that are not touched on the target.
    spared: Vec<Range<Bytes>>,
    blanks: Blanks,
}

/// What becomes of data that is all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blanks {
    /// It is written like any other.
    Written,
    /// A hole is made, so that a sparse file stays one.
    Punched,
    /// Nothing: the target is full of zeros already.
    Skipped,
}

impl<'a> DiskSink<'a> {
    /// A sink that puts image byte `start` at the start of `disk`.
    pub fn new(disk: &'a dyn WriteDisk, target: WriteId, start: Bytes) -> Self {
        Self { disk, target, start, at: Bytes::ZERO, spared: vec![], blanks: Blanks::Written }
    }

    /// The same, for a file that is full of zeros already: they are not written.
    pub fn fresh(self) -> Self {
        Self { blanks: Blanks::Skipped, ..self }
    }

    /// The same, for a file: zeros become holes.
    pub fn sparse(self) -> Self {
        Self { blanks: Blanks::Punched, ..self }
    }

    /// The same, but image byte `start` goes to byte `at`.
    pub fn at(mut self, at: Bytes) -> Self {
        self.at = at;
        self
    }

    /// The same, but what the target holds in `ranges` of the image stays.
    pub fn sparing(mut self, ranges: Vec<Range<Bytes>>) -> Self {
        self.spared = ranges;
        self
    }

    fn place(&self, at: Bytes) -> Bytes {
        self.at + (at - self.start)
    }

    /// Asks `batch` to write `range` of the image from its buffer at `offset`.
    fn write(&self, batch: &mut Batch, range: &Range<Bytes>, offset: usize) {
        for part in self.parts(range) {
            let from = offset + (part.start - range.start).usize();
            let there = self.place(part.start);
            // Whole sectors, because direct I/O knows no others; but only a file may end inside one, and
            // must not grow.
            let end = (there + (part.end - part.start)).round_up(SECTOR).min(self.disk.size());
            batch.write(self.target, there, from..from + (end - there).usize());
        }
    }

    /// `range` without what is spared.
    fn parts(&self, range: &Range<Bytes>) -> Vec<Range<Bytes>> {
        let mut parts = Vec::new();
        let mut next = range.start;
        for spared in &self.spared {
            let (start, end) = (spared.start.max(next), spared.end.min(range.end));
            if start < end {
                if next < start {
                    parts.push(next..start);
                }
                next = end;
            }
        }
        if next < range.end {
            parts.push(next..range.end);
        }
        parts
    }
}

impl Sink for DiskSink<'_> {
    fn zeros(&mut self, range: Range<Bytes>) -> Result<()> {
        if self.blanks == Blanks::Skipped {
            return Ok(());
        }
        for part in self.parts(&range) {
            let there = self.place(part.start)..self.place(part.end);
            let doing = || format!("zeroing {} at {} of", part.end - part.start, there.start.0);
            self.disk
                .zero(there.clone())
                .map_err(|error| Error::device(doing(), self.disk.name(), &error))?;
        }
        Ok(())
    }

    fn data(&mut self, batch: &mut Batch, range: Range<Bytes>, offset: usize) -> Result<()> {
        if self.blanks == Blanks::Written {
            self.write(batch, &range, offset);
            return Ok(());
        }
        let len = (range.end - range.start).usize();
        for (run, blank) in runs(&batch.bytes()[offset..offset + len]) {
            let part = range.start + Bytes(run.start as u64)..range.start + Bytes(run.end as u64);
            if blank { self.zeros(part)? } else { self.write(batch, &part, offset + run.start) }
        }
        Ok(())
    }
}

/// Divides `bytes` into runs of chunks that are all zeros and runs of others.
fn runs(bytes: &[u8]) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    for (i, chunk) in bytes.chunks(CHUNK as usize).enumerate() {
        let (start, blank) = (i * CHUNK as usize, chunk.iter().all(|&byte| byte == 0));
        match runs.last_mut() {
            Some((run, kind)) if *kind == blank => run.end = start + chunk.len(),
            _ => runs.push((start..start + chunk.len(), blank)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::WriteDisk;
    use crate::disk::ram::RamDisk;
    use crate::engine::Disks;
    use std::sync::Arc;

    #[test]
    fn spared_ranges_are_cut_out() {
        let disk: Arc<dyn WriteDisk> = Arc::new(RamDisk::new("target", 4096));
        let target = Disks::default().add_write(disk.clone());
        let range = |a, b| Bytes(a)..Bytes(b);
        let sink =
            DiskSink::new(disk.as_ref(), target, Bytes(0)).sparing(vec![range(512, 1024), range(2048, 4096)]);
        assert_eq!(sink.parts(&range(0, 4096)), [range(0, 512), range(1024, 2048)]);
        assert_eq!(sink.parts(&range(600, 1000)), []);
        assert_eq!(sink.parts(&range(1024, 1536)), [range(1024, 1536)]);
    }
    #[test]
    fn runs_of_zeros_and_of_others() {
        const LEN: usize = CHUNK as usize;
        let mut bytes = vec![0; 4 * LEN + 7];
        bytes[LEN] = 1;
        bytes[3 * LEN - 1] = 1;
        let wanted = [(0..LEN, true), (LEN..3 * LEN, false), (3 * LEN..4 * LEN + 7, true)];
        assert_eq!(runs(&bytes), wanted);
        assert_eq!(runs(&[]), []);
    }
}
