// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own partition nodes of the primary: taken away while it is wrapped, for nobody may reach a
//! partition by a way that leads past device-mapper, and brought back afterwards.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Error, Kind, Result};
use crate::pair::holder::opener;
use crate::pair::sysfs::{BlockNode, Roots};
use crate::sys::partition;
use crate::units::{Bytes, SECTOR};

/// How long a partition may stay open.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long udev may look at a partition that has just appeared.
const PATIENCE_WITH_UDEV: Duration = Duration::from_secs(5);

/// How long the kernel may refuse to read the table again.
const REREAD: Duration = Duration::from_secs(3);

const RETRY: Duration = Duration::from_millis(20);

/// A partition by its number and place.
pub type Place = (u32, Range<Bytes>);

/// The partition nodes there are. An extended partition is told shorter than it is, which is how the kernel
/// makes its node.
pub fn places(raw: &BlockNode) -> Vec<Place> {
    raw.partitions().iter().filter_map(place).collect()
}

/// Takes away all partition nodes of the disk `raw`, which `device` has open. Where one stays busy, those
/// that went before it are to be [put back](put_back).
pub fn delete_all(roots: &Roots, raw: &BlockNode, device: &impl AsFd) -> Result<()> {
    let start = Instant::now();
    for node in raw.partitions().iter().rev() {
        let Some(number) = node.partition() else { continue };
        let delete = |deadline| until(deadline, || partition::delete(device, number));
        let mut deleted = delete(start + PATIENCE);
        if deleted.is_err() && opener(roots, node).is_none_or(|who| who.contains("udev")) {
            deleted = delete(start + PATIENCE_WITH_UDEV);
        }
        deleted.map_err(|error| busy(roots, node, &error))?;
    }
    Ok(())
}

/// Makes the partition nodes of the disk `raw` as its table says; by `places`, where the kernel will not read
/// that now. A disk on which the kernel looks for no partitions has none, and needs none.
pub fn reread(raw: &BlockNode, device: &impl AsFd, places: &[Place]) -> Result<()> {
    match until(Instant::now() + REREAD, || partition::reread(device)) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(()),
        Err(_) => put_back(raw, device, places),
    }
}

/// Makes the nodes of those `places` that have none, whatever else is open.
pub fn put_back(raw: &BlockNode, device: &impl AsFd, places: &[Place]) -> Result<()> {
    for (number, range) in places {
        if let Err(error) = partition::add(device, *number, range)
            && missing(raw, *number)
        {
            let failed = Error::device(format!("bringing back partition {number} of"), &raw.name, &error);
            return Err(failed.next("bring it back with partprobe, or restart the machine"));
        }
    }
    Ok(())
}

fn place(node: &BlockNode) -> Option<Place> {
    let sectors = |attr: &str| Some(Bytes(node.attr(attr)?.parse::<u64>().ok()?.checked_mul(SECTOR)?));
    let start = sectors("start")?;
    Some((node.partition()?, start..start + sectors("size")?))
}

fn missing(raw: &BlockNode, number: u32) -> bool {
    raw.partitions().iter().all(|node| node.partition() != Some(number))
}

/// Repeats what answers `EBUSY`.
fn until(deadline: Instant, act: impl Fn() -> io::Result<()>) -> io::Result<()> {
    loop {
        match act() {
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && Instant::now() < deadline => {
                sleep(RETRY);
            }
            Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => return Ok(()),
            outcome => return outcome,
        }
    }
}

fn busy(roots: &Roots, node: &BlockNode, error: &io::Error) -> Error {
    let doing = "taking away the kernel's partition node";
    if error.raw_os_error() != Some(Errno::EBUSY as i32) {
        return Error::device(doing, &node.name, error);
    }
    let who = opener(roots, node).unwrap_or_else(|| "somebody".to_owned());
    Error::new(Kind::Busy, doing, format!("{who} has it open"))
        .on(&node.name)
        .next("wait until that has ended, or stop it")
}
