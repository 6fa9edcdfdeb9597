// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking at the reserve of a pair, whether its filesystem is mounted or not.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::NAME;
use super::file::{Reserve, check};
use super::place::lies_on;
use crate::error::{Error, Kind, Result};
use crate::pair::probe::Probe;
use crate::pair::sysfs::{DevNum, Roots};
use crate::pair::volumes::{Volume, Volumes};
use crate::sys::loops::Loop;
use crate::units::{Bytes, SECTOR};

const LOOKING: &str = "looking at the reserve of";

/// Checks the reserve of a primary in use.
pub fn mounted(roots: &Roots, primary: &Probe, volumes: &Volumes, reserve: &Reserve) -> Result<()> {
    let volume = volume(primary, volumes, reserve)?;
    check(roots, volume, reserve, &reserve.path, |mount| lies_on(roots, primary, volume, mount))
}

/// Checks the reserve of a primary nobody uses: mounts its filesystem for a moment, through a device
/// that cannot be written.
pub fn unmounted(roots: &Roots, primary: &Probe, volumes: &Volumes, reserve: &Reserve) -> Result<()> {
    let volume = volume(primary, volumes, reserve)?;
    let failed =
        |error: std::io::Error| Error::device(LOOKING, primary.name(), &error).left("nothing was written");
    let directory = tempfile::tempdir().map_err(failed)?;
    let mounted = Mounted::new(&node(roots, primary, volume)?, directory.path())?;
    let device = DevNum::of(mounted.device.number().map_err(failed)?);
    check(roots, volume, reserve, &directory.path().join(NAME), |mount| mount.node.number == device)
}

fn volume<'a>(primary: &Probe, volumes: &'a Volumes, reserve: &Reserve) -> Result<&'a Volume> {
    volumes.iter().find(|volume| volume.id == reserve.volume).ok_or_else(|| {
        Error::new(Kind::Refused, LOOKING, "the volume it was made on is gone")
            .on(primary.name())
            .left("the last generation is intact")
            .next("pair anew with 'dpsr init --reserve'")
    })
}

/// The node of a volume.
fn node(roots: &Roots, primary: &Probe, volume: &Volume) -> Result<PathBuf> {
    let disk = primary.node(roots);
    let found = disk.and_then(|disk| {
        let here = |node: &crate::pair::sysfs::BlockNode| {
            node.attr("start").and_then(|start| start.parse().ok()).map(|start: u64| Bytes(start * SECTOR))
        };
        match volume.number {
            0 => Some(disk),
            _ => disk.partitions().into_iter().find(|node| here(node) == Some(volume.range.start)),
        }
    });
    found.map(|node| node.path()).ok_or_else(|| {
        Error::new(Kind::Refused, LOOKING, "the kernel knows no such partition")
            .on(primary.name())
            .left("nothing was written")
            .next("attach it as a device with its partitions")
    })
}

/// A filesystem that is mounted as long as this lives, through a device that cannot be written. One whose
/// journal is to be replayed cannot be mounted so, and that is right: what it says of a file may be long past.
struct Mounted<'a> {
    at: &'a Path,
    device: Loop,
}

impl<'a> Mounted<'a> {
    fn new(node: &Path, at: &'a Path) -> Result<Self> {
        let name = node.display().to_string();
        let failed = |error: io::Error| Error::device(LOOKING, &name, &error).left("nothing was written");
        let device = Loop::over(&File::open(node).map_err(failed)?, false).map_err(failed)?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let with = |kind: &str| mount(Some(device.path()), at, Some(kind), flags, None::<&str>);
        // What is no XFS says so in a way of its own; the answer of ext4 is the one to tell then.
        let mounted = with("xfs").or_else(|first| match first {
            Errno::EROFS => Err(first),
            _ => with("ext4"),
        });
        match mounted {
            Ok(()) => Ok(Self { at, device }),
            Err(Errno::EROFS) => Err(Error::new(
                Kind::Refused,
                LOOKING,
                "its filesystem was not unmounted, and has to be replayed",
            )
            .on(name)
            .left("the last generation is intact")
            .next("mount and unmount it once")),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(errno) = umount2(self.at, MntFlags::MNT_DETACH) {
            tracing::warn!("unmounting {}: {errno}, ignoring: it is read-only", self.at.display());
        }
    }
}
