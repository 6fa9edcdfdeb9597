// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last part of the way back, before anything of the machine is in use.

use std::sync::Arc;

use super::target::Target;
use super::{Parts, put_back};
use crate::attach::Held;
use crate::config::PairConfig;
use crate::disk::file::{Access, FileDisk};
use crate::disk::{ReadDisk, WriteDisk};
use crate::dm::{Mapper, Stack};
use crate::error::Result;
use crate::failback::mirror::mirror;
use crate::failover::claimed;
use crate::failover::map::Tables;
use crate::failover::older::{Older, Upon};
use crate::format::superblock::State;
use crate::open::owner;
use crate::pair::sysfs::Roots;
use crate::progress::Progress;
use crate::store::Store;
use crate::units::{Bytes, Generation};
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
    /// No way back was begun.
    Nothing,
}

/// Copies what has changed since, with the partition table last, and makes the image a generation again.
/// Until the last flush nothing that counts of the store changes, so whatever fails before is begun again by the
/// next boot.
pub fn finish(roots: &Roots, config: &PairConfig, progress: &dyn Progress) -> Result<Finished> {
    let dpsr = Arc::new(claimed(roots, config)?);
    let held = Held::of(roots, &dpsr)?;
    let mut store = Store::open(dpsr.clone(), dpsr.store.range.clone(), owner())?;
    if matches!(store.contents.superblock.state, State::Returning(_)) {
        let generation = put_back::put_back(&mut store)?;
        return Ok(Finished::Back { differed: Bytes::ZERO, generation });
    }
    let Some(target) = Target::in_store(&store.contents) else { return Ok(Finished::Nothing) };
    let (disk, _lock) = target.claim(roots, DOING)?;
    let contents = store.contents.clone();
    let older = Older::running(roots, &contents, &dpsr, held.base)?;
    drop(store);
    drop(dpsr);
    let differed = {
        let mapper = Mapper::open()?;
        let mut stack = Stack::new(&mapper);
        let id = DiskId::recorded(config);
        let image = match &older {
            Some(older) => {
                older.make(&Upon::of(&contents, held.base), &mut stack, &id, id.private("back"))?
            }
            None => stack.make(id.private("image"), &Tables::of(&contents, held.base).image)?,
        };
        let from: Arc<dyn ReadDisk> = Arc::new(FileDisk::open(image.node(), Access::Read)?);
        let to: Arc<dyn WriteDisk> = Arc::new(disk);
        let parts = Parts::of(&contents);
        progress.begin("copying what has changed", parts.size());
        let body = mirror(&from, &to, &parts.body, progress)?;
        body + mirror(&from, &to, &parts.edges, progress)?
    };
    let dpsr = Arc::new(claimed(roots, config)?);
    let mut store = Store::open(dpsr.clone(), dpsr.store.range.clone(), owner())?;
    let generation = put_back::put_back(&mut store)?;
    Ok(Finished::Back { differed, generation })
}
