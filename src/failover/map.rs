// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices under a system that runs from its copy. It sees the disk it was copied from: same names, same
//! identities.
//!
//! ```text
//! partK        linear over, or of a volume that stays on the primary, linear over that
//!   disk       snapshot-origin of, or without history linear over
//!     image    linear: the image in the store, holes as errors
//!   kept       snapshot: the generation it started from, out of image and
//!     live     linear: the live store
//! ```

use super::fill;
use super::older::{Older, Upon};
use super::stays::Stays;
use crate::attach::tables::{Base, volume};
use crate::config::PairConfig;
use crate::dm::{Mapped, Mapper, Stack, Table, Target};
use crate::error::Result;
use crate::format::index::{self, Volume};
use crate::pair::sysfs::DevNum;
use crate::store::Contents;
use crate::store::placement::Placement;
use crate::swap::{self, Placed};
use crate::units::{Bytes, CHUNK, SECTOR};
use crate::wrap::DiskId;

/// The tables, worked out before anything is made. Pure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The image as a disk that can be written; what was left out of it is not there.
    pub image: Table,
    /// The live store, where there is one.
    pub live: Option<Table>,
    /// What lies on it.
    pub parts: Parts,
}

impl Tables {
    /// Those for a store that lies on `base`.
    pub fn of(contents: &Contents, base: Base, beside: Beside<'_>) -> Self {
        let map = contents.newest_map();
        let geometry = contents.superblock.geometry;
        let live = contents.live_store().map(|object| Placement::new(&object.runs, geometry, contents.base));
        Self {
            image: linear(&contents.image(map), map.disk.round_up(SECTOR), base),
            live: live.map(|place| linear(&place, place.size(), base)),
            parts: Parts::of(contents, map, base, beside),
        }
    }
}

/// What is on the primary still, while a system runs from its copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// These volumes, which have no devices where the primary is not there.
    pub stays: Option<&'a Stays>,
    /// The primary.
    pub primary: Option<DevNum>,
}

/// The partitions of a copied disk, with their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Those that are in the copy.
    kept: Vec<(u32, Volume)>,
    /// Swap, which has a place of its own in the store.
    swaps: Vec<(u32, Table)>,
    /// Those that stay on the primary; none where that is not there.
    stays: Vec<(u32, Table)>,
}

impl Parts {
    /// Those of `map`, in a store that lies on `base`.
    pub fn of(contents: &Contents, map: &index::Map, base: Base, beside: Beside<'_>) -> Self {
        let stay = |volume: &Volume| beside.stays.is_some_and(|stays| stays.has(volume));
        let kept = map.volumes.iter().filter(|volume| !volume.left_out && !stay(volume));
        let kept = kept.filter_map(|volume| Some((volume.name.parse().ok()?, volume.clone()))).collect();
        let swap = |placed: Placed<'_>| {
            let place = Placement::new(&placed.runs, contents.superblock.geometry, contents.base);
            let number = placed.volume.name.parse().ok()?;
            let used = place.size() > Bytes::ZERO && !stay(placed.volume);
            used.then(|| (number, linear(&place, place.size(), base)))
        };
        let swaps = swap::recorded(&contents.index, map).into_iter().filter_map(swap).collect();
        let on_it = beside.stays.zip(beside.primary).map(|(stays, raw)| stays.parts(&map.volumes, raw));
        Self { kept, swaps, stays: on_it.unwrap_or_default() }
    }

    /// Makes their devices over that of a disk of `size` bytes.
    fn make(&self, stack: &mut Stack<'_>, id: &DiskId, size: Bytes, disk: &Mapped) -> Result<()> {
        // What may not be to be had comes first, before anybody has seen the others.
        for (number, table) in &self.stays {
            stack.make(id.partition(*number), table)?;
        }
        for (number, part) in &self.kept {
            stack.make(id.partition(*number), &volume(part, size, disk.number))?;
        }
        for (number, table) in &self.swaps {
            stack.make(id.partition(*number), table)?;
        }
        Ok(())
    }
}

/// Makes the devices; they stay. On an error none is left. What keeps the generation has to be
/// [held](super::hold).
pub fn map(mapper: &Mapper, config: &PairConfig, tables: &Tables) -> Result<Option<Mapped>> {
    let (id, size) = (DiskId::recorded(config), tables.image.size());
    let mut stack = Stack::new(mapper);
    let image = stack.make(id.private("image"), &tables.image)?.number;
    let keeps = match &tables.live {
        // Before the origin: one that is active first loses pre-images without a word.
        Some(live) => {
            let live = stack.make(id.private("live"), live)?.number;
            Some(stack.make(fill::kept(&id), &kept(size, image, live))?)
        }
        None => None,
    };
    let disk = stack.make(id.disk(), &disk(size, image, tables.live.is_some()))?;
    tables.parts.make(&mut stack, &id, size, &disk)?;
    drop(stack.keep());
    Ok(keeps)
}

/// The same for an older generation.
pub fn map_older(mapper: &Mapper, config: &PairConfig, older: &Older, upon: &Upon) -> Result<Mapped> {
    let id = DiskId::recorded(config);
    let mut stack = Stack::new(mapper);
    let disk = older.make(upon, &mut stack, &id, id.disk())?;
    upon.parts.make(&mut stack, &id, older.size, &disk)?;
    drop(stack.keep());
    Ok(disk)
}

fn kept(size: Bytes, image: DevNum, live: DevNum) -> Table {
    Table::of(size, Target::Snapshot { origin: image, cow: live, persistent: true, chunk: Bytes(CHUNK) })
}

fn disk(size: Bytes, image: DevNum, keeps: bool) -> Table {
    let target = if keeps { Target::Origin(image) } else { Target::Linear(image, Bytes::ZERO) };
    Table::of(size, target)
}

/// A zero target would swallow what is written to a hole.
pub(super) fn linear(place: &Placement, size: Bytes, base: Base) -> Table {
    let mut table = Table::default();
    for stretch in place.stretches(Bytes::ZERO..size) {
        let target = stretch.at.map_or(Target::Error, |at| base.target(at));
        table.push(stretch.range.end - stretch.range.start, target);
    }
    table
}
