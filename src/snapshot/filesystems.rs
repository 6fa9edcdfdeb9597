// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mounted filesystems of the primary: which of them freeze with their partition, and which by
//! themselves.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use nix::unistd::syncfs;

use super::deadline::within;
use crate::error::{Error, Kind, Result};
use crate::pair::chain::with_btrfs_members;
use crate::pair::mounts::{Mount, mounts};
use crate::pair::sysfs::{BlockNode, DevNum, Roots};
use crate::sys::statx;
use crate::wrap::Wrapped;

/// How long it may take to write out what is in memory. A slow disk may have gigabytes to take.
const WRITE_OUT: Duration = Duration::from_secs(300);

/// How deep devices are looked through: LVM on LUKS on MD on a partition on the disk is five.
const DEPTH: u32 = 16;

/// A mounted filesystem on the primary.
#[derive(Debug)]
pub struct Filesystem {
    /// Where it is mounted.
    pub at: String,
    /// A directory of it, open.
    pub file: File,
    /// Whether suspending the partition it lies on freezes it. The kernel finds the filesystem to freeze by
    /// the device number, so that one with a number of its own (btrfs) is not found, nor one on LVM or LUKS.
    pub with_partition: bool,
}

/// All of them, each once.
pub fn mounted(roots: &Roots, wrapped: &Wrapped) -> Result<Vec<Filesystem>> {
    let mut by_filesystem: Vec<(DevNum, Vec<Mount>)> = Vec::new();
    for mount in mounts(roots).into_iter().filter(|mount| is_on(roots, mount, wrapped)) {
        match by_filesystem.iter_mut().find(|(number, _)| *number == mount.filesystem) {
            Some((_, same)) => same.push(mount),
            None => by_filesystem.push((mount.filesystem, vec![mount])),
        }
    }
    by_filesystem.into_iter().map(|(number, mounts)| open(number, &mounts, wrapped)).collect()
}

/// Whether any part of a mounted filesystem lies on the primary.
pub fn is_on(roots: &Roots, mount: &Mount, wrapped: &Wrapped) -> bool {
    with_btrfs_members(roots, mount.node.clone()).iter().any(|node| lies_on(node, wrapped))
}

/// Whether a device is the disk, a kept partition, or built on one of them.
pub fn lies_on(node: &BlockNode, wrapped: &Wrapped) -> bool {
    reaches(node, wrapped, DEPTH)
}

fn reaches(node: &BlockNode, wrapped: &Wrapped, depth: u32) -> bool {
    let directly = |number| number == wrapped.disk.number || is_partition(number, wrapped);
    directly(node.number) || depth > 0 && node.slaves().iter().any(|below| reaches(below, wrapped, depth - 1))
}

fn is_partition(number: DevNum, wrapped: &Wrapped) -> bool {
    wrapped.partitions.iter().any(|partition| partition.number == number)
}

/// Opens a filesystem by any of its mounts that is not hidden below another one.
fn open(number: DevNum, mounts: &[Mount], wrapped: &Wrapped) -> Result<Filesystem> {
    let with_partition = number == wrapped.disk.number || is_partition(number, wrapped);
    for mount in mounts {
        let plain = fs::symlink_metadata(&mount.at).is_ok_and(|meta| meta.is_dir() || meta.is_file());
        if !plain {
            continue;
        }
        let Ok(file) = File::open(Path::new(&mount.at)) else { continue };
        if statx::mount_id(&file).is_none_or(|id| id == mount.id) {
            return Ok(Filesystem { at: mount.at.clone(), file, with_partition });
        }
    }
    let at = mounts.first().map_or_else(String::new, |mount| mount.at.clone());
    let why = "no directory of it can be opened, or another one is mounted over it";
    Err(Error::new(Kind::Refused, "freezing the filesystem at", why).on(at).next("unmount what hides it"))
}

/// Writes out what each has in memory; how long that took.
pub fn write_out(filesystems: &[Filesystem]) -> Result<Duration> {
    let start = std::time::Instant::now();
    for filesystem in filesystems {
        let doing = format!("writing out the filesystem at {}", filesystem.at);
        let failed =
            |error: std::io::Error| Error::device("writing out the filesystem at", &filesystem.at, &error);
        let file = filesystem.file.try_clone().map_err(failed)?;
        let done = within(WRITE_OUT, &doing, move || syncfs(&file))?;
        done.map_err(|error| failed(error.into()))?;
    }
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::Mapped;
    use crate::units::Bytes;
    use crate::wrap::{DiskId, Under};

    /// mountinfo names the partition on the other disk.
    #[test]
    fn a_filesystem_with_one_of_its_disks_here_is_on_the_primary() {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/golden/08-root-on-two-btrfs-disks");
        let roots = Roots { sys: root.join("sys"), proc: root.join("proc"), dev: root.join("dev") };
        let id = DiskId("0fc63daf-8483-4772-8e79-3d69d8477de4".into());
        let wrapped = |part: &str| {
            let mapped = |number, name| Mapped { number, name };
            let none = DevNum { major: 253, minor: 0 };
            Wrapped {
                raw: none,
                size: Bytes(4096),
                disk: mapped(none, id.disk()),
                under: Under::Raw,
                left_out: vec![],
                partitions: vec![mapped(roots.named(part).unwrap().number, id.partition(1))],
                id: id.clone(),
            }
        };
        let all = mounts(&roots);
        let mount = all.iter().find(|mount| mount.at == "/").unwrap();
        let on = ["sda1", "sda2", "sdb1", "sdb2"].map(|part| is_on(&roots, mount, &wrapped(part)));
        assert_eq!(on, [false, true, true, false]);
    }
}
