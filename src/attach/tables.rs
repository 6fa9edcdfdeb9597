// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of the devices that show one generation. Pure.

use crate::dm::{Table, Target};
use crate::format::index::Volume;
use crate::pair::sysfs::DevNum;
use crate::units::{Bytes, CHUNK, SECTOR};
use crate::view::View;
use crate::view::kernel::CowLayout;

/// The device through which the store is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its number.
    pub device: DevNum,
    /// Where on the DPSR disk it begins: the store partition does not begin at zero, the whole disk does.
    pub start: Bytes,
}

impl Base {
    /// Byte `at` of the DPSR disk.
    pub fn target(self, at: Bytes) -> Target {
        Target::Linear(self.device, at - self.start)
    }
}

/// The size of the device that shows `view`: the primary's, in whole sectors.
pub fn size(view: &View<'_>) -> Bytes {
    view.map.disk.round_up(SECTOR)
}

/// The image under the map of the generation; holes read as zeros.
pub fn origin(view: &View<'_>, base: Base) -> Table {
    let mut table = Table::default();
    for stretch in view.image.stretches(Bytes::ZERO..size(view)) {
        let target = stretch.at.map_or(Target::Zero, |at| base.target(at));
        table.push(stretch.range.end - stretch.range.start, target);
    }
    table
}

/// Header and areas in `memory`, the saved chunks where they lie.
pub fn cow(layout: &CowLayout, memory: DevNum, base: Base) -> Table {
    let mut table = Table::of(layout.metadata(), Target::Linear(memory, Bytes::ZERO));
    for range in &layout.saved {
        table.push(range.end - range.start, base.target(range.start));
    }
    table
}

/// One moment over the other.
pub fn snapshot(size: Bytes, origin: DevNum, cow: DevNum) -> Table {
    Table::of(size, Target::Snapshot { origin, cow, persistent: true, chunk: Bytes(CHUNK) })
}

/// One volume of a generation of `size` bytes that `disk` shows.
pub fn volume(volume: &Volume, size: Bytes, disk: DevNum) -> Table {
    let end = (volume.start + volume.size).min(size);
    Table::of(end.saturating_sub(volume.start).round_down(SECTOR), Target::Linear(disk, volume.start))
}
