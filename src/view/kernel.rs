// SPDX-License-Identifier: MIT OR Apache-2.0
//! The composition as the kernel's dm-snapshot takes it: one COW device, whatever the age.
//!
//! ```text
//! chunk 0                  header
//! chunk 1 + k (P + 1)      area k, of P = 4096 exceptions; the last one is not full
//! behind the last area     the extents with saved chunks, one after the other, as they lie in the store
//! ```
//!
//! The kernel fixes where areas stand, and asks nothing of where saved chunks do. So what lies between the
//! areas stays empty, and every extent stands behind them: the first part of the device is a sparse piece of
//! memory, the rest is a list of stretches of the DPSR disk, of which nothing is copied.

use std::collections::BTreeSet;
use std::ops::Range;

use super::View;
use super::compose::{Exception, Exceptions, Part};
use crate::disk::ReadDisk;
use crate::error::Result;
use crate::format::undo::{self, Layout, PER_AREA};
use crate::store::Contents;
use crate::store::contents::{buffer, damaged};
use crate::units::{Bytes, CHUNK, Chunk, Extent};

/// Where the exceptions of one generation stand on a COW device.
#[derive(Clone, Debug)]
pub struct CowLayout {
    /// How many exceptions there are.
    pub exceptions: u64,
    /// What of the DPSR disk follows the metadata, in order; counted from the start of that disk.
    pub saved: Vec<Range<Bytes>>,
}

impl CowLayout {
    /// Reads the exceptions of `view` once, and keeps of each only which extent it lies in.
    pub fn of(contents: &Contents, view: &View<'_>, disk: &dyn ReadDisk) -> Result<Self> {
        let geometry = contents.superblock.geometry;
        let (mut exceptions, mut used) = (0, BTreeSet::new());
        let mut all = Exceptions::of(view, disk, Part::Image)?;
        while let Some(exception) = all.advance()? {
            let extent = geometry.extent_at(exception.at - contents.base);
            used.insert(extent.ok_or_else(|| damaged(disk, "a saved chunk lies outside its extents"))?);
            exceptions += 1;
        }
        let mut saved: Vec<Range<Bytes>> = Vec::new();
        for Extent(number) in used {
            let bytes = geometry.bytes_of(Extent(number));
            let (start, end) = (contents.base + bytes.start, contents.base + bytes.end);
            match saved.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => saved.push(start..end),
            }
        }
        Ok(Self { exceptions, saved })
    }

    /// How many areas there are: the last one is not full, so that the kernel sees where the list ends.
    pub fn areas(&self) -> u64 {
        self.exceptions / PER_AREA + 1
    }

    /// Bytes of header and areas, with the emptiness in between; saved chunks stand behind.
    pub fn metadata(&self) -> Bytes {
        Layout::area(self.areas() - 1) + Bytes(CHUNK)
    }

    /// Size of the whole COW device.
    pub fn size(&self) -> Bytes {
        self.metadata() + self.saved.iter().map(|range| range.end - range.start).sum()
    }

    /// Reads the exceptions of the same view once more, and gives header and areas to `put`, each with its
    /// place; what `put` is not given is zeros.
    pub fn write(
        &self,
        view: &View<'_>,
        disk: &dyn ReadDisk,
        put: &mut dyn FnMut(Bytes, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut all = Exceptions::of(view, disk, Part::Image)?;
        let changed = || damaged(disk, "an undo store changed while it was read");
        let whole = self.write_all(&mut || all.advance(), put)?;
        whole.then_some(()).ok_or_else(changed)
    }

    /// The same with exceptions from anywhere, in ascending order; whether they are those the layout is for.
    pub fn write_all(
        &self,
        exceptions: &mut dyn FnMut() -> Result<Option<Exception>>,
        put: &mut dyn FnMut(Bytes, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let mut area = buffer(CHUNK as usize)?;
        undo::pack_header(&mut area);
        put(Bytes::ZERO, &area)?;
        area.fill(0);
        let places = self.places();
        let mut entry = 0;
        while let Some(exception) = exceptions()? {
            let new = chunk_of(&self.saved, &places, exception.at);
            let Some(new) = new.filter(|_| entry < self.exceptions) else { return Ok(false) };
            undo::pack_exception(&mut area, entry, exception.chunk, new.0);
            entry += 1;
            if entry.is_multiple_of(PER_AREA) {
                put(Layout::area(entry / PER_AREA - 1), &area)?;
                area.fill(0);
            }
        }
        put(Layout::area(entry / PER_AREA), &area)?;
        Ok(entry == self.exceptions)
    }

    /// The chunk of the COW device at which each stretch of [`saved`](Self::saved) begins.
    fn places(&self) -> Vec<Chunk> {
        let mut next = self.metadata();
        let place = |range: &Range<Bytes>| {
            let place = Chunk::at(next);
            next += range.end - range.start;
            place
        };
        self.saved.iter().map(place).collect()
    }
}

/// The chunk of the COW device that shows byte `at` of the disk.
fn chunk_of(saved: &[Range<Bytes>], places: &[Chunk], at: Bytes) -> Option<Chunk> {
    let number = saved.partition_point(|range| range.start <= at).checked_sub(1)?;
    let range = &saved[number];
    (at < range.end).then(|| Chunk(places[number].0 + Chunk::at(at - range.start).0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    #[test]
    fn saved_chunks_stand_behind_the_last_area() {
        let saved = vec![Bytes(8 * MIB)..Bytes(9 * MIB), Bytes(20 * MIB)..Bytes(22 * MIB)];
        let layout = CowLayout { exceptions: PER_AREA, saved: saved.clone() };
        assert_eq!(layout.areas(), 2);
        assert_eq!(layout.metadata(), Chunk(1 + PER_AREA + 1 + 1).start());
        assert_eq!(layout.size(), layout.metadata() + Bytes(3 * MIB));
        let (first, places) = (Chunk::at(layout.metadata()).0, layout.places());
        let found = |at| chunk_of(&saved, &places, Bytes(at)).map(|chunk| chunk.0 - first);
        assert_eq!(found(8 * MIB), Some(0));
        assert_eq!(found(20 * MIB + 3 * CHUNK), Some(16 + 3));
        assert_eq!((found(9 * MIB), found(7 * MIB), found(22 * MIB)), (None, None, None));
    }
}
