// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small aligned reads and writes of metadata: direct I/O wants offset, length and memory aligned.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use crate::disk::{ReadDisk, WriteDisk, whole};
use crate::sys::buffer::Buffer;
use crate::units::Bytes;

/// Reads exactly `range`, whatever the disk's alignment is. Past the end is an error.
pub fn read(disk: &dyn ReadDisk, range: Range<Bytes>) -> io::Result<Vec<u8>> {
    let align = disk.alignment().0.max(1);
    let start = range.start.round_down(align);
    let mut buffer = Buffer::new((range.end.round_up(align) - start).usize())?;
    let wanted = (range.start - start).usize()..(range.end - start).usize();
    whole::read_up_to(disk, start, &mut buffer, wanted.end)?;
    Ok(buffer[wanted].to_vec())
}

/// Writes all of `data` at `at`; both must fit the disk's alignment.
pub fn write(disk: &dyn WriteDisk, at: Bytes, data: &[u8]) -> io::Result<()> {
    let mut buffer = Buffer::new(data.len())?;
    buffer.copy_from_slice(data);
    whole::write_up(disk, at, &buffer)
}

/// A stretch of a disk in memory, addressed by disk offsets, for parsers that want a stream.
pub(super) struct Window {
    base: u64,
    inside: Cursor<Vec<u8>>,
}

impl Window {
    pub(super) fn new(base: Bytes, data: Vec<u8>) -> Self {
        Self { base: base.0, inside: Cursor::new(data) }
    }

    pub(super) fn into_inner(self) -> Vec<u8> {
        self.inside.into_inner()
    }
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inside.read(buffer)
    }
}

impl Write for Window {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.inside.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let inside = match to {
            SeekFrom::Start(at) => {
                SeekFrom::Start(at.checked_sub(self.base).ok_or(io::ErrorKind::InvalidInput)?)
            }
            relative => relative,
        };
        Ok(self.inside.seek(inside)? + self.base)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;
    use crate::disk::faulty::{Fault, Faults, Faulty};
    use crate::disk::ram::RamDisk;

    #[test]
    fn short_transfers_go_on_from_an_aligned_byte() {
        let ram = || RamDisk::from_bytes("ram", vec![5; 16384]).strict(Bytes(512));
        let disk = Faulty::new(ram(), Faults::new(0, Fault::ShortWrite, true));
        let data: Vec<u8> = (0..4096).map(|at| (at / 512 + at % 7) as u8).collect();
        write(&disk, Bytes(512), &data).unwrap();
        let disk = Faulty::new(disk, Faults::new(0, Fault::ShortRead, true));
        assert_eq!(read(&disk, Bytes(700)..Bytes(4500)).unwrap(), data[188..3988]);
        assert!(read(&disk, Bytes(16000)..Bytes(16385)).is_err());
    }

    /// As after a signal, and where a device ends a transfer in the middle of a block.
    #[test]
    fn an_interrupted_transfer_is_done_again() {
        let disk =
            Interrupted(RamDisk::from_bytes("ram", vec![7; 4096]).strict(Bytes(512)), AtomicU8::new(0));
        assert_eq!(read(&disk, Bytes(10)..Bytes(3000)).unwrap(), vec![7; 2990]);
    }

    /// Fails with EINTR first, and then stops at a byte that is not aligned.
    struct Interrupted(RamDisk, AtomicU8);

    impl ReadDisk for Interrupted {
        fn name(&self) -> &str {
            self.0.name()
        }

        fn size(&self) -> Bytes {
            self.0.size()
        }

        fn alignment(&self) -> Bytes {
            self.0.alignment()
        }

        fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
            match self.1.fetch_add(1, Ordering::SeqCst) {
                0 => Err(io::ErrorKind::Interrupted.into()),
                1 => self.0.read_at(at, buffer).map(|read| read.min(1000)),
                _ => self.0.read_at(at, buffer),
            }
        }
    }
}
