// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page-aligned memory, as direct I/O wants it.

use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Zeroed memory of its own pages: aligned to 4096 bytes, given back to the kernel when dropped.
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes.
    pub fn new(len: usize) -> io::Result<Self> {
        match NonZeroUsize::new(len) {
            Some(len) => Ok(Self { start: map(len)?, len: len.get() }),
            None => Ok(Self::default()),
        }
    }
}

/// A buffer without memory, to stand in where the real one is lent out.
impl Default for Buffer {
    fn default() -> Self {
        Self { start: NonNull::dangling(), len: 0 }
    }
}

/// Private, zeroed pages.
fn map(len: NonZeroUsize) -> io::Result<NonNull<u8>> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice replaces nothing.
    let start = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE)? };
    Ok(start.cast())
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: start and len are those of our own mapping, and no reference outlives its owner.
            unsafe { munmap(self.start.cast(), self.len) }.expect("unmapping our own mapping");
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is len readable, initialised bytes, and borrowed with self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

// SAFETY: the memory belongs to the buffer alone, and no thread is special to it.
unsafe impl Send for Buffer {}
// SAFETY: a shared buffer can only be read.
unsafe impl Sync for Buffer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_zeroed_and_writable() {
        let mut buffer = Buffer::new(5000).unwrap();
        assert_eq!((buffer.as_ptr() as usize % 4096, buffer.len()), (0, 5000));
        assert!(buffer.iter().all(|&byte| byte == 0));
        buffer[4999] = 7;
        assert_eq!(buffer.iter().map(|&byte| u32::from(byte)).sum::<u32>(), 7);
        assert!(Buffer::new(0).unwrap().is_empty());
    }
}
