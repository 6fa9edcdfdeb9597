// SPDX-License-Identifier: MIT OR Apache-2.0
//! Room on the DPSR disk for what is overwritten on the primary while its snapshot is read, where the record of the
//! pair wants it there. It is an object of the store and stays from sync to sync, so that whoever looks for free
//! extents, at any time, leaves it alone; what is in it means nothing once the snapshot is gone.

use std::ops::Range;

use super::Session;
use crate::error::{Error, Kind, Result};
use crate::format::geometry::Geometry;
use crate::format::index::{Object, PRE_IMAGES, Run, extents};
use crate::history;
use crate::store::free::Free;
use crate::store::room::Need;
use crate::units::{Bytes, Generation};

impl Session<'_> {
    /// Makes that room what the pair asks for; where on the DPSR disk it is, and which generations made way for it.
    pub(super) fn pre_images(&mut self) -> Result<(Vec<Range<Bytes>>, Vec<Generation>)> {
        let geometry = self.store.contents.superblock.geometry;
        let wanted = geometry.extents_for(self.disks.pre_images);
        let present = self.store.contents.pre_images();
        let changes = present.map_or(0, extents) != wanted;
        let dropped = if changes { self.resize(wanted, geometry)? } else { Vec::new() };
        let (base, present) = (self.store.contents.base, self.store.contents.pre_images());
        Ok((present.unwrap_or_default().iter().map(|run| place(run, base, &geometry)).collect(), dropped))
    }

    /// Takes all of it anew: what was in it is of no use any more.
    fn resize(&mut self, wanted: u64, geometry: Geometry) -> Result<Vec<Generation>> {
        let mut dropped = Vec::new();
        let mut index = self.store.contents.index.clone();
        index.objects.retain(|object| object.kind != PRE_IMAGES);
        if Free::of(&index, &geometry).count() < wanted {
            // What of it there is already stays free for it.
            let there = self.store.contents.pre_images().map_or(0, extents);
            let need = Need { entries: 0, fresh: wanted - there };
            let plan = history::room::plan(&self.store, need, self.disks.history);
            let plan = plan.map_err(|error| match error.kind() {
                Kind::NoRoom => self.no_room(wanted),
                _ => error,
            })?;
            dropped = plan.make(&mut self.store, self.progress)?;
            index = self.store.contents.index.clone();
            index.objects.retain(|object| object.kind != PRE_IMAGES);
        }
        let runs = u32::try_from(wanted).ok().and_then(|count| Free::of(&index, &geometry).take(0, count));
        let runs = runs.ok_or_else(|| self.no_room(wanted))?;
        if wanted > 0 {
            index.objects.push(Object { kind: PRE_IMAGES, about: vec![], runs });
        }
        let state = self.store.contents.superblock.state;
        self.store.change(state, index)?;
        Ok(dropped)
    }

    fn no_room(&self, wanted: u64) -> Error {
        let size = Bytes(wanted * self.store.contents.superblock.geometry.extent.0);
        let why = format!("{size} are not free on it, and dropping older generations does not make them so");
        Error::new(Kind::NoRoom, "keeping room for pre-images on", why)
            .on(self.disks.dpsr.name())
            .next("set cow_size in [live] to less, or cow to memory")
    }
}

fn place(run: &Run, base: Bytes, geometry: &Geometry) -> Range<Bytes> {
    let start = base + geometry.bytes_of(run.extent).start;
    start..start + Bytes(u64::from(run.count) * geometry.extent.0)
}
