// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who holds a device that could not be claimed. The kernel says only "busy"; a person needs a name.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc::EBUSY;

use super::chain::with_btrfs_members;
use super::inuse::{Use, device_uses};
use super::lock::told;
use super::mounts::mounted;
use super::sysfs::{BlockNode, DevNum, Roots};
use crate::disk::file::{Access, FileDisk};
use crate::error::{Error, Kind, Result};

/// How long a claim without a claimant is waited for: that of a killed process stays until the kernel is
/// done with its last transfers.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(50);

/// Opens a disk; where another one has claimed it, the error says who.
pub fn open(roots: &Roots, path: &Path, access: Access) -> Result<FileDisk> {
    let since = Instant::now();
    loop {
        let error = match FileDisk::open(path, access) {
            Ok(disk) => return Ok(disk),
            Err(error) => error,
        };
        let number = fs::metadata(path).ok().filter(|meta| meta.file_type().is_block_device());
        let node = number.and_then(|meta| roots.node(DevNum::of(meta.rdev())));
        let Some(node) = node.filter(|_| error.errno() == Some(EBUSY)) else { return Err(error) };
        match claimant(roots, &node) {
            None if since.elapsed() < PATIENCE => sleep(RETRY),
            who => return Err(claimed(path, who)),
        }
    }
}

/// Who has claimed a device, as far as that can be found out.
enum Claimant {
    /// A mount, a device on top, swap.
    Use(Use),
    /// A process that has it open.
    Process(String),
}

fn claimant(roots: &Roots, node: &BlockNode) -> Option<Claimant> {
    let usage = device_uses(roots, node).into_iter().next().or_else(|| elsewhere(roots, node));
    usage.map(Claimant::Use).or_else(|| opener(roots, node).map(Claimant::Process))
}

fn claimed(path: &Path, who: Option<Claimant>) -> Error {
    let (kind, why, next) = match who {
        Some(Claimant::Use(usage)) => (Kind::Refused, usage.to_string(), "stop that use first"),
        Some(Claimant::Process(who)) => {
            (Kind::Busy, format!("{who} has it open"), "wait until it has ended, or stop it")
        }
        None => (Kind::Refused, "somebody holds it".to_owned(), "unmount it, or stop what else holds it"),
    };
    Error::new(kind, "opening", why).on(path.display().to_string()).left("nothing was written").next(next)
}

/// Who uses a device that nobody of this mount namespace has mounted: another one has, or a process has it
/// open.
pub fn user(roots: &Roots, node: &BlockNode) -> Option<String> {
    let mounted = elsewhere(roots, node).map(|usage| usage.to_string());
    mounted.or_else(|| opener(roots, node).map(|who| format!("{who} has it open")))
}

/// Every process by its directory, except this one.
fn processes(roots: &Roots) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(&roots.proc).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    let me = std::process::id().to_string();
    named.filter(|(pid, _)| *pid != me && pid.bytes().all(|digit| digit.is_ascii_digit())).collect()
}

/// A mount of the disk, or of a partition of it, in another mount namespace.
fn elsewhere(roots: &Roots, node: &BlockNode) -> Option<Use> {
    let disk = node.disk();
    let members: Vec<_> = disk.partitions().into_iter().chain([disk]).map(|member| member.number).collect();
    let mut seen = BTreeSet::new();
    for (pid, dir) in processes(roots) {
        let space = fs::read_link(dir.join("ns/mnt")).ok();
        if space.is_some_and(|space| !seen.insert(space)) {
            continue;
        }
        for mount in mounted(roots, &dir.join("mountinfo")) {
            let mut under = with_btrfs_members(roots, mount.node).into_iter();
            if let Some(node) = under.find(|node| members.contains(&node.number)) {
                let at = format!("{} for {}", mount.at, told(roots, &pid));
                return Some(Use::Mounted { device: node.label(), at });
            }
        }
    }
    None
}

/// A process that has the device open under a name below `/dev`. Other names are not looked at: they may
/// lie on a filesystem that hangs.
pub fn opener(roots: &Roots, node: &BlockNode) -> Option<String> {
    let has = |dir: &Path| {
        let open = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
        let mut named = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        named.any(|name| {
            let meta = name.starts_with(&roots.dev).then(|| fs::metadata(&name).ok()).flatten();
            meta.is_some_and(|meta| {
                meta.file_type().is_block_device() && DevNum::of(meta.rdev()) == node.number
            })
        })
    };
    let (pid, _) = processes(roots).into_iter().find(|(_, dir)| has(dir))?;
    Some(told(roots, &pid))
}
