// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes a wrap away again.

use super::events::{self, Caller};
use super::kernel;
use super::seen::{Difference, Found, State, Under};
use super::turn;
use super::{Report, Site, in_use, open};
use crate::config::PairConfig;
use crate::disk::ReadDisk;
use crate::dm::{Mapped, Mapper};
use crate::error::{Error, Kind, Result};
use crate::pair::holder::opener;
use crate::pair::inuse;
use crate::pair::sysfs::Roots;

const DOING: &str = "unwrapping the primary";

/// Takes device-mapper from under the primary of a pair, and brings the kernel's partition nodes back. Of one
/// that is not wrapped only the latter is looked after.
///
/// # Errors
/// `Refused` where anything on it is in use, `Busy` where a sync holds a moment of it or a node is open.
pub fn unwrap(config: &PairConfig, dry_run: bool, caller: &Caller) -> Result<Report> {
    let primary = open(config)?;
    let mapper = Mapper::open()?;
    let site = Site::of(&mapper, config, &primary)?;
    let _turn = turn::take()?;
    let nodes = match site.state()? {
        State::Unwrapped => Vec::new(),
        State::Begun(disk) => vec![disk],
        State::Wrapped(found) => removable(&site, found)?,
    };
    // Also where only some have gone: a wrap that was stopped takes them away one by one.
    let gone = site.raw.partitions().len() < site.shape.parts.len();
    let changed = !nodes.is_empty() || gone;
    if dry_run || !changed {
        return Ok(site.report(changed, Vec::new()));
    }
    for node in &nodes {
        let left = "the wrap is not whole any more; 'dpsr wrap' makes it whole again";
        mapper.remove(node).map_err(|error| error.left(left))?;
    }
    events::forget(&site.shape.id);
    let device = primary.disk.descriptor().expect("a block device has a descriptor");
    let places: Vec<_> = site.shape.parts.iter().map(|part| (part.number, part.range.clone())).collect();
    kernel::reread(&site.raw, &device, &places)?;
    let mut warnings = Vec::new();
    if *caller == Caller::Command && !events::settled_partitions(&site.raw) {
        let text = "links may be missing, ignoring: udev has not said that it knows the partitions";
        warnings.push(text.to_owned());
    }
    Ok(site.report(true, warnings))
}

/// The nodes in the order in which they can be removed, the disk last.
fn removable(site: &Site<'_>, found: Found) -> Result<Vec<Mapped>> {
    if found.under != Under::Raw {
        let why = "a sync holds a moment of it";
        return Err(Error::new(Kind::Busy, DOING, why)
            .on(site.primary.probe.name())
            .left("nothing was changed")
            .next("wait until it has ended; after one that was killed, the next sync tidies up"));
    }
    let others = found.differences.into_iter().filter_map(|difference| match difference {
        Difference::Missing(_) => None,
        Difference::Moved(device, _) | Difference::Stray(device, _) => Some(device),
    });
    let parts: Vec<_> = found.parts.into_iter().map(|(_, device)| device).chain(others).collect();
    for node in parts.iter().chain([&found.disk]) {
        refuse_uses(site, node)?;
    }
    let upon = parts.iter().filter(|part| stands_on(part, &found.disk)).count();
    for (node, allowed) in parts.iter().map(|part| (part, 0)).chain([(&found.disk, upon)]) {
        refuse_open(site, node, allowed)?;
    }
    Ok(parts.into_iter().chain([found.disk]).collect())
}

fn stands_on(part: &Mapped, disk: &Mapped) -> bool {
    let node = Roots::default().node(part.number);
    node.is_some_and(|node| node.slaves().iter().any(|below| below.number == disk.number))
}

fn refuse_uses(site: &Site<'_>, node: &Mapped) -> Result<()> {
    let roots = Roots::default();
    let Some(block) = roots.node(node.number) else { return Ok(()) };
    let ours = |usage: &&inuse::Use| !matches!(usage, inuse::Use::Held { ours: true, .. });
    match inuse::device_uses(&roots, &block).iter().find(ours) {
        Some(usage) => Err(in_use(DOING, site.primary, usage).next("stop that use first")),
        None => Ok(()),
    }
}

/// Whoever is neither a mount nor a device; udev, which looks at nodes for a moment, is waited for when they
/// are removed.
fn refuse_open(site: &Site<'_>, node: &Mapped, allowed: usize) -> Result<()> {
    let opened = usize::try_from(site.mapper.state(node)?.opened).unwrap_or_default();
    let roots = Roots::default();
    let who = roots.node(node.number).and_then(|block| opener(&roots, &block));
    match who.filter(|who| opened > allowed && !who.contains("udev")) {
        Some(who) => Err(Error::new(Kind::Busy, DOING, format!("{who} has {} open", node.name.name))
            .on(site.primary.probe.name())
            .left("nothing was changed")
            .next("wait until it has ended, or stop it")),
        None => Ok(()),
    }
}
