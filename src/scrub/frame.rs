// SPDX-License-Identifier: MIT OR Apache-2.0
//! What exists more than once: the copies of the partition table, of the superblock and of the index.

use super::found::{Found, UNREADABLE, What};
use crate::disk::whole::{read_exact_at, write_all_at};
use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Kind, Result};
use crate::format::Parsed;
use crate::format::index::Index;
use crate::format::superblock::{self, Superblock};
use crate::pair::copies::{self, Copy};
use crate::store::contents::{self, buffer};
use crate::store::{Contents, Store};
use crate::units::{Bytes, PAGE};

/// Copies of the partition table that are damaged, on a disk with logical blocks of `block` bytes.
pub(super) fn tables(disk: &dyn ReadDisk, block: Option<Bytes>) -> Vec<Found> {
    let damaged = block.map(|block| copies::damaged(disk, block)).unwrap_or_default();
    let found = |(copy, why)| Found::new(What::PartitionTable, copy as u64, copy as u64, why);
    damaged.into_iter().map(found).collect()
}

/// Writes those in `found` again, and looks whether they are in order then.
pub(super) fn rewrite_tables(disk: &dyn WriteDisk, block: Option<Bytes>, found: &mut [Found]) -> Result<()> {
    let Some(block) = block else { return Ok(()) };
    let mut tables: Vec<_> = found.iter_mut().filter(|one| one.what == What::PartitionTable).collect();
    if let [one] = &mut tables[..] {
        let copy = if one.owner == 0 { Copy::First } else { Copy::Last };
        match copies::rewrite(disk, block, copy) {
            // Everything else can be repaired all the same.
            Err(error) if error.kind() == Kind::Damaged => {
                tracing::warn!("{error}, ignoring: it stays as it is");
                return Ok(());
            }
            rewritten => rewritten?,
        }
        match copies::damaged(disk, block)[..] {
            [] => one.repaired = true,
            _ => one.failed(),
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
