// SPDX-License-Identifier: MIT OR Apache-2.0
//! A larger disk that took the place of the first: the pair has as much of it as it had of that one, and nothing that
//! counts may lie behind.

use super::gpt;
use super::table::{Table, TableKind};
use crate::config::PrimaryRecord;
use crate::disk::ReadDisk;
use crate::error::{Error, Kind, Result};

/// Refuses to copy a disk of whose rest use is made: a table that reaches there is no good on any disk of the first
/// one's size. `whole` is the table of all the disk, `disk` as much of it as is copied; the caller knows what people call it.
pub fn refuse_more(record: &PrimaryRecord, whole: &Table, disk: &dyn ReadDisk) -> Result<()> {
    if record.disk_size.is_none() {
        return Ok(());
    }
    let beyond = whole.partitions.iter().find(|partition| partition.range.end > record.size);
    let why = match beyond {
        Some(partition) => format!("partition {} ends", partition.number),
        None if !is_enough(record, whole, disk) => "its partition table ends".to_owned(),
        None => return Ok(()),
    };
    let why =
        format!("{why} behind the first {} bytes, and the pair has no more of this disk", record.size.0);
    Err(Error::new(Kind::Refused, "opening the primary", why)
        .left("nothing was written")
        .next("'dpsr init --wipe' makes a new pair of all of it, whose history begins anew"))
}

/// Whether the beginning of the disk is a disk of its own with the same table.
fn is_enough(record: &PrimaryRecord, whole: &Table, disk: &dyn ReadDisk) -> bool {
    let alone = Table::read(disk, record.block);
    let same = alone.is_ok_and(|alone| (&alone.kind, &alone.partitions) == (&whole.kind, &whole.partitions));
    same && ends_within(whole, record, disk)
}

/// Whether a GPT says that it ends where the pair does. The kernel takes none for one that says more than there is.
/// (`is_gpt_valid` of `block/partitions/efi.c`)
pub fn ends_within(table: &Table, record: &PrimaryRecord, disk: &dyn ReadDisk) -> bool {
    let gpt = matches!(table.kind, TableKind::Gpt { .. });
    !gpt || gpt::reach(disk, record.block).is_some_and(|end| end <= record.size)
}
