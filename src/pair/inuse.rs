// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is using an endpoint, so that nobody's disk is taken from under them.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::chain::{chain_of_node, chain_under_file, running_root_chain, with_btrfs_members};
use super::mounts::{mounts, swaps};
use super::probe::{Kind, Probe};
use super::sysfs::{BlockNode, DevNum, Roots};
use crate::sys::ioctl;

/// One reason why an endpoint may not be overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// A filesystem on it is mounted.
    Mounted {
        /// The mounted device.
        device: String,
        /// The mount point.
        at: String,
    },
    /// It is swap space in use.
    Swap {
        /// The swap device.
        device: String,
    },
    /// Another block device is built on it.
    Held {
        /// The device that is held.
        device: String,
        /// The device built on it.
        by: String,
        /// Whether the holder is dpsr's own device-mapper node.
        ours: bool,
    },
    /// A loop device is backed by it.
    Loop {
        /// The loop device.
        device: String,
    },
    /// Another loop device lies over the same file.
    Shared {
        /// The loop device that is meant.
        device: String,
        /// The other one.
        by: String,
    },
    /// The running system's root lies on it.
    Root {
        /// The device that is part of the root's chain.
        device: String,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => write!(f, "{device} is mounted at {at}"),
            Self::Swap { device } => write!(f, "{device} is in use as swap"),
            Self::Held { device, by, .. } => write!(f, "{device} is held by {by}"),
            Self::Loop { device } => write!(f, "it backs the loop device {device}"),
            Self::Shared { device, by } => write!(f, "the file behind {device} also lies behind {by}"),
            Self::Root { device } => write!(f, "the running system's root lies on {device}"),
        }
    }
}

/// Every use of the endpoint or of a partition on it, in a stable order.
pub fn in_use(roots: &Roots, probe: &Probe) -> Vec<Use> {
    match (probe.kind, probe.node(roots)) {
        (Kind::Block, Some(node)) => {
            let mut uses = device_uses(roots, &node);
            uses.extend(shared(roots, probe, &node));
            uses
        }
        _ => file_uses(roots, probe),
    }
}

/// The uses of a block device: of itself, of every partition the kernel knows on it, and of those that a wrap
/// has put in their place.
pub fn device_uses(roots: &Roots, node: &BlockNode) -> Vec<Use> {
    let mut members = vec![node.clone()];
    members.extend(node.partitions());
    members.extend(wrap_nodes(node));
    uses_of(roots, &members, |_| false)
}

/// The uses of a block device and of every partition the kernel knows on it, but for devices on top that are
/// `expected`, with all that lies on those.
pub fn uses_besides(roots: &Roots, node: &BlockNode, expected: impl Fn(&BlockNode) -> bool) -> Vec<Use> {
    let members: Vec<BlockNode> = std::iter::once(node.clone()).chain(node.partitions()).collect();
    uses_of(roots, &members, expected)
}

/// The uses of any of `members`; devices on top of them that are `expected` are none.
fn uses_of(roots: &Roots, members: &[BlockNode], expected: impl Fn(&BlockNode) -> bool) -> Vec<Use> {
    let is_member = |other: &BlockNode| members.iter().any(|member| member.number == other.number);
    let mut uses = Vec::new();
    for mount in mounts(roots) {
        let under = with_btrfs_members(roots, mount.node).into_iter().filter(is_member);
        uses.extend(under.map(|node| Use::Mounted { device: node.label(), at: mount.at.clone() }));
    }
    uses.extend(swaps(roots).iter().filter(|swap| is_member(swap)).map(|s| Use::Swap { device: s.label() }));
    for member in members {
        let others = member.holders().into_iter().filter(|holder| !expected(holder));
        uses.extend(others.map(|holder| held(member, &holder)));
    }
    let over = roots.all().into_iter().filter(|node| !expected(node));
    uses.extend(over.filter_map(|node| looped(roots, members, &node)));
    let chain = running_root_chain(roots);
    uses.extend(chain.iter().find(|under| is_member(under)).map(|n| Use::Root { device: n.label() }));
    uses.dedup();
    uses
}

/// The nodes of a wrap over a disk, the left-out partitions too.
fn wrap_nodes(node: &BlockNode) -> Vec<BlockNode> {
    let upon = |node: &BlockNode| node.holders().into_iter().filter(BlockNode::is_ours);
    let mut all: Vec<BlockNode> = Vec::new();
    let mut next: Vec<_> = upon(node).collect();
    while let Some(one) = next.pop() {
        if all.iter().all(|known| known.number != one.number) {
            next.extend(upon(&one));
            all.push(one);
        }
    }
    all.retain(BlockNode::is_of_wrap);
    all
}

fn held(member: &BlockNode, holder: &BlockNode) -> Use {
    Use::Held { device: member.label(), by: holder.label(), ours: holder.is_ours() }
}

/// The use of a member that lies behind a loop device: the kernel names no holder for it. dpsr's own go with what they were
/// made for, a moment later, or with the clean-up after a run that was killed.
fn looped(roots: &Roots, members: &[BlockNode], node: &BlockNode) -> Option<Use> {
    let (number, ours) = backing_device(roots, node)?;
    let behind = members.iter().any(|member| member.number == number);
    (behind && !ours).then(|| Use::Loop { device: node.label() })
}

/// The block device behind a loop device, and whether dpsr has put the loop device there.
fn backing_device(roots: &Roots, node: &BlockNode) -> Option<(DevNum, bool)> {
    let file = node.backing_file()?;
    match node.open() {
        Some(device) => {
            ioctl::loop_backing(&device).map(|backing| (DevNum::of(backing.device), backing.ours))
        }
        None => roots.resolve(file.to_str()?).map(|behind| (behind.number, false)),
    }
}

fn file_uses(roots: &Roots, probe: &Probe) -> Vec<Use> {
    let loops = roots.all().into_iter().filter(|node| backing_inode(node) == probe.inode);
    loops.map(|node| Use::Loop { device: node.label() }).collect()
}

/// Other loop devices over the same file: neither knows what the other writes.
fn shared(roots: &Roots, probe: &Probe, node: &BlockNode) -> Vec<Use> {
    if probe.inode.is_none() {
        return Vec::new();
    }
    let others = roots.all().into_iter().filter(|other| other.number != node.number);
    let others = others.filter(|other| backing_inode(other) == probe.inode);
    others.map(|other| Use::Shared { device: node.label(), by: other.label() }).collect()
}

/// Whether what is written to `upper` goes to `lower`, or to the disk it is a part of, through whatever lies
/// between.
pub fn stands_on(roots: &Roots, upper: &Probe, lower: &Probe) -> bool {
    let disk = lower.node(roots).map(|node| node.disk().number);
    let file = |node: &BlockNode| lower.inode.is_some() && backing_inode(node) == lower.inode;
    let under = match (upper.kind, upper.node(roots)) {
        (Kind::Block, Some(node)) => chain_of_node(roots, node),
        _ => chain_under_file(roots, &upper.canonical),
    };
    upper.same_storage(lower) || under.iter().any(|node| Some(node.number) == disk || file(node))
}

/// Filesystem and inode of the file behind a loop device, as the device itself says: the path that sysfs
/// shows may be of another mount namespace, or have come to mean another file.
pub fn backing_inode(node: &BlockNode) -> Option<(u64, u64)> {
    let file = node.backing_file()?;
    match node.open() {
        Some(device) => ioctl::loop_backing(&device).map(|backing| backing.file),
        None => fs::metadata(file).ok().map(|meta| (meta.dev(), meta.ino())),
    }
}
