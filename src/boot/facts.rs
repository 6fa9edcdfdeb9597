// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the checks need to know of the running system.

use std::collections::BTreeSet;
use std::fs;

use super::check::Layer;
use crate::mount::tool;
use crate::pair::chain::{chain_of_filesystem, chain_of_node, running_root_chain};
use crate::pair::mounts::mounts;
use crate::pair::probe::Probe;
use crate::pair::serial::named_array;
use crate::pair::sysfs::{BlockNode, Roots};
use crate::units::{Bytes, SECTOR};

/// The type of the root's filesystem.
///
/// Not every one of them is on a device that the kernel names: ZFS names its own pool.
pub fn root_kind(roots: &Roots) -> String {
    let text = fs::read_to_string(roots.proc.join("self/mountinfo")).unwrap_or_default();
    let kind = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let at_root = front.split(' ').nth(4)? == "/";
        at_root.then(|| back.split(' ').next().unwrap_or_default().to_owned())
    };
    text.lines().filter_map(kind).next_back().unwrap_or_default()
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
    if !chain.iter().any(|node| Some(node.number) == primary.number) {
        return Vec::new();
    }
    besides(roots, &chain, primary)
}

/// The disks under what stands on `chain`, besides the primary. A logical volume needs all of its group: of one that is not
/// whole nothing is activated by itself.
fn besides(roots: &Roots, chain: &[BlockNode], primary: &Probe) -> Vec<String> {
    let groups = chain.iter().filter_map(|node| match layer(roots, node) {
        Some(Layer::Volume(group, _)) => Some(group),
        _ => None,
    });
    let groups: BTreeSet<String> = groups.collect();
    let of_groups = groups.iter().flat_map(|group| physical_volumes(roots, group));
    let of_groups: Vec<_> = of_groups.flat_map(|node| chain_of_node(roots, node)).collect();
    let chain = [chain, &of_groups].concat();
    let bottom = |node: &&BlockNode| node.slaves().is_empty() && node.disk().number == node.number;
    // An array is copied, not its members.
    let below = primary.node(roots).map(|node| chain_of_node(roots, node)).unwrap_or_default();
    let is_below = |node: &BlockNode| below.iter().any(|it| it.number == node.number);
    let disks: Vec<&BlockNode> = chain.iter().filter(bottom).collect();
    let others = disks.into_iter().filter(|node| !is_below(node) && node.backing_file().is_none());
    let others: BTreeSet<String> = others.map(|node| node.name.clone()).collect();
    others.into_iter().collect()
}

/// What a volume group lies on, as far as LVM tells.
fn physical_volumes(roots: &Roots, group: &str) -> Vec<BlockNode> {
    let words = ["pvs", "--noheadings", "--options", "pv_name", "--select", &format!("vg_name={group}")];
    let told = tool::run("lvm", "lvm2", &words).unwrap_or_else(|error| {
        tracing::warn!("{error}, ignoring: whether {group} lies on other disks, too, is not known");
        String::new()
    });
    told.lines().filter_map(|line| roots.resolve(line.trim())).collect()
}

/// Whether the kernels lie in LUKS, so that nobody reads an initramfs who cannot open that.
pub fn boot_is_locked(roots: &Roots) -> bool {
    let all = mounts(roots);
    let at = |point: &str| all.iter().rfind(|mount| mount.at == point).cloned();
    let Some(place) = at("/boot").or_else(|| at("/")) else { return false };
    let below = chain_of_node(roots, place.node);
    below.iter().any(|node| matches!(layer(roots, node), Some(Layer::Luks(_))))
}

/// What is between the root's filesystem and its disks, dpsr's own aside.
pub fn layers(roots: &Roots) -> Vec<Layer> {
    let mut layers: Vec<_> = running_root_chain(roots).iter().filter_map(|node| layer(roots, node)).collect();
    layers.sort();
    layers.dedup();
    layers
}

fn layer(roots: &Roots, node: &BlockNode) -> Option<Layer> {
    if node.name.starts_with("md") && node.partition().is_none() {
        let probe = Probe::open(roots, &node.path()).ok()?;
        return named_array(probe.wwn.as_deref()).map(Layer::Array);
    }
    let (uuid, name) = (node.attr("dm/uuid")?, node.attr("dm/name")?);
    // Those of group and volume. What is part of a volume has more behind them.
    if uuid.starts_with("LVM-") && uuid.len() == "LVM-".len() + 64 {
        return volume_of(&name).map(|(group, name)| Layer::Volume(group, name));
    }
    // `CRYPT-LUKS2-`, 32 digits, the name.
    let digits = uuid.strip_prefix("CRYPT-LUKS")?.get(2..34)?;
    uuid::Uuid::try_parse(digits).ok().map(|uuid| Layer::Luks(uuid.to_string()))
}

/// Group and volume of a name of device-mapper: a dash between them, those inside doubled.
fn volume_of(name: &str) -> Option<(String, String)> {
    let marked = name.replace("--", "\0");
    let (group, volume) = marked.split_once('-')?;
    Some((group.replace('\0', "-"), volume.replace('\0', "-")))
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
    let below = chain_of_filesystem(roots, roots.resolve(&link)?);
    let is_left_out = |node: &BlockNode| {
        let sector: Option<u64> = node.attr("start").and_then(|start| start.parse().ok());
        Some(node.disk().number) == primary.number
            && sector.is_some_and(|sector| left_out.contains(&Bytes(sector * SECTOR)))
    };
    let on_primary = below.iter().any(|node| Some(node.number) == primary.number);
    // Half of it would be missing where a part of it is on another disk.
    Some(on_primary && !below.iter().any(is_left_out) && besides(roots, &below, primary).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_on_no_device_has_a_kind() {
        let proc = tempfile::tempdir().unwrap();
        let roots = Roots { proc: proc.path().to_owned(), ..Roots::default() };
        assert_eq!(root_kind(&roots), "");
        fs::create_dir(proc.path().join("self")).unwrap();
        let lines = "21 1 0:19 / / rw - rootfs rootfs rw\n22 21 0:20 / / rw,relatime shared:1 - zfs rpool/ROOT rw\n\
            23 22 0:21 / /proc rw - proc proc rw\n";
        fs::write(proc.path().join("self/mountinfo"), lines).unwrap();
        assert_eq!(root_kind(&roots), "zfs");
    }

    #[test]
    fn a_volume_and_its_group() {
        let both = |name| volume_of(name).map(|(group, volume)| format!("{group}/{volume}"));
        assert_eq!(both("vg-root").as_deref(), Some("vg/root"));
        assert_eq!(both("my--vg-root--1").as_deref(), Some("my-vg/root-1"));
        assert_eq!(both("luks"), None);
    }
}
