// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the checks need to know of the running system.

use crate::pair::chain::{chain_of_node, running_root_chain};
use crate::pair::mounts::mounts;
use crate::pair::probe::Probe;
use crate::pair::sysfs::{BlockNode, Roots};
use crate::units::{Bytes, SECTOR};

/// The type of the root's filesystem.
pub fn root_kind(roots: &Roots) -> String {
    mounts(roots).into_iter().rfind(|mount| mount.at == "/").map_or_else(String::new, |mount| mount.kind)
}

/// The type of the filesystem with the kernels, and whether it lies on a partition, with nothing between but dpsr.
pub fn boot_place(roots: &Roots) -> (String, bool) {
    let all = mounts(roots);
    let at = |point: &str| all.iter().rfind(|mount| mount.at == point).cloned();
    let Some(place) = at("/boot").or_else(|| at("/")) else { return (String::new(), false) };
    let below = chain_of_node(roots, place.node);
    let between = below.iter().any(|node| !node.slaves().is_empty() && !node.is_ours());
    (place.kind, !between)
}

/// The disks under the root besides the primary; none where the root is not on the primary at all, as on a
/// machine whose data disk is the pair's primary.
pub fn other_disks(roots: &Roots, primary: &Probe) -> Vec<String> {
    let chain = running_root_chain(roots);
    let bottom = |node: &&BlockNode| node.slaves().is_empty() && node.disk().number == node.number;
    // An array is copied, not its members.
    let below = primary.node(roots).map(|node| chain_of_node(roots, node)).unwrap_or_default();
    let is_below = |node: &BlockNode| below.iter().any(|it| it.number == node.number);
    let disks: Vec<&BlockNode> = chain.iter().filter(bottom).collect();
    let is_primary = |node: &BlockNode| Some(node.number) == primary.number;
    if !chain.iter().any(is_primary) {
        return Vec::new();
    }
    let others = disks.into_iter().filter(|node| !is_below(node) && node.backing_file().is_none());
    others.map(|node| node.name.clone()).collect()
}

/// Whether what fstab(5) calls `source` is in the copy; `None` where it is not there now. `left_out` are the
/// beginnings of the partitions of the primary that are not copied.
pub fn is_copied(roots: &Roots, primary: &Probe, left_out: &[Bytes], source: &str) -> Option<bool> {
    let link = match source.split_once('=') {
        Some((kind, value)) => {
            let value = value.trim_matches('"');
            let folder =
                ["UUID", "LABEL", "PARTUUID", "PARTLABEL"].into_iter().find(|known| *known == kind)?;
            format!("/dev/disk/by-{}/{value}", folder.to_ascii_lowercase())
        }
        None => source.to_owned(),
    };
    let node = roots.resolve(&link)?;
    let below = chain_of_node(roots, node);
    let is_left_out = |node: &BlockNode| {
        let sector: Option<u64> = node.attr("start").and_then(|start| start.parse().ok());
        Some(node.disk().number) == primary.number
            && sector.is_some_and(|sector| left_out.contains(&Bytes(sector * SECTOR)))
    };
    let on_primary = below.iter().any(|node| Some(node.number) == primary.number);
    Some(on_primary && !below.iter().any(is_left_out))
}
