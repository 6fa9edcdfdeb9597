// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last part of the way back, before anything of the machine is in use.

use std::ops::Range;
use std::sync::Arc;

use super::fence::fenced;
use super::target::Target;
use super::{Parts, beyond, put_back};
use crate::attach::Held;
use crate::config::PairConfig;
use crate::disk::file::{Access, FileDisk};
use crate::disk::{ReadDisk, WriteDisk};
use crate::dm::{Mapper, Stack};
use crate::error::{Error, Kind, Result};
use crate::failback::mirror::mirror;
use crate::failover::claimed;
use crate::failover::map::{Beside, Tables};
use crate::failover::older::{Older, Upon};
use crate::failover::presence::{self, Presence};
use crate::failover::stays::Stays;
use crate::format::superblock::State;
use crate::open::owner;
use crate::pair::blocks;
use crate::pair::probe::Probe;
use crate::pair::sysfs::Roots;
use crate::progress::Progress;
use crate::store::Store;
use crate::swap;
use crate::units::{Bytes, Generation, SECTOR};
use crate::wrap::DiskId;

const DOING: &str = "going back to a disk";

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// The machine has its disk; the copy is this generation again, or none where history was lost.
    Back {
        /// How much had changed since it was copied last.
        differed: Bytes,
        /// What the copy is now.
        generation: Option<Generation>,
    },
    /// What a system wrote that ran from the copy was given up, which had been cut off; the copy is this generation again.
    GivenUp(Option<Generation>),
    /// No way back was begun.
    Nothing,
}

/// Both ends of the disk are zeros, as the way back left them, or in part what they are to become, where that comes `from`
/// somewhere and this was cut off. Anything else is somebody's who has taken the disk for another purpose.
fn as_left(from: Option<&dyn ReadDisk>, to: &dyn ReadDisk, edges: &[Range<Bytes>]) -> Result<()> {
    let read = |disk: &dyn ReadDisk, range: &Range<Bytes>| {
        blocks::read(disk, range.clone()).map_err(|error| Error::device("reading", disk.name(), &error))
    };
    for range in edges {
        let (image, found) = (from.map(|from| read(from, range)).transpose()?, read(to, range)?);
        let mut images = image.iter().flat_map(|image| image.chunks(SECTOR as usize));
        for found in found.chunks(SECTOR as usize) {
            if Some(found) != images.next() && found.iter().any(|byte| *byte != 0) {
                return Err(Error::new(Kind::Refused, DOING, "something else was put on it since")
                    .on(to.name())
                    .left("nothing was written to it; the system goes on running from the copy")
                    .next("choose the disk again: 'dpsr failback --to DISK'"));
            }
        }
    }
    Ok(())
}

/// Makes the image a generation again though nothing was copied anywhere. What cannot be had is given up only where the
/// primary is there.
pub fn undone(config: &PairConfig, store: &mut Store, progress: &dyn Progress) -> Result<Option<Generation>> {
    let home = Target::home(&store.contents);
    match presence::primary(config, home.as_ref()) {
        Presence::There => put_back::put_back(store, progress),
        _ => put_back::put_back_whole(store, progress),
    }
}

/// Copies what has changed since, with the partition table last, and makes the image a generation again.
/// Until the last flush nothing that counts of the store changes, so whatever fails before is begun again by the
/// next boot.
pub fn finish(roots: &Roots, config: &PairConfig, progress: &dyn Progress) -> Result<Finished> {
    let dpsr = Arc::new(claimed(roots, config)?);
    let held = Held::of(roots, &dpsr)?;
    let mut store = Store::open(dpsr.clone(), dpsr.store.range.clone(), owner())?;
    if matches!(store.contents.superblock.state, State::Returning(_)) {
        if Target::in_store(&store.contents).is_some() {
            let generation = put_back::put_back(&mut store, progress)?;
            return Ok(Finished::Back { differed: Bytes::ZERO, generation });
        }
        return undone(config, &mut store, progress).map(Finished::GivenUp);
    }
    let Some(target) = Target::in_store(&store.contents) else { return Ok(Finished::Nothing) };
    let contents = store.contents.clone();
    let stays = Stays::in_store(&contents)?;
    let mapper = Mapper::open()?;
    let node = target.awaited(roots, DOING, config.failover.wait(None))?;
    // Whatever keeps others from the disk stays until all is copied.
    let (disk, _lock, _fence) = match &stays {
        None => target.claim(roots, DOING).map(|(disk, lock)| (disk, lock, None))?,
        Some(stays) => {
            let planned = Probe::open(roots, &node.path())?;
            let within = (stays, &contents.running_map().volumes[..]);
            let (disk, fence) = fenced(roots, &mapper, config, &planned, within)?;
            (disk, None, Some(fence))
        }
    };
    let older = Older::running(roots, &contents, &dpsr, held.base)?;
    drop(store);
    drop(dpsr);
    let differed = {
        let mut stack = Stack::new(&mapper);
        let id = DiskId::recorded(config);
        let image = match &older {
            Some(older) => older.make(
                &Upon::of(&contents, held.base, Beside::default()),
                &mut stack,
                &id,
                id.private("back"),
            )?,
            None => {
                stack.make(id.private("image"), &Tables::of(&contents, held.base, Beside::default()).image)?
            }
        };
        let from: Arc<dyn ReadDisk> = Arc::new(FileDisk::open(image.node(), Access::Read)?);
        let to: Arc<dyn WriteDisk> = Arc::new(disk);
        let parts = Parts::of(&contents, stays.as_ref());
        as_left(Some(from.as_ref()), to.as_ref(), &parts.edges)?;
        as_left(None, to.as_ref(), beyond(to.size(), contents.newest_map().disk).as_slice())?;
        let asleep = swap::wake(to.as_ref(), &contents.index, contents.running_map())?;
        if asleep > 0 {
            tracing::warn!(
                "it had gone to sleep, and is not woken: its memory is older than its disk, ignoring"
            );
        }
        let what = format!("copying what has changed to {}", to.name());
        // All of it: nothing on the disk itself says that what was copied before is still there.
        progress.begin(&what, parts.size());
        let body = mirror(&from, &to, parts.body.iter().cloned(), progress)?;
        body + mirror(&from, &to, parts.edges.iter().cloned(), progress)?
    };
    let dpsr = Arc::new(claimed(roots, config)?);
    let mut store = Store::open(dpsr.clone(), dpsr.store.range.clone(), owner())?;
    let generation = put_back::put_back(&mut store, progress)?;
    Ok(Finished::Back { differed, generation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::disk::whole::write_all_at;

    #[test]
    fn an_end_that_somebody_has_written_to_is_left_alone() {
        let image = RamDisk::from_bytes("image", vec![7; 8192]);
        let with = |at: usize, byte: u8| {
            let mut bytes = vec![0; 8192];
            bytes[..512].fill(7);
            bytes[at] = byte;
            as_left(Some(&image), &RamDisk::from_bytes("disk", bytes), &[Bytes::ZERO..Bytes(4096)])
        };
        assert!(with(600, 0).is_ok(), "zeros, and the first sector written already");
        assert!(with(5000, 3).is_ok(), "what is no end does not count");
        let larger = RamDisk::from_bytes("larger", vec![0; 4096]);
        let end = Bytes(1024)..Bytes(4096);
        assert!(as_left(None, &larger, std::slice::from_ref(&end)).is_ok());
        write_all_at(&larger, Bytes(4000), &[1]).unwrap();
        assert!(as_left(None, &larger, &[end]).is_err(), "the end of a larger disk counts");
        let error = with(600, 3).unwrap_err();
        assert!(error.to_string().contains("something else was put on it"), "{error}");
    }
}
