// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real disks and image files.
//!
//! What the disk is gets captured from the open descriptor, never from the path: a path may come to name
//! another disk at any time, a descriptor cannot.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{EBUSY, EINVAL, ENODEV, ENOSYS, ENOTTY, EOPNOTSUPP, EROFS, O_DIRECT, O_EXCL};
use nix::unistd::{Whence, lseek64};

use super::calls::{Callee, Calls, ZEROED};
use super::{ReadDisk, WriteDisk, deadline, whole};
use crate::error::{Error, Kind, Result};
use crate::sys::buffer::Buffer;
use crate::sys::{ioctl, statx};
use crate::units::{Bytes, MIB, PAGE, SECTOR};

/// What a disk is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be read while others may use it.
    Read,
    /// To be read while nobody has it mounted or claimed; of files, like `Read`.
    ReadExclusive,
    /// To be read and written, with the same claim.
    Write,
    /// To be read and written beside those who have claimed it; only for who knows what is whose.
    WriteBeside,
}

/// What makes an open device the one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The device number of a block device, or of the filesystem of a file.
    pub device: u64,
    /// The inode number of a file; zero for a block device, whose nodes may be several.
    pub inode: u64,
    /// The kernel's number for this disk since boot; a loop device has a new one for each backing file.
    pub sequence: Option<u64>,
}

/// What every write to a plain file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Self { size: metadata.len(), modified, changed }
    }
}

/// A block device or a plain file, read and written directly where that is possible.
pub struct FileDisk {
    file: Arc<File>,
    /// Of a block device. How long a file takes is a matter of its filesystem: a flush may have to write all there is.
    calls: Option<Calls<File>>,
    name: String,
    size: Bytes,
    /// What there is of it beyond that, see [`FileDisk::first`], counts only for its identity.
    whole: Bytes,
    alignment: Bytes,
    identity: Identity,
    /// As it was when it was opened.
    stamp: Stamp,
}

impl FileDisk {
    /// Opens a block device or a plain file and captures what it is.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(EROFS) => read_only(&name),
            Some(EBUSY) => {
                Error::device("opening", &name, &error).next("unmount it, or stop what else holds it")
            }
            _ => Error::device("opening", &name, &error),
        };
        let kind = path.metadata().map_err(failed)?.file_type();
        let block = kind.is_block_device();
        if !block && !kind.is_file() {
            return Err(Error::new(Kind::Refused, "opening", "it is no block device and no file").on(name));
        }
        let file = open_file(path, access, block).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.file_type() != kind {
            return Err(Error::new(Kind::Refused, "opening", "it was replaced meanwhile").on(name));
        }
        // The kernel lets root open it for writing all the same, and fails the first write.
        let writes = matches!(access, Access::Write | Access::WriteBeside);
        if block && writes && ioctl::read_only(&file).map_err(failed)? {
            return Err(read_only(&name));
        }
        let file = Arc::new(file);
        let calls = if block { Some(Calls::new(Arc::clone(&file), deadline()?)) } else { None };
        Self::capture(file, calls, &metadata, name.clone()).map_err(failed)
    }

    fn capture(
        file: Arc<File>,
        calls: Option<Calls<File>>,
        metadata: &Metadata,
        name: String,
    ) -> io::Result<Self> {
        let identity = identify(&file, metadata)?;
        let (size, alignment) = if calls.is_some() {
            (ioctl::size(&file)?, ioctl::logical_block(&file)?.max(Bytes(SECTOR)))
        } else {
            let size = Bytes(metadata.len());
            settle_file(&file, size)?;
            (size, Bytes(SECTOR))
        };
        let stamp = Stamp::of(metadata);
        Ok(Self { file, calls, name, size, whole: size, alignment, identity, stamp })
    }

    /// The same disk as if it ended after `size`.
    pub fn first(self, size: Bytes) -> Self {
        Self { size: size.min(self.size), ..self }
    }

    /// What the open descriptor leads to.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The error of a disk that left something unanswered, whatever became of that.
    pub fn check_answered(&self) -> io::Result<()> {
        self.calls.as_ref().and_then(Calls::silence).map_or(Ok(()), Err)
    }

    /// Whether a plain file has been written to since it was opened; the kernel keeps no such account of a block
    /// device.
    pub fn was_written_to(&self) -> io::Result<bool> {
        Ok(self.calls.is_none() && Stamp::of(&self.file.metadata()?) != self.stamp)
    }

    /// How much of `buffer` may be read into at `at`. Where the disk itself ends the kernel sees to that.
    fn readable(&self, at: Bytes, buffer: &[u8]) -> usize {
        let left = self.size.saturating_sub(at).usize();
        if self.size < self.whole { buffer.len().min(left) } else { buffer.len() }
    }

    fn offload_zeros(&self, range: &Range<Bytes>) -> io::Result<()> {
        let Some(calls) = &self.calls else { return ioctl::punch_hole(&*self.file, range) };
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + Bytes(ZEROED));
            calls.zero(&(at..end))?;
            at = end;
        }
        Ok(())
    }

    fn write_zeros(&self, range: &Range<Bytes>) -> io::Result<()> {
        let zeros = Buffer::new(MIB.min((range.end - range.start).0).max(PAGE) as usize)?;
        let mut at = range.start;
        while at < range.end {
            let part = (range.end - at).usize().min(zeros.len());
            match self.write_at(at, &zeros[..part]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(wrote) => at += Bytes(whole::resume(0, wrote, part, self.alignment) as u64),
                Err(error) if whole::again(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn read_only(name: &str) -> Error {
    Error::new(Kind::Refused, "opening", "it is read-only")
        .on(name)
        .left("nothing was written")
        .next("make it writable, or name another disk")
}

/// A block device is read and written directly at once; whether a file can be, [`settle_file`] finds out.
fn open_file(path: &Path, access: Access, block: bool) -> io::Result<File> {
    let claim = if matches!(access, Access::Read | Access::WriteBeside) { 0 } else { O_EXCL };
    let flags = if block { O_DIRECT | claim } else { 0 };
    let write = matches!(access, Access::Write | Access::WriteBeside);
    OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)
}

fn identify(file: &File, metadata: &Metadata) -> io::Result<Identity> {
    if metadata.file_type().is_block_device() {
        Ok(Identity { device: metadata.rdev(), inode: 0, sequence: ioctl::disk_sequence(file)? })
    } else {
        Ok(Identity { device: metadata.dev(), inode: metadata.ino(), sequence: None })
    }
}

/// Goes around the page cache where the filesystem says that it moves single sectors so: partitions begin
/// and end anywhere, and a file on a disk with larger blocks would refuse them at the first odd one. A file
/// that ends inside a sector goes through the cache, because only that can write its tail.
fn settle_file(file: &File, size: Bytes) -> io::Result<()> {
    let sectors = |unit: Bytes| Bytes(SECTOR).is_multiple_of(unit.0);
    if size.is_multiple_of(SECTOR) && statx::direct_unit(file).is_some_and(sectors) {
        let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
        fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT))?;
    }
    Ok(())
}

/// The offset `lseek` finds, or `None` at the end.
fn seek(file: &File, at: Bytes, whence: Whence) -> io::Result<Option<Bytes>> {
    match lseek64(file, at.0.cast_signed(), whence) {
        Ok(found) => Ok(Some(Bytes(found.cast_unsigned()))),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Callee for File {
    fn read(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_at(buffer, at.0)
    }
    fn write(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        self.write_at(buffer, at.0)
    }
    fn zero(&self, range: &Range<Bytes>) -> io::Result<()> {
        ioctl::zero_range(self, range)
    }
    fn flush(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl ReadDisk for FileDisk {
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
        let len = self.readable(at, buffer);
        match &self.calls {
            Some(calls) => calls.read(at, &mut buffer[..len]),
            None => self.file.read_at(&mut buffer[..len], at.0),
        }
    }

    fn pread(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.readable(at, buffer);
        self.file.read_at(&mut buffer[..len], at.0)
    }

    fn next_data(&self, at: Bytes) -> io::Result<Option<Range<Bytes>>> {
        if self.calls.is_some() || at >= self.size {
            return Ok((at < self.size).then_some(at..self.size));
        }
        let Some(start) = seek(&self.file, at, Whence::SeekData)?.filter(|&start| start < self.size) else {
            return Ok(None);
        };
        let end = seek(&self.file, start, Whence::SeekHole)?.unwrap_or(self.size);
        Ok(Some(start..end.min(self.size)))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

impl WriteDisk for FileDisk {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        match &self.calls {
            Some(calls) => calls.write(at, buffer),
            None => self.file.write_at(buffer, at.0),
        }
    }

    fn pwrite(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        self.file.write_at(buffer, at.0)
    }

    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        let range = range.start..range.end.min(self.size);
        if range.start >= range.end {
            return Ok(());
        }
        match self.offload_zeros(&range) {
            Err(error) if offload_unknown(&error) => self.write_zeros(&range),
            result => result,
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.calls.as_ref().map_or_else(|| self.file.sync_data(), Calls::flush)
    }

    fn prove(&self) -> io::Result<()> {
        self.check_answered()?;
        let metadata = self.file.metadata()?;
        if identify(&self.file, &metadata)? != self.identity {
            return Err(io::Error::other("it is not the device that was opened"));
        }
        if self.calls.is_none() && metadata.nlink() == 0 {
            return Err(io::Error::other("it has been deleted"));
        }
        let same = if self.calls.is_some() {
            ioctl::size(&self.file)? == self.whole
        } else {
            Bytes(metadata.len()) >= self.whole
        };
        if same { Ok(()) } else { Err(io::Error::other("its size has changed since it was opened")) }
    }
}

fn offload_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EOPNOTSUPP | EINVAL | ENOSYS | ENODEV | ENOTTY))
}

#[cfg(test)]
mod tests;
