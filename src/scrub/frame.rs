// SPDX-License-Identifier: MIT OR Apache-2.0
//! What exists more than once: the copies of the partition table, of the superblock and of the index.

use super::found::{Attempt, Found, UNREADABLE, What};
use crate::disk::whole::{read_exact_at, write_all_at};
use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Kind, Result};
use crate::format::Parsed;
use crate::format::index::Index;
use crate::format::superblock::{self, Superblock};
use crate::pair::copies::{self, Part, Why};
use crate::store::contents::{self, buffer};
use crate::store::{Contents, Store};
use crate::units::{Bytes, PAGE};

/// Parts of the partition table that are damaged, on a disk with logical blocks of `block` bytes.
pub(super) fn tables(disk: &dyn ReadDisk, block: Option<Bytes>) -> Vec<Found> {
    let damaged = block.map(|block| copies::damaged(disk, block)).unwrap_or_default();
    damaged.into_iter().map(|(part, why)| table(part, why)).collect()
}

fn table(part: Part, why: Why) -> Found {
    let why = match why {
        Why::Unreadable => UNREADABLE,
        Why::NoSignature => "it has no signature",
        Why::Damaged => "it does not match its checksum",
        Why::Implausible => "it claims what no partition table has",
        Why::Differs => "it differs from the first",
        Why::Unprotected => "it does not protect the partition table",
    };
    let (what, copy) = match part {
        Part::First => (What::PartitionTable, 0),
        Part::Last => (What::PartitionTable, 1),
        Part::Mbr => (What::ProtectiveMbr, 0),
    };
    Found::new(what, copy, copy, why)
}

/// The part of the partition table that `one` is about, if it is about any.
fn part(one: &Found) -> Option<Part> {
    match (one.what, one.owner) {
        (What::PartitionTable, 0) => Some(Part::First),
        (What::PartitionTable, _) => Some(Part::Last),
        (What::ProtectiveMbr, _) => Some(Part::Mbr),
        _ => None,
    }
}

/// Writes those in `found` again, and looks whether they are in order then. What does not come back is no reason to leave
/// the rest as it is: of a disk that is gone, the next write tells.
pub(super) fn rewrite_tables(disk: &dyn WriteDisk, block: Option<Bytes>, found: &mut [Found]) -> Result<()> {
    let Some(block) = block else { return Ok(()) };
    for (one, part) in found.iter_mut().filter_map(|one| part(one).map(|part| (one, part))) {
        if let Err(error) = copies::rewrite(disk, block, part) {
            one.attempt = match error.kind() {
                Kind::Damaged => Attempt::Refused,
                Kind::Device => Attempt::Unwritten,
                _ => return Err(error),
            };
            tracing::warn!("{error}, ignoring: it stays as it is");
            continue;
        }
        if copies::damaged(disk, block).iter().any(|(still, _)| *still == part) {
            one.failed();
            continue;
        }
        one.repaired = true;
        if part == Part::Mbr && copies::lacks_boot_code(disk, block) {
            one.attempt = Attempt::NoCode;
        }
    }
    Ok(())
}

/// Superblock copies that are not the winner.
pub(super) fn superblocks(disk: &dyn ReadDisk, contents: &Contents) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (copy, location) in contents.superblock.geometry.superblocks().into_iter().enumerate() {
        let mut block = buffer(superblock::SIZE)?;
        let read = read_exact_at(disk, contents.base + location, &mut block);
        let why = match Superblock::unpack(&block, location) {
            _ if read.is_err() => UNREADABLE,
            Parsed::Ours(this) if this == contents.superblock => continue,
            Parsed::Ours(_) => "it is older than the others",
            Parsed::Damaged(_) | Parsed::NotOurs => "it does not match its checksum",
        };
        found.push(Found::new(What::Superblock, copy as u64, copy as u64, why));
    }
    Ok(found)
}

/// Index blocks of which one copy is bad.
pub(super) fn index_blocks(disk: &dyn ReadDisk, contents: &Contents) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for copy in 0..2 {
        let (at, good) = sealed(disk, contents, copy)?;
        for (number, good) in good.chunks(PAGE as usize).enumerate() {
            let mut block = buffer(PAGE as usize)?;
            let why = match read_exact_at(disk, at + Bytes(number as u64 * PAGE), &mut block) {
                Err(_) => UNREADABLE,
                Ok(()) if block[..] != *good => "it does not match its checksum",
                Ok(()) => continue,
            };
            found.push(Found::new(What::IndexBlock, copy as u64, number as u64, why));
        }
    }
    Ok(found)
}

/// Writes the index blocks in `found` again.
pub(super) fn rewrite_index(store: &Store, found: &mut [Found]) -> Result<()> {
    for one in found.iter_mut().filter(|one| one.what == What::IndexBlock) {
        let (at, good) = sealed(store.reader(), &store.contents, one.owner as usize)?;
        let start = (one.number * PAGE) as usize;
        let mut block = buffer(PAGE as usize)?;
        block.copy_from_slice(&good[start..start + PAGE as usize]);
        write_all_at(store.disk.as_ref(), at + Bytes(start as u64), &block)?;
        one.repaired = true;
    }
    Ok(())
}

/// Where a copy of the index stands on the disk, and the blocks it must hold.
fn sealed(disk: &dyn ReadDisk, contents: &Contents, copy: usize) -> Result<(Bytes, Vec<u8>)> {
    let root = contents.superblock.index;
    let payload = contents.index.pack();
    if payload.len() as u64 != root.len || crc32c::crc32c(&payload) != root.crc {
        return Err(contents::damaged(disk, "the index is written in a way this dpsr does not know"));
    }
    let location = contents.superblock.geometry.index(root.slot, copy);
    Ok((contents.base + location, Index::seal(&payload, location, root.version)))
}
