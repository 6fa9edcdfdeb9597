// SPDX-License-Identifier: MIT OR Apache-2.0
//! The twin in memory, for tests in and outside the crate.

use std::io;
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::libc::{EINVAL, ENOSPC};

use super::{ReadDisk, WriteDisk};
use crate::units::{Bytes, SECTOR};

/// A disk made of memory. A strict one refuses what direct I/O would refuse.
pub struct RamDisk {
    name: String,
    size: Bytes,
    alignment: Bytes,
    strict: bool,
    bytes: RwLock<Vec<u8>>,
}

impl RamDisk {
    /// A disk of `size` zero bytes that takes any offset and length.
    pub fn new(name: impl Into<String>, size: usize) -> Self {
        Self::from_bytes(name, vec![0; size])
    }

    /// A disk that holds `bytes` and takes any offset and length.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        let size = Bytes(bytes.len() as u64);
        Self { name: name.into(), size, alignment: Bytes(SECTOR), strict: false, bytes: RwLock::new(bytes) }
    }

    /// Refuses with EINVAL, from now on, every offset, length and buffer that is no multiple of `alignment`.
    #[must_use]
    pub fn strict(mut self, alignment: Bytes) -> Self {
        (self.alignment, self.strict) = (alignment, true);
        self
    }

    /// A copy of all it holds.
    pub fn contents(&self) -> Vec<u8> {
        self.shared().clone()
    }

    fn shared(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Vec<u8>> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, at: Bytes, buffer: &[u8]) -> io::Result<()> {
        let parts = [at.0, buffer.len() as u64, buffer.as_ptr() as u64];
        let fits = !self.strict || parts.iter().all(|part| part.is_multiple_of(self.alignment.0));
        if fits { Ok(()) } else { Err(io::Error::from_raw_os_error(EINVAL)) }
    }
}

/// The part of `size` bytes that `len` bytes from `at` cover.
fn covered(size: Bytes, at: Bytes, len: usize) -> Range<usize> {
    let start = at.0.min(size.0);
    Bytes(start).usize()..Bytes(start.saturating_add(len as u64).min(size.0)).usize()
}

impl ReadDisk for RamDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> Bytes {
        self.size
    }

    fn alignment(&self) -> Bytes {
        self.alignment
    }

    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        self.check(at, buffer)?;
        let range = covered(self.size, at, buffer.len());
        buffer[..range.len()].copy_from_slice(&self.shared()[range.clone()]);
        Ok(range.len())
    }
}

impl WriteDisk for RamDisk {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        self.check(at, buffer)?;
        let range = covered(self.size, at, buffer.len());
        if range.is_empty() && !buffer.is_empty() {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        self.exclusive()[range.clone()].copy_from_slice(&buffer[..range.len()]);
        Ok(range.len())
    }

    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start).usize();
        self.exclusive()[covered(self.size, range.start, len)].fill(0);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn prove(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::buffer::Buffer;

    #[test]
    fn a_strict_disk_refuses_what_is_not_aligned() {
        let disk = RamDisk::new("ram", 16384).strict(Bytes(512));
        let mut buffer = Buffer::new(4096).unwrap();
        assert_eq!(disk.read_at(Bytes(512), &mut buffer).unwrap(), 4096);
        for (at, range) in [(1, 0..512), (0, 0..511), (0, 1..513)] {
            let error = disk.write_at(Bytes(at), &buffer[range]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(EINVAL));
        }
        disk.zero(Bytes(100)..Bytes(200)).unwrap();
    }
}
