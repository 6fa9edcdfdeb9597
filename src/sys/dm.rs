// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device-mapper calls that carry no table: suspend, resume, remove, clear; layout and numbers from
//! `linux/dm-ioctl.h`, interface version 4.
//!
//! They allocate nothing and wait for nobody but the kernel, so they are the ones that may be made while a
//! root filesystem is suspended. In particular no udev cookie is made: a udevd without the rules of
//! device-mapper would never complete one. udev still gets the flags it needs, in the upper half of the event
//! number, as from `dmsetup --noudevsync`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::ioctl_readwrite;

const UUID: usize = 129;

/// `struct dm_ioctl`.
#[repr(C)]
pub struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; UUID],
    data: [u8; 7],
}

mod number {
    use super::{Header, ioctl_readwrite};

    ioctl_readwrite! { remove, 0xfd, 4, Header }
    ioctl_readwrite! { suspend, 0xfd, 6, Header }
    ioctl_readwrite! { status, 0xfd, 7, Header }
    ioctl_readwrite! { clear, 0xfd, 10, Header }
}

const SUSPEND: u32 = 1 << 1;
const SKIP_LOCKFS: u32 = 1 << 10;
const NOFLUSH: u32 = 1 << 11;

/// A device number as the ioctl has it (`new_encode_dev` of `linux/kdev_t.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Selects the driver.
    pub major: u32,
    /// Selects the device.
    pub minor: u32,
}

impl Number {
    fn encoded(self) -> u64 {
        let (major, minor) = (u64::from(self.major), u64::from(self.minor));
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }
}

/// What udev is told of a device: bits of `libdevmapper.h`, there called `DM_UDEV_…_FLAG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udev(u32);

impl Udev {
    /// A device like any other: probed, with links.
    pub const PUBLIC: Self = Self(0x40);
    /// No links under `/dev/disk`, no probing by blkid, LVM, MD or udisks.
    pub const PRIVATE: Self = Self(0x40 | 0x2 | 0x4 | 0x8);

    /// In the upper half of the event number; the lower half would be a cookie.
    fn event(self) -> u32 {
        self.0 << 16
    }
}

/// What is done about the filesystem on a device that is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// It is frozen, so that what is on disk is consistent.
    Filesystem,
    /// Nothing: writes wait, that is all.
    Nothing,
}

/// What the kernel says of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Writes to it wait.
    pub suspended: bool,
    /// A table is loaded that the next resume makes the active one.
    pub table_waiting: bool,
    /// How many have it open; layers on it count.
    pub opened: i32,
}

/// `/dev/mapper/control`.
pub struct Control(File);

impl Control {
    /// Opens it; an error where the kernel has no device-mapper.
    pub fn open() -> io::Result<Self> {
        File::options().read(true).write(true).open("/dev/mapper/control").map(Self)
    }

    /// Suspends `device`: when this returns, nothing it was given is still on its way.
    pub fn suspend(&self, device: Number, freeze: Freeze) -> io::Result<()> {
        let skip = if freeze == Freeze::Nothing { SKIP_LOCKFS } else { 0 };
        let mut header = header(device, SUSPEND | skip, 0);
        // SAFETY: the kernel reads and writes one struct dm_ioctl, and data_size says that nothing follows
        // it.
        unsafe { number::suspend(self.0.as_raw_fd(), &mut header) }?;
        Ok(())
    }

    /// Makes the loaded table the active one, where there is one, and lets I/O go on.
    pub fn resume(&self, device: Number, udev: Udev) -> io::Result<()> {
        let mut header = header(device, 0, udev.event());
        // SAFETY: as in suspend.
        unsafe { number::suspend(self.0.as_raw_fd(), &mut header) }?;
        Ok(())
    }

    /// Makes the loaded table the active one in one call: I/O stops, the tables change, I/O goes on. Whoever
    /// makes it may be killed at any time without leaving the device suspended. No filesystem is frozen.
    pub fn switch(&self, device: Number, udev: Udev) -> io::Result<()> {
        let mut header = header(device, SKIP_LOCKFS, udev.event());
        // SAFETY: as in suspend.
        unsafe { number::suspend(self.0.as_raw_fd(), &mut header) }?;
        Ok(())
    }

    /// Forgets a table that was loaded and not resumed.
    pub fn clear(&self, device: Number) -> io::Result<()> {
        let mut header = header(device, 0, 0);
        // SAFETY: as in suspend.
        unsafe { number::clear(self.0.as_raw_fd(), &mut header) }?;
        Ok(())
    }

    /// Removes a device; `EBUSY` while anybody has it open.
    pub fn remove(&self, device: Number, udev: Udev) -> io::Result<()> {
        let mut header = header(device, 0, udev.event());
        // SAFETY: as in suspend.
        unsafe { number::remove(self.0.as_raw_fd(), &mut header) }?;
        Ok(())
    }

    /// What state a device is in.
    pub fn status(&self, device: Number) -> io::Result<Status> {
        let mut header = header(device, NOFLUSH, 0);
        // SAFETY: as in suspend.
        unsafe { number::status(self.0.as_raw_fd(), &mut header) }?;
        Ok(Status {
            suspended: header.flags & SUSPEND != 0,
            table_waiting: header.flags & (1 << 6) != 0,
            opened: header.open_count,
        })
    }
}

fn header(device: Number, flags: u32, event_nr: u32) -> Header {
    Header {
        version: [4, 0, 0],
        data_size: size_of::<Header>() as u32,
        data_start: 0,
        target_count: 0,
        open_count: 0,
        flags,
        event_nr,
        padding: 0,
        dev: device.encoded(),
        name: [0; 128],
        uuid: [0; UUID],
        data: [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laid_out_as_the_kernel_has_it() {
        assert_eq!(size_of::<Header>(), 312);
        assert_eq!(std::mem::offset_of!(Header, dev), 40);
        assert_eq!(std::mem::offset_of!(Header, uuid), 176);
    }

    #[test]
    fn large_minors_are_split_around_the_major() {
        assert_eq!(Number { major: 253, minor: 3 }.encoded(), 0xfd03);
        assert_eq!(Number { major: 253, minor: 0x12345 }.encoded(), 0x1230_fd45);
    }
}
