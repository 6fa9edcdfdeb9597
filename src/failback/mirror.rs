// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes one disk equal to another: both are read, and only what differs is written.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::{ReadDisk, WriteDisk};
use crate::engine::{Batch, Disks, Engine, ReadId, Shape, Work, WriteId};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::units::{Bytes, CHUNK};

/// Makes `ranges` of `to` equal to those of `from`, and flushes; how much of it differed. None of them is empty; where they
/// are not multiples of a sector they end with the disk.
pub fn mirror(
    from: &Arc<dyn ReadDisk>,
    to: &Arc<dyn WriteDisk>,
    ranges: impl IntoIterator<Item = Range<Bytes>>,
    progress: &dyn Progress,
) -> Result<Bytes> {
    let mut disks = Disks::default();
    let (source, target) = (disks.add_read(from.clone()), disks.add_write(to.clone()));
    let mut engine = Engine::new(disks, Shape::default())?;
    let ranges = ranges.into_iter();
    let mut work = Mirror { source, target, ranges, rest: None, differed: Bytes::ZERO, progress };
    engine.run(&mut work)?;
    to.flush().map_err(|error| Error::device("flushing", to.name(), &error))?;
    Ok(work.differed)
}

struct Mirror<'a, I> {
    source: ReadId,
    target: WriteId,
    ranges: I,
    /// What is left of the range that was begun.
    rest: Option<Range<Bytes>>,
    differed: Bytes,
    progress: &'a dyn Progress,
}

impl<I: Iterator<Item = Range<Bytes>>> Work for Mirror<'_, I> {
    type Tag = Range<Bytes>;

    /// The first half of the buffer takes the source, the second the target.
    fn next(&mut self, batch: &mut Batch) -> Result<Option<Range<Bytes>>> {
        let Some(range) = self.rest.take().or_else(|| self.ranges.next()) else { return Ok(None) };
        let half = batch.bytes().len() / 2;
        let end = (range.start + Bytes(half as u64)).min(range.end);
        let part = range.start..end;
        self.rest = Some(end..range.end).filter(|rest| rest.start < rest.end);
        let len = (part.end - part.start).usize();
        batch.read(self.source, part.start, 0..len);
        batch.read(self.target.as_read(), part.start, half..half + len);
        Ok(Some(part))
    }

    fn process(&mut self, part: Range<Bytes>, batch: &mut Batch) -> Result<()> {
        let (half, len) = (batch.bytes().len() / 2, (part.end - part.start).usize());
        self.progress.advance(part.end - part.start);
        let (new, old) = batch.bytes().split_at(half);
        for run in differing(&new[..len], &old[..len]) {
            self.differed += Bytes(run.len() as u64);
            batch.write(self.target, part.start + Bytes(run.start as u64), run);
        }
        Ok(())
    }
}

/// Runs of chunks in which two buffers differ.
fn differing(new: &[u8], old: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let chunks = new.chunks(CHUNK as usize).zip(old.chunks(CHUNK as usize)).enumerate();
    for (i, (new, _)) in chunks.filter(|(_, (new, old))| new != old) {
        let start = i * CHUNK as usize;
        match runs.last_mut() {
            Some(run) if run.end == start => run.end += new.len(),
            _ => runs.push(start..start + new.len()),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::disk::whole::{read_exact_at, write_all_at};
    use crate::progress::Silent;

    fn disk(name: &str, size: u64, seed: u8) -> RamDisk {
        let disk = RamDisk::new(name, size as usize);
        let bytes: Vec<u8> = (0..size).map(|at| (at / 4096) as u8 ^ seed).collect();
        write_all_at(&disk, Bytes::ZERO, &bytes).unwrap();
        disk
    }

    #[test]
    fn only_what_differs_is_written() {
        const SIZE: u64 = 3 * 1024 * 1024 + 512;
        let (from, to) = (Arc::new(disk("from", SIZE, 0)), Arc::new(disk("to", SIZE, 0)));
        write_all_at(from.as_ref(), Bytes(700_000), &[9; 1024]).unwrap();
        write_all_at(from.as_ref(), Bytes(SIZE - 512), &[9; 512]).unwrap();
        let (reader, writer): (Arc<dyn ReadDisk>, Arc<dyn WriteDisk>) = (from.clone(), to.clone());
        let spared = Bytes(1024 * 1024)..Bytes(2 * 1024 * 1024);
        write_all_at(from.as_ref(), spared.start, &[7; 4096]).unwrap();
        let ranges = [Bytes::ZERO..spared.start, spared.end..Bytes(SIZE)];
        let differed = mirror(&reader, &writer, ranges.clone(), &Silent).unwrap();
        assert_eq!(differed, Bytes(CHUNK + 512));
        let mut bytes = [vec![0; SIZE as usize], vec![0; SIZE as usize]];
        read_exact_at(from.as_ref(), Bytes::ZERO, &mut bytes[0]).unwrap();
        read_exact_at(to.as_ref(), Bytes::ZERO, &mut bytes[1]).unwrap();
        let [from, to] = bytes;
        assert!(from[..spared.start.usize()] == to[..spared.start.usize()]);
        assert!(from[spared.end.usize()..] == to[spared.end.usize()..]);
        assert_ne!(from[spared.start.usize()], to[spared.start.usize()], "what was not asked for stays");
        let again = mirror(&reader, &writer, ranges, &Silent).unwrap();
        assert_eq!(again, Bytes::ZERO);
    }
}
