// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page-aligned memory, as direct I/O wants it.

use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use nix::unistd::{SysconfVar, sysconf};

/// Zeroed memory of its own pages: aligned to 4096 bytes, given back to the kernel when dropped.
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

/// Size and alignment of huge pages, where there are any.
const HUGE: usize = 2 << 20;

impl Buffer {
    /// `count` buffers of `len` zero bytes, in huge pages where they are whole pages and those can be had. A transfer then
    /// consists of few pieces, of which a disk takes a limited number at a time.
    pub fn several(count: usize, len: usize) -> io::Result<Vec<Self>> {
        let page =
            sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| usize::try_from(size).ok()).unwrap_or(HUGE);
        if !len.is_multiple_of(page) {
            // Each is given back by itself, and that in pages.
            return (0..count).map(|_| Self::new(len)).collect();
        }
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let all = count.checked_mul(len).ok_or_else(too_large)?;
        let mut left = Self::new(all.checked_add(HUGE).ok_or_else(too_large)?)?;
        let before = left.start.as_ptr().align_offset(HUGE);
        drop(left.split_off(before));
        // SAFETY: it is advice on a part of our own mapping. Where it is not taken, pages are small.
        let _taken = unsafe { madvise(left.start.cast(), all, MmapAdvise::MADV_HUGEPAGE) };
        Ok((0..count).map(|_| left.split_off(len)).collect())
    }

    /// Its first `len` bytes, whole pages, as a buffer of their own.
    fn split_off(&mut self, len: usize) -> Self {
        assert!(len <= self.len, "{len} bytes of {}", self.len);
        let front = Self { start: self.start, len };
        // SAFETY: it stays within the mapping, or comes to its end.
        self.start = unsafe { self.start.add(len) };
        self.len -= len;
        front
    }

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
            // SAFETY: it is our own mapping, or whole pages of one that nobody else has; no reference outlives its owner.
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

    #[test]
    fn several_are_aligned_zeroed_and_apart() {
        for (count, len) in [(24, 1 << 20), (3, 1 << 16), (1, HUGE), (5, HUGE + (1 << 16))] {
            let mut buffers = Buffer::several(count, len).unwrap();
            assert_eq!((buffers.len(), buffers[0].as_ptr() as usize % HUGE), (count, 0));
            assert!(buffers.iter().all(|one| one.len() == len && one.iter().all(|&byte| byte == 0)));
            for (i, buffer) in buffers.iter_mut().enumerate() {
                buffer.fill(i as u8 + 1);
            }
            // What one gives back is nothing that another has.
            let mut left = buffers.len();
            while left > 0 {
                drop(buffers.swap_remove(left / 2));
                left = buffers.len();
                assert!(buffers.iter().all(|one| one.iter().all(|&byte| byte == one[0])));
            }
        }
        assert!(Buffer::several(0, 4096).unwrap().is_empty());
        let mut uneven = Buffer::several(3, 5000).unwrap();
        drop(uneven.remove(0));
        assert!(uneven.iter().all(|one| one.len() == 5000 && one.iter().all(|&byte| byte == 0)));
        assert!(Buffer::several(usize::MAX, 1 << 16).is_err());
    }
}
