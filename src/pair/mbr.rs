// SPDX-License-Identifier: MIT OR Apache-2.0
//! DOS partition tables with their chains of logical partitions.
//!
//! Layout: four 16-byte entries at byte 446 (flag, CHS, type, CHS, first block, block count), signature
//! 0x55AA at 510, disk signature at 440. An extended partition holds a chain of boot records: entry 0 is
//! relative to the record, entry 1 names the next one relative to the container. (block/partitions/msdos.c)

use std::collections::BTreeSet;
use std::ops::Range;

use super::blocks;
use super::table::{Partition, Table, TableKind, damaged};
use crate::disk::ReadDisk;
use crate::error::{Error, Result};
use crate::units::Bytes;

/// What sector 0 looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// An entry of type EE: the disk carries a GPT.
    Protective,
    /// Partition entries.
    Entries,
    /// No table: blank, or the boot sector of a filesystem.
    Blank,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    active: bool,
    kind: u8,
    first: u64,
    count: u64,
}

impl Entry {
    fn is_used(&self) -> bool {
        self.kind != 0 && self.count != 0
    }

    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    fn range(&self, base: u64, block: Bytes) -> Range<Bytes> {
        let first = (base + self.first).saturating_mul(block.0);
        Bytes(first)..Bytes(first.saturating_add(self.count * block.0))
    }
}

fn entries(sector: &[u8]) -> [Entry; 4] {
    let number = |at: usize| {
        u64::from(u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]))
    };
    [446, 462, 478, 494].map(|at| Entry {
        active: sector[at] & 0x80 != 0,
        kind: sector[at + 4],
        first: number(at + 8),
        count: number(at + 12),
    })
}

fn is_signed(sector: &[u8]) -> bool {
    sector[510..512] == [0x55, 0xaa]
}

/// Looks at sector 0.
pub(super) fn shape(sector: &[u8]) -> Shape {
    let flags_fit = [446, 462, 478, 494].iter().all(|at| sector[*at] & 0x7f == 0);
    let volume = [(3, "NTFS"), (3, "EXFAT"), (54, "FAT"), (82, "FAT32")];
    let is_volume = volume.iter().any(|(at, text)| sector[*at..].starts_with(text.as_bytes()));
    let all = entries(sector);
    if !is_signed(sector) || !flags_fit {
        Shape::Blank
    } else if all.iter().any(|entry| entry.kind == 0xee) {
        Shape::Protective
    } else if is_volume || !all.iter().any(Entry::is_used) {
        Shape::Blank
    } else {
        Shape::Entries
    }
}

/// Reads the table whose first sector is `sector`.
pub(super) fn read(disk: &dyn ReadDisk, block: Bytes, sector: &[u8]) -> Result<Table> {
    let signature = u32::from_le_bytes([sector[440], sector[441], sector[442], sector[443]]);
    let mut table =
        Table { kind: TableKind::Mbr { signature }, partitions: Vec::new(), whole: None, bad: None };
    for (number, entry) in (1..).zip(entries(sector)).filter(|(_, entry)| entry.is_used()) {
        if !entry.is_extended() {
            table.partitions.push(partition(signature, number, &entry, entry.range(0, block)));
        }
    }
    let mut logical = 5;
    for container in entries(sector).iter().filter(|entry| entry.is_used() && entry.is_extended()) {
        check_container(disk, container, block, &table)?;
        let mut chain = Chain { disk, block, container: *container, signature, next: logical };
        table.bad = chain.follow(&mut table.partitions)?.or(table.bad);
        logical = chain.next;
    }
    Ok(table)
}

fn check_container(disk: &dyn ReadDisk, container: &Entry, block: Bytes, table: &Table) -> Result<()> {
    let range = container.range(0, block);
    if range.end > disk.size() {
        return Err(damaged(disk, "the extended partition ends behind the disk"));
    }
    let inside = |p: &&Partition| p.number < 5 && p.range.start < range.end && range.start < p.range.end;
    match table.partitions.iter().find(inside) {
        Some(p) => Err(damaged(disk, format!("partition {} overlaps the extended partition", p.number))),
        None => Ok(()),
    }
}

struct Chain<'a> {
    disk: &'a dyn ReadDisk,
    block: Bytes,
    container: Entry,
    signature: u32,
    next: u32,
}

impl Chain<'_> {
    /// Collects the logical partitions; a chain that breaks off is a warning, as it is to the kernel.
    fn follow(&mut self, into: &mut Vec<Partition>) -> Result<Option<String>> {
        let mut seen = BTreeSet::new();
        let mut at = 0;
        loop {
            if at >= self.container.count || !seen.insert(at) {
                return Err(damaged(
                    self.disk,
                    "the chain of logical partitions leaves its container or loops",
                ));
            }
            let base = self.container.first + at;
            let Some([entry, link]) = self.record(base)? else {
                return Ok(Some(format!(
                    "the chain of logical partitions breaks off after number {}",
                    self.next - 1
                )));
            };
            if entry.is_used() && !entry.is_extended() {
                into.push(self.logical(&entry, base)?);
            }
            if !link.is_used() || !link.is_extended() {
                return Ok(None);
            }
            at = link.first;
        }
    }

    fn record(&self, base: u64) -> Result<Option<[Entry; 2]>> {
        let start = Bytes(base.saturating_mul(self.block.0));
        if start + Bytes(512) > self.disk.size() {
            return Ok(None);
        }
        let sector = blocks::read(self.disk, start..start + Bytes(512));
        let sector =
            sector.map_err(|error| Error::device("reading the table of", self.disk.name(), &error))?;
        let [entry, link, ..] = entries(&sector);
        Ok(is_signed(&sector).then_some([entry, link]))
    }

    fn logical(&mut self, entry: &Entry, base: u64) -> Result<Partition> {
        let range = entry.range(base, self.block);
        if range.end > self.container.range(0, self.block).end {
            let why = format!("logical partition {} ends behind its container", self.next);
            return Err(damaged(self.disk, why));
        }
        self.next += 1;
        Ok(partition(self.signature, self.next - 1, entry, range))
    }
}

fn partition(signature: u32, number: u32, entry: &Entry, range: Range<Bytes>) -> Partition {
    Partition {
        number,
        id: format!("{signature:08x}-{number:02x}"),
        label: String::new(),
        type_id: format!("0x{:02x}", entry.kind),
        active: entry.active,
        range,
        content: None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::testing::Memory;
    use super::*;

    fn entry(disk: &Memory, sector: u64, slot: u64, (flag, kind, first, count): (u8, u8, u32, u32)) {
        let at = sector * 512 + 446 + slot * 16;
        disk.poke(at, &[flag, 0, 0, 0, kind, 0, 0, 0]);
        disk.poke(at + 8, &first.to_le_bytes());
        disk.poke(at + 12, &count.to_le_bytes());
        disk.poke(sector * 512 + 510, &[0x55, 0xaa]);
    }

    fn disk() -> Memory {
        let disk = Memory::new(1000 * 512);
        disk.poke(440, &0x1234_abcd_u32.to_le_bytes());
        entry(&disk, 0, 0, (0x80, 0x83, 10, 90));
        entry(&disk, 0, 1, (0, 0x0f, 100, 900));
        disk
    }

    /// Every sector of a small disk is a boot record made of arbitrary numbers.
    pub(in super::super) fn chained(entries: &[(u8, u32, u32)]) -> Memory {
        let disk = disk();
        for (sector, (kind, first, count)) in (100..).zip(entries) {
            entry(&disk, sector, 0, (0, 0x83, *first, *count));
            entry(&disk, sector, 1, (0, *kind, *first, *count));
        }
        disk
    }

    #[test]
    fn logical_partitions_follow_the_chain() {
        let disk = disk();
        entry(&disk, 100, 0, (0, 0x83, 10, 90));
        entry(&disk, 100, 1, (0, 0x05, 100, 200));
        entry(&disk, 200, 0, (0, 0x82, 10, 90));
        let table = Table::read(&disk, Bytes(512)).unwrap();
        let shown: Vec<_> = table
            .partitions
            .iter()
            .map(|p| format!("{} {} {} {}", p.id, p.type_id, p.range.start.0 / 512, p.range.end.0 / 512))
            .collect();
        assert_eq!(
            shown,
            ["1234abcd-01 0x83 10 100", "1234abcd-05 0x83 110 200", "1234abcd-06 0x82 210 300"]
        );
        assert!(table.partitions[0].active && table.bad.is_none());
    }

    #[test]
    fn a_loop_in_the_chain_is_an_error() {
        let disk = disk();
        entry(&disk, 100, 0, (0, 0x83, 10, 20));
        entry(&disk, 100, 1, (0, 0x05, 100, 200));
        entry(&disk, 200, 1, (0, 0x05, 100, 200));
        insta::assert_snapshot!(Table::read(&disk, Bytes(512)).unwrap_err(), @"reading the partition table of memory: the chain of logical partitions leaves its container or loops; repair it with fdisk or sgdisk");
    }
}
