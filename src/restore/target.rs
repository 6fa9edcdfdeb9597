// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing what a view gives to a disk.

use std::ops::Range;

use crate::disk::WriteDisk;
use crate::engine::{Batch, WriteId};
use crate::error::{Error, Result};
use crate::units::{Bytes, SECTOR};
use crate::view::read::Sink;

/// Puts bytes of the image on a disk: image byte `start` goes to byte `at` of it.
pub struct DiskSink<'a> {
    disk: &'a dyn WriteDisk,
    target: WriteId,
    start: Bytes,
    at: Bytes,
    /// Ranges of the image that are not touched on the target.
    spared: Vec<Range<Bytes>>,
}

impl<'a> DiskSink<'a> {
    /// A sink that puts image byte `start` at the start of `disk`.
    pub fn new(disk: &'a dyn WriteDisk, target: WriteId, start: Bytes) -> Self {
        Self { disk, target, start, at: Bytes::ZERO, spared: vec![] }
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
    pub fn write(
        &self,
        batch: &mut Batch,
        target: WriteId,
        range: &Range<Bytes>,
        offset: usize,
    ) -> Result<()> {
        for part in self.parts(range) {
            let from = offset + (part.start - range.start).usize();
            // A disk that ends inside a sector is a file, and longer than that while it is written.
            let len = Bytes((part.end - part.start).0).round_up(SECTOR).usize();
            batch.write(target, self.place(part.start), from..from + len);
        }
        Ok(())
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
        self.write(batch, self.target, &range, offset)
    }
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
}
