// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a wrapped primary has to look like: worked out from its partition table and the record of its pair
//! alone. Pure.

use std::ops::Range;

use super::names::DiskId;
use crate::config::PairConfig;
use crate::dm::{Table, Target};
use crate::pair::sysfs::DevNum;
use crate::pair::table;
use crate::units::Bytes;

/// A partition as it lies on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number, as the kernel counts; of logical partitions from 5 on.
    pub number: u32,
    /// Where it lies.
    pub range: Range<Bytes>,
    /// Whether it lies straight on the raw disk, because nothing of it is copied.
    pub left_out: bool,
}

/// The devices under a primary, as they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The disk's identity, which all names are made of.
    pub id: DiskId,
    /// The raw disk.
    pub raw: DevNum,
    /// Its size.
    pub size: Bytes,
    /// Its partitions by number. None where a filesystem lies on the whole disk.
    pub parts: Vec<Part>,
}

impl Shape {
    /// The shape of the disk `raw` with this table, as the record of its pair says.
    pub fn of(config: &PairConfig, table: &table::Table, raw: DevNum) -> Self {
        let part = |partition: &table::Partition| Part {
            number: partition.number,
            range: partition.range.clone(),
            left_out: config.leave_out.contains(&partition.id),
        };
        let parts = table.partitions.iter().map(part).collect();
        Self { id: DiskId::of(config, table), raw, size: config.primary.whole(), parts }
    }

    /// The table of the disk node.
    pub fn disk_table(&self) -> Table {
        Table::of(self.size, Target::Linear(self.raw, Bytes::ZERO))
    }

    /// The table of a partition's node, where the disk node is `disk`.
    pub fn part_table(&self, part: &Part, disk: DevNum) -> Table {
        let below = if part.left_out { self.raw } else { disk };
        Table::of(part.range.end - part.range.start, Target::Linear(below, part.range.start))
    }
}
