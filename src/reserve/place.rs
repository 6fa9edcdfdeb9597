// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a reserve can be: a mounted ext4 or XFS that lies straight on a kept part of the primary.

use std::path::PathBuf;

use nix::sys::statvfs::statvfs;

use crate::error::{Error, Kind, Result};
use crate::pair::mounts::{Mount, mounts};
use crate::pair::probe::Probe;
use crate::pair::sysfs::Roots;
use crate::pair::volumes::{Volume, Volumes};
use crate::units::{Bytes, SECTOR};

/// What is kept free for others on the filesystem.
const SPARE: u64 = 20;

/// A filesystem a reserve may be on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its type: `ext4` or `xfs`.
    pub kind: String,
    /// The id of the volume it lies on.
    pub volume: String,
    /// Where that starts on the primary.
    pub start: Bytes,
    /// How much of it is free.
    pub free: Bytes,
}

/// The filesystem of the primary with the most room; refused where none takes `size` bytes.
pub fn place(roots: &Roots, primary: &Probe, volumes: &Volumes, size: Bytes) -> Result<Place> {
    let mut places = places(roots, primary, volumes);
    places.sort_by_key(|place| place.free);
    let refused = |why: String| {
        Error::new(Kind::NoRoom, "making a reserve on", why)
            .on(primary.name())
            .left("nothing was written")
            .next("ask for a smaller one, or leave a partition out")
    };
    match places.pop() {
        None => Err(refused("no ext4 or XFS that lies straight on a partition of it is mounted".to_owned())),
        Some(best) if best.free.0 / SPARE * (SPARE - 1) < size.0 => {
            let (at, free) = (best.mount.display(), best.free);
            Err(refused(format!("{at} has only {free} free, of which a twentieth stays so, and not {size}")))
        }
        Some(best) => Ok(best),
    }
}

fn places(roots: &Roots, primary: &Probe, volumes: &Volumes) -> Vec<Place> {
    let kept = volumes.iter().filter(|volume| !volume.left_out);
    kept.flat_map(|volume| mounts(roots).into_iter().filter_map(|mount| on(roots, primary, volume, mount)))
        .collect()
}

/// The place that `mount` is, if it lies straight on `volume`.
fn on(roots: &Roots, primary: &Probe, volume: &Volume, mount: Mount) -> Option<Place> {
    let fits = matches!(mount.kind.as_str(), "ext4" | "xfs") && mount.whole && mount.writable;
    if !fits || !lies_on(roots, primary, volume, &mount) {
        return None;
    }
    let room = statvfs(mount.at.as_str()).ok()?;
    let free = Bytes(room.blocks_available() * room.fragment_size());
    let (mount, kind) = (PathBuf::from(mount.at), mount.kind);
    Some(Place { mount, kind, volume: volume.id.clone(), start: volume.range.start, free })
}

/// Whether a filesystem's device is the volume itself: the whole primary, a partition the kernel knows of it,
/// or the node that dpsr wrapped it with.
pub(super) fn lies_on(roots: &Roots, primary: &Probe, volume: &Volume, mount: &Mount) -> bool {
    let Some(disk) = primary.node(roots) else { return false };
    let node = &mount.node;
    if volume.number == 0 && node.number == disk.number {
        return true;
    }
    let start = || node.attr("start")?.parse::<u64>().ok();
    let plain = node.partition().is_some() && node.disk().number == disk.number;
    if plain {
        return start().is_some_and(|start| Bytes(start * SECTOR) == volume.range.start);
    }
    let wrapped = match volume.number {
        0 => "DPSR-DISK-".to_owned(),
        number => format!("part{number}-DPSR-DISK-"),
    };
    let ours = node.attr("dm/uuid").is_some_and(|uuid| uuid.starts_with(&wrapped));
    ours && crate::pair::chain::chain_of_node(roots, node.clone()).iter().any(|it| it.number == disk.number)
}
