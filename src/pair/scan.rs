// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds the recorded disk under whatever name it has now, and refuses to choose between clones.

use std::path::{Path, PathBuf};

use super::inuse::backing_inode;
use super::proof::{Identity, Proven, open};
use super::sysfs::{BlockNode, Roots};
use crate::disk::file::Access;
use crate::error::{Error, Kind, Result};
use crate::units::SECTOR;

/// Where the recorded disk is now. The recorded path is only the first guess; identity decides. Where links
/// lead to dpsr's own device-mapper node over the disk, the disk itself is meant.
pub(super) fn locate<I: Identity>(roots: &Roots, identity: &I) -> Result<PathBuf> {
    match open(roots, identity, identity.path(), Access::Read) {
        Ok(here) if here.probe.node(roots).is_some_and(|node| node.is_ours()) => {
            let why = Error::new(Kind::Refused, "opening", "it is dpsr's own node").on(here.probe.name());
            elsewhere(roots, identity, why)
        }
        Ok(here) => {
            only_one(roots, identity, &here)?;
            Ok(identity.path().to_owned())
        }
        Err(found) => elsewhere(roots, identity, found),
    }
}

/// Whether more than one disk is known to pass the whole proof.
pub fn are_several<I: Identity>(roots: &Roots, identity: &I) -> bool {
    identity.telling() && candidates(roots, identity, |_| true).is_ok_and(|found| found.len() > 1)
}

/// A second disk that passes the whole proof cannot be told from the first, whatever the proof rests on:
/// bridges report one serial number for all disks, and two filesystems may give the same inode number.
fn only_one<I: Identity>(roots: &Roots, identity: &I, here: &Proven<I::Evidence>) -> Result<()> {
    // Of a disk that tells nothing but its size the recorded path has to decide.
    let Some(node) = here.probe.node(roots).filter(|_| identity.telling()) else { return Ok(()) };
    let same = |other: &BlockNode| {
        related(&node, other) || here.probe.inode.is_some() && backing_inode(other) == here.probe.inode
    };
    // The recorded one is there, whatever the other is.
    let others = candidates(roots, identity, |other| !same(other));
    match others.map_err(|error| error.or_next("or detach it"))?.first() {
        Some(other) => Err(clones(identity, identity.path(), &other.path())),
        None => Ok(()),
    }
}

fn elsewhere<I: Identity>(roots: &Roots, identity: &I, found: Error) -> Result<PathBuf> {
    // It may be the one that is looked for: another that passes for it may be a clone.
    if found.is_unanswered() {
        return Err(found);
    }
    let candidates = if identity.telling() { candidates(roots, identity, |_| true)? } else { Vec::new() };
    match &candidates[..] {
        [only] => Ok(only.path()),
        [first, second, ..] => Err(clones(identity, &first.path(), &second.path())),
        [] => {
            let why = format!("{}; no other disk is the recorded one", found.cause());
            Err(Error::new(Kind::Refused, format!("looking for {}", identity.role()), why)
                .left("nothing was written")
                .next("attach the disk, or run dpsr init for the new one"))
        }
    }
}

fn clones<I: Identity>(identity: &I, first: &Path, second: &Path) -> Error {
    let why = format!("{} and {} both carry its identity", first.display(), second.display());
    Error::new(Kind::Refused, format!("looking for {}", identity.role()), why)
        .left("nothing was written")
        .next("detach the one that is a copy")
}

/// Every disk that passes the proof, of those that are asked. Only disks of the recorded size are opened, so that no other
/// one is woken up; of a multipath device that passes none of the paths.
///
/// # Errors
/// Where one that may be the recorded disk does not answer: another that passes may be a clone of it.
fn candidates<I: Identity>(
    roots: &Roots,
    identity: &I,
    asked: impl Fn(&BlockNode) -> bool,
) -> Result<Vec<BlockNode>> {
    let sectors = (identity.size().0 / SECTOR).to_string();
    let fits = |node: &BlockNode| node.attr("size").as_ref() == Some(&sectors) && !node.is_ours();
    let passes = |node: &BlockNode| match open(roots, identity, &node.path(), Access::Read) {
        Err(error) if error.is_unanswered() => Err(error),
        outcome => Ok(outcome.is_ok()),
    };
    let (multipath, disks): (Vec<_>, Vec<_>) = roots.all().into_iter().filter(fits).partition(is_multipath);
    // Those that pass, or are the one at hand.
    let (mut found, mut over) = (Vec::new(), Vec::new());
    for node in multipath {
        let is_asked = asked(&node);
        if !is_asked || passes(&node)? {
            over.push(node.clone());
            found.extend(is_asked.then_some(node));
        }
    }
    for node in disks {
        let is_path = over.iter().any(|top| built_on(top, &node));
        if !is_path && asked(&node) && passes(&node)? {
            found.push(node);
        }
    }
    Ok(found)
}

fn is_multipath(node: &BlockNode) -> bool {
    node.attr("dm/uuid").is_some_and(|uuid| uuid.starts_with("mpath-"))
}

fn built_on(top: &BlockNode, below: &BlockNode) -> bool {
    top.slaves().iter().any(|slave| slave.number == below.number || built_on(slave, below))
}

fn related(one: &BlockNode, other: &BlockNode) -> bool {
    one.number == other.number || built_on(one, other) || built_on(other, one)
}
