// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block devices over memory, which are gone with the last device built on them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Error, Kind, Result};
use crate::pair::sysfs::DevNum;
use crate::sys::loops::Loop;
use crate::units::Bytes;

/// A sparse piece of memory; only what is written takes any.
pub struct Scratch(File);

impl Scratch {
    /// Zeros, `size` of them.
    pub fn new(size: Bytes) -> Result<Self> {
        let made = || -> io::Result<File> {
            let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
            let file = File::from(memfd_create("dpsr-view", flags)?);
            file.set_len(size.0)?;
            Ok(file)
        };
        made().map(Self).map_err(|error| failed("taking", &error))
    }

    /// Puts `bytes` at `at`.
    pub fn put(&self, at: Bytes, bytes: &[u8]) -> Result<()> {
        self.0.write_all_at(bytes, at.0).map_err(|error| failed("filling", &error))
    }

    /// As a block device that nobody can write, by whatever way.
    pub fn sealed(self) -> Result<Loop> {
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        let sealed = fcntl(&self.0, FcntlArg::F_ADD_SEALS(seals | SealFlag::F_SEAL_SEAL));
        sealed.map_err(|error| failed("sealing", &error.into()))?;
        attached(&self.0, false)
    }

    /// As a block device that takes writes.
    pub fn writable(self) -> Result<Loop> {
        attached(&self.0, true)
    }
}

/// A loop device over `file`; it goes away by itself.
pub(super) fn attached(file: &File, writable: bool) -> Result<Loop> {
    Loop::over(file, writable).map_err(|error| {
        Error::new(Kind::Internal, "making a loop device", error.to_string())
            .next("load the module loop, and run as root")
    })
}

/// The number of a loop device.
pub fn number(device: &Loop) -> Result<DevNum> {
    let number = device.number().map_err(|error| failed("looking at", &error))?;
    Ok(DevNum::of(number))
}

fn failed(doing: &str, error: &io::Error) -> Error {
    Error::new(Kind::Internal, format!("{doing} memory"), error.to_string())
}
