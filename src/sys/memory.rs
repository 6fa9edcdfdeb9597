// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that does not go away: files in memory, locked pages, words that two processes share.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::c_void;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MlockAllFlags, ProtFlags, mlock, mlockall, mmap, munlockall, munmap};

use crate::units::Bytes;

/// An empty file in memory, gone with its last descriptor.
pub fn file(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC)?.into())
}

/// Takes the room for `len` bytes of a file from `start` on; its size stays.
///
/// Older kernels, as 6.1, give up a file in memory half-way whenever the thread has anything else to look at, and are
/// asked again: not a signal alone is that, but also the end of an io_uring that the thread has used.
pub fn allocate(file: &impl AsFd, start: Bytes, len: Bytes) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (start, len) = (start.0.try_into().map_err(invalid)?, len.0.try_into().map_err(invalid)?);
    loop {
        match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, start, len) {
            Err(Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

/// A part of a file as memory of this process; unmapped when dropped.
struct Mapping {
    at: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: the mapping is plain memory that no thread owns; what is done to it is up to its two users below.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of(file: &impl AsFd, start: Bytes, len: Bytes) -> io::Result<Self> {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let offset = start.0.try_into().map_err(invalid)?;
        let len = usize::try_from(len.0).ok().and_then(NonZeroUsize::new);
        let len = len.ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: no address is asked for, so nothing that is mapped already is replaced.
        let at = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, file, offset) }?;
        Ok(Self { at, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing borrows from it any more.
        let _unmapped = unsafe { munmap(self.at, self.len.get()) };
    }
}

/// Pages of a file in memory that are never swapped out while this lives.
pub struct Locked(#[expect(dead_code, reason = "held for its drop")] Mapping);

impl Locked {
    /// Locks `len` bytes of `file` from `start` on, a multiple of the page size; they must be allocated.
    pub fn pages(file: &impl AsFd, start: Bytes, len: Bytes) -> io::Result<Self> {
        let mapping = Mapping::of(file, start, len)?;
        // SAFETY: the range is the mapping, which is of the file's allocated pages.
        unsafe { mlock(mapping.at, mapping.len.get()) }?;
        Ok(Self(mapping))
    }
}

/// Words at the start of a file in memory, shared by every process that has the file.
pub struct Shared<const N: usize>(Mapping);

impl<const N: usize> Shared<N> {
    /// Maps them; the file grows to hold them.
    pub fn of(file: &File) -> io::Result<Self> {
        let len = Bytes(size_of::<[AtomicU64; N]>() as u64);
        if file.metadata()?.len() < len.0 {
            file.set_len(len.0)?;
        }
        Mapping::of(file, Bytes::ZERO, len).map(Self)
    }

    /// The words, at first all zero.
    pub fn words(&self) -> &[AtomicU64; N] {
        // SAFETY: the mapping has room for them, is aligned to a page and lives as long as the borrow; every
        // value of eight bytes is an AtomicU64, and nobody reaches them otherwise.
        unsafe { self.0.at.cast::<[AtomicU64; N]>().as_ref() }
    }
}

/// How deep the stack may become without a page fault that the disk would have to answer.
const STACK: usize = 256 << 10;

/// From now on nothing that this process touches of its memory has to be read or found first.
pub fn lock_all() -> io::Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)?;
    black_box([1u8; STACK]);
    Ok(())
}

/// Undoes [`lock_all`].
pub fn unlock_all() -> io::Result<()> {
    Ok(munlockall()?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_are_shared() {
        let file = file("words").unwrap();
        let [one, other] = [(); 2].map(|()| Shared::<2>::of(&file).unwrap());
        one.words()[1].store(7, Ordering::SeqCst);
        assert_eq!(other.words()[1].load(Ordering::SeqCst), 7);
        assert_eq!(other.words()[0].load(Ordering::SeqCst), 0);
    }
}
