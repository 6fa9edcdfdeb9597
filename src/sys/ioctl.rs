// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the block layer says about an open device; numbers from `linux/fs.h`.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::c_int;

use super::loops;
use crate::units::Bytes;

mod number {
    use super::c_int;
    use nix::{ioctl_read, ioctl_read_bad, request_code_none, request_code_read};

    ioctl_read_bad! { get_size, request_code_read!(0x12, 114, size_of::<usize>()), u64 }
    ioctl_read! { get_diskseq, 0x12, 128, u64 }
    ioctl_read_bad! { get_logical, request_code_none!(0x12, 104), c_int }
    ioctl_read_bad! { get_read_only, request_code_none!(0x12, 94), c_int }
    ioctl_read_bad! { get_loop_status, 0x4c05, [u64; super::LOOP_WORDS] }
}

/// `BLKGETSIZE64`: the size of a block device. The number is made from size_t, the answer is a u64.
pub fn size(device: &impl AsFd) -> io::Result<Bytes> {
    let mut size = 0u64;
    // SAFETY: the kernel writes one u64 to the pointer.
    unsafe { number::get_size(device.as_fd().as_raw_fd(), &mut size) }?;
    Ok(Bytes(size))
}

/// `BLKSSZGET`: the logical block size, the finest unit of direct I/O.
pub fn logical_block(device: &impl AsFd) -> io::Result<Bytes> {
    let mut size: c_int = 0;
    // SAFETY: the kernel writes one int to the pointer.
    unsafe { number::get_logical(device.as_fd().as_raw_fd(), &mut size) }?;
    Ok(Bytes(u64::try_from(size).unwrap_or_default()))
}

/// `BLKGETDISKSEQ`: a number no other disk has had since boot; `None` before Linux 5.15.
pub fn disk_sequence(device: &impl AsFd) -> io::Result<Option<u64>> {
    let mut sequence = 0u64;
    // SAFETY: the kernel writes one u64 to the pointer.
    match unsafe { number::get_diskseq(device.as_fd().as_raw_fd(), &mut sequence) } {
        Ok(_) => Ok(Some(sequence)),
        Err(Errno::ENOTTY | Errno::EINVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `BLKROGET`: whether the kernel refuses writes to a block device.
pub fn read_only(device: &impl AsFd) -> io::Result<bool> {
    let mut flag: c_int = 0;
    // SAFETY: the kernel writes one int to the pointer.
    unsafe { number::get_read_only(device.as_fd().as_raw_fd(), &mut flag) }?;
    Ok(flag != 0)
}

/// `struct loop_info64` of `linux/loop.h` has 232 bytes; of use here are its first three words and the first of
/// the name.
const LOOP_WORDS: usize = 29;
const LOOP_NAME: usize = 7;

/// What lies behind a loop device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopBacking {
    /// Filesystem and inode of the file.
    pub file: (u64, u64),
    /// Where that file is a block device's node, the number of the device; else 0.
    pub device: u64,
    /// Whether this program made the loop device.
    pub ours: bool,
}

/// `LOOP_GET_STATUS64`: what lies behind a loop device; `None` for everything else. The kernel words numbers of
/// devices as libc does, as long as they have 32 bits.
pub fn loop_backing(device: &impl AsFd) -> Option<LoopBacking> {
    let mut status = [0u64; LOOP_WORDS];
    // SAFETY: the kernel writes one struct loop_info64, which has the size of the array, to the pointer.
    unsafe { number::get_loop_status(device.as_fd().as_raw_fd(), &mut status) }.ok()?;
    let ours = status[LOOP_NAME] == loops::NAME;
    Some(LoopBacking { file: (status[0], status[1]), device: status[2], ours })
}

/// Zeroes `range` of a block device, offloaded where the device can.
pub fn zero_range(device: &impl AsFd, range: &Range<Bytes>) -> io::Result<()> {
    allocate(device, FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE, range)
}

/// Frees `range` of a file, which then reads as zeros.
pub fn punch_hole(file: &impl AsFd, range: &Range<Bytes>) -> io::Result<()> {
    allocate(file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, range)
}

fn allocate(file: &impl AsFd, flags: FallocateFlags, range: &Range<Bytes>) -> io::Result<()> {
    let too_far = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let at = range.start.0.try_into().map_err(too_far)?;
    let len = (range.end - range.start).0.try_into().map_err(too_far)?;
    Ok(fallocate(file, flags, at, len)?)
}
