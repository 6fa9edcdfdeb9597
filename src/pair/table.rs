// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a disk is divided: GPT, MBR with logical partitions, or not at all.
//!
//! dpsr reads tables itself, so that it sees the same partitions where the kernel made no nodes for them
//! (image files, wrapped disks). A table that contradicts itself is an error, not a guess.

use std::ops::Range;

use serde::Serialize;

use super::content::{Content, content};
use super::{blocks, gpt, mbr};
use crate::disk::ReadDisk;
use crate::error::{Error, Kind, Result};
use crate::units::Bytes;

/// The kind of a partition table, with what identifies it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum TableKind {
    /// GUID partition table.
    Gpt {
        /// The disk GUID, lowercase.
        disk_guid: String,
    },
    /// DOS partition table.
    Mbr {
        /// The disk signature at byte 440.
        signature: u32,
    },
    /// No table: a filesystem on the whole device, or nothing.
    Bare,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as the kernel counts.
    pub number: u32,
    /// PARTUUID: the GPT unique GUID in lowercase, or `ssssssss-NN` for MBR.
    pub id: String,
    /// PARTLABEL; empty for MBR.
    pub label: String,
    /// The GPT type GUID in lowercase, or `0x83` for MBR.
    pub type_id: String,
    /// Whether the MBR active flag is set.
    pub active: bool,
    /// Where it lies on the disk.
    pub range: Range<Bytes>,
    /// What is on it, once probed.
    pub content: Option<Content>,
}

/// How a disk is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which kind of table, and its identity.
    pub kind: TableKind,
    /// The partitions in the order of their numbers, extended containers left out.
    pub partitions: Vec<Partition>,
    /// What is on the whole device where there is no table, once probed.
    pub whole: Option<Content>,
    /// What is wrong with the table, though it could be read.
    pub bad: Option<String>,
}

impl Table {
    /// Reads the table of `disk` in units of its logical block size.
    pub fn read(disk: &dyn ReadDisk, block: Bytes) -> Result<Self> {
        if disk.size() < Bytes(2 * block.0) {
            return Ok(Self::bare());
        }
        let sector = blocks::read(disk, Bytes::ZERO..Bytes(512));
        let sector = sector.map_err(|error| Error::device("reading the table of", disk.name(), &error))?;
        let table = Self::recognize(disk, block, &sector)?;
        table.check(disk)?;
        Ok(table)
    }

    /// Reads the table of an image file, which does not know for which block size it was written.
    pub fn read_image(disk: &dyn ReadDisk) -> Result<(Self, Bytes)> {
        let small = Self::read(disk, Bytes(512));
        if let Ok(table) = &small
            && matches!(table.kind, TableKind::Gpt { .. })
        {
            return Ok((table.clone(), Bytes(512)));
        }
        match Self::read(disk, Bytes(4096)) {
            Ok(table) if matches!(table.kind, TableKind::Gpt { .. }) => Ok((table, Bytes(4096))),
            _ => Ok((small?, Bytes(512))),
        }
    }

    fn recognize(disk: &dyn ReadDisk, block: Bytes, sector: &[u8]) -> Result<Self> {
        let found = gpt::read(disk, block);
        match (mbr::shape(sector), found) {
            (mbr::Shape::Protective, Ok(found)) => Ok(found.into_table(None)),
            (mbr::Shape::Protective, Err(why)) => Err(damaged(disk, why)),
            (mbr::Shape::Blank, Ok(found)) if found.primary => {
                Ok(found.into_table(Some("the protective MBR is missing")))
            }
            (mbr::Shape::Entries, _) => mbr::read(disk, block, sector),
            (mbr::Shape::Blank, _) => Ok(Self::bare()),
        }
    }

    fn bare() -> Self {
        Self { kind: TableKind::Bare, partitions: Vec::new(), whole: None, bad: None }
    }

    fn check(&self, disk: &dyn ReadDisk) -> Result<()> {
        let mut sorted: Vec<_> = self.partitions.iter().collect();
        sorted.sort_by_key(|partition| partition.range.start);
        for partition in &sorted {
            if partition.range.end > disk.size() {
                return Err(damaged(disk, format!("partition {} ends behind the disk", partition.number)));
            }
        }
        match sorted.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
            Some(pair) => {
                let text = format!("partitions {} and {} overlap", pair[0].number, pair[1].number);
                Err(damaged(disk, text))
            }
            None => Ok(()),
        }
    }

    /// Asks what is on every partition, or on the whole device where there is no table.
    pub fn probe_contents(&mut self, disk: &dyn ReadDisk) {
        for partition in &mut self.partitions {
            partition.content = content(disk, &partition.range);
        }
        if self.kind == TableKind::Bare {
            self.whole = content(disk, &(Bytes::ZERO..disk.size()));
        }
    }

    /// What identifies the table: the GPT disk GUID, the MBR signature in hex, or nothing.
    pub fn id(&self) -> Option<String> {
        match &self.kind {
            TableKind::Gpt { disk_guid } => Some(disk_guid.clone()),
            TableKind::Mbr { signature } => Some(format!("{signature:08x}")),
            TableKind::Bare => None,
        }
    }
}

/// A table nobody should act on.
pub(super) fn damaged(disk: &dyn ReadDisk, why: impl Into<String>) -> Error {
    Error::new(Kind::Damaged, "reading the partition table of", why)
        .on(disk.name())
        .next("repair it with fdisk or sgdisk")
}

#[cfg(test)]
mod tests {
    use super::super::testing::Memory;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_never_panics(mut data in proptest::collection::vec(any::<u8>(), 16 << 10), valid: bool) {
            if valid {
                data[510..512].copy_from_slice(&[0x55, 0xaa]);
                for entry in 0..4 { data[446 + 16 * entry] &= 0x80; }
            }
            let _ = Table::read(&Memory::of(data.clone()), Bytes(512));
            let _ = Table::read_image(&Memory::of(data));
        }

        #[test]
        fn mutated_tables_never_panic(edits in proptest::collection::vec((0usize..4096, any::<u8>()), 1..24)) {
            let disk = super::super::gpt::tests::sample();
            for (at, byte) in edits { disk.poke(at as u64, &[byte]); }
            let _ = Table::read(&disk, Bytes(512));
        }

        #[test]
        fn logical_chains_never_hang(entries in proptest::collection::vec((0u8..16, 0u32..64, 0u32..64), 64)) {
            let disk = super::super::mbr::tests::chained(&entries);
            let _ = Table::read(&disk, Bytes(512));
        }
    }

    #[test]
    fn a_filesystem_on_the_whole_disk_is_no_table() {
        let disk = Memory::new(1 << 20);
        assert_eq!(Table::read(&disk, Bytes(512)).unwrap().kind, TableKind::Bare);
        disk.poke(0, b"\xeb\x3c\x90MSDOS5.0\x00\x02");
        disk.poke(54, b"FAT16   ");
        disk.poke(510, &[0x55, 0xaa]);
        assert_eq!(Table::read(&disk, Bytes(512)).unwrap().kind, TableKind::Bare);
    }
}
