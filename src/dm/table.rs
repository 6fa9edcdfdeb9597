// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of device-mapper: which sectors of a device are what. Pure; the words are the kernel's
//! (`Documentation/admin-guide/device-mapper`).

use crate::pair::sysfs::DevNum;
use crate::units::{Bytes, SECTOR};

/// What a stretch of a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The same number of bytes of another device, from a place on.
    Linear(DevNum, Bytes),
    /// Zeros; writes vanish, so it belongs into read-only devices alone.
    Zero,
    /// Nothing: reads and writes fail.
    Error,
    /// A moment of `origin`, kept in `cow`.
    Snapshot {
        /// What is snapshotted.
        origin: DevNum,
        /// Where pre-images go, or already lie.
        cow: DevNum,
        /// Whether `cow` keeps them across a reboot (`P`), or is scratch (`N`).
        persistent: bool,
        /// The unit that is kept. Ignored where a persistent store says another.
        chunk: Bytes,
    },
    /// A device whose writes are seen by all snapshots of it.
    Origin(DevNum),
}

/// A table: stretches without gaps from 0 on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rows: Vec<(u64, u64, Target)>,
}

impl Table {
    /// A table of one stretch; `len` in whole sectors.
    pub fn of(len: Bytes, target: Target) -> Self {
        let mut table = Self::default();
        table.push(len, target);
        table
    }

    /// Adds the next stretch. Linear ones that go on where the last one ended become one with it.
    pub fn push(&mut self, len: Bytes, target: Target) {
        debug_assert!(len.is_multiple_of(SECTOR), "device-mapper counts in sectors");
        let (start, len) = (self.sectors(), len.0 / SECTOR);
        if len == 0 {
            return;
        }
        if let Some((_, before, last)) = self.rows.last_mut()
            && continues(last, *before, &target)
        {
            *before += len;
            return;
        }
        self.rows.push((start, len, target));
    }

    /// The size of the device.
    pub fn size(&self) -> Bytes {
        Bytes(self.sectors() * SECTOR)
    }

    /// How many stretches there are.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has no stretch at all.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As the kernel takes it: first sector, sectors, type, parameters.
    pub fn to_kernel(&self) -> Vec<(u64, u64, String, String)> {
        let row = |(start, len, target): &(u64, u64, Target)| {
            let (kind, words) = words(target);
            (*start, *len, kind.to_owned(), words)
        };
        self.rows.iter().map(row).collect()
    }

    fn sectors(&self) -> u64 {
        self.rows.last().map_or(0, |(start, len, _)| start + len)
    }
}

fn continues(last: &Target, sectors: u64, next: &Target) -> bool {
    match (last, next) {
        (Target::Linear(device, at), Target::Linear(other, there)) => {
            device == other && at.0 + sectors * SECTOR == there.0
        }
        (Target::Zero, Target::Zero) | (Target::Error, Target::Error) => true,
        _ => false,
    }
}

fn words(target: &Target) -> (&'static str, String) {
    match target {
        Target::Linear(device, at) => ("linear", format!("{device} {}", at.0 / SECTOR)),
        Target::Zero => ("zero", String::new()),
        Target::Error => ("error", String::new()),
        Target::Snapshot { origin, cow, persistent, chunk } => {
            let kept = if *persistent { "P" } else { "N" };
            ("snapshot", format!("{origin} {cow} {kept} {}", chunk.0 / SECTOR))
        }
        Target::Origin(device) => ("snapshot-origin", device.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: DevNum = DevNum { major: 8, minor: 16 };

    #[test]
    fn neighbours_become_one_row() {
        let mut table = Table::of(Bytes(1024), Target::Linear(DISK, Bytes(4096)));
        table.push(Bytes(512), Target::Linear(DISK, Bytes(5120)));
        table.push(Bytes(512), Target::Zero);
        table.push(Bytes(0), Target::Error);
        table.push(Bytes(1024), Target::Zero);
        table.push(Bytes(512), Target::Linear(DISK, Bytes(0)));
        let rows = table.to_kernel();
        let row = |start, len, kind: &str, words: &str| (start, len, kind.to_owned(), words.to_owned());
        assert_eq!(
            rows,
            [row(0, 3, "linear", "8:16 8"), row(3, 3, "zero", ""), row(6, 1, "linear", "8:16 0")]
        );
        assert_eq!(table.size(), Bytes(7 * 512));
    }

    #[test]
    fn snapshots_as_the_kernel_words_them() {
        let cow = DevNum { major: 7, minor: 0 };
        let target = Target::Snapshot { origin: DISK, cow, persistent: false, chunk: Bytes(4096) };
        assert_eq!(words(&target), ("snapshot", "8:16 7:0 N 8".to_owned()));
        assert_eq!(words(&Target::Origin(DISK)), ("snapshot-origin", "8:16".to_owned()));
    }
}
