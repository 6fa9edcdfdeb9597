// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ESP of the proven DPSR disk, mounted where nobody else sees it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::fat::{self, VolumeId};
use crate::disk::ReadDisk;
use crate::error::{Error, Kind, Result};
use crate::open::OpenStore;
use crate::pair::sysfs::{BlockNode, Roots};
use crate::sys::partition;
use crate::units::{Bytes, SECTOR};

/// Where it is mounted, in a mount namespace of this process alone.
const AT: &str = "/run/dpsr/esp";
/// How long udev may take to show a partition again after its table or its head was written.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is left to udev before the kernel is told to read the table.
const UDEV: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(50);

/// Whether files of the ESP are only looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing is written, not even a mark that it was mounted.
    Read,
    /// Files are made and removed.
    Write,
}

/// A mounted ESP; dropping it unmounts it.
pub struct Esp {
    /// The number of its filesystem.
    pub id: VolumeId,
    /// Its partition.
    pub node: BlockNode,
}

impl Esp {
    /// Mounts the ESP of `store`, whose lock the caller holds meanwhile. `None` where dpsr made none yet.
    pub fn mount(store: &OpenStore, access: Access) -> Result<Option<Self>> {
        let range = store.dpsr.store.esp.clone().ok_or_else(|| none(store))?;
        let Some(id) = fat::read(store.dpsr.as_ref(), &range)? else { return Ok(None) };
        let node = node(store, range.start)?;
        private()?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let flags = if access == Access::Read { flags | MsFlags::MS_RDONLY } else { flags };
        let options = "umask=0077,shortname=mixed,errors=remount-ro";
        let mounted = mount(Some(&node.path()), AT, Some("vfat"), flags, Some(options));
        mounted.map_err(|error| {
            let shown = node.path().display().to_string();
            Error::device("mounting the ESP", shown, &error.into()).next("the kernel log tells more")
        })?;
        Ok(Some(Self { id, node }))
    }

    /// The directory in which its files are.
    pub fn path(&self) -> &'static Path {
        Path::new(AT)
    }

    /// The number of its partition.
    pub fn number(&self) -> Option<u32> {
        self.node.attr("partition").and_then(|number| number.parse().ok())
    }

    /// How many bytes are free.
    pub fn free(&self) -> Result<Bytes> {
        let room = nix::sys::statvfs::statvfs(AT);
        let room = room.map_err(|error| Error::device("looking at the ESP", AT, &error.into()))?;
        Ok(Bytes(room.blocks_available() * room.fragment_size()))
    }
}

impl Drop for Esp {
    fn drop(&mut self) {
        if let Err(error) = umount2(AT, MntFlags::empty()) {
            tracing::warn!("unmounting {AT}: {error}, ignoring: it goes with this process");
        }
    }
}

/// Gives this thread and what it starts a view of mounts of their own, and makes the mount point. However the
/// process ends, the mount goes with it.
fn private() -> Result<()> {
    let failed = |error: std::io::Error| Error::new(Kind::Internal, "mounting the ESP", error.to_string());
    DirBuilder::new().recursive(true).mode(0o700).create(AT).map_err(failed)?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed(error.into()))?;
    let none: Option<&str> = None;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(none, "/", none, slave, none).map_err(|error| failed(error.into()))
}

/// Makes the kernel's nodes as the table says; it refuses while a partition is open, and then they are there.
fn reread(store: &OpenStore) {
    let Some(descriptor) = store.dpsr.descriptor() else { return };
    if let Err(error) = partition::reread(&descriptor) {
        tracing::debug!("reading the table of {} anew: {error}, ignoring", store.dpsr.probe.name());
    }
}

/// The kernel's node of the partition that begins at `start`, by the number of the proven disk.
fn node(store: &OpenStore, start: Bytes) -> Result<BlockNode> {
    let roots = Roots::default();
    let since = Instant::now();
    let mut asked = since;
    loop {
        let disk = store.dpsr.probe.node(&roots);
        let begins = |node: &BlockNode| {
            let sector: Option<u64> = node.attr("start").and_then(|start| start.parse().ok());
            sector.map(|sector| Bytes(sector * SECTOR)) == Some(start)
        };
        let found = disk.and_then(|disk| disk.partitions().into_iter().find(begins));
        match found.filter(|node| fs::metadata(node.path()).is_ok()) {
            Some(node) => return Ok(node),
            None if since.elapsed() < PATIENCE => {
                // udev reads no table anew while the disk is locked, as it is now.
                if asked.elapsed() > UDEV {
                    asked = Instant::now();
                    reread(store);
                }
                sleep(GLANCE);
            }
            None => {
                let why = "the kernel knows no such partition";
                return Err(Error::new(Kind::Refused, "mounting the ESP of", why)
                    .on(store.dpsr.probe.name())
                    .left("nothing was written")
                    .next("attach the DPSR disk as a device with its partitions"));
            }
        }
    }
}

pub fn none(store: &OpenStore) -> Error {
    Error::new(Kind::Refused, "looking for the ESP of", "it was laid out without one")
        .on(store.dpsr.probe.name())
        .left("nothing was written")
        .next("pair anew with 'dpsr init' without --no-boot")
}
