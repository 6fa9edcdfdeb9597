// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the DPSR disk is divided: a GPT of its own, never a copy of the primary's.
//!
//! Every GUID is random. The store carries a partition type of dpsr's own, so that nothing else claims it,
//! and the no-auto attribute, so that nothing mounts it.

use std::ops::Range;

use gptman::{GPTHeader, GPTPartitionEntry};
use serde::Serialize;
use uuid::{Uuid, uuid};

use super::blocks::{self, Window};
use super::gpt;
use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Kind, Result};
use crate::units::{Bytes, GIB, MIB};

/// The partition type of a dpsr store; random, chosen once.
pub const STORE_TYPE: Uuid = uuid!("8211c1b7-ec90-4655-b1a2-77d47f0e28cb");
const ESP_TYPE: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
const BIOS_TYPE: Uuid = uuid!("21686148-6449-6e6f-744e-656564454649");

/// "Do not mount automatically". (Discoverable Partitions Specification)
const NO_AUTO: u64 = 1 << 63;
/// The number and size of entries every tool uses and expects.
const ENTRIES: u32 = 128;
const ENTRY_SIZE: u32 = 128;
/// A store smaller than this cannot even hold its own records.
const SMALLEST_STORE: Bytes = Bytes(16 * MIB);

/// Where the partitions of a DPSR disk lie; all on borders of 1 MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DpsrLayout {
    /// For GRUB's core image on BIOS machines.
    pub bios_boot: Option<Range<Bytes>>,
    /// The boot loader and the kernels.
    pub esp: Option<Range<Bytes>>,
    /// Everything else.
    pub store: Range<Bytes>,
}

/// The identities of a DPSR disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guids {
    /// The disk.
    pub disk: Uuid,
    /// The BIOS boot partition.
    pub bios_boot: Uuid,
    /// The EFI system partition.
    pub esp: Uuid,
    /// The store partition.
    pub store: Uuid,
}

impl Guids {
    /// New ones.
    pub fn random() -> Self {
        let [disk, bios_boot, esp, store] = std::array::from_fn(|_| Uuid::new_v4());
        Self { disk, bios_boot, esp, store }
    }
}

impl DpsrLayout {
    /// Divides a disk of `size` bytes with logical blocks of `block` bytes.
    pub fn plan(size: Bytes, block: Bytes, boot: bool, bios: bool) -> Result<Self> {
        let mut at = Bytes(MIB);
        let mut take = |wanted: bool, length: u64| {
            let start = at;
            at += Bytes(if wanted { length } else { 0 });
            wanted.then_some(start..at)
        };
        let bios_boot = take(boot && bios, MIB);
        let esp = take(boot, GIB);
        let table = Bytes(block.0 + table_size(block).0);
        let end = size.saturating_sub(table).round_down(MIB);
        let least = at + SMALLEST_STORE;
        if end < least {
            let why = format!("it has {size}, and the partitions of a DPSR disk need more than {least}");
            let next = if boot { "use a larger disk, or --no-boot" } else { "use a larger disk" };
            return Err(Error::new(Kind::NoRoom, "laying out the DPSR disk", why).next(next));
        }
        Ok(Self { bios_boot, esp, store: at..end })
    }

    /// The partitions that exist, in order: what it is for, and where.
    pub fn partitions(&self) -> impl Iterator<Item = (&'static str, &Range<Bytes>)> {
        let all = [("DPSR-BIOS", self.bios_boot.as_ref()), ("DPSR-ESP", self.esp.as_ref())];
        all.into_iter().chain([("DPSR", Some(&self.store))]).filter_map(|(name, range)| Some((name, range?)))
    }
}

fn table_size(block: Bytes) -> Bytes {
    Bytes(u64::from(ENTRIES * ENTRY_SIZE)).round_up(block.0)
}

/// Writes protective MBR and both tables: the backup first, flushed, then the primary, flushed.
pub fn write_gpt(disk: &dyn WriteDisk, block: Bytes, layout: &DpsrLayout, guids: &Guids) -> Result<()> {
    let entries = entries(block, layout, guids);
    let blocks = disk.size().0 / block.0;
    let table = table_size(block).0 / block.0;
    let mut header = GPTHeader {
        signature: *b"EFI PART",
        revision: [0, 0, 1, 0],
        header_size: 92,
        crc32_checksum: 0,
        reserved: [0; 4],
        primary_lba: 1,
        backup_lba: blocks - 1,
        first_usable_lba: 2 + table,
        last_usable_lba: blocks - table - 2,
        disk_guid: guids.disk.to_bytes_le(),
        partition_entry_lba: 2,
        number_of_partition_entries: ENTRIES,
        size_of_partition_entry: ENTRY_SIZE,
        partition_entry_array_crc32: 0,
    };
    let mut head = encode(disk, block, &mut header, &entries, Bytes::ZERO..Bytes((2 + table) * block.0))?;
    head[..512].copy_from_slice(&protective_mbr(blocks));
    (header.primary_lba, header.backup_lba) = (blocks - 1, 1);
    header.partition_entry_lba = blocks - 1 - table;
    let start = Bytes(header.partition_entry_lba * block.0);
    let tail = encode(disk, block, &mut header, &entries, start..Bytes(blocks * block.0))?;
    put(disk, start, &tail).and_then(|()| put(disk, Bytes::ZERO, &head))
}

fn put(disk: &dyn WriteDisk, at: Bytes, data: &[u8]) -> Result<()> {
    let done = blocks::write(disk, at, data).and_then(|()| disk.flush());
    done.map_err(|error| Error::device("writing the partition table of", disk.name(), &error))
}

pub(super) fn encode(
    disk: &dyn ReadDisk,
    block: Bytes,
    header: &mut GPTHeader,
    entries: &[GPTPartitionEntry],
    range: Range<Bytes>,
) -> Result<Vec<u8>> {
    let mut window = Window::new(range.start, vec![0; (range.end - range.start).usize()]);
    let written = header.write_into(&mut window, block.0, entries);
    let failed =
        |error: gptman::Error| Error::new(Kind::Internal, "building the table of", error.to_string());
    written.map_err(|error| failed(error).on(disk.name()))?;
    Ok(window.into_inner())
}

fn entries(block: Bytes, layout: &DpsrLayout, guids: &Guids) -> Vec<GPTPartitionEntry> {
    let all = [
        (layout.bios_boot.as_ref(), BIOS_TYPE, guids.bios_boot, 0, "DPSR-BIOS"),
        (layout.esp.as_ref(), ESP_TYPE, guids.esp, NO_AUTO, "DPSR-ESP"),
        (Some(&layout.store), STORE_TYPE, guids.store, NO_AUTO, "DPSR"),
    ];
    let present = all.into_iter().filter_map(|(range, kind, guid, attributes, name)| {
        let range = range?;
        Some(GPTPartitionEntry {
            partition_type_guid: kind.to_bytes_le(),
            unique_partition_guid: guid.to_bytes_le(),
            starting_lba: range.start.0 / block.0,
            ending_lba: range.end.0 / block.0 - 1,
            attribute_bits: attributes,
            partition_name: name.into(),
        })
    });
    let mut entries: Vec<_> = present.collect();
    entries.resize(ENTRIES as usize, GPTPartitionEntry::empty());
    entries
}

/// One entry of type EE over everything. (UEFI specification 5.2.3)
pub(super) fn protective_mbr(blocks: u64) -> [u8; 512] {
    let mut sector = [0; 512];
    let count = u32::try_from(blocks - 1).unwrap_or(u32::MAX);
    sector[446..458].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    sector[458..462].copy_from_slice(&count.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A store as the partition table names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundStore {
    /// The GUID of the disk.
    pub disk: Uuid,
    /// The GUID of the store partition.
    pub store: Uuid,
    /// The size of the logical blocks in which the table counts.
    pub block: Bytes,
    /// Where the store lies.
    pub range: Range<Bytes>,
    /// Where the EFI system partition lies, if there is one.
    pub esp: Option<Range<Bytes>>,
    /// Where the BIOS boot partition lies, if there is one.
    pub bios_boot: Option<Range<Bytes>>,
}

/// Finds the store of a DPSR disk, by the backup table where the primary one is damaged. `None` where
/// there is no GPT or no store in it; a range behind the end of the disk counts as none.
pub fn find_store(disk: &dyn ReadDisk, block: Bytes) -> Option<FoundStore> {
    let found = gpt::read(disk, block).ok()?;
    let range = |kind: Uuid| {
        let entry = found.entries.iter().find(|entry| entry.partition_type_guid == kind.to_bytes_le())?;
        let start = Bytes(entry.starting_lba.checked_mul(block.0)?);
        let end = Bytes(entry.ending_lba.checked_add(1)?.checked_mul(block.0)?);
        (start < end && end <= disk.size()).then_some((start..end, entry.unique_partition_guid))
    };
    let (store, guid) = range(STORE_TYPE)?;
    let [esp, bios_boot] = [ESP_TYPE, BIOS_TYPE].map(|kind| range(kind).map(|(range, _)| range));
    let (disk, guid) = (found.disk_guid, Uuid::from_bytes_le(guid));
    Some(FoundStore { disk, store: guid, block, range: store, esp, bios_boot })
}

#[cfg(test)]
mod tests {
    use super::super::table::{Table, TableKind};
    use super::super::testing::Memory;
    use super::*;

    #[test]
    fn everything_is_aligned_and_fits() {
        for (size, block) in [(20 * GIB, 512), (20 * GIB + 512 * 7, 512), (20 * GIB, 4096)] {
            let layout = DpsrLayout::plan(Bytes(size), Bytes(block), true, true).unwrap();
            let mut last = Bytes(MIB);
            for (_, range) in layout.partitions() {
                assert_eq!((range.start, range.start.0 % MIB, range.end.0 % MIB), (last, 0, 0));
                last = range.end;
            }
            assert!(last.0 + 33 * 512 <= size && layout.partitions().count() == 3);
        }
        let plain = DpsrLayout::plan(Bytes(100 * MIB), Bytes(512), false, true).unwrap();
        assert_eq!((plain.esp, plain.bios_boot, plain.store), (None, None, Bytes(MIB)..Bytes(99 * MIB)));
        let error = DpsrLayout::plan(Bytes(GIB), Bytes(512), true, false).unwrap_err();
        insta::assert_snapshot!(error, @"laying out the DPSR disk: it has 1 GiB, and the partitions of a DPSR disk need more than 1.0 GiB; use a larger disk, or --no-boot");
    }

    #[test]
    fn reads_back_also_from_the_backup() {
        for block in [512, 4096] {
            let disk = Memory::new(64 * MIB);
            let layout = DpsrLayout::plan(disk.size(), Bytes(block), false, false).unwrap();
            let guids = Guids::random();
            write_gpt(&disk, Bytes(block), &layout, &guids).unwrap();
            let table = Table::read(&disk, Bytes(block)).unwrap();
            assert_eq!(table.kind, TableKind::Gpt { disk_guid: guids.disk.to_string() });
            assert_eq!((table.bad, table.partitions[0].label.as_str()), (None, "DPSR"));
            let wanted = FoundStore {
                disk: guids.disk,
                store: guids.store,
                block: Bytes(block),
                range: layout.store,
                esp: None,
                bios_boot: None,
            };
            assert_eq!(find_store(&disk, Bytes(block)).as_ref(), Some(&wanted));
            disk.poke(0, &[0; 8192]);
            assert_eq!(find_store(&disk, Bytes(block)), Some(wanted));
        }
    }

    #[test]
    fn other_tools_agree() {
        let disk = Memory::new(64 * MIB);
        let layout = DpsrLayout::plan(disk.size(), Bytes(512), false, false).unwrap();
        write_gpt(&disk, Bytes(512), &layout, &Guids::random()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &*disk.0.lock().unwrap()).unwrap();
        let Ok(run) = std::process::Command::new("sgdisk").arg("-v").arg(file.path()).output() else {
            assert!(std::env::var_os("CI").is_none_or(|it| it != "true"), "CI has sgdisk");
            return eprintln!("SKIPPED other_tools_agree: there is no sgdisk");
        };
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(text.contains("No problems found"), "{text}");
    }
}
