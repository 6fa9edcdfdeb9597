// SPDX-License-Identifier: MIT OR Apache-2.0
//! An array of two disks that are alike (MD, RAID1), written as bytes: the build machine's kernel knows no arrays.
//! What is on it lies at the beginning of both, so that firmware sees a usual disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::layout::ARRAY_UUID;
use crate::Result;
use crate::data::MIB;
use crate::dpsr::text;
use crate::process::output;

const SECTOR: u64 = 512;

/// What metadata and its alignment take behind the data.
const TAIL: u64 = MIB;

/// So many words of the superblock are summed up, with room for the roles of this many members.
const MEMBERS: usize = 2;
const HEAD: usize = 256;

/// Makes of the disk in `file` the first of two members, and of a copy of it the second: `mirror`.
pub fn make(file: &Path, mirror: &Path) -> Result<()> {
    let failed = |error| format!("making an array of {}: {error}", file.display());
    let used = fs::metadata(file).map_err(failed)?.len();
    File::options().write(true).open(file).and_then(|file| file.set_len(used + TAIL)).map_err(failed)?;
    output(Command::new("cp").args(["--sparse=always", text(file)?, text(mirror)?]))?;
    for (role, member) in [file, mirror].into_iter().enumerate() {
        let at = place(used + TAIL);
        let block = superblock(used, at, role as u16)?;
        File::options()
            .write(true)
            .open(member)
            .and_then(|file| file.write_all_at(&block, at))
            .map_err(failed)?;
    }
    Ok(())
}

/// Where metadata of version 1.0 lies on a disk of `size` bytes: at least 8 KiB, and less than 12 KiB, before its end.
/// (md(4), mdadm's `super1.c`)
fn place(size: u64) -> u64 {
    ((size / SECTOR - 16) & !7) * SECTOR
}

/// `struct mdp_superblock_1` of a clean member. (linux/raid/md_p.h; all numbers little-endian, all lengths in sectors)
fn superblock(used: u64, at: u64, role: u16) -> Result<Vec<u8>> {
    let digits: String = ARRAY_UUID.chars().filter(|c| *c != ':').collect();
    let uuid = u128::from_str_radix(&digits, 16).map_err(|error| format!("{ARRAY_UUID}: {error}"))?;
    let mut block = vec![0; HEAD + 2 * MEMBERS];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let (word, long) = (u32::to_le_bytes, u64::to_le_bytes);
    put(0, &word(0xa92b_4efc));
    put(4, &word(1));
    put(16, &uuid.to_be_bytes());
    put(32, b"system");
    // Made, and written last, in 2024.
    put(64, &long(1_704_067_200));
    put(192, &long(1_704_067_200));
    // The level, and how many members.
    put(72, &word(1));
    put(92, &word(MEMBERS as u32));
    put(80, &long(used / SECTOR));
    put(136, &long(used / SECTOR));
    put(144, &long(at / SECTOR));
    put(160, &word(u32::from(role)));
    put(168, &(uuid + 1 + u128::from(role)).to_be_bytes());
    put(200, &long(1));
    // Nothing is left to be brought in step.
    put(208, &long(u64::MAX));
    put(220, &word(MEMBERS as u32));
    (0..MEMBERS as u16).for_each(|role| put(HEAD + 2 * usize::from(role), &role.to_le_bytes()));
    let sum: u64 = block
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap_or_default())))
        .sum();
    block[216..220].copy_from_slice(&word((sum as u32).wrapping_add((sum >> 32) as u32)));
    Ok(block)
}
