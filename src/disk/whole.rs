// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole transfers: a short result is continued, never trusted, and the end of the disk is an error.

use std::io;

use super::{ReadDisk, WriteDisk};
use crate::error::{Error, Result};
use crate::units::Bytes;

/// Fills `buffer` from `at`; the disk must reach that far.
pub fn read_exact_at(disk: &(impl ReadDisk + ?Sized), at: Bytes, buffer: &mut [u8]) -> Result<()> {
    let wanted = buffer.len();
    read_up_to(disk, at, buffer, wanted).map_err(|error| read_failed(disk.name(), at, wanted, &error))
}

/// Fills `buffer` from `at`, with zeros where it reaches past the end of the disk.
pub fn read_padded_at(disk: &(impl ReadDisk + ?Sized), at: Bytes, buffer: &mut [u8]) -> Result<()> {
    let wanted = readable(disk.size(), at, buffer.len());
    read_up_to(disk, at, buffer, wanted)
        .map_err(|error| read_failed(disk.name(), at, buffer.len(), &error))?;
    buffer[wanted..].fill(0);
    Ok(())
}

/// Writes all of `buffer` at `at`.
pub fn write_all_at(disk: &(impl WriteDisk + ?Sized), at: Bytes, buffer: &[u8]) -> Result<()> {
    write_up(disk, at, buffer).map_err(|error| write_failed(disk.name(), at, buffer.len(), &error))
}

/// Writes until all of `buffer` is there.
pub(crate) fn write_up(disk: &(impl WriteDisk + ?Sized), at: Bytes, buffer: &[u8]) -> io::Result<()> {
    write_by(|at, part| disk.write_at(at, part), at, buffer, disk.alignment())
}

/// The same by whatever `write` does.
pub(crate) fn write_by(
    write: impl Fn(Bytes, &[u8]) -> io::Result<usize>,
    at: Bytes,
    buffer: &[u8],
    alignment: Bytes,
) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        done = match write(at + Bytes(done as u64), &buffer[done..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(wrote) => resume(done, wrote, buffer.len(), alignment),
            Err(error) if again(&error) => done,
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

/// Reads until at least the first `wanted` bytes are there; asks for the whole buffer, so that a length
/// rounded up for direct I/O stays aligned at the end of the disk.
pub(crate) fn read_up_to(
    disk: &(impl ReadDisk + ?Sized),
    at: Bytes,
    buffer: &mut [u8],
    wanted: usize,
) -> io::Result<()> {
    read_by(|at, part| disk.read_at(at, part), at, buffer, (wanted, disk.alignment()))
}

/// The same by whatever `read` does.
pub(crate) fn read_by(
    read: impl Fn(Bytes, &mut [u8]) -> io::Result<usize>,
    at: Bytes,
    buffer: &mut [u8],
    (wanted, alignment): (usize, Bytes),
) -> io::Result<()> {
    let mut done = 0;
    while done < wanted {
        done = match read(at + Bytes(done as u64), &mut buffer[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => resume(done, read, wanted, alignment),
            Err(error) if again(&error) => done,
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

/// How many of `len` bytes at `at` a disk of `size` holds.
pub(crate) fn readable(size: Bytes, at: Bytes, len: usize) -> usize {
    usize::try_from(size.saturating_sub(at).0).unwrap_or(usize::MAX).min(len)
}

/// Where to go on after a transfer of `moved` bytes at `done`: a short one goes back to the last aligned
/// byte, because direct I/O refuses any other; unless that would be no progress.
pub(crate) fn resume(done: usize, moved: usize, wanted: usize, alignment: Bytes) -> usize {
    let reached = done + moved;
    let aligned = Bytes(reached as u64).round_down(alignment.0).usize();
    if reached < wanted && aligned > done { aligned } else { reached }
}

/// Whether the kernel only asks for the same call once more.
pub(crate) fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// The sentence for a failed read.
pub(crate) fn read_failed(name: &str, at: Bytes, len: usize, error: &io::Error) -> Error {
    Error::device(format!("reading {len} bytes at {} of", at.0), name, error)
}

/// The sentence for a failed write.
pub(crate) fn write_failed(name: &str, at: Bytes, len: usize, error: &io::Error) -> Error {
    Error::device(format!("writing {len} bytes at {} of", at.0), name, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faulty::{Fault, Faults, Faulty};
    use crate::disk::ram::RamDisk;

    #[test]
    fn short_transfers_are_continued() {
        let data: Vec<u8> = (0..8192u32).map(|i| i as u8).collect();
        for sticky in [false, true] {
            let disk = Faulty::new(RamDisk::new("ram", 8192), Faults::new(0, Fault::ShortWrite, sticky));
            write_all_at(&disk, Bytes(0), &data).unwrap();
            let disk = Faulty::new(disk, Faults::new(0, Fault::ShortRead, sticky));
            let mut back = vec![0; 8192];
            read_exact_at(&disk, Bytes(0), &mut back).unwrap();
            assert_eq!(back, data);
        }
    }

    #[test]
    fn the_end_of_the_disk_is_an_error_unless_padded() {
        let disk = RamDisk::from_bytes("ram", vec![1; 700]);
        let mut buffer = [9; 1024];
        let error = read_exact_at(&disk, Bytes(0), &mut buffer).unwrap_err();
        assert_eq!(error.to_string(), "reading 1024 bytes at 0 of ram: unexpected end of file");
        read_padded_at(&disk, Bytes(512), &mut buffer).unwrap();
        assert_eq!((&buffer[..188], &buffer[188..]), (&[1; 188][..], &[0; 836][..]));
        read_padded_at(&disk, Bytes(4096), &mut buffer).unwrap();
        assert!(buffer.iter().all(|&byte| byte == 0));
        assert!(write_all_at(&disk, Bytes(512), &buffer).is_err());
    }

    #[test]
    fn a_short_transfer_goes_on_from_an_aligned_byte() {
        let unit = Bytes(512);
        assert_eq!(resume(0, 1000, 4096, unit), 512);
        assert_eq!(resume(512, 100, 4096, unit), 612);
        assert_eq!(resume(0, 4096, 4096, unit), 4096);
        assert_eq!(resume(0, 1000, 900, unit), 1000);
    }
}
