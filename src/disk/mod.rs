// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks as the rest of dpsr sees them: bytes that can be read, and, behind a second and narrower trait,
//! written.
//!
//! The primary is only ever handed around as a [`ReadDisk`], so no code path can write to it. Every write
//! to any disk goes through [`WriteDisk`]. Each has in-memory twins that record and that fail, so that
//! power cuts and device faults can be replayed without privileges.

mod calls;
mod deadline;
pub mod faulty;
pub mod file;
pub mod ram;
pub mod recorded;
pub mod whole;

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::sys::uring::Direction;
use crate::units::Bytes;
pub(crate) use calls::Silent;
pub use deadline::deadline;

/// A disk, or an image file, that can be read at any offset.
pub trait ReadDisk: Send + Sync {
    /// What messages call it: the path it was opened by.
    fn name(&self) -> &str;

    /// Its exact size.
    fn size(&self) -> Bytes;

    /// Offsets, lengths and buffers of direct I/O must be multiples of this many bytes.
    fn alignment(&self) -> Bytes;

    /// Reads into `buffer` from `at`, like `pread(2)`: may return fewer bytes than asked, 0 at the end. A block device that
    /// does not answer within [`deadline`] is an error.
    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize>;

    /// The same without a deadline, for engines: they keep one of their own.
    fn pread(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_at(at, buffer)
    }

    /// The first range at or after `at` that may hold anything but zeros; `None` if the rest is zeros.
    /// A block device answers "everything"; a sparse image file knows better.
    fn next_data(&self, at: Bytes) -> io::Result<Option<Range<Bytes>>> {
        Ok((at < self.size()).then_some(at..self.size()))
    }

    /// The open descriptor, for engines that talk to the kernel themselves; a twin in memory has none.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What such an engine is to make of a transfer of `asked` bytes, of which the kernel says that it `moved` so many:
    /// just that, but for a twin that fails.
    fn moved(&self, _direction: Direction, _asked: usize, moved: io::Result<usize>) -> io::Result<usize> {
        moved
    }
}

/// A disk that may be written: the proven DPSR disk, or a confirmed target.
pub trait WriteDisk: ReadDisk {
    /// Writes `buffer` at `at`, like `pwrite(2)`: may write fewer bytes than asked. This and what follows ends within
    /// [`deadline`], too.
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize>;

    /// The same without a deadline, for engines.
    fn pwrite(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        self.write_at(at, buffer)
    }

    /// Makes `range` read as zeros; a sparse file frees it, a block device may offload it.
    fn zero(&self, range: Range<Bytes>) -> io::Result<()>;

    /// Returns once everything written before is on stable storage.
    fn flush(&self) -> io::Result<()>;

    /// Proves once more, on the open descriptor, that this is still the device it was opened as. Called
    /// before the first write and after every error.
    fn prove(&self) -> io::Result<()>;
}

impl<D: ReadDisk + ?Sized> ReadDisk for Arc<D> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn size(&self) -> Bytes {
        (**self).size()
    }
    fn alignment(&self) -> Bytes {
        (**self).alignment()
    }
    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(at, buffer)
    }
    fn pread(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).pread(at, buffer)
    }
    fn next_data(&self, at: Bytes) -> io::Result<Option<Range<Bytes>>> {
        (**self).next_data(at)
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (**self).descriptor()
    }
    fn moved(&self, direction: Direction, asked: usize, moved: io::Result<usize>) -> io::Result<usize> {
        (**self).moved(direction, asked, moved)
    }
}

impl<D: WriteDisk + ?Sized> WriteDisk for Arc<D> {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        (**self).write_at(at, buffer)
    }
    fn pwrite(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        (**self).pwrite(at, buffer)
    }
    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        (**self).zero(range)
    }
    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }
    fn prove(&self) -> io::Result<()> {
        (**self).prove()
    }
}
