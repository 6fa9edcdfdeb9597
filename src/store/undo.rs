// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading and writing the metadata of one undo store: areas and companions. The saved chunks themselves
//! travel through the engine.

use crate::disk::whole::{read_exact_at, write_all_at};
use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Kind, Result};
use crate::format::Parsed;
use crate::format::undo::{self, COMPANION, Companion, Layout, PER_AREA, Record};
use crate::store::contents::buffer;
use crate::store::placement::Placement;
use crate::sys::buffer::Buffer;
use crate::units::{Bytes, CHUNK, Chunk, Generation};

/// One area, read and checked: its exceptions in order.
#[derive(Clone, Debug)]
pub struct Area {
    /// Number of its first exception.
    pub first: u64,
    /// Old chunk and companion record of each exception.
    pub entries: Vec<(Chunk, Record)>,
}

/// Reads the metadata of one undo store.
#[derive(Clone)]
pub struct UndoReader {
    /// Where it lies.
    pub placement: Placement,
    /// Its arithmetic.
    pub layout: Layout,
    nonce: u64,
    generation: Generation,
}

impl UndoReader {
    /// The undo store of `generation`, at `placement`.
    pub fn new(placement: Placement, about: &crate::format::index::Undo, generation: Generation) -> Self {
        Self { placement, layout: Layout { entries: about.entries }, nonce: about.nonce, generation }
    }

    /// Reads area `area` and its companion, and checks both to the last bit.
    pub fn area(&self, disk: &dyn ReadDisk, area: u64) -> Result<Area> {
        let companion = self.companion(disk, area)?;
        self.entries(disk, companion)
    }

    /// Reads and checks the companion of area `area`.
    pub fn companion(&self, disk: &dyn ReadDisk, area: u64) -> Result<Companion> {
        let location = self.layout.companion(area);
        let block = self.read(disk, location, COMPANION.usize())?;
        let companion = match Companion::unpack(&block, location, self.nonce) {
            Parsed::Ours(found) => found,
            Parsed::Damaged(why) => return Err(self.damaged(disk, &format!("companion {area}: {why}"))),
            Parsed::NotOurs => return Err(self.damaged(disk, &format!("companion {area} is missing"))),
        };
        let numbers = self.layout.entries_in(area);
        let expected = numbers.end - numbers.start;
        if companion.area != area || companion.records.len() as u64 != expected {
            return Err(self.damaged(disk, &format!("companion {area} is of another area")));
        }
        Ok(companion)
    }

    /// Reads the area `companion` is of, and checks it against that.
    pub fn entries(&self, disk: &dyn ReadDisk, companion: Companion) -> Result<Area> {
        let area = companion.area;
        let chunk = self.read(disk, Layout::area(area), CHUNK as usize)?;
        if crc32c::crc32c(&chunk) != companion.area_crc {
            return Err(self.damaged(disk, &format!("area {area} does not match its checksum")));
        }
        let numbers = self.layout.entries_in(area);
        let first = numbers.start;
        let entries = numbers.zip(companion.records).map(|(entry, record)| {
            let old = undo::unpack_entry(&chunk, entry);
            old.map(|old| (old, record)).ok_or_else(|| self.damaged(disk, &format!("exception {entry}")))
        });
        Ok(Area { first, entries: entries.collect::<Result<_>>()? })
    }

    /// Checks the parts no area covers: the header, and the closing area of zeros.
    pub fn check_frame(&self, disk: &dyn ReadDisk) -> Result<()> {
        self.check_header(disk)?;
        self.check_end(disk)
    }

    /// Checks the header.
    pub fn check_header(&self, disk: &dyn ReadDisk) -> Result<()> {
        let header = self.read(disk, Bytes::ZERO, CHUNK as usize)?;
        if undo::check_header(&header) != Parsed::Ours(()) {
            return Err(self.damaged(disk, "its header is not as written"));
        }
        Ok(())
    }

    /// Checks the closing area of zeros, where there is one.
    pub fn check_end(&self, disk: &dyn ReadDisk) -> Result<()> {
        if self.layout.has_zero_area() {
            let last = self.read(disk, Layout::area(self.layout.areas()), CHUNK as usize)?;
            if last.iter().any(|&byte| byte != 0) {
                return Err(self.damaged(disk, "its closing area is not zero"));
            }
        }
        Ok(())
    }

    /// An error about this undo store.
    pub fn damaged(&self, disk: &dyn ReadDisk, why: &str) -> Error {
        let doing = format!("reading the undo store of generation {} on", self.generation);
        Error::new(Kind::Damaged, doing, why).on(disk.name())
    }

    fn read(&self, disk: &dyn ReadDisk, at: Bytes, len: usize) -> Result<Buffer> {
        let mut bytes = buffer(len)?;
        for stretch in self.placement.stretches(at..at + Bytes(len as u64)) {
            let part = (stretch.range.start - at).usize()..(stretch.range.end - at).usize();
            let there = stretch.at.ok_or_else(|| self.damaged(disk, "part of it has no place"))?;
            read_exact_at(disk, there, &mut bytes[part])?;
        }
        Ok(bytes)
    }
}

/// What could not be rolled back must not be committed.
fn not_those(disk: &dyn WriteDisk) -> Error {
    let why = "its exceptions are not those it was made for";
    Error::new(Kind::Internal, "writing an undo store on", why).on(disk.name())
}

/// Writes the metadata of one undo store, exception by exception in order.
pub struct UndoWriter {
    /// Where it lies.
    pub placement: Placement,
    /// Its arithmetic.
    pub layout: Layout,
    nonce: u64,
    area: Buffer,
    companion: Companion,
    block: Buffer,
    next: u64,
    last: Option<Chunk>,
}

impl UndoWriter {
    /// A writer for an undo store of `entries` exceptions at `placement`.
    pub fn new(placement: Placement, entries: u64, nonce: u64) -> Result<Self> {
        let (area, block) = (buffer(CHUNK as usize)?, buffer(COMPANION.usize())?);
        let layout = Layout { entries };
        let (companion, next, last) = (Companion::default(), 0, None);
        Ok(Self { placement, layout, nonce, area, companion, block, next, last })
    }

    /// Adds the next exception, of a chunk behind all that were added; writes its area once that is complete.
    pub fn push(&mut self, disk: &dyn WriteDisk, old: Chunk, record: Record) -> Result<()> {
        if self.last.replace(old).is_some_and(|last| last >= old) || self.next == self.layout.entries {
            return Err(not_those(disk));
        }
        undo::pack_entry(&mut self.area, self.next, old);
        self.companion.records.push(record);
        self.next += 1;
        if self.next.is_multiple_of(PER_AREA) || self.next == self.layout.entries {
            self.write_area(disk)?;
        }
        Ok(())
    }

    /// Writes the header and the closing area of zeros, once every exception is there.
    pub fn finish(&mut self, disk: &dyn WriteDisk) -> Result<()> {
        if self.next != self.layout.entries {
            return Err(not_those(disk));
        }
        undo::pack_header(&mut self.area);
        self.write(disk, Bytes::ZERO, &self.area)?;
        self.area.fill(0);
        if self.layout.has_zero_area() {
            self.write(disk, Layout::area(self.layout.areas()), &self.area)?;
        }
        Ok(())
    }

    fn write_area(&mut self, disk: &dyn WriteDisk) -> Result<()> {
        let area = self.companion.area;
        self.companion.area_crc = crc32c::crc32c(&self.area);
        let location = self.layout.companion(area);
        self.companion.pack(&mut self.block, location, self.nonce);
        self.write(disk, Layout::area(area), &self.area)?;
        self.write(disk, location, &self.block)?;
        self.area.fill(0);
        self.companion = Companion { area: area + 1, ..Companion::default() };
        Ok(())
    }

    fn write(&self, disk: &dyn WriteDisk, at: Bytes, bytes: &[u8]) -> Result<()> {
        for stretch in self.placement.stretches(at..at + Bytes(bytes.len() as u64)) {
            let part = (stretch.range.start - at).usize()..(stretch.range.end - at).usize();
            let there = stretch.at.expect("the store took whole extents for the undo store");
            write_all_at(disk, there, &bytes[part])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::format::geometry::Geometry;
    use crate::format::index::Run;
    use crate::units::{Extent, MIB};

    #[test]
    fn what_is_not_in_order_or_not_all_is_no_undo_store() {
        let geometry = Geometry::choose(Bytes(64 * MIB)).unwrap();
        let runs = [Run { at: 0, extent: Extent(0), count: 4 }];
        let place = Placement::new(&runs, geometry, Bytes::ZERO);
        let disk = RamDisk::new("dpsr", 64 * MIB as usize);
        let add = |writer: &mut UndoWriter, chunk| writer.push(&disk, Chunk(chunk), Record::default());
        let refused = |result: Result<()>| assert_eq!(result.unwrap_err().kind(), Kind::Internal);
        let mut twice = UndoWriter::new(place.clone(), 2, 5).unwrap();
        add(&mut twice, 7).unwrap();
        refused(add(&mut twice, 7));
        let mut one_missing = UndoWriter::new(place.clone(), 2, 5).unwrap();
        add(&mut one_missing, 7).unwrap();
        refused(one_missing.finish(&disk));
        let mut one_more = UndoWriter::new(place, 2, 5).unwrap();
        add(&mut one_more, 7).unwrap();
        add(&mut one_more, 8).unwrap();
        refused(add(&mut one_more, 9));
        one_more.finish(&disk).unwrap();
    }
}
