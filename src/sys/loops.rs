// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loop devices that go away by themselves; numbers and layout from `linux/loop.h`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::{ioctl_none_bad, ioctl_write_ptr_bad};

use crate::units::{Bytes, SECTOR};

/// Another process may take the free device first; it is not unlucky for ever.
const TRIES: u32 = 64;

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// The name, `lo_file_name`, that tells loop devices made here from those of others.
pub(super) const NAME: u64 = u64::from_ne_bytes(*b"dpsr\0\0\0\0");

/// `struct loop_config`, with its `struct loop_info64` as one array of words.
#[repr(C)]
pub struct Config {
    fd: u32,
    block_size: u32,
    device: [u64; 5],
    number: u32,
    encrypt: [u32; 2],
    flags: u32,
    names: [u64; 16],
    rest: [u64; 6],
    reserved: [u64; 8],
}

mod number {
    use super::{Config, ioctl_none_bad, ioctl_write_ptr_bad};

    ioctl_none_bad! { get_free, 0x4c82 }
    ioctl_write_ptr_bad! { configure, 0x4c0a, Config }
}

/// A loop device, open. It is there as long as it is open here or anything is built on it.
#[derive(Debug)]
pub struct Loop {
    device: File,
    path: PathBuf,
}

impl Loop {
    /// A loop device over all of `backing`, in blocks of 512 bytes.
    pub fn over(backing: &impl AsFd, writable: bool) -> io::Result<Self> {
        Self::configured(backing, SECTOR, if writable { 0 } else { READ_ONLY }, None)
    }

    /// A loop device over `part` of `backing`, past the page cache, in blocks of `block` bytes. It shows nothing of what
    /// lies before and behind, as a table of partitions.
    pub fn direct(backing: &impl AsFd, block: Bytes, part: &Range<Bytes>) -> io::Result<Self> {
        Self::configured(backing, block.0, DIRECT_IO, Some(part))
    }

    fn configured(
        backing: &impl AsFd,
        block: u64,
        flags: u32,
        part: Option<&Range<Bytes>>,
    ) -> io::Result<Self> {
        let block = u32::try_from(block).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let writable = flags & READ_ONLY == 0;
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        let mut tries = 0;
        loop {
            // SAFETY: the call takes no argument.
            let free = unsafe { number::get_free(control.as_raw_fd()) }?;
            let path = PathBuf::from(format!("/dev/loop{free}"));
            let device = File::options().read(true).write(writable).open(&path)?;
            match configure(&device, backing, block, flags, part) {
                Ok(()) => return Ok(Self { device, path }),
                Err(Errno::EBUSY) if tries < TRIES => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Its device number.
    pub fn number(&self) -> io::Result<u64> {
        Ok(self.device.metadata()?.rdev())
    }

    /// The open device alone; it stays for as long as that does.
    pub fn into_file(self) -> File {
        self.device
    }

    /// Its node.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

fn configure(
    device: &File,
    backing: &impl AsFd,
    block_size: u32,
    flags: u32,
    part: Option<&Range<Bytes>>,
) -> nix::Result<()> {
    // `lo_offset` and `lo_sizelimit`; no limit is all there is.
    let (offset, limit) = part.map_or((0, 0), |part| (part.start.0, (part.end - part.start).0));
    let mut names = [0; 16];
    names[0] = NAME;
    let config = Config {
        // A descriptor is never negative.
        fd: backing.as_fd().as_raw_fd().cast_unsigned(),
        block_size,
        device: [0, 0, 0, offset, limit],
        number: 0,
        encrypt: [0; 2],
        flags: AUTOCLEAR | flags,
        names,
        rest: [0; 6],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one struct loop_config from the pointer.
    unsafe { number::configure(device.as_raw_fd(), &config) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laid_out_as_the_kernel_has_it() {
        assert_eq!(size_of::<Config>(), 8 + 232 + 64);
        assert_eq!(std::mem::offset_of!(Config, flags), 8 + 52);
        assert_eq!(std::mem::offset_of!(Config, names), 8 + 56);
        // The fourth and the fifth word: `lo_offset` and `lo_sizelimit`.
        assert_eq!(std::mem::offset_of!(Config, device) + 3 * 8, 8 + 24);
    }
}
