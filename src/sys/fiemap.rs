// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the bytes of a file lie on its filesystem's device, and whether the file may change; numbers and
//! layouts from `linux/fiemap.h` and `linux/fs.h`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc::c_long;
use nix::{ioctl_read_bad, ioctl_readwrite_bad, ioctl_write_ptr_bad, request_code_read, request_code_write};

/// How many extents one call tells of.
const BATCH: usize = 128;

/// `FIEMAP_FLAG_SYNC`: what waits for its place gets it first.
const SYNC: u32 = 1;
/// `FIEMAP_EXTENT_LAST`.
const LAST: u32 = 0x1;
/// `FIEMAP_EXTENT_UNWRITTEN` and `_MERGED`: neither says anything against the place.
const HARMLESS: u32 = LAST | 0x800 | 0x1000;

/// `FS_IMMUTABLE_FL`.
const IMMUTABLE: c_long = 0x10;
/// `FS_XFLAG_REALTIME`.
const REALTIME: u32 = 0x1;

/// One stretch of a file; bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent {
    /// Where in the file.
    pub at: u64,
    /// Where on the device.
    pub device: u64,
    /// How long.
    pub len: u64,
    /// Whether its bytes lie there plainly and nobody else's do.
    pub plain: bool,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` with its extents.
#[repr(C)]
pub struct RawMap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [RawExtent; BATCH],
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
pub struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

mod number {
    use super::{Attributes, RawMap, c_long};
    use super::{ioctl_read_bad, ioctl_readwrite_bad, ioctl_write_ptr_bad};
    use super::{request_code_read, request_code_write};

    // FS_IOC_FIEMAP counts only the head of its structure: 32 bytes.
    ioctl_readwrite_bad! { fiemap, nix::request_code_readwrite!(b'f', 11, 32), RawMap }
    ioctl_read_bad! { get_flags, request_code_read!(b'f', 1, size_of::<c_long>()), c_long }
    ioctl_write_ptr_bad! { set_flags, request_code_write!(b'f', 2, size_of::<c_long>()), c_long }
    ioctl_read_bad! { get_attributes, request_code_read!(b'X', 31, size_of::<Attributes>()), Attributes }
}

/// Where the bytes of a file lie, in the order of the file.
pub fn extents(file: &File) -> io::Result<Vec<FileExtent>> {
    let mut found = Vec::new();
    let mut start = 0;
    loop {
        let mut map = RawMap {
            start,
            length: u64::MAX - start,
            flags: SYNC,
            mapped: 0,
            count: BATCH as u32,
            reserved: 0,
            extents: [RawExtent::default(); BATCH],
        };
        // SAFETY: the kernel reads the head and writes at most `count` extents, for which there is room.
        unsafe { number::fiemap(file.as_raw_fd(), &mut map) }?;
        let extents = &map.extents[..(map.mapped as usize).min(BATCH)];
        found.extend(extents.iter().map(|raw| FileExtent {
            at: raw.logical,
            device: raw.physical,
            len: raw.length,
            plain: raw.flags & !HARMLESS == 0,
        }));
        match extents.last() {
            Some(last) if last.flags & LAST == 0 => start = last.logical + last.length,
            _ => return Ok(found),
        }
    }
}

/// Whether nobody may write, rename or remove a file.
pub fn is_immutable(file: &File) -> io::Result<bool> {
    Ok(flags(file)? & IMMUTABLE != 0)
}

/// Makes a file one that nobody may write, rename or remove, or lets them.
pub fn set_immutable(file: &File, immutable: bool) -> io::Result<()> {
    let others = flags(file)? & !IMMUTABLE;
    let flags = if immutable { others | IMMUTABLE } else { others };
    // SAFETY: the kernel reads one word from the pointer.
    unsafe { number::set_flags(file.as_raw_fd(), &flags) }?;
    Ok(())
}

fn flags(file: &File) -> io::Result<c_long> {
    // The kernel writes four bytes of it.
    let mut flags: c_long = 0;
    // SAFETY: the kernel writes at most one word to the pointer.
    unsafe { number::get_flags(file.as_raw_fd(), &mut flags) }?;
    Ok(flags)
}

/// Whether a file lies on the realtime device of an XFS, where places mean another disk.
pub fn is_realtime(file: &File) -> io::Result<bool> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes one struct fsxattr to the pointer.
    unsafe { number::get_attributes(file.as_raw_fd(), &mut attributes) }?;
    Ok(attributes.flags & REALTIME != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laid_out_as_the_kernel_has_them() {
        assert_eq!(size_of::<RawExtent>(), 56);
        assert_eq!(std::mem::offset_of!(RawMap, extents), 32);
        assert_eq!(size_of::<Attributes>(), 28);
    }
}
