// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filesystems that hold still; numbers from `linux/fs.h`. Neither call allocates or opens anything.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::c_int;

mod number {
    use super::c_int;
    use nix::ioctl_readwrite;

    ioctl_readwrite! { freeze, b'X', 119, c_int }
    ioctl_readwrite! { thaw, b'X', 120, c_int }
}

/// `FIFREEZE`: writes out what the filesystem of `file` has in memory, and lets all further writes wait.
/// `EOPNOTSUPP` where it cannot; `EBUSY` where it is frozen already.
pub fn freeze(file: &impl AsFd) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: the kernel does not look at the argument.
    unsafe { number::freeze(file.as_fd().as_raw_fd(), &mut unused) }?;
    Ok(())
}

/// `FITHAW`: undoes [`freeze`]; `EINVAL` where the filesystem is not frozen.
pub fn thaw(file: &impl AsFd) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: the kernel does not look at the argument.
    unsafe { number::thaw(file.as_fd().as_raw_fd(), &mut unused) }?;
    Ok(())
}
