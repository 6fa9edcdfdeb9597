// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which devices lie under a mount point, down to the disks.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::mounts::mounts;
use super::sysfs::{BlockNode, DevNum, Roots, names};

/// Every partition, virtual device and disk under `/` of the running system.
pub fn running_root_chain(roots: &Roots) -> Vec<BlockNode> {
    chain_of(roots, "/")
}

/// Every device under the filesystem mounted at `point`, itself included; empty where that is not mounted
/// or not on a block device.
pub fn chain_of(roots: &Roots, point: &str) -> Vec<BlockNode> {
    let top = mounts(roots).into_iter().rfind(|mount| mount.at == point);
    let mut seen = BTreeMap::new();
    for node in top.into_iter().flat_map(|mount| with_btrfs_members(roots, mount.node)) {
        descend(roots, node, &mut seen);
    }
    seen.into_values().collect()
}

/// A device and everything under it.
pub fn chain_of_node(roots: &Roots, node: BlockNode) -> Vec<BlockNode> {
    let mut seen = BTreeMap::new();
    descend(roots, node, &mut seen);
    seen.into_values().collect()
}

/// The same of a filesystem that has this device, and what others it is on.
pub fn chain_of_filesystem(roots: &Roots, node: BlockNode) -> Vec<BlockNode> {
    let mut seen = BTreeMap::new();
    with_btrfs_members(roots, node).into_iter().for_each(|node| descend(roots, node, &mut seen));
    seen.into_values().collect()
}

/// Every device under the filesystem that holds `file`; of the node of a block device, under that device.
pub fn chain_under_file(roots: &Roots, file: &Path) -> Vec<BlockNode> {
    let mut seen = BTreeMap::new();
    let of = |meta: Metadata| if meta.file_type().is_block_device() { meta.rdev() } else { meta.dev() };
    let number = fs::metadata(file).ok().map(|meta| DevNum::of(of(meta)));
    if let Some(node) = number.and_then(|number| roots.node(number)) {
        descend(roots, node, &mut seen);
    } else if number.is_some() {
        let holding = mounts(roots).into_iter().filter(|mount| file.starts_with(&mount.at));
        if let Some(mount) = holding.max_by_key(|mount| mount.at.len()) {
            with_btrfs_members(roots, mount.node).into_iter().for_each(|n| descend(roots, n, &mut seen));
        }
    }
    seen.into_values().collect()
}

fn descend(roots: &Roots, node: BlockNode, seen: &mut BTreeMap<DevNum, BlockNode>) {
    if seen.insert(node.number, node.clone()).is_some() {
        return;
    }
    let behind = node.backing_file().map(|file| chain_under_file(roots, &file)).unwrap_or_default();
    for below in node.slaves().into_iter().chain([node.disk()]).chain(behind) {
        descend(roots, below, seen);
    }
}

/// A btrfs over several disks names one of them; sysfs lists all (`fs/btrfs/<uuid>/devices`).
pub fn with_btrfs_members(roots: &Roots, node: BlockNode) -> Vec<BlockNode> {
    let filesystems = fs::read_dir(roots.sys.join("fs/btrfs")).into_iter().flatten().flatten();
    for filesystem in filesystems {
        let devices = filesystem.path().join("devices");
        if fs::symlink_metadata(devices.join(&node.name)).is_ok() {
            return names(&devices).iter().filter_map(|name| roots.named(name)).collect();
        }
    }
    vec![node]
}
