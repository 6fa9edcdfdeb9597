// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reserve of a pair that is being made: planned, made, and kept only where the pair is.

use super::file::{Reserve, make, remove};
use super::place::{Place, place};
use super::{NAME, whole_extents};
use crate::error::{Error, Kind, Result};
use crate::format::geometry::Geometry;
use crate::pair::layout::DpsrLayout;
use crate::pair::plan::PlannedReserve;
use crate::pair::probe::Probe;
use crate::pair::sysfs::Roots;
use crate::pair::volumes::Volumes;
use crate::units::Bytes;

/// A reserve that is to be made.
#[derive(Clone, Debug)]
pub struct NewReserve {
    place: Place,
    size: Bytes,
    unit: Bytes,
}

impl NewReserve {
    /// Plans a reserve of `size` bytes on the primary; nothing is written.
    pub fn plan(
        roots: &Roots,
        primary: &Probe,
        volumes: &Volumes,
        layout: &DpsrLayout,
        size: Bytes,
    ) -> Result<Self> {
        let geometry = Geometry::choose(layout.store.end - layout.store.start);
        let unit = geometry.map(|geometry| geometry.extent).filter(|unit| size >= Bytes(2 * unit.0));
        let unit = unit.ok_or_else(|| {
            let why = format!("{size} is less than two extents of the store");
            Error::new(Kind::Usage, "making a reserve on", why).on(primary.name()).left("nothing was written")
        })?;
        Ok(Self { place: place(roots, primary, volumes, size)?, size, unit })
    }

    /// As the plan shows it.
    pub fn shown(&self) -> PlannedReserve {
        PlannedReserve { path: self.place.mount.join(NAME), size: self.size }
    }

    /// The volumes without what the reserve will leave out, if it lies in one piece; where is not known yet.
    pub fn guessed(&self, volumes: &Volumes) -> Volumes {
        let mut guessed = volumes.clone();
        let holder = volumes.iter().find(|volume| volume.id == self.place.volume && !volume.left_out);
        if let Some(holder) = holder {
            let end = holder.range.end;
            let whole = whole_extents(&[end.saturating_sub(self.size)..end], self.unit);
            guessed.leave_out_reserve(&whole);
        }
        guessed
    }

    /// Makes it. It goes again unless it is [kept](MadeReserve::keep).
    pub fn make(&self) -> Result<MadeReserve> {
        Ok(MadeReserve { reserve: make(&self.place, self.size, self.unit)?, kept: false })
    }
}

/// A reserve that is there, for a pair that is not yet.
#[derive(Debug)]
pub struct MadeReserve {
    /// What is recorded of it.
    pub reserve: Reserve,
    kept: bool,
}

impl MadeReserve {
    /// The pair is there: so may the reserve be.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for MadeReserve {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.reserve.path);
        }
    }
}
