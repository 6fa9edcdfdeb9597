// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the pre-images of the primary go while its snapshot is read (the kernel's word is COW device).
//!
//! A block device over memory or over a file is visible to whatever probes block devices, and the first
//! pre-image may well be a superblock. So pre-images lie behind a band that is never written: no prober looks
//! that far in.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::filesystems::{is_on, lies_on};
use crate::error::{Error, Kind, Result};
use crate::pair::mounts::mounts;
use crate::pair::sysfs::{DevNum, Roots};
use crate::sys::loops::Loop;
use crate::sys::memory::{self, Locked};
use crate::sys::{ioctl, statx};
use crate::units::{Bytes, KIB, MIB};
use crate::wrap::Wrapped;

/// Where pre-images go, and how many bytes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cow {
    /// Into locked memory.
    Memory(Bytes),
    /// Into a file that does not lie on the primary. It is made if it is not there, and empty afterwards.
    Path(PathBuf, Bytes),
    /// Into stretches, of whole sectors, of a block device that does not lie on the primary. **If it hangs, writes
    /// to the primary hang with it**, and nothing can free them.
    Device(DevNum, Vec<Range<Bytes>>),
}

impl Cow {
    /// Refuses what memory has no room for, before anything else is begun.
    pub fn check(&self, roots: &Roots) -> Result<()> {
        match self {
            Self::Memory(size) => check_memory(*size, available(&meminfo(roots))),
            Self::Path(..) | Self::Device(..) => Ok(()),
        }
    }

    /// How many bytes.
    pub fn size(&self) -> Bytes {
        match self {
            Self::Memory(size) | Self::Path(_, size) => *size,
            Self::Device(_, parts) => {
                parts.iter().fold(Bytes::ZERO, |size, part| size + (part.end - part.start))
            }
        }
    }
}

/// Signature probers look at the first 4 MiB and at the last few hundred KiB of a device.
const HEAD: Bytes = Bytes(8 * MIB);
const TAIL: Bytes = Bytes(4 * MIB);

/// What stays available to everybody else when memory is taken for pre-images.
pub const SPARE: Bytes = Bytes(128 * MIB);

/// Room for pre-images that was prepared.
pub struct Place {
    /// The device.
    pub device: DevNum,
    /// Where on it.
    pub parts: Vec<Range<Bytes>>,
    /// Keeps a loop device until something is built on it.
    #[expect(dead_code, reason = "held for its drop")]
    device_file: Option<File>,
}

/// What has to stay for as long as the room is used.
pub enum Kept {
    /// Pages that are not swapped out.
    Memory(Locked),
    /// A file that is emptied when dropped.
    File(File, PathBuf),
    /// Nothing.
    Nothing,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Self::File(file, path) = self
            && let Err(error) = file.set_len(0)
        {
            tracing::warn!("emptying {}: {error}, ignoring: it only takes room", path.display());
        }
    }
}

impl Cow {
    /// Prepares the room; all of it is allocated when this returns.
    pub fn prepare(&self, roots: &Roots, wrapped: &Wrapped) -> Result<(Place, Kept)> {
        match self {
            Self::Memory(size) => in_memory(roots, *size),
            Self::Path(path, size) => in_file(roots, wrapped, path, *size),
            Self::Device(device, parts) => on_device(roots, wrapped, *device, parts),
        }
    }
}

fn in_memory(roots: &Roots, size: Bytes) -> Result<(Place, Kept)> {
    check_memory(size, available(&meminfo(roots)))?;
    let failed = |error: io::Error| {
        Error::device("taking memory for pre-images", "", &error)
            .next("set cow_size to less, or cow to a path")
    };
    let file = memory::file("dpsr-cow").map_err(failed)?;
    allocate(&file, size).map_err(failed)?;
    let locked = Locked::pages(&file, HEAD, size).map_err(failed)?;
    Ok((over(&file, size)?, Kept::Memory(locked)))
}

/// What the kernel tells of memory; nothing where it cannot be read.
fn meminfo(roots: &Roots) -> String {
    fs::read_to_string(roots.proc.join("meminfo")).unwrap_or_default()
}

/// `MemAvailable` of `/proc/meminfo`: what can be had without swapping.
fn available(meminfo: &str) -> Option<Bytes> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| Bytes(kib * KIB))
}

fn check_memory(size: Bytes, available: Option<Bytes>) -> Result<()> {
    let available = available.unwrap_or_default();
    if size + SPARE <= available {
        return Ok(());
    }
    let why = format!("it takes {size} and leaves {SPARE} to others, but only {available} is available");
    let error = Error::new(Kind::NoRoom, "taking memory for pre-images", why);
    Err(error.left("nothing was frozen").next("set cow_size to less, or cow to a path on another disk"))
}

fn in_file(roots: &Roots, wrapped: &Wrapped, path: &Path, size: Bytes) -> Result<(Place, Kept)> {
    let name = path.display().to_string();
    let failed = |error: io::Error| Error::device("preparing the file for pre-images", &name, &error);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(failed)?;
    let refused = |why: &str| {
        Error::new(Kind::Refused, "preparing the file for pre-images", why)
            .on(&name)
            .left("nothing was frozen")
            .next("set cow to memory, or to a file elsewhere")
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(refused("it is no plain file"));
    }
    let mount = statx::mount_id(&file);
    if mounts(roots).iter().any(|it| Some(it.id) == mount && is_on(roots, it, wrapped)) {
        return Err(refused("it lies on the primary itself, whose writes would then wait for themselves"));
    }
    let kept = Kept::File(file.try_clone().map_err(failed)?, path.to_owned());
    file.set_len(0).and_then(|()| allocate(&file, size)).map_err(failed)?;
    Ok((over(&file, size)?, kept))
}

/// The bands around it stay holes.
fn allocate(file: &File, size: Bytes) -> io::Result<()> {
    file.set_len((HEAD + size + TAIL).0)?;
    memory::allocate(file, HEAD, size)
}

fn over(file: &File, size: Bytes) -> Result<Place> {
    let failed = |error: io::Error| Error::device("putting a loop device over the", "pre-images", &error);
    let device = Loop::over(file, true).map_err(failed)?.into_file();
    let number = DevNum::of(device.metadata().map_err(failed)?.rdev());
    Ok(Place { device: number, parts: vec![HEAD..HEAD + size], device_file: Some(device) })
}

fn on_device(
    roots: &Roots,
    wrapped: &Wrapped,
    device: DevNum,
    parts: &[Range<Bytes>],
) -> Result<(Place, Kept)> {
    let refused = |why: String| {
        Error::new(Kind::Refused, "preparing the device for pre-images", why)
            .on(device.to_string())
            .left("nothing was frozen")
            .next("set cow to memory")
    };
    let node = roots.node(device).ok_or_else(|| refused("there is no such device".into()))?;
    if device == wrapped.raw || lies_on(&node, wrapped) {
        return Err(refused("it lies on the primary itself".into()));
    }
    let there = node.open().and_then(|file| ioctl::size(&file).ok()).unwrap_or_default();
    if let Some(part) = parts.iter().find(|part| part.end > there) {
        return Err(refused(format!("it ends at {there}, and is asked for what reaches to {}", part.end)));
    }
    Ok((Place { device, parts: parts.to_vec(), device_file: None }, Kept::Nothing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available() {
        let text = "MemTotal:        1000 kB\nMemFree:  10 kB\nMemAvailable:     307200 kB\n";
        assert_eq!(available(text), Some(Bytes(300 * MIB)));
        assert_eq!(available("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn short_memory_is_told_with_both_numbers() {
        let error = check_memory(Bytes(256 * MIB), Some(Bytes(300 * MIB))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "taking memory for pre-images: it takes 256 MiB and leaves 128 MiB to others, but only 300 MiB is \
             available; nothing was frozen; set cow_size to less, or cow to a path on another disk"
        );
        assert_eq!(error.kind(), Kind::NoRoom);
        assert!(check_memory(Bytes(172 * MIB), Some(Bytes(300 * MIB))).is_ok());
        assert!(check_memory(Bytes(MIB), None).is_err(), "a machine that does not tell has none to give");
    }
}
