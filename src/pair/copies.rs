// SPDX-License-Identifier: MIT OR Apache-2.0
//! The DPSR disk's own partition table: which parts of it are damaged, and each of them made anew.
//!
//! Header and entries exist twice, and one copy is made of the other. The protective MBR exists once, and needs neither of
//! them; its boot code is GRUB's, and nobody's here.

use std::io;

use gptman::{GPTHeader, GPTPartitionEntry};

use super::blocks;
use super::gpt::{self, Bad};
use super::layout::{encode, find_store, protective_mbr};
use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Kind, Result};
use crate::units::{Bytes, SECTOR};

/// What is judged and made anew by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Header and entries at the beginning of the disk, behind the protective MBR.
    First,
    /// Header and entries at its end.
    Last,
    /// The first sector.
    Mbr,
}

/// What is wrong with a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The disk does not give it back.
    Unreadable,
    /// Something else stands there, or nothing.
    NoSignature,
    /// It does not match its checksums.
    Damaged,
    /// Its checksums are right, and it claims what no table has.
    Implausible,
    /// Both copies are sound, and this is not the one that counts.
    Differs,
    /// No entry of the MBR covers the table.
    Unprotected,
}

/// Boot code, and what tells the disk from others to whoever does not know GPT.
const HEAD: usize = 446;

/// The boot code alone.
const CODE: usize = 440;

/// Of an entry from which BIOS starts.
const ACTIVE: u8 = 0x80;

/// Of an MBR that protects a GPT.
const PROTECTIVE: u8 = 0xee;

type Whole = (GPTHeader, Vec<GPTPartitionEntry>);

/// The parts that are damaged, and why, on a disk with logical blocks of `block` bytes. Where both copies are sound and not
/// the same, the first one counts, as to the kernel.
pub fn damaged(disk: &dyn ReadDisk, block: Bytes) -> Vec<(Part, Why)> {
    let first = gpt::copy(disk, block, block);
    let last = gpt::copy(disk, block, last_at(disk, block, first.as_ref().ok()));
    let same = |(one, _): &Whole, (other, _): &Whole| content(one) == content(other);
    let differs = matches!((&first, &last), (Ok(first), Ok(last)) if !same(first, last));
    let said = first.as_ref().ok().map(|(header, _)| header.backup_lba);
    let mbr = match mbr(disk) {
        Err(_) => Some(Why::Unreadable),
        Ok(mbr) => exposed(&mbr, (disk.size().0 / block.0).saturating_sub(1), said),
    };
    let found = [
        (Part::First, first.err().map(why)),
        (Part::Last, last.err().map(why).or(differs.then_some(Why::Differs))),
        (Part::Mbr, mbr),
    ];
    found.into_iter().filter_map(|(part, why)| Some((part, why?))).collect()
}

/// Writes a part anew, durably: a copy from what the other one says, the MBR with what is left of it.
pub fn rewrite(disk: &dyn WriteDisk, block: Bytes, part: Part) -> Result<()> {
    let (at, bytes) = match part {
        Part::First => copied(disk, block, last_at(disk, block, None), true)?,
        Part::Last => copied(disk, block, block, false)?,
        Part::Mbr => (Bytes::ZERO, protecting(disk, block)),
    };
    let failed = |error: io::Error| Error::device("repairing the partition table of", disk.name(), &error);
    let put = |at, bytes: &[u8]| blocks::write(disk, at, bytes).and_then(|()| disk.flush());
    let again = |error| match part {
        Part::First if mbr(disk).is_err() => put(Bytes::ZERO, &beginning(disk, block, &bytes)),
        _ => Err(error),
    };
    put(at, &bytes).or_else(again).map_err(failed)
}

/// The first copy with the MBR before it: a bad sector that is larger than a block comes back only if all of it is written.
fn beginning(disk: &dyn ReadDisk, block: Bytes, copy: &[u8]) -> Vec<u8> {
    let mut bytes = protecting(disk, block);
    bytes.resize(block.usize(), 0);
    bytes.extend(copy);
    bytes
}

/// Whether BIOS is to start from this disk, and finds no code to do it with.
pub fn lacks_boot_code(disk: &dyn ReadDisk, block: Bytes) -> bool {
    let bios = find_store(disk, block).is_some_and(|store| store.bios_boot.is_some());
    bios && mbr(disk).is_ok_and(|mbr| mbr[..CODE].iter().all(|byte| *byte == 0))
}

/// The first copy or the last one as the copy at `from` says it, and where it belongs. What stands before the first one
/// is not part of it.
fn copied(disk: &dyn ReadDisk, block: Bytes, from: Bytes, first: bool) -> Result<(Bytes, Vec<u8>)> {
    let refused = |why: String| {
        Error::new(Kind::Damaged, "repairing the partition table of", why)
            .on(disk.name())
            .next("repair it with sgdisk or gdisk")
    };
    let (mut header, entries) =
        gpt::copy(disk, block, from).map_err(|why| refused(format!("the other copy {why}")))?;
    let blocks = disk.size().0 / block.0;
    let length = u64::from(header.number_of_partition_entries) * u64::from(header.size_of_partition_entry);
    let table = length.div_ceil(block.0);
    let (header_at, entries_at, room) = match first {
        true => (1, 2, 2 + table <= header.first_usable_lba),
        false => (blocks - 1, blocks - 1 - table, blocks - 1 - table > header.last_usable_lba),
    };
    if !room {
        return Err(refused("the other copy leaves no room for it".to_owned()));
    }
    (header.primary_lba, header.backup_lba) = (header_at, if first { blocks - 1 } else { 1 });
    header.partition_entry_lba = entries_at;
    let range = match first {
        true => block..Bytes((2 + table) * block.0),
        false => Bytes(entries_at * block.0)..Bytes(blocks * block.0),
    };
    let bytes = encode(disk, block, &mut header, &entries, range.clone())?;
    Ok((range.start, bytes))
}

/// The first block with an MBR that protects. Where it can be read, everything around the entries stays, and so does the
/// mark without which some BIOSes do not start from a disk.
fn protecting(disk: &dyn ReadDisk, block: Bytes) -> Vec<u8> {
    let length = disk.alignment().max(Bytes(SECTOR));
    let read = || blocks::read(disk, Bytes::ZERO..length);
    // Boot code is not made anew here: one error in passing must not cost it.
    let found = read().or_else(|_| read()).unwrap_or_else(|_| vec![0; length.usize()]);
    let mut bytes = found.clone();
    let sector = SECTOR as usize;
    bytes[HEAD..sector].copy_from_slice(&protective_mbr(disk.size().0 / block.0)[HEAD..]);
    if found[HEAD] == ACTIVE {
        bytes[HEAD] = ACTIVE;
    }
    bytes
}

fn why(bad: Bad) -> Why {
    match bad {
        Bad::Unreadable(_) => Why::Unreadable,
        Bad::NoSignature => Why::NoSignature,
        Bad::Header | Bad::Entries => Why::Damaged,
        Bad::Claims(_) => Why::Implausible,
    }
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

/// What is wrong with an MBR that is to cover the table of a disk whose last block is `last`, and that of the table `said`:
/// an entry of type EE begins with it, and reaches to the end or as far as can be told. Beside another partition, in a hybrid
/// MBR, it ends anywhere. Nobody agrees on its CHS values. (UEFI specification 5.2.3; `is_pmbr_valid` in the kernel's
/// `block/partitions/efi.c`)
fn exposed(mbr: &[u8], last: u64, said: Option<u64>) -> Option<Why> {
    if mbr[510..] != [0x55, 0xaa] {
        return Some(Why::NoSignature);
    }
    let word = |at: usize| u32::from_le_bytes([mbr[at], mbr[at + 1], mbr[at + 2], mbr[at + 3]]);
    let entries = (0..4).map(|entry| HEAD + 16 * entry).map(|at| (mbr[at + 4], word(at + 8), word(at + 12)));
    let hybrid = entries.clone().any(|(kind, _, length)| ![0, PROTECTIVE].contains(&kind) && length > 0);
    let whole = |length| [Some(last), said, Some(u32::MAX.into())].contains(&Some(u64::from(length)));
    let covers = |(kind, start, length)| {
        kind == PROTECTIVE && start == 1 && if hybrid { length > 0 } else { whole(length) }
    };
    (!entries.into_iter().any(covers)).then_some(Why::Unprotected)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::super::testing::Memory;
    use super::*;
    use crate::pair::layout::{DpsrLayout, Guids, write_gpt};
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

    fn parts(disk: &Memory, block: u64) -> Vec<Part> {
        damaged(disk, Bytes(block)).into_iter().map(|one| one.0).collect()
    }

    /// Of the MBR: kind, start and length of the entry, and the signature. Of the copies: the header, and the entry that
    /// is used.
    #[test]
    fn every_flip_of_what_is_judged_is_found_and_mended() {
        for block in [512, 4096] {
            let disk = disk(block);
            let whole = ends(&disk);
            assert_eq!(damaged(&disk, Bytes(block)), []);
            let store = find_store(&disk, Bytes(block));
            let end = 64 * MIB;
            let entries = end - block - (128u64 * 128).next_multiple_of(block);
            let mbr = [450..451, 454..462, 510..512];
            let first = [block..block + 92, 2 * block..2 * block + 128];
            let last = [end - block..end - block + 92, entries..entries + 128];
            let of = |part, ranges: &[Range<u64>]| -> Vec<_> {
                ranges.iter().cloned().flatten().map(|at| (part, at)).collect()
            };
            let all = [of(Part::Mbr, &mbr), of(Part::First, &first), of(Part::Last, &last)].concat();
            for ((part, at), bit) in all.into_iter().flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let byte = disk.0.lock().unwrap()[at as usize] ^ (1 << bit);
                disk.poke(at, &[byte]);
                assert_eq!(parts(&disk, block), [part], "bit {bit} of {at} of {block}");
                assert_eq!(find_store(&disk, Bytes(block)), store);
                rewrite(&disk, Bytes(block), part).unwrap();
                assert!(ends(&disk) == whole, "it is not what it was at {at} of {block}");
            }
        }
    }

    #[test]
    fn a_copy_that_is_gone_or_old_comes_back() {
        let disk = disk(512);
        let whole = ends(&disk);
        disk.poke(440, &[0; 512 * 34 - 440]);
        assert_eq!(
            damaged(&disk, Bytes(512)),
            [(Part::First, Why::NoSignature), (Part::Mbr, Why::NoSignature)]
        );
        rewrite(&disk, Bytes(512), Part::First).unwrap();
        rewrite(&disk, Bytes(512), Part::Mbr).unwrap();
        assert!(ends(&disk) == whole);

        // Another table, whose first copy alone was written.
        let other = self::disk(512);
        disk.poke(0, &ends(&other)[..512 * 34]);
        assert_eq!(damaged(&disk, Bytes(512)), [(Part::Last, Why::Differs)]);
        rewrite(&disk, Bytes(512), Part::Last).unwrap();
        assert!(ends(&disk) == ends(&other));

        disk.poke(512, &[0; 512]);
        disk.poke(64 * MIB - 512, &[0; 512]);
        assert_eq!(parts(&disk, 512), [Part::First, Part::Last]);
        let error = rewrite(&disk, Bytes(512), Part::First).unwrap_err();
        insta::assert_snapshot!(error, @"repairing the partition table of memory: the other copy has no signature; repair it with sgdisk or gdisk");
    }

    /// What other tools make of it stays byte for byte: the entry is marked active, covers what 32 bits can say or what the
    /// disk was before it grew, or stands beside a partition.
    #[test]
    fn an_mbr_that_protects_is_left_alone() {
        let active: (u64, &[u8]) = (446, &[0x80]);
        let partition: &[u8] = &[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];
        let hybrid: [(u64, &[u8]); 2] = [(458, &[0xff, 7, 0, 0]), (462, partition)];
        for pokes in [&[active][..], &[(458, &[0xff; 4])], &hybrid] {
            let disk = disk(512);
            pokes.iter().for_each(|(at, bytes)| disk.poke(*at, bytes));
            let whole = ends(&disk);
            assert_eq!(damaged(&disk, Bytes(512)), []);
            disk.poke(520, b"?");
            rewrite(&disk, Bytes(512), Part::First).unwrap();
            assert!(ends(&disk) == whole, "{pokes:?}");
        }
        let grown = Memory::of([disk(512).0.into_inner().unwrap(), vec![0; 1 << 20]].concat());
        assert_eq!(damaged(&grown, Bytes(512)), []);
    }

    #[test]
    fn an_active_entry_stays_active_in_an_mbr_made_anew() {
        let disk = disk(4096);
        disk.poke(446, &[0x80]);
        disk.poke(1000, b"in the same block");
        let whole = ends(&disk);
        disk.poke(454, &[9]);
        rewrite(&disk, Bytes(4096), Part::Mbr).unwrap();
        assert!(ends(&disk) == whole);
    }
}
