// SPDX-License-Identifier: MIT OR Apache-2.0
//! Undoing a mount: the filesystem, the layers under it, and the generation, if only mounts used it.

use std::path::Path;

use nix::mount::{MntFlags, umount2};

use super::layers::{take_down, view_under};
use crate::attach::{self, until_unmounted};
use crate::dm::Mapper;
use crate::error::{Error, Kind, Result};
use crate::pair::attached::ViewId;
use crate::pair::mounts::mounts;
use crate::pair::sysfs::Roots;

/// What was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmounted {
    /// What was mounted.
    pub view: ViewId,
    /// Whether it was detached, too.
    pub detached: bool,
}

/// Unmounts what [`mount`](super::mount) mounted at `at`.
pub fn unmount(at: &Path) -> Result<Unmounted> {
    let refuse = |why: &str| {
        Error::new(Kind::Refused, "unmounting", why).on(at.display().to_string()).left("nothing was undone")
    };
    let directory = at.canonicalize().map_err(|error| refuse(&error.to_string()))?;
    let roots = Roots::default();
    let all = mounts(&roots);
    let here = all.iter().rfind(|mount| Path::new(&mount.at) == directory);
    let here = here.ok_or_else(|| refuse("no block device is mounted there"))?;
    let (id, _) = view_under(&here.node).ok_or_else(|| refuse("dpsr has not mounted it"))?;
    let mapper = Mapper::open()?;
    // A directory, not a link that somebody puts in its place meanwhile.
    umount2(&directory, MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|error| refuse(&error.to_string()).next("end what uses it"))?;
    if mounts(&roots).iter().all(|mount| mount.node.number != here.node.number) {
        take_down(&mapper, &here.node)?;
    }
    let devices = attach::found(&mapper)?.remove(&id).unwrap_or_default();
    let detached = until_unmounted(&devices)
        && match attach::detach(&roots, &mapper, id, &devices) {
            Ok(()) => true,
            // Another mount of it.
            Err(error) if error.kind() == Kind::Refused => false,
            Err(error) => return Err(error),
        };
    Ok(Unmounted { view: id, detached })
}
