// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether there is anything on a disk that somebody might miss.

use std::collections::BTreeSet;

use serde_json::Value;

use super::blocks;
use super::layout::{FoundStore, find_store};
use super::probe::Probe;
use super::run::{output, path_for_child};
use super::table::{Table, TableKind};
use crate::disk::ReadDisk;
use crate::error::{Error, Result};
use crate::units::{Bytes, MIB};

/// What was found on a disk that is to become a DPSR disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The store of a pair.
    pub store: Option<FoundStore>,
    /// Everything somebody might miss, one phrase each; empty for an empty disk.
    pub things: Vec<String>,
}

/// Looks for a store, a table with partitions, signatures, and anything but zeros at both ends.
pub fn emptiness(probe: &Probe, disk: &dyn ReadDisk) -> Result<Found> {
    let mut things = match Table::read(disk, probe.block) {
        Ok(table) => partitions(&table),
        Err(_) => vec!["a partition table that cannot be read".to_owned()],
    };
    things.extend(signatures(disk));
    if things.is_empty() && !ends_are_zero(disk)? {
        things.push("data in the first or last MiB".to_owned());
    }
    Ok(Found { store: find_store(disk, probe.block), things })
}

fn partitions(table: &Table) -> Vec<String> {
    let count = match table.partitions.len() {
        1 => "1 partition".to_owned(),
        count => format!("{count} partitions"),
    };
    match &table.kind {
        TableKind::Bare => Vec::new(),
        TableKind::Gpt { .. } => vec![format!("a GPT with {count}")],
        TableKind::Mbr { .. } => vec![format!("an MBR with {count}")],
    }
}

/// What `wipefs -n -J` names, the tables themselves left out.
fn signatures(disk: &dyn ReadDisk) -> Vec<String> {
    let path = disk.descriptor().map(path_for_child);
    let text = path.and_then(|path| output("wipefs", &["-n", "-J", &path])).unwrap_or_default();
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    let found = json["signatures"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kinds = found.iter().filter_map(|one| one["type"].as_str());
    let kinds: BTreeSet<_> = kinds.filter(|kind| !["gpt", "PMBR", "dos"].contains(kind)).collect();
    kinds.into_iter().map(|kind| format!("{kind} on the whole disk")).collect()
}

fn ends_are_zero(disk: &dyn ReadDisk) -> Result<bool> {
    let size = disk.size();
    for range in [Bytes::ZERO..size.min(Bytes(MIB)), size.saturating_sub(Bytes(MIB))..size] {
        let data = blocks::read(disk, range);
        let data = data.map_err(|error| Error::device("looking at", disk.name(), &error))?;
        if data.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Guids, write_gpt};
    use super::super::testing::{Memory, probe};
    use super::*;

    #[test]
    fn what_is_found() {
        let disk = Memory::new(64 * MIB);
        let probe = probe("/dev/sdb", 64 * MIB);
        assert_eq!(emptiness(&probe, &disk).unwrap(), Found::default());
        disk.poke(64 * MIB - 1, b"x");
        assert_eq!(emptiness(&probe, &disk).unwrap().things, ["data in the first or last MiB"]);
        let layout = super::super::layout::DpsrLayout::plan(disk.size(), Bytes(512), false, false).unwrap();
        write_gpt(&disk, Bytes(512), &layout, &Guids::random()).unwrap();
        let found = emptiness(&probe, &disk).unwrap();
        assert_eq!((found.things, found.store.is_some()), (vec!["a GPT with 1 partition".into()], true));
    }
}
