// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a disk has room for what comes back to it. A larger one has: the pair goes on with as much of it as the first
//! one had.

use super::plan::refuse;
use super::target::Target;
use crate::config::{PairConfig, PrimaryRecord};
use crate::disk::file::FileDisk;
use crate::error::Result;
use crate::format::index::Map;
use crate::pair::larger;
use crate::pair::probe::Probe;
use crate::pair::table::{Partition, Table};
use crate::pair::volumes::DISK;
use crate::store::Contents;

/// Refuses a disk that could not become the primary, whatever is on it.
pub(super) fn check(primary: &PrimaryRecord, map: &Map, probe: &Probe) -> Result<()> {
    let bare = map.volumes.iter().any(|volume| volume.id == DISK);
    if probe.size < primary.size || bare && probe.size > primary.size {
        let why = format!("it has {} bytes, and {} come back to it", probe.size.0, primary.size.0);
        // A filesystem on all of a larger disk may grow, and no table would tell that the pair has not all of it.
        let next = if bare { "use a disk of that size" } else { "use a disk of that size, or a larger one" };
        return Err(refuse(probe, why).next(next));
    }
    if probe.block > map.block {
        let why =
            format!("its blocks have {} bytes, and those of the primary {}", probe.block.0, map.block.0);
        return Err(
            refuse(probe, why).next(format!("use a disk with logical blocks of {} bytes", map.block.0))
        );
    }
    if !Target::of(probe).is_telling() {
        let why = "it has neither serial number nor WWN, and could not be known again after the restart";
        return Err(refuse(probe, why).next("use a disk that has one"));
    }
    Ok(())
}

/// Refuses a larger disk for a system whose table says that its disk is larger, too, than the pair knows: on such a disk
/// that would be believed, and no sync of it be one of the whole.
pub(super) fn ends_within(config: &PairConfig, probe: &Probe, running: &FileDisk) -> Result<()> {
    let table = Table::read(running, config.primary.block)?;
    if larger::ends_within(&table, &config.primary, running) {
        return Ok(());
    }
    let why =
        "it is larger than the primary was, and so is what the system's partition table says of its disk";
    Err(refuse(probe, why).next("use a disk of the first one's size, or mend the table first (sgdisk)"))
}

/// Refuses an old primary that has partitions where the pair has none: the table that comes back does not know them. A
/// volume that has grown into there is an old primary's, and is given up with it.
pub(super) fn nothing_behind(
    config: &PairConfig,
    contents: &Contents,
    probe: &Probe,
    disk: &FileDisk,
) -> Result<()> {
    let table = Table::read(disk, config.primary.block).ok();
    let volumes = &contents.newest_map().volumes;
    let mut partitions = table.iter().flat_map(|table| &table.partitions);
    let stranger = |it: &&Partition| {
        it.range.end > config.primary.size && volumes.iter().all(|volume| volume.id != it.id)
    };
    let Some(one) = partitions.find(stranger) else { return Ok(()) };
    let why = format!("its partition {} is none of the pair's, and would be gone", one.number);
    Err(refuse(probe, why).next("save what is on it, and delete it; or use another disk"))
}
