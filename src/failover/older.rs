// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices under a system that runs from an older generation. The image stays what it is; all that the
//! system writes goes into the live store.
//!
//! ```text
//! partK        linear over
//!   disk       snapshot of
//!     older    snapshot, read-only: the generation, out of
//!       image  linear: the image in the store, holes as zeros
//!       saved  linear: header and areas in memory, and the undo stores' own extents
//!     live     linear: the live store
//! ```

use super::map::{Beside, Parts, linear};
use crate::attach::tables::{self, Base};
use crate::attach::{Scratch, memory, number};
use crate::dm::{Mapped, Name, Stack, Table, Target};
use crate::error::Result;
use crate::pair::open::Dpsr;
use crate::pair::sysfs::{DevNum, Roots};
use crate::store::Contents;
use crate::store::placement::Placement;
use crate::sys::loops::Loop;
use crate::units::{Bytes, CHUNK, Generation};
use crate::view::View;
use crate::view::kernel::CowLayout;
use crate::wrap::DiskId;

/// An older generation as it can be shown: the tables, and what they need beside the DPSR disk.
pub struct Older {
    /// The size of the disk.
    pub size: Bytes,
    image: Table,
    saved: Table,
    /// Stays, once a device is built on it, for as long as that.
    _areas: Loop,
}

/// What a machine that runs from it has in the store.
pub struct Upon {
    /// What lies on the disk.
    pub parts: Parts,
    live: Table,
}

impl Upon {
    /// Of a store that says a machine runs from an older generation.
    pub fn of(contents: &Contents, base: Base, beside: Beside<'_>) -> Self {
        let runs = contents.live_store().map(|object| object.runs.as_slice()).unwrap_or_default();
        let live = Placement::new(runs, contents.superblock.geometry, contents.base);
        let live = linear(&live, live.size(), base);
        Self { parts: Parts::of(contents, contents.running_map(), base, beside), live }
    }
}

impl Older {
    /// Reads what was saved of `generation`. All that can go wrong with an older generation goes wrong here.
    pub fn of(
        roots: &Roots,
        contents: &Contents,
        generation: Generation,
        dpsr: &Dpsr,
        base: Base,
    ) -> Result<Self> {
        let view = View::of(contents, generation)?;
        let layout = CowLayout::of(contents, &view, dpsr)?;
        let image = tables::origin(&view, base);
        let rows = image.rows() + 1 + layout.saved.len() + view.map.volumes.len();
        memory::check(roots, generation, memory::needed(&layout, rows))?;
        let areas = Scratch::new(layout.metadata())?;
        layout.write(&view, dpsr, &mut |at, bytes| areas.put(at, bytes))?;
        let areas = areas.sealed()?;
        let saved = tables::cow(&layout, number(&areas)?, base);
        Ok(Self { size: tables::size(&view), image, saved, _areas: areas })
    }

    /// That from which a machine runs, as the store says; `None` where none does.
    pub fn running(roots: &Roots, contents: &Contents, dpsr: &Dpsr, base: Base) -> Result<Option<Self>> {
        contents.aside().map(|from| Self::of(roots, contents, from, dpsr, base)).transpose()
    }

    /// Makes the disk, under `name`.
    pub fn make(&self, upon: &Upon, stack: &mut Stack<'_>, id: &DiskId, name: Name) -> Result<Mapped> {
        let image = stack.make_read_only(id.private("image"), &self.image)?.number;
        let saved = stack.make_read_only(id.private("saved"), &self.saved)?.number;
        let older = tables::snapshot(self.size, image, saved);
        let older = stack.make_read_only(id.private("older"), &older)?.number;
        let live = stack.make(id.private("live"), &upon.live)?.number;
        stack.make(name, &writable(self.size, older, live))
    }
}

fn writable(size: Bytes, origin: DevNum, cow: DevNum) -> Table {
    Table::of(size, Target::Snapshot { origin, cow, persistent: true, chunk: Bytes(CHUNK) })
}
