// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether there is anything on a disk that somebody might miss.

use std::collections::BTreeSet;
use std::io;

use serde_json::Value;

use super::blocks;
use super::layout::{FoundStore, find_store};
use super::probe::Probe;
use super::run::{output, path_for_child};
use super::table::{Table, TableKind};
use crate::disk::ReadDisk;
use crate::error::{Error, Result};
use crate::units::{Bytes, CHUNK, MIB};

/// In so many places of a disk a chunk is looked at; all of it would take hours.
const SAMPLES: u64 = 64;

/// What was found on a disk that is to become a DPSR disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The store of a pair.
    pub store: Option<FoundStore>,
    /// Everything somebody might miss, one phrase each; empty for an empty disk.
    pub things: Vec<String>,
}

/// Looks for a store, a table with partitions, signatures, and anything but zeros at both ends and in samples of
/// what lies between them.
pub fn emptiness(probe: &Probe, disk: &dyn ReadDisk) -> Result<Found> {
    let mut things = match Table::read(disk, probe.block) {
        Ok(table) => partitions(&table),
        Err(_) => vec!["a partition table that cannot be read".to_owned()],
    };
    things.extend(signatures(disk));
    if things.is_empty() {
        let failed = |error| {
            let error = Error::device("looking at", disk.name(), &error);
            error.left("nothing was written").next("take a disk that can be read everywhere")
        };
        let found = data(disk).map_err(failed)?;
        things.extend(found);
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

fn data(disk: &dyn ReadDisk) -> io::Result<Option<String>> {
    if !ends_are_zero(disk)? {
        return Ok(Some("data in the first or last MiB".to_owned()));
    }
    Ok(sampled(disk)?.map(|at| format!("data at byte {}", at.0)))
}

fn ends_are_zero(disk: &dyn ReadDisk) -> io::Result<bool> {
    let size = disk.size();
    for range in [Bytes::ZERO..size.min(Bytes(MIB)), size.saturating_sub(Bytes(MIB))..size] {
        if blocks::read(disk, range)?.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A byte that is not zero, if a sample has one: the ends may have been cleared of a disk that is full. Instead of
/// a hole of a file what follows it is looked at, so that a file with little in it is known.
fn sampled(disk: &dyn ReadDisk) -> io::Result<Option<Bytes>> {
    let size = disk.size();
    let mut seen = Bytes::ZERO;
    for sample in 0..SAMPLES {
        let place = Bytes(size.0 / SAMPLES * sample).round_down(CHUNK);
        let Some(data) = disk.next_data(place.max(seen))? else { break };
        let range = data.start..size.min(data.start + Bytes(CHUNK));
        let bytes = blocks::read(disk, range.clone())?;
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            return Ok(Some(range.start + Bytes(at as u64)));
        }
        seen = range.end;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::layout::{Guids, write_gpt};
    use super::super::testing::{Memory, probe};
    use super::*;
    use crate::disk::file::{Access, FileDisk};

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

    #[test]
    fn cleared_ends_hide_no_data() {
        let size = 256 * MIB + 512 * 13;
        let mut data = vec![0x5a; size as usize];
        data[..2 << 20].fill(0);
        data[(size - 2 * MIB) as usize..].fill(0);
        let things = |disk: &dyn ReadDisk| emptiness(&probe("/dev/sdb", size), disk).unwrap().things;
        // The first sample that lies behind the cleared 2 MiB is that of a 64th, rounded down to a chunk.
        assert_eq!(things(&Memory::of(data)), ["data at byte 4194304"]);
        assert!(things(&Memory::new(size)).is_empty());
    }

    /// A disk of any size has to be looked at in a moment.
    #[test]
    fn only_samples_are_read() {
        let disk = Counted { size: Bytes(1 << 50), read: AtomicU64::new(0) };
        assert_eq!(data(&disk).unwrap(), None);
        assert_eq!(disk.read.into_inner(), 2 * MIB + SAMPLES * CHUNK);
    }

    #[test]
    fn little_in_a_sparse_file_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 30).unwrap();
        let disk = FileDisk::open(file.path(), Access::Read).unwrap();
        assert_eq!(data(&disk).unwrap(), None);
        file.as_file().write_all_at(b"x", 12_345_678_901).unwrap();
        assert_eq!(data(&disk).unwrap().unwrap(), "data at byte 12345678901");
    }

    /// Zeros of any size, and how many bytes of them were read.
    struct Counted {
        size: Bytes,
        read: AtomicU64,
    }

    impl ReadDisk for Counted {
        fn name(&self) -> &str {
            "zeros"
        }
        fn size(&self) -> Bytes {
            self.size
        }
        fn alignment(&self) -> Bytes {
            Bytes(512)
        }
        fn read_at(&self, _: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(0);
            self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            Ok(buffer.len())
        }
    }
}
