// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's partition nodes of a disk: taken away, put back, read anew. Nothing of this writes to the
//! disk. Numbers and layout from `linux/blkpg.h` and `linux/fs.h`.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::{c_char, c_int, c_longlong, c_void};

use crate::units::Bytes;

mod number {
    use super::Request;
    use nix::{ioctl_none_bad, ioctl_write_ptr_bad, request_code_none};

    ioctl_none_bad! { reread, request_code_none!(0x12, 95) }
    ioctl_write_ptr_bad! { change, request_code_none!(0x12, 105), Request }
}

const ADD: c_int = 1;
const DELETE: c_int = 2;

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
pub struct Request {
    op: c_int,
    flags: c_int,
    len: c_int,
    data: *mut c_void,
}

/// `struct blkpg_partition`.
#[repr(C)]
struct Partition {
    start: c_longlong,
    length: c_longlong,
    number: c_int,
    names: [c_char; 128],
}

/// `BLKPG_DEL_PARTITION`: takes the node of a partition away; `EBUSY` while anybody has it open, `ENXIO`
/// where there is none.
pub fn delete(disk: &impl AsFd, number: u32) -> io::Result<()> {
    change(disk, DELETE, number, &(Bytes::ZERO..Bytes::ZERO))
}

/// `BLKPG_ADD_PARTITION`: makes a node for a part of the disk; `EBUSY` where another one overlaps it.
pub fn add(disk: &impl AsFd, number: u32, range: &Range<Bytes>) -> io::Result<()> {
    change(disk, ADD, number, range)
}

/// `BLKRRPART`: makes the nodes as the table on the disk says; `EBUSY` while a partition is open or the disk
/// is claimed, `EINVAL` where the kernel looks for no partitions on it.
pub fn reread(disk: &impl AsFd) -> io::Result<()> {
    // SAFETY: the call takes no argument.
    unsafe { number::reread(disk.as_fd().as_raw_fd()) }?;
    Ok(())
}

fn change(disk: &impl AsFd, op: c_int, number: u32, range: &Range<Bytes>) -> io::Result<()> {
    let fits = |bytes: Bytes| c_longlong::try_from(bytes.0).map_err(|_| io::ErrorKind::InvalidInput);
    let mut partition = Partition {
        start: fits(range.start)?,
        length: fits(range.end.saturating_sub(range.start))?,
        number: c_int::try_from(number).map_err(|_| io::ErrorKind::InvalidInput)?,
        names: [0; 128],
    };
    let len = size_of::<Partition>() as c_int;
    let request = Request { op, flags: 0, len, data: (&raw mut partition).cast() };
    // SAFETY: the kernel reads one struct blkpg_ioctl_arg and the struct blkpg_partition it points to, and
    // both outlive the call.
    unsafe { number::change(disk.as_fd().as_raw_fd(), &request) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laid_out_as_the_kernel_has_it() {
        assert_eq!(size_of::<Partition>(), 152);
        assert_eq!(std::mem::offset_of!(Partition, number), 16);
        assert_eq!(std::mem::offset_of!(Request, data), 16);
    }
}
