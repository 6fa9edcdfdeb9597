// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why `init` does not take a disk. Every refusal says what would have to change.

use super::empty::Found;
use super::inuse::{Use, stands_on};
use super::plan::Sizes;
use super::probe::{Kind as Endpoint, Probe};
use super::sysfs::Roots;
use super::volumes::{Volume, Volumes};
use crate::error::{Error, Kind, Result};
use crate::format::geometry::Geometry;
use crate::units::{Bytes, MIB};

/// Everything the refusals look at.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The disk to be copied.
    pub primary: &'a Probe,
    /// The disk to become the DPSR disk.
    pub dpsr: &'a Probe,
    /// Who uses the target.
    pub uses: &'a [Use],
    /// What is on the target.
    pub found: &'a Found,
    /// The other pair recorded on this machine whose DPSR disk the target is.
    pub owner: Option<&'a str>,
    /// Whether the user said that what is on it may go.
    pub wipe: bool,
}

fn refuse(target: &Target<'_>, why: impl Into<String>) -> Error {
    let doing = "preparing the DPSR disk";
    Error::new(Kind::Refused, doing, why).on(target.dpsr.name()).left("nothing was written")
}

/// Refuses a target that must not become this primary's DPSR disk.
pub fn check_target(roots: &Roots, target: &Target<'_>) -> Result<()> {
    for endpoint in [target.primary, target.dpsr] {
        if let Some(number) = endpoint.node(roots).and_then(|node| node.partition()) {
            let why = format!("{} is only partition {number} of a disk", endpoint.name());
            return Err(refuse(target, why).next("name the whole disk"));
        }
    }
    if target.primary.size == Bytes::ZERO {
        let why = format!("the primary {} has no bytes to copy", target.primary.name());
        return Err(refuse(target, why).next("insert its medium, or name another disk"));
    }
    if stands_on(roots, target.dpsr, target.primary) {
        return Err(refuse(target, "it is part of the primary").next("name another disk"));
    }
    if let Some(usage) = target.uses.first() {
        return Err(refuse(target, usage.to_string()).next("stop that use first, or name another disk"));
    }
    check_content(target)?;
    if target.primary.block < target.dpsr.block {
        let (small, large) = (target.primary.block.0, target.dpsr.block.0);
        let why = format!("its blocks have {large} bytes, and those of the primary only {small}");
        return Err(refuse(target, why).next(format!("use a disk with logical blocks of {small} bytes")));
    }
    Ok(())
}

fn check_content(target: &Target<'_>) -> Result<()> {
    if let Some(owner) = target.owner {
        let why = format!("it is the DPSR disk of the pair {owner:?}");
        return Err(refuse(target, why).next("remove that pair first, or name another disk"));
    }
    if target.wipe {
        return Ok(());
    }
    if let Some(store) = &target.found.store {
        let why = format!("it is a DPSR disk already (disk GUID {})", store.disk);
        return Err(refuse(target, why).next("--wipe gives that copy and all its history up"));
    }
    match &target.found.things[..] {
        [] => Ok(()),
        things => {
            Err(refuse(target, format!("it is not empty: {}", things.join(", ")))
                .next("--wipe gives that up"))
        }
    }
}

/// Refuses a disk on which the copy does not fit, and says what to leave out; `sizes` answers what a copy
/// of these volumes needs.
pub fn check_room(target: &Target<'_>, volumes: &Volumes, sizes: impl Fn(&Volumes) -> Sizes) -> Result<()> {
    let Sizes { needed_min, store, .. } = sizes(volumes);
    let missing = needed_min.saturating_sub(store);
    if missing == Bytes::ZERO {
        return Ok(());
    }
    let why = format!(
        "it has room for {store}, and the copy needs {needed_min}: {} are missing",
        missing.round_up(MIB)
    );
    let fits = |volumes: &Volumes| {
        let sizes = sizes(volumes);
        sizes.needed_min <= sizes.store
    };
    let names: Vec<_> = to_leave_out(volumes, fits).into_iter().map(|v| v.number.to_string()).collect();
    let mut ways = Vec::new();
    if !names.is_empty() {
        ways.push(format!("leave out more with --leave-out {}", names.join(" --leave-out ")));
    }
    // An image file has no filesystem mounted from it that could hold one.
    if target.primary.kind == Endpoint::Block {
        ways.push(format!("make room with --reserve {}M", reserve(missing, store)));
    }
    ways.push("use a larger disk".to_owned());
    let last = ways.pop().unwrap_or_default();
    let next = if ways.is_empty() { last } else { format!("{}, or {last}", ways.join(", ")) };
    let doing = "preparing the DPSR disk";
    Err(Error::new(Kind::NoRoom, doing, why).on(target.dpsr.name()).left("nothing was written").next(next))
}

/// How many MiB a reserve should have: it lies in a few pieces and loses up to an extent at each of their ends.
fn reserve(missing: Bytes, store: Bytes) -> u64 {
    let extent = Geometry::choose(store).map_or(Bytes::ZERO, |geometry| geometry.extent);
    (missing.0 + missing.0 / 8 + 8 * extent.0).div_ceil(MIB)
}

/// The smallest single partition without which it fits, else the largest ones together; empty where even
/// all of them are not enough. A partition's size alone does not tell: the extents at its edges stay. What
/// the system boots from is never proposed.
fn to_leave_out(volumes: &Volumes, fits: impl Fn(&Volumes) -> bool) -> Vec<&Volume> {
    let mut optional: Vec<_> = volumes.iter().filter(|v| !v.group && !v.left_out).collect();
    optional.sort_by_key(|volume| volume.range.end - volume.range.start);
    let fits_without = |chosen: &[&Volume]| {
        let mut without = volumes.clone();
        without.leave_out_ids(&chosen.iter().map(|volume| volume.id.clone()).collect::<Vec<_>>());
        fits(&without)
    };
    if let Some(one) = optional.iter().find(|volume| fits_without(&[volume])) {
        return vec![one];
    }
    optional.reverse();
    let counts = 2..=optional.len();
    counts.map(|count| &optional[..count]).find(|chosen| fits_without(chosen)).map_or(vec![], <[_]>::to_vec)
}

/// Whether what the user typed is the target's ID.
pub fn check_confirmation(dpsr: &Probe, given: &str) -> Result<()> {
    if given.trim() == dpsr.id() {
        return Ok(());
    }
    let why = format!("{:?} is not its {}", given.trim(), dpsr.id_kind());
    Err(Error::new(Kind::Refused, "preparing the DPSR disk", why)
        .on(dpsr.name())
        .left("nothing was written")
        .next("the plan shows the ID to confirm with"))
}
