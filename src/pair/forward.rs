// SPDX-License-Identifier: MIT OR Apache-2.0
//! A proven disk is used as a disk; its lock lives as long as it does.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use super::layout::find_store;
use super::open::{Dpsr, Primary};
use crate::disk::{ReadDisk, WriteDisk};
use crate::units::Bytes;

macro_rules! read_through_its_disk {
    ($type:ty) => {
        impl ReadDisk for $type {
            fn name(&self) -> &str {
                self.disk.name()
            }
            fn size(&self) -> Bytes {
                self.disk.size()
            }
            fn alignment(&self) -> Bytes {
                self.disk.alignment()
            }
            fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
                self.disk.read_at(at, buffer)
            }
            fn pread(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
                self.disk.pread(at, buffer)
            }
            fn next_data(&self, at: Bytes) -> io::Result<Option<Range<Bytes>>> {
                self.disk.next_data(at)
            }
            fn descriptor(&self) -> Option<BorrowedFd<'_>> {
                self.disk.descriptor()
            }
        }
    };
}

read_through_its_disk!(Primary);
read_through_its_disk!(Dpsr);

impl WriteDisk for Dpsr {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        self.disk.write_at(at, buffer)
    }
    fn pwrite(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        self.disk.pwrite(at, buffer)
    }
    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        self.disk.zero(range)
    }
    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }
    /// Besides what the descriptor says: the table still names the same store. What lies behind a descriptor
    /// may be exchanged (a file is overwritten, another host initialises a shared disk, device-mapper loads
    /// another table), and a flip would then tear a stranger's store.
    fn prove(&self) -> io::Result<()> {
        self.disk.prove()?;
        let found = find_store(&self.disk, self.probe.block);
        self.disk.check_answered()?;
        match found {
            Some(found) if found == self.store => Ok(()),
            Some(_) => Err(io::Error::other("it carries another store now")),
            None => Err(io::Error::other("it carries no store any more")),
        }
    }
}
