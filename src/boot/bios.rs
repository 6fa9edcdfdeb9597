// SPDX-License-Identifier: MIT OR Apache-2.0
//! GRUB for BIOS on the DPSR disk: boot code in the first sector, the core image in the BIOS boot partition.
//!
//! grub-mkimage(1) makes the core image with everything in it that the menu uses; dpsr puts it in its place, as
//! grub-bios-setup(8) would, but through the proven descriptor. (GRUB's `util/setup.c`, `boot/i386/pc/boot.S`)

use std::fs;
use std::ops::Range;
use std::path::Path;

use super::fat::{VolumeId, path_text};
use super::grub::early;
use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Kind, Result};
use crate::mount::tool;
use crate::pair::blocks;
use crate::units::{Bytes, PAGE, SECTOR};

/// Where the modules of GRUB for BIOS are, below the root.
const MODULES: &str = "usr/lib/grub/i386-pc";
/// What the core image has to know to show the menu and start a kernel.
const NEEDED: [&str; 16] = [
    "biosdisk",
    "part_gpt",
    "fat",
    "search",
    "search_fs_uuid",
    "normal",
    "configfile",
    "linux",
    "echo",
    "test",
    "serial",
    "terminal",
    "minicmd",
    "ls",
    "halt",
    "reboot",
];
/// How much of the first sector is boot code; the table of an MBR follows.
const CODE: usize = 440;
/// In the boot code: the sector at which the core image begins, eight bytes.
const CORE_AT: usize = 0x5c;
/// In the boot code: two bytes that become no-ops, for firmware that passes no drive number.
const DRIVE_CHECK: usize = 0x66;
/// In the first sector of the core image: where the rest of it begins, eight bytes.
const REST_AT: usize = 0x1f4;

/// What has to stand on the disk: at one of two places, so that a new one is written beside the one that boots.
pub struct Loader {
    places: [Placed; 2],
}

/// A core image, and the boot code that jumps to it.
struct Placed {
    code: Vec<u8>,
    core: Vec<u8>,
    start: Bytes,
}

impl Placed {
    fn new(code: &[u8], core: &[u8], start: Bytes) -> Self {
        let (mut code, mut core) = (code[..CODE].to_vec(), core.to_vec());
        let first = start.0 / SECTOR;
        code[CORE_AT..CORE_AT + 8].copy_from_slice(&first.to_le_bytes());
        code[DRIVE_CHECK..DRIVE_CHECK + 2].fill(0x90);
        core[REST_AT..REST_AT + 8].copy_from_slice(&(first + 1).to_le_bytes());
        core.resize(core.len().next_multiple_of(PAGE as usize), 0);
        Self { code, core, start }
    }

    fn is_jumped_to(&self, code: &[u8]) -> bool {
        code[CORE_AT..CORE_AT + 8] == self.code[CORE_AT..CORE_AT + 8]
    }
}

impl Loader {
    /// The loader that leads to the menu on `esp`; `None` where GRUB for BIOS is not installed below `root`.
    pub fn new(root: &Path, partition: &Range<Bytes>, esp: VolumeId) -> Result<Option<Self>> {
        let modules = root.join(MODULES);
        let Ok(code) = fs::read(modules.join("boot.img")) else { return Ok(None) };
        let failed =
            |error: std::io::Error| Error::new(Kind::Internal, "making a boot loader", error.to_string());
        let work = tempfile::tempdir().map_err(failed)?;
        let (config, image) = (work.path().join("early.cfg"), work.path().join("core.img"));
        fs::write(&config, early(esp)).map_err(failed)?;
        let (config, image_name) = (path_text(&config)?, path_text(&image)?);
        let mut words = vec!["--format=i386-pc", "--prefix=/dpsr", "--directory", path_text(&modules)?];
        words.extend(["--config", config, "--output", image_name]);
        words.extend(NEEDED);
        tool::run("grub-mkimage", "grub-common", &words)?;
        let core = fs::read(&image).map_err(failed)?;
        Self::placed(&code, &core, partition).map(Some)
    }

    fn placed(code: &[u8], core: &[u8], partition: &Range<Bytes>) -> Result<Self> {
        let half = Bytes((partition.end - partition.start).0 / 2).round_down(PAGE);
        if code.len() as u64 != SECTOR || core.len() as u64 <= SECTOR || core.len() > half.usize() {
            let why = format!("GRUB's images have unheard-of sizes: {} and {}", code.len(), core.len());
            return Err(Error::new(Kind::Internal, "making a boot loader", why).left("nothing was written"));
        }
        let places = [partition.start, partition.start + half].map(|start| Placed::new(code, core, start));
        Ok(Self { places })
    }

    /// Whether it stands on the disk already.
    pub fn stands_on(&self, disk: &dyn ReadDisk) -> Result<bool> {
        let failed = |error| Error::device("reading the boot loader of", disk.name(), &error);
        let code = blocks::read(disk, Bytes::ZERO..Bytes(CODE as u64)).map_err(failed)?;
        let Some(placed) = self.places.iter().find(|placed| placed.code == code) else { return Ok(false) };
        let range = placed.start..placed.start + Bytes(placed.core.len() as u64);
        Ok(blocks::read(disk, range).map_err(failed)? == placed.core)
    }

    /// Writes it: the core image, to where none is that the disk boots, and, once that is flushed, the code that
    /// jumps to it. A power cut leaves the old one or the new one.
    pub fn write(&self, disk: &dyn WriteDisk) -> Result<()> {
        let failed = |error| {
            Error::device("writing the boot loader of", disk.name(), &error)
                .next("run 'dpsr boot install' again")
        };
        let block = disk.alignment().max(Bytes(SECTOR));
        let mut sector = blocks::read(disk, Bytes::ZERO..block).map_err(failed)?;
        let [first, second] = &self.places;
        let placed = if first.is_jumped_to(&sector) { second } else { first };
        sector[..CODE].copy_from_slice(&placed.code);
        disk.prove().and_then(|()| blocks::write(disk, placed.start, &placed.core)).map_err(failed)?;
        disk.flush().and_then(|()| blocks::write(disk, Bytes::ZERO, &sector)).map_err(failed)?;
        disk.flush().map_err(failed)
    }
}

/// Takes the boot code away, so that BIOS passes the disk by; the table of the MBR stays.
pub fn clear(disk: &dyn WriteDisk) -> Result<()> {
    let failed = |error| Error::device("clearing the boot loader of", disk.name(), &error);
    let block = disk.alignment().max(Bytes(SECTOR));
    let mut sector = blocks::read(disk, Bytes::ZERO..block).map_err(failed)?;
    sector[..CODE].fill(0);
    disk.prove().and_then(|()| blocks::write(disk, Bytes::ZERO, &sector)).map_err(failed)?;
    disk.flush().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::units::MIB;

    fn loader(filled: u8) -> Loader {
        Loader::placed(&[filled; 512], &[filled; 70_000], &(Bytes(MIB)..Bytes(2 * MIB))).unwrap()
    }

    fn disk() -> RamDisk {
        RamDisk::from_bytes("ram", vec![7; 4 << 20]).strict(Bytes(512))
    }

    #[test]
    fn the_code_leads_to_the_core_image_and_the_table_stays() {
        let (disk, loader) = (disk(), loader(1));
        assert!(!loader.stands_on(&disk).unwrap());
        loader.write(&disk).unwrap();
        assert!(loader.stands_on(&disk).unwrap());
        let first = blocks::read(&disk, Bytes::ZERO..Bytes(1024)).unwrap();
        assert_eq!(
            (first[CORE_AT..CORE_AT + 8].to_vec(), &first[DRIVE_CHECK..DRIVE_CHECK + 2]),
            (2048_u64.to_le_bytes().to_vec(), &[0x90, 0x90][..])
        );
        assert!(first[CODE..].iter().all(|byte| *byte == 7), "what follows the code is not ours");
        let core = blocks::read(&disk, Bytes(MIB)..Bytes(MIB + 512)).unwrap();
        assert_eq!(core[REST_AT..REST_AT + 8], 2049_u64.to_le_bytes());
    }

    #[test]
    fn what_boots_is_not_written_over() {
        let disk = disk();
        loader(1).write(&disk).unwrap();
        let core = || blocks::read(&disk, Bytes(MIB)..Bytes(MIB + 65_536)).unwrap();
        let old = core();
        loader(2).write(&disk).unwrap();
        assert!(core() == old, "the core image that was jumped to until the last write");
        assert!(loader(2).stands_on(&disk).unwrap() && !loader(1).stands_on(&disk).unwrap());
        loader(3).write(&disk).unwrap();
        assert!(core() != old && loader(3).stands_on(&disk).unwrap());
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let partition = Bytes(MIB)..Bytes(2 * MIB);
        let error = Loader::placed(&[1; 512], &[2; 600 << 10], &partition).err().unwrap();
        insta::assert_snapshot!(error, @"making a boot loader: GRUB's images have unheard-of sizes: 512 and 614400; nothing was written");
    }
}
