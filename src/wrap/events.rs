// SPDX-License-Identifier: MIT OR Apache-2.0
//! What udev makes of the nodes: it is told which links to add, and waited for, but never for long: it may be
//! absent, stopped, or without the rules of device-mapper.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::stat::makedev;

use super::names::DiskId;
use crate::dm::Mapped;
use crate::pair::serial::named_array;
use crate::pair::sysfs::{BlockNode, DevNum};

/// How long udev may take for all nodes together.
const DEADLINE: Duration = Duration::from_secs(5);

/// A udevd that has had nothing to do for so long will do nothing about the nodes any more.
const IDLE: Duration = Duration::from_secs(1);

const GLANCE: Duration = Duration::from_millis(20);

/// Where `60-dpsr.rules` reads the further links of a node, in a file called like its UUID.
const LINKS: &str = "/run/dpsr/links";

/// Who wants a primary wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody who will look for the links at once: udev is asked for the disk's, and waited for.
    Command,
    /// udev itself, in the disk's own event: it cannot be waited for, and does not know the disk yet. These
    /// are the disk's links as its rules have them so far (`DEVLINKS`).
    Event(String),
}

/// Says which links below `/dev/disk/by-id` and `by-path` the nodes are to have: those of the raw disk, and
/// the same with `-partN`. udev's own rules make them only for disks of drivers they know.
pub fn announce(
    id: &DiskId,
    raw: &BlockNode,
    wwn: Option<&str>,
    parts: impl Iterator<Item = u32>,
    caller: &Caller,
) -> std::io::Result<()> {
    let mut links = match caller {
        Caller::Command => links_of(raw.number),
        Caller::Event(links) => lasting(links),
    };
    // The rules that make it come later in the same event.
    links.extend(array_link(wwn).filter(|link| !links.contains(link)));
    tell(id, &links, parts)
}

/// The same for a disk that is only copied: of its links there is the one for which an initramfs waits that was told to
/// start an array. (`rd.md.uuid` in dracut.cmdline(7))
pub fn announce_copy(
    id: &DiskId,
    wwn: Option<&str>,
    parts: impl Iterator<Item = u32>,
) -> std::io::Result<()> {
    tell(id, array_link(wwn).as_slice(), parts)
}

fn array_link(wwn: Option<&str>) -> Option<String> {
    named_array(wwn).map(|uuid| format!("disk/by-id/md-uuid-{uuid}"))
}

fn tell(id: &DiskId, links: &[String], parts: impl Iterator<Item = u32>) -> std::io::Result<()> {
    if links.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(LINKS)?;
    write(&id.disk().uuid, links, "")?;
    for number in parts {
        write(&id.partition(number).uuid, links, &format!("-part{number}"))?;
    }
    Ok(())
}

/// Takes back what [`announce`] said.
pub fn forget(id: &DiskId) {
    for entry in fs::read_dir(LINKS).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(uuid) = name.to_str() else { continue };
        if uuid == id.disk().uuid || id.part_number(uuid).is_some() {
            let _gone = fs::remove_file(entry.path());
        }
    }
}

fn write(uuid: &str, links: &[String], suffix: &str) -> std::io::Result<()> {
    let words: Vec<_> = links.iter().map(|link| format!("{link}{suffix}")).collect();
    fs::write(Path::new(LINKS).join(uuid), format!("DPSR_LINKS=\"{}\"\n", words.join(" ")))
}

fn links_of(number: DevNum) -> Vec<String> {
    let Some(device) = device(number) else { return Vec::new() };
    lasting(device.property_value("DEVLINKS").and_then(OsStr::to_str).unwrap_or_default())
}

/// Those of a list of links that tell a disk, not what is on it.
fn lasting(links: &str) -> Vec<String> {
    let links = links.split(' ').filter_map(|link| link.strip_prefix("/dev/"));
    let lasting = |link: &&str| link.starts_with("disk/by-id/") || link.starts_with("disk/by-path/");
    links.filter(lasting).map(str::to_owned).collect()
}

/// Waits until udev has dealt with all of `nodes`. `false` where it did not, or not in time.
pub fn settled(nodes: &[&Mapped]) -> bool {
    settles(|| nodes.iter().all(|node| known(node)))
}

/// Waits until udev has dealt with the partition nodes of a disk.
pub fn settled_partitions(raw: &BlockNode) -> bool {
    settles(|| raw.partitions().iter().all(|node| device(node.number).is_some_and(|it| it.is_initialized())))
}

fn settles(done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    let mut idle_since = start;
    while !done() {
        if busy() {
            idle_since = Instant::now();
        }
        if start.elapsed() > DEADLINE || idle_since.elapsed() > IDLE {
            return false;
        }
        sleep(GLANCE);
    }
    true
}

/// The rules of device-mapper say so only of a node whose table is active: an event before that one makes no
/// links.
fn known(node: &Mapped) -> bool {
    let Some(device) = device(node.number) else { return false };
    let is = |key: &str, value: &str| device.property_value(key).and_then(OsStr::to_str) == Some(value);
    is("DM_UUID", &node.name.uuid) && is("DM_UDEV_PRIMARY_SOURCE_FLAG", "1")
}

/// Waits until udev has no events left, but not for long.
pub fn idle() {
    let start = Instant::now();
    while busy() && start.elapsed() < DEADLINE {
        sleep(GLANCE);
    }
}

/// udevd keeps this file while it has events left.
fn busy() -> bool {
    PathBuf::from("/run/udev/queue").exists()
}

fn device(number: DevNum) -> Option<udev::Device> {
    udev::Device::from_devnum(udev::DeviceType::Block, makedev(number.major, number.minor)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_what_is_on_a_disk_are_not_its_own() {
        let links =
            "/dev/disk/by-diskseq/1 /dev/disk/by-id/virtio-a /dev/disk/by-uuid/1 /dev/disk/by-path/pci-0";
        assert_eq!(lasting(links), ["disk/by-id/virtio-a", "disk/by-path/pci-0"]);
        assert!(lasting("").is_empty());
    }
}
