// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a filesystem says about an open file.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc::{AT_EMPTY_PATH, STATX_DIOALIGN, STATX_MNT_ID, statx};

use crate::units::Bytes;

/// `STATX_DIOALIGN`: the unit of direct reads and writes of a file, in memory and in the file. `None` where
/// direct I/O cannot be had, and where nobody says: before Linux 6.1, and on some filesystems.
pub fn direct_unit(file: &impl AsFd) -> Option<Bytes> {
    let found = asked(file, STATX_DIOALIGN)?;
    let unit = found.stx_dio_offset_align.max(found.stx_dio_mem_align);
    (found.stx_dio_offset_align > 0).then_some(Bytes(unit.into()))
}

/// `STATX_MNT_ID`: the number of the mount a file was opened through, as in `/proc/self/mountinfo`. `None`
/// before Linux 5.8.
pub fn mount_id(file: &impl AsFd) -> Option<u64> {
    asked(file, STATX_MNT_ID).map(|found| found.stx_mnt_id)
}

/// What statx(2) says, where it says what was asked for.
fn asked(file: &impl AsFd, mask: u32) -> Option<statx> {
    let mut found = std::mem::MaybeUninit::<statx>::zeroed();
    let descriptor = file.as_fd().as_raw_fd();
    // SAFETY: the path is an empty string, and the kernel writes one struct statx to the pointer.
    let done = unsafe { nix::libc::statx(descriptor, c"".as_ptr(), AT_EMPTY_PATH, mask, found.as_mut_ptr()) };
    Errno::result(done).ok()?;
    // SAFETY: a struct statx is all integers, for which zeros are values too.
    let found = unsafe { found.assume_init() };
    (found.stx_mask & mask != 0).then_some(found)
}
