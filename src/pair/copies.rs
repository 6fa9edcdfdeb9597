// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two copies of the DPSR disk's own partition table: which of them is damaged, and that one made anew of the other.
//!
//! The copy at the beginning has the protective MBR with it, whose boot code is GRUB's, and nobody's here.

use std::io;

use gptman::{GPTHeader, GPTPartitionEntry};

use super::layout::{encode, protective_mbr};
use super::{blocks, gpt};
use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Kind, Result};
use crate::units::{Bytes, SECTOR};

/// Which copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// At the beginning of the disk, behind the protective MBR.
    First,
    /// At its end.
    Last,
}

/// Boot code, and what tells the disk from others to whoever does not know GPT.
const CODE: usize = 446;

/// Of an MBR that protects a GPT.
const PROTECTIVE: u8 = 0xee;

type Whole = (GPTHeader, Vec<GPTPartitionEntry>);

/// The copies that are damaged, and why, on a disk with logical blocks of `block` bytes. Where both are sound and not the
/// same, the first one counts, as to the kernel.
pub fn damaged(disk: &dyn ReadDisk, block: Bytes) -> Vec<(Copy, &'static str)> {
    const SUM: &str = "it does not match its checksum";
    let first = gpt::copy(disk, block, block);
    let last = gpt::copy(disk, block, last_at(disk, block, first.as_ref().ok()));
    let same = |(one, _): &Whole, (other, _): &Whole| content(one) == content(other);
    let mut found = Vec::new();
    let mbr = mbr(disk);
    match (&first, &mbr) {
        (_, Err(_)) => found.push((Copy::First, "it cannot be read")),
        (Err(_), _) => found.push((Copy::First, SUM)),
        (_, Ok(mbr)) if !protects(mbr) => found.push((Copy::First, "its protective MBR is damaged")),
        _ => {}
    }
    match (&first, &last) {
        (_, Err(_)) => found.push((Copy::Last, SUM)),
        (Ok(first), Ok(last)) if !same(first, last) => found.push((Copy::Last, "it differs from the first")),
        _ => {}
    }
    found
}

/// Writes a copy anew, durably, from what the other one says.
pub fn rewrite(disk: &dyn WriteDisk, block: Bytes, copy: Copy) -> Result<()> {
    let failed = |error: io::Error| Error::device("repairing the partition table of", disk.name(), &error);
    let blocks = disk.size().0 / block.0;
    let from = match copy {
        Copy::First => last_at(disk, block, None),
        Copy::Last => block,
    };
    let refused = |why: String| {
        Error::new(Kind::Damaged, "repairing the partition table of", why)
            .on(disk.name())
            .next("repair it with sgdisk or gdisk")
    };
    let (mut header, entries) =
        gpt::copy(disk, block, from).map_err(|why| refused(format!("the other copy {why}")))?;
    let length = u64::from(header.number_of_partition_entries) * u64::from(header.size_of_partition_entry);
    let table = length.div_ceil(block.0);
    let (header_at, entries_at, room) = match copy {
        Copy::First => (1, 2, 2 + table <= header.first_usable_lba),
        Copy::Last => (blocks - 1, blocks - 1 - table, blocks - 1 - table > header.last_usable_lba),
    };
    if !room {
        return Err(refused("the other copy leaves no room for it".to_owned()));
    }
    (header.primary_lba, header.backup_lba) = (header_at, if header_at == 1 { blocks - 1 } else { 1 });
    header.partition_entry_lba = entries_at;
    let range = match copy {
        Copy::First => Bytes::ZERO..Bytes((2 + table) * block.0),
        Copy::Last => Bytes(entries_at * block.0)..Bytes(blocks * block.0),
    };
    let mut bytes = encode(disk, block, &mut header, &entries, range.clone())?;
    if copy == Copy::First {
        bytes[..SECTOR as usize].copy_from_slice(&protective_mbr(blocks));
        // Where it cannot be read, there is none to keep.
        if let Ok(mbr) = mbr(disk) {
            bytes[..CODE].copy_from_slice(&mbr[..CODE]);
        }
    }
    blocks::write(disk, range.start, &bytes).and_then(|()| disk.flush()).map_err(failed)
}

/// What both copies say alike.
fn content(header: &GPTHeader) -> ([u8; 16], u32, u32, u64, u64) {
    let GPTHeader { disk_guid, partition_entry_array_crc32, number_of_partition_entries, .. } = *header;
    let (first, last) = (header.first_usable_lba, header.last_usable_lba);
    (disk_guid, partition_entry_array_crc32, number_of_partition_entries, first, last)
}

/// Where the last copy is: at the end of the disk, or where the first one says.
fn last_at(disk: &dyn ReadDisk, block: Bytes, first: Option<&Whole>) -> Bytes {
    let end = Bytes(disk.size().round_down(block.0).0.saturating_sub(block.0));
    let said = first.and_then(|(header, _)| header.backup_lba.checked_mul(block.0)).map(Bytes);
    said.filter(|at| *at > block && *at <= end).unwrap_or(end)
}

fn mbr(disk: &dyn ReadDisk) -> io::Result<Vec<u8>> {
    blocks::read(disk, Bytes::ZERO..Bytes(SECTOR))
}

fn protects(mbr: &[u8]) -> bool {
    let kinds = (0..4).map(|entry| mbr[CODE + 16 * entry + 4]);
    mbr[510..] == [0x55, 0xaa] && kinds.into_iter().any(|kind| kind == PROTECTIVE)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Memory;
    use super::*;
    use crate::pair::layout::{DpsrLayout, Guids, find_store, write_gpt};
    use crate::units::MIB;

    fn disk(block: u64) -> Memory {
        let disk = Memory::new(64 * MIB);
        let layout = DpsrLayout::plan(disk.size(), Bytes(block), false, false).unwrap();
        write_gpt(&disk, Bytes(block), &layout, &Guids::random()).unwrap();
        // GRUB's.
        disk.poke(3, b"boot code");
        disk
    }

    /// Where the tables are: the first 64 KiB, and the last.
    fn ends(disk: &Memory) -> Vec<u8> {
        let bytes = disk.0.lock().unwrap();
        [&bytes[..65536], &bytes[bytes.len() - 65536..]].concat()
    }

    /// Each bit of what both copies consist of, on the headers, the MBR's own part and the entry that is used.
    #[test]
    fn every_flip_is_found_and_mended() {
        for block in [512, 4096] {
            let disk = disk(block);
            let whole = ends(&disk);
            assert_eq!(damaged(&disk, Bytes(block)), []);
            let store = find_store(&disk, Bytes(block));
            let end = 64 * MIB;
            let entries = end - block - (128u64 * 128).next_multiple_of(block);
            let first = [450..451, 510..512, block..block + 92, 2 * block..2 * block + 128];
            let last = [end - block..end - block + 92, entries..entries + 128];
            let of = |copy, ranges: &[std::ops::Range<u64>]| -> Vec<_> {
                ranges.iter().cloned().flatten().map(|at| (copy, at)).collect()
            };
            for (copy, at) in [of(Copy::First, &first), of(Copy::Last, &last)].concat() {
                for bit in [0, 3, 7] {
                    let byte = disk.0.lock().unwrap()[at as usize] ^ (1 << bit);
                    disk.poke(at, &[byte]);
                    let found = damaged(&disk, Bytes(block));
                    assert_eq!(
                        found.iter().map(|one| one.0).collect::<Vec<_>>(),
                        [copy],
                        "{at} of {block}: {found:?}"
                    );
                    assert_eq!(find_store(&disk, Bytes(block)), store);
                    rewrite(&disk, Bytes(block), copy).unwrap();
                    assert!(ends(&disk) == whole, "it is not what it was at {at} of {block}");
                }
            }
        }
    }

    #[test]
    fn a_copy_that_is_gone_or_old_comes_back() {
        let disk = disk(512);
        let whole = ends(&disk);
        disk.poke(440, &[0; 512 * 34 - 440]);
        assert_eq!(damaged(&disk, Bytes(512))[0].0, Copy::First);
        rewrite(&disk, Bytes(512), Copy::First).unwrap();
        assert!(ends(&disk) == whole);

        // Another table, whose first copy alone was written.
        let other = self::disk(512);
        disk.poke(0, &ends(&other)[..512 * 34]);
        assert_eq!(damaged(&disk, Bytes(512)), [(Copy::Last, "it differs from the first")]);
        rewrite(&disk, Bytes(512), Copy::Last).unwrap();
        assert!(ends(&disk) == ends(&other));

        disk.poke(512, &[0; 512]);
        disk.poke(64 * MIB - 512, &[0; 512]);
        assert_eq!(damaged(&disk, Bytes(512)).len(), 2);
        let error = rewrite(&disk, Bytes(512), Copy::First).unwrap_err();
        insta::assert_snapshot!(error, @"repairing the partition table of memory: the other copy has no signature; repair it with sgdisk or gdisk");
    }
}
