// SPDX-License-Identifier: MIT OR Apache-2.0
//! Through which device the kernel reads the store.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::scratch::{attached, number};
use super::tables::Base;
use crate::disk::ReadDisk;
use crate::error::{Error, Result};
use crate::pair::inuse::backing_inode;
use crate::pair::open::Dpsr;
use crate::pair::probe::Kind;
use crate::pair::sysfs::{BlockNode, DevNum, Roots};
use crate::sys::loops::Loop;
use crate::units::{Bytes, SECTOR};

/// How long the kernel's node of the store partition may be away: udev lets the kernel read a table again
/// when somebody has written to the disk.
const AWAY: Duration = Duration::from_secs(3);
const GLANCE: Duration = Duration::from_millis(20);

/// A device to build on, which stays while this is held; for an image file a loop device, which stays while
/// anything is built on it.
pub struct Held {
    /// The device.
    pub base: Base,
    _loop: Option<Loop>,
    /// The kernel reads no table again while a partition is open.
    _partition: Option<File>,
}

impl Held {
    /// The store partition, where the kernel has a node for it: what is built on a device claims it, and the
    /// other partitions of the DPSR disk stay free. Otherwise the whole disk.
    pub fn of(roots: &Roots, dpsr: &Dpsr) -> Result<Self> {
        if dpsr.probe.kind == Kind::File {
            return Self::over_file(dpsr);
        }
        let node = dpsr.probe.node(roots).ok_or_else(|| gone(dpsr))?;
        let (base, partition) = match partition(dpsr, &node) {
            Some((partition, open)) => {
                (Base { device: partition, start: dpsr.store.range.start }, Some(open))
            }
            None => (Base { device: node.number, start: Bytes::ZERO }, None),
        };
        Ok(Self { base, _loop: None, _partition: partition })
    }

    /// Opened anew: the descriptor there is may go around the cache, which not every filesystem lets a loop
    /// device do.
    fn over_file(dpsr: &Dpsr) -> Result<Self> {
        let descriptor = dpsr.descriptor().ok_or_else(|| gone(dpsr))?;
        let file = File::open(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        let file = file.map_err(|error| Error::device("opening", dpsr.name(), &error))?;
        let device = attached(&file, false)?;
        let base = Base { device: number(&device)?, start: Bytes::ZERO };
        Ok(Self { base, _loop: Some(device), _partition: None })
    }
}

/// Whether `node`, on which something was built earlier, reads the store of this DPSR disk.
pub fn reads(roots: &Roots, dpsr: &Dpsr, node: &BlockNode) -> bool {
    match dpsr.probe.kind {
        Kind::File => backing_inode(node).is_some() && backing_inode(node) == dpsr.probe.inode,
        Kind::Block => dpsr.probe.node(roots).is_some_and(|disk| node.disk().number == disk.number),
    }
}

/// The kernel's node of the store partition, opened.
fn partition(dpsr: &Dpsr, disk: &BlockNode) -> Option<(DevNum, File)> {
    let deadline = Instant::now() + AWAY;
    loop {
        let node = disk.partitions().into_iter().find(|node| is_store(dpsr, node));
        if let Some((node, open)) = node.and_then(|node| node.open().map(|open| (node.number, open))) {
            return Some((node, open));
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(GLANCE);
    }
}

fn is_store(dpsr: &Dpsr, node: &BlockNode) -> bool {
    let sectors = |name: &str| node.attr(name)?.parse::<u64>().ok()?.checked_mul(SECTOR);
    let range = &dpsr.store.range;
    (sectors("start"), sectors("size")) == (Some(range.start.0), Some((range.end - range.start).0))
}

fn gone(dpsr: &Dpsr) -> Error {
    let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
    Error::device("looking for", dpsr.name(), &gone)
}
