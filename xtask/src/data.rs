// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes to copy, and the proof that a copy is exact.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Result;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;

/// The block in which changes are made: one digest block of dpsr.
pub const BLOCK: u64 = 64 * KIB;

/// Repeatable noise that does not compress (splitmix64 by Steele, Lea and Flood, 2014).
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
    }
}

/// Opens a file or device that exists, for reading and writing.
pub fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|error| format!("opening {}: {error}", path.display()))
}

/// Makes a sparse file of `size` bytes.
pub fn make_sparse(path: &Path, size: u64) -> Result<File> {
    let made = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = made.map_err(|error| format!("making {}: {error}", path.display()))?;
    file.set_len(size).map_err(|error| format!("making {} {size} bytes long: {error}", path.display()))?;
    Ok(file)
}

/// Writes noise over `size` bytes from `offset` and flushes it.
pub fn write_noise(file: &File, offset: u64, size: u64, noise: &mut Noise) -> Result<()> {
    let failed = |error| format!("writing test data at byte {offset}: {error}");
    let mut buffer = vec![0; MIB as usize];
    let end = offset + size;
    let mut at = offset;
    while at < end {
        let piece = (end - at).min(MIB);
        let piece = &mut buffer[..piece as usize];
        noise.fill(piece);
        file.write_all_at(piece, at).map_err(failed)?;
        at += piece.len() as u64;
    }
    file.sync_all().map_err(failed)
}

/// Overwrites one block in `every` of the `size` bytes from `offset`, each at a random place within its
/// group of `every`; returns the number of bytes changed.
pub fn change_blocks(file: &File, offset: u64, size: u64, every: u64, noise: &mut Noise) -> Result<u64> {
    let failed = |error| format!("changing test data: {error}");
    let mut block = vec![0; BLOCK as usize];
    let groups = size / (BLOCK * every);
    for group in 0..groups {
        let index = group * every + noise.next() % every;
        noise.fill(&mut block);
        file.write_all_at(&block, offset + index * BLOCK).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    Ok(groups * BLOCK)
}

/// Proves that both streams hold the same `size` bytes and that neither goes on; `what` names the first in
/// the sentence about a difference.
pub fn must_equal(what: &str, mut one: impl Read, mut other: impl Read, size: u64) -> Result<()> {
    let (mut left, mut right) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    let mut at = 0;
    loop {
        let length = read_full(&mut one, &mut left).map_err(|error| format!("reading {what}: {error}"))?;
        let wanted =
            read_full(&mut other, &mut right).map_err(|error| format!("comparing {what}: {error}"))?;
        let both = length.min(wanted);
        if let Some(wrong) = (0..both).find(|index| left[*index] != right[*index]) {
            return Err(format!("{what} is NOT EXACT: it differs at byte {}", at + wrong as u64));
        }
        at += both as u64;
        if length != wanted {
            return Err(format!("{what} is NOT EXACT: the shorter one ends at byte {at}"));
        }
        if length == 0 {
            break;
        }
    }
    if at == size { Ok(()) } else { Err(format!("{what} is NOT EXACT: {at} bytes, {size} expected")) }
}

/// [`must_equal`] for two files or devices.
pub fn files_must_equal(what: &str, one: &Path, other: &Path, size: u64) -> Result<()> {
    must_equal(what, open(one)?, open(other)?, size)
}

/// Copies a file, keeping holes where the source has whole MiB of zeros.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let failed = |error| format!("copying {} to {}: {error}", from.display(), to.display());
    let mut source = File::open(from).map_err(failed)?;
    let size = source.metadata().map_err(failed)?.len();
    let target = make_sparse(to, size)?;
    let mut buffer = vec![0; MIB as usize];
    let mut at = 0;
    while at < size {
        let length = read_full(&mut source, &mut buffer).map_err(failed)?;
        if buffer[..length].iter().any(|byte| *byte != 0) {
            target.write_all_at(&buffer[..length], at).map_err(failed)?;
        }
        at += length as u64;
    }
    (&target).flush().map_err(failed)
}

fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_difference_is_told_by_its_byte() {
        assert_eq!(must_equal("copy", &b"abc"[..], &b"abc"[..], 3), Ok(()));
        let told = |one: &[u8], other: &[u8]| must_equal("copy", one, other, 3).unwrap_err();
        assert_eq!(told(b"abc", b"abd"), "copy is NOT EXACT: it differs at byte 2");
        assert_eq!(told(b"ab", b"abc"), "copy is NOT EXACT: the shorter one ends at byte 2");
        assert_eq!(told(b"ab", b"ab"), "copy is NOT EXACT: 2 bytes, 3 expected");
    }

    #[test]
    fn one_block_in_a_hundred_changes() {
        let scratch = Scratch::new(&std::env::temp_dir(), "data-test").unwrap();
        let path = scratch.path().join("disk");
        let file = make_sparse(&path, 200 * BLOCK).unwrap();
        assert_eq!(change_blocks(&file, 0, 200 * BLOCK, 100, &mut Noise::new(1)), Ok(2 * BLOCK));
        let copy = scratch.path().join("copy");
        copy_sparse(&path, &copy).unwrap();
        assert_eq!(files_must_equal("copy", &path, &copy, 200 * BLOCK), Ok(()));
        change_blocks(&file, 0, 200 * BLOCK, 100, &mut Noise::new(2)).unwrap();
        assert!(files_must_equal("copy", &path, &copy, 200 * BLOCK).is_err());
    }
}
