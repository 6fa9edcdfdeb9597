// SPDX-License-Identifier: MIT OR Apache-2.0
//! GUID partition tables, read with bounds before gptman may believe a header.
//!
//! A header with a valid checksum can still claim four billion entries; gptman would allocate them all.

use std::fmt;
use std::io::{self, Cursor};

use gptman::{GPTHeader, GPTPartitionEntry};
use uuid::Uuid;

use super::blocks::{self, Window};
use super::table::{Partition, Table, TableKind};
use crate::disk::ReadDisk;
use crate::units::Bytes;

/// More than any tool makes (128) and less than harms.
const MOST_ENTRIES: u32 = 1024;

/// A table as found.
pub(super) struct Found {
    pub primary: bool,
    pub disk_guid: Uuid,
    pub entries: Vec<GPTPartitionEntry>,
    block: Bytes,
    bad: Option<String>,
}

/// Why there is no copy where one should be.
#[derive(Debug)]
pub(super) enum Bad {
    /// The disk does not give it back.
    Unreadable(io::Error),
    /// Something else stands there, or nothing.
    NoSignature,
    /// The header does not match its checksum, or is of another kind.
    Header,
    /// The entries do not match theirs.
    Entries,
    /// A sound header claims what no table has.
    Claims(String),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot be read ({error})"),
            Self::NoSignature => f.write_str("has no signature"),
            Self::Header => f.write_str("has a damaged header"),
            Self::Entries => f.write_str("has damaged entries"),
            Self::Claims(what) => f.write_str(what),
        }
    }
}

/// Reads the primary table, else the backup at the end.
pub(super) fn read(disk: &dyn ReadDisk, block: Bytes) -> Result<Found, String> {
    let last = Bytes(disk.size().round_down(block.0).0.saturating_sub(block.0));
    let (first_error, claimed) = match copy_at(disk, block, block) {
        (Ok(found), _) => return Ok(found),
        (Err(why), claimed) => (why, claimed),
    };
    let backups = claimed.into_iter().chain([last]).filter(|at| *at > block);
    let mut found = backups.filter_map(|at| copy_at(disk, block, at).0.ok());
    let Some(mut found) = found.next() else {
        return Err(format!("the primary GPT {first_error}, and there is no good backup"));
    };
    found.primary = false;
    found.bad = Some(format!("the primary GPT {first_error}; the backup was used"));
    Ok(found)
}

/// Up to where a disk is that table's, as its header says; `None` where there is none to be read.
pub(super) fn reach(disk: &dyn ReadDisk, block: Bytes) -> Option<Bytes> {
    let header = header_at(disk, block, block).ok()?;
    let last = header.backup_lba.max(header.last_usable_lba);
    Some(Bytes(last.saturating_add(1).saturating_mul(block.0)))
}

/// The copy whose header is at `at`.
pub(super) fn copy(
    disk: &dyn ReadDisk,
    block: Bytes,
    at: Bytes,
) -> Result<(GPTHeader, Vec<GPTPartitionEntry>), Bad> {
    let header = header_at(disk, block, at)?;
    let entries = entries_of(disk, block, &header)?;
    Ok((header, entries))
}

/// One copy, and where its header says the other copy is.
fn copy_at(disk: &dyn ReadDisk, block: Bytes, at: Bytes) -> (Result<Found, Bad>, Option<Bytes>) {
    let header = match header_at(disk, block, at) {
        Ok(header) => header,
        Err(why) => return (Err(why), None),
    };
    let other = header.backup_lba.checked_mul(block.0).map(Bytes).filter(|at| *at < disk.size());
    (entries_of(disk, block, &header).map(|entries| found(block, &header, entries)), other)
}

fn header_at(disk: &dyn ReadDisk, block: Bytes, at: Bytes) -> Result<GPTHeader, Bad> {
    let data = blocks::read(disk, at..at + block).map_err(Bad::Unreadable)?;
    GPTHeader::read_from(&mut Cursor::new(data)).map_err(|error| match error {
        gptman::Error::InvalidSignature => Bad::NoSignature,
        _ => Bad::Header,
    })
}

fn entries_of(disk: &dyn ReadDisk, block: Bytes, header: &GPTHeader) -> Result<Vec<GPTPartitionEntry>, Bad> {
    let size = header.size_of_partition_entry;
    if size != 128 || header.number_of_partition_entries > MOST_ENTRIES {
        let number = header.number_of_partition_entries;
        return Err(Bad::Claims(format!("has {number} entries of {size} bytes")));
    }
    let length = Bytes(u64::from(header.number_of_partition_entries) * u64::from(size));
    let start = header.partition_entry_lba.checked_mul(block.0).filter(|at| *at < disk.size().0);
    let behind = || Bad::Claims("has its entries behind the disk".to_owned());
    let start = Bytes(start.ok_or_else(behind)?);
    let mut data = blocks::read(disk, start..start + length).map_err(Bad::Unreadable)?;
    // gptman reads a little past the last entry.
    data.resize(data.len() + 512, 0);
    let entries = header.read_partitions(&mut Window::new(start, data), block.0);
    entries.map_err(|_| Bad::Entries)
}

fn found(block: Bytes, header: &GPTHeader, entries: Vec<GPTPartitionEntry>) -> Found {
    Found { primary: true, disk_guid: Uuid::from_bytes_le(header.disk_guid), entries, block, bad: None }
}

impl Found {
    pub(super) fn into_table(self, also: Option<&str>) -> Table {
        let numbered = (1..).zip(&self.entries).filter(|(_, entry)| entry.is_used());
        let partitions = numbered.map(|(number, entry)| partition(number, entry, self.block)).collect();
        let bad = self.bad.or_else(|| also.map(str::to_owned));
        let kind = TableKind::Gpt { disk_guid: self.disk_guid.to_string() };
        Table { kind, partitions, whole: None, bad }
    }
}

/// An entry with its ends in the wrong order becomes one that ends behind every disk, and is refused.
fn partition(number: u32, entry: &GPTPartitionEntry, block: Bytes) -> Partition {
    let start = entry.starting_lba.saturating_mul(block.0);
    let end = match entry.ending_lba.checked_add(1) {
        Some(end) if end > entry.starting_lba => end.saturating_mul(block.0),
        _ => u64::MAX,
    };
    Partition {
        number,
        id: Uuid::from_bytes_le(entry.unique_partition_guid).to_string(),
        label: entry.partition_name.as_str().trim_end_matches('\0').to_owned(),
        type_id: Uuid::from_bytes_le(entry.partition_type_guid).to_string(),
        active: false,
        range: Bytes(start)..Bytes(end),
        content: None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::layout::{DpsrLayout, Guids, write_gpt};
    use super::super::testing::Memory;
    use super::*;
    use crate::units::{GIB, MIB};

    /// A disk with the three partitions of a DPSR disk; only its ends exist.
    pub(in super::super) fn sample() -> Memory {
        let disk = Memory::new(8 * MIB);
        let layout = DpsrLayout {
            bios_boot: Some(Bytes(MIB)..Bytes(2 * MIB)),
            esp: Some(Bytes(2 * MIB)..Bytes(4 * MIB)),
            store: Bytes(4 * MIB)..Bytes(7 * MIB),
        };
        write_gpt(&disk, Bytes(512), &layout, &Guids::random()).unwrap();
        disk
    }

    #[test]
    fn the_backup_serves_when_the_primary_is_damaged() {
        let disk = sample();
        let whole = Table::read(&disk, Bytes(512)).unwrap();
        assert_eq!((whole.partitions.len(), whole.bad.as_deref()), (3, None));
        for at in [512, 1024 + 20] {
            let disk = sample();
            disk.poke(at, b"?");
            let table = Table::read(&disk, Bytes(512)).unwrap();
            assert_eq!(table.partitions.len(), 3);
            assert!(table.bad.unwrap().ends_with("the backup was used"));
        }
    }

    #[test]
    fn both_copies_damaged_is_an_error() {
        let disk = sample();
        disk.poke(520, b"??");
        disk.poke(8 * MIB - 500, b"??");
        let error = Table::read(&disk, Bytes(512)).unwrap_err();
        insta::assert_snapshot!(error, @"reading the partition table of memory: the primary GPT has a damaged header, and there is no good backup; repair it with fdisk or sgdisk");
    }

    #[test]
    fn overlap_is_an_error() {
        let disk = Memory::new(8 * MIB);
        let layout = DpsrLayout {
            bios_boot: None,
            esp: Some(Bytes(MIB)..Bytes(3 * MIB)),
            store: Bytes(2 * MIB)..Bytes(7 * MIB),
        };
        write_gpt(&disk, Bytes(512), &layout, &Guids::random()).unwrap();
        insta::assert_snapshot!(Table::read(&disk, Bytes(512)).unwrap_err(), @"reading the partition table of memory: partitions 1 and 2 overlap; repair it with fdisk or sgdisk");
        let beyond = DpsrLayout { store: Bytes(4 * MIB)..Bytes(GIB), ..layout };
        write_gpt(&disk, Bytes(512), &beyond, &Guids::random()).unwrap();
        insta::assert_snapshot!(Table::read(&disk, Bytes(512)).unwrap_err(), @"reading the partition table of memory: partition 2 ends behind the disk; repair it with fdisk or sgdisk");
    }
}
