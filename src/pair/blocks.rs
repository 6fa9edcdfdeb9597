// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small aligned reads and writes of metadata: direct I/O wants offset, length and memory aligned.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use crate::disk::{ReadDisk, WriteDisk};
use crate::units::Bytes;

/// Reads exactly `range`, whatever the disk's alignment is. Past the end is an error.
pub fn read(disk: &dyn ReadDisk, range: Range<Bytes>) -> io::Result<Vec<u8>> {
    let align = disk.alignment().0.max(1);
    let start = range.start.round_down(align);
    let length = (range.end.round_up(align) - start).usize();
    let mut memory = vec![0; length + align as usize];
    let skip = offset(&memory, align);
    let buffer = &mut memory[skip..skip + length];
    let mut done = 0;
    while start + Bytes(done as u64) < range.end {
        match disk.read_at(start + Bytes(done as u64), &mut buffer[done..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => done += read,
        }
    }
    let wanted = (range.start - start).usize()..(range.end - start).usize();
    Ok(buffer[wanted].to_vec())
}

/// Writes all of `data` at `at`; both must fit the disk's alignment.
pub fn write(disk: &dyn WriteDisk, at: Bytes, data: &[u8]) -> io::Result<()> {
    let align = disk.alignment().0.max(1);
    let mut memory = vec![0; data.len() + align as usize];
    let skip = offset(&memory, align);
    memory[skip..skip + data.len()].copy_from_slice(data);
    let buffer = &memory[skip..skip + data.len()];
    let mut done = 0;
    while done < buffer.len() {
        match disk.write_at(at + Bytes(done as u64), &buffer[done..])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => done += written,
        }
    }
    Ok(())
}

fn offset(memory: &[u8], align: u64) -> usize {
    memory.as_ptr().align_offset(align as usize)
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
