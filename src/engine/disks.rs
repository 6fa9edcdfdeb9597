// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disks an engine works on, and their numbers.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Result};

/// A disk that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadId(pub(super) usize);

/// A disk that can be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteId(pub(super) usize);

impl WriteId {
    /// The same disk, to be read.
    pub fn as_read(self) -> ReadId {
        ReadId(self.0)
    }
}

#[derive(Clone)]
struct Disk {
    read: Arc<dyn ReadDisk>,
    write: Option<Arc<dyn WriteDisk>>,
}

/// The disks of one engine.
#[derive(Clone, Default)]
pub struct Disks(Vec<Disk>);

impl Disks {
    /// No disks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a disk that nothing can write to.
    pub fn add_read(&mut self, disk: Arc<dyn ReadDisk>) -> ReadId {
        self.0.push(Disk { read: disk, write: None });
        ReadId(self.0.len() - 1)
    }

    /// Adds a disk that can be read and written.
    pub fn add_write(&mut self, disk: Arc<dyn WriteDisk>) -> WriteId {
        self.0.push(Disk { read: disk.clone(), write: Some(disk) });
        WriteId(self.0.len() - 1)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn read(&self, disk: usize) -> &dyn ReadDisk {
        &*self.0[disk].read
    }

    pub(super) fn write(&self, disk: usize) -> &dyn WriteDisk {
        self.0[disk].write.as_deref().expect("a WriteId is of a disk added for writing")
    }

    pub(super) fn have_descriptors(&self) -> bool {
        self.0.iter().all(|disk| disk.read.descriptor().is_some())
    }

    /// Descriptors of their own, so that they stay open as long as a ring.
    pub(super) fn descriptors(&self) -> Result<Vec<OwnedFd>> {
        let own = |disk: &Disk| {
            let descriptor = disk.read.descriptor().expect("checked before a ring is tried");
            descriptor
                .try_clone_to_owned()
                .map_err(|error| Error::device("opening once more", disk.read.name(), &error))
        };
        self.0.iter().map(own).collect()
    }
}
