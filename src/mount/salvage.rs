// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only the old primary holds, readable while the machine runs from its copy.

use std::path::Path;

use super::{Mounted, Request, directory, mounted};
use crate::attach::show_primary;
use crate::disk::file::{Access, FileDisk};
use crate::error::{Error, Kind, Result};
use crate::failback::target::Target;
use crate::failover::decide::is_newer;
use crate::failover::presence::is_called_like_it;
use crate::failover::stays::Stays;
use crate::open::{OpenStore, recorded, volumes_of};
use crate::pair::inuse::{Use, in_use, uses_besides};
use crate::pair::probe::Probe;
use crate::pair::sysfs::{BlockNode, Roots};
use crate::pair::table::Table;
use crate::wrap::DiskId;

const DOING: &str = "looking into the old primary";

/// Mounts a volume of the old primary, the disk at `from`, as [`mount`](super::mount()) does those of a generation.
/// Nothing is written to it, not even its journal.
pub fn salvage(store: &OpenStore, from: &Path, request: &Request<'_>) -> Result<Mounted> {
    let directory = directory(request.at)?;
    let probe = checked(store, from)?;
    let disk = FileDisk::open(from, Access::Read)?;
    let table = Table::read(&disk, store.config.primary.block)?;
    let mut volumes = recorded(&volumes_of(&store.config, &table));
    // What stays there is no old one.
    let stays = Stays::in_store(&store.contents)?;
    volumes.retain(|volume| stays.as_ref().is_none_or(|stays| !stays.has(volume)));
    drop(disk);
    let attached = show_primary(store.contents.superblock.store, &probe, &volumes)?;
    mounted(&attached, request, &directory)
}

/// The disk, if it is the old primary, nobody uses it, and the machine does not run from it.
fn checked(store: &OpenStore, from: &Path) -> Result<Probe> {
    let roots = Roots::default();
    let probe = Probe::open(&roots, from)?;
    let refuse =
        |why: String| Error::new(Kind::Refused, DOING, why).on(probe.name()).left("nothing was mounted");
    if !is_newer(store.contents.superblock.state) {
        let why = "no system runs from its copy, so that it is no old one".to_owned();
        return Err(refuse(why).next("what is on the primary is mounted already, or by mount(8)"));
    }
    let home = Target::home(&store.contents);
    if !is_called_like_it(&roots, &store.config, home.as_ref(), from) {
        let why = "its serial number, or WWN, is not that of the primary".to_owned();
        return Err(refuse(why).next("name the disk the machine ran from before"));
    }
    // Another volume of it is mounted.
    let ours = |usage: &Use| matches!(usage, Use::Held { ours: true, .. });
    let uses = match (Stays::in_store(&store.contents)?, probe.node(&roots)) {
        (Some(stays), Some(node)) => {
            let (id, volumes) = (DiskId::recorded(&store.config), &store.contents.running_map().volumes);
            let uuid = |holder: &BlockNode| holder.attr("dm/uuid").unwrap_or_default();
            if node.holders().iter().any(|holder| uuid(holder) == id.private("fence").uuid) {
                return Err(refuse("a failback writes to it".to_owned()).next("wait until that has ended"));
            }
            uses_besides(&roots, &node, |holder| stays.is_part(&id, volumes, &uuid(holder)))
        }
        _ => in_use(&roots, &probe),
    };
    if let Some(usage) = uses.iter().find(|usage| !ours(usage)) {
        return Err(refuse(usage.to_string()).next("stop that use first"));
    }
    Ok(probe)
}
