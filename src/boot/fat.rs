// SPDX-License-Identifier: MIT OR Apache-2.0
//! The filesystem of the ESP: FAT32, made by mkfs.fat(8) in a file, and from there written to its place on
//! the proven DPSR disk. So no other program ever writes to that disk.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Kind, Result};
use crate::mount::tool;
use crate::pair::blocks;
use crate::units::{Bytes, PAGE};

/// The label by which an ESP of dpsr is known.
pub const LABEL: &str = "DPSR-ESP";

/// The serial number of a FAT, as blkid(8) and GRUB write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeId(pub u32);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}-{:04X}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// The volume number of dpsr's FAT32 that begins with this sector; `None` where it is something else.
/// (Microsoft's FAT specification, "BPB for FAT32")
fn ours(sector: &[u8]) -> Option<VolumeId> {
    let is = |at: usize, wanted: &[u8]| sector.get(at..at + wanted.len()) == Some(wanted);
    let label = format!("{LABEL:11}");
    let found = is(510, &[0x55, 0xaa]) && is(82, b"FAT32   ") && is(71, label.as_bytes());
    let id = sector.get(67..71)?.try_into().ok()?;
    found.then(|| VolumeId(u32::from_le_bytes(id)))
}

/// The volume number of the ESP, if it was made by dpsr.
pub fn read(disk: &dyn ReadDisk, esp: &Range<Bytes>) -> Result<Option<VolumeId>> {
    let sector = blocks::read(disk, esp.start..esp.start + Bytes(512));
    let sector = sector.map_err(|error| Error::device("reading the ESP of", disk.name(), &error))?;
    Ok(ours(&sector))
}

/// Makes an empty filesystem in `esp`, which loses what it held. `block` is the disk's logical block size.
pub fn make(disk: &dyn WriteDisk, block: Bytes, esp: &Range<Bytes>) -> Result<VolumeId> {
    let failed = |error: io::Error| {
        Error::device("making the ESP of", disk.name(), &error).next("run 'dpsr boot install' again")
    };
    let file = tempfile::NamedTempFile::new().map_err(failed)?;
    file.as_file().set_len((esp.end - esp.start).0).map_err(failed)?;
    let (sector, hidden) = (block.0.to_string(), (esp.start.0 / block.0).to_string());
    let path = path_text(file.path())?;
    tool::run("mkfs.fat", "dosfstools", &["-F", "32", "-n", LABEL, "-S", &sector, "-h", &hidden, path])?;
    let head = head(file.path()).map_err(failed)?;
    let id = ours(&head).ok_or_else(|| unexpected(disk))?;
    // What makes it a filesystem comes last: one that is not whole is none.
    let (first, rest) = head.split_at(PAGE as usize);
    disk.prove().and_then(|()| blocks::write(disk, esp.start + Bytes(PAGE), rest)).map_err(failed)?;
    disk.flush().map_err(failed)?;
    disk.prove().and_then(|()| blocks::write(disk, esp.start, first)).map_err(failed)?;
    disk.flush().map_err(failed)?;
    Ok(id)
}

/// Everything of an empty filesystem that must be written: what precedes the second cluster of its data. The
/// rest of the file, most of it, is one hole.
fn head(file: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(file)?;
    let mut first = [0; 512];
    file.read_exact_at(&mut first, 0)?;
    let number = |at: usize, size: usize| {
        first[at..at + size].iter().rev().fold(0, |number: usize, byte| number << 8 | usize::from(*byte))
    };
    let (sector, cluster, reserved) = (number(11, 2), number(13, 1), number(14, 2));
    let end = (reserved + number(16, 1) * number(36, 4) + cluster) * sector;
    if end == 0 || end as u64 > file.metadata()?.len() {
        return Err(io::Error::other("mkfs.fat made no FAT32"));
    }
    let mut head = vec![0; end.next_multiple_of(PAGE as usize)];
    file.read_exact_at(&mut head, 0)?;
    Ok(head)
}

fn unexpected(disk: &dyn ReadDisk) -> Error {
    let why = "mkfs.fat did not make what it was told to";
    Error::new(Kind::Internal, "making the ESP of", why).on(disk.name()).left("nothing was written")
}

/// A path as other programs take it.
pub(super) fn path_text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(Kind::Internal, "naming a file", "its name is not UTF-8").on(path.display().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::units::MIB;

    #[test]
    fn what_it_makes_is_a_sound_filesystem() {
        let disk = RamDisk::from_bytes("ram", vec![0xa5; 80 << 20]).strict(Bytes(512));
        let esp = Bytes(2 * MIB)..Bytes(66 * MIB);
        assert_eq!(read(&disk, &esp).unwrap(), None);
        let made = make(&disk, Bytes(512), &esp).unwrap();
        assert_eq!(read(&disk, &esp).unwrap(), Some(made));
        let around = blocks::read(&disk, Bytes(2 * MIB - 512)..Bytes(2 * MIB)).unwrap();
        assert!(around.iter().all(|byte| *byte == 0xa5));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), blocks::read(&disk, esp).unwrap()).unwrap();
        tool::run("fsck.fat", "dosfstools", &["-n", file.path().to_str().unwrap()]).unwrap();
        assert_eq!(VolumeId(0x1d3f_0bb6).to_string(), "1D3F-0BB6");
    }
}
