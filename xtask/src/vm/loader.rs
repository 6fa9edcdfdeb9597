// SPDX-License-Identifier: MIT OR Apache-2.0
//! GRUB for BIOS on a raw file, as grub-bios-setup(8) writes it on a disk with a BIOS boot partition: that
//! program wants partition nodes, which a build machine may lack. (GRUB's `util/setup.c`)

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Result;

const SECTOR: u64 = 512;

/// Code of the boot sector, before the table of an MBR.
const CODE: usize = 440;

/// In the boot sector: the sector the core image begins at, eight bytes.
const KERNEL_SECTOR: usize = 0x5c;

/// In the boot sector: two bytes that become no-ops, for firmware that does not tell the number of the drive.
const DRIVE_CHECK: usize = 0x66;

/// In the first sector of the core image: where the rest of it begins, eight bytes.
const REST: usize = 0x1f4;

/// Writes `boot.img` and `core.img` of the directory `from`, the latter into the partition `(start, size)`.
pub fn write_bios(disk: &File, (start, size): (u64, u64), from: &Path) -> Result<()> {
    let read = |name: &str| {
        let file = from.join(name);
        fs::read(&file).map_err(|error| format!("reading {}: {error}", file.display()))
    };
    let (mut boot, mut core) = (read("boot.img")?, read("core.img")?);
    if boot.len() as u64 != SECTOR || core.len() as u64 > size || core.len() as u64 <= SECTOR {
        return Err(format!("GRUB's images have unheard-of sizes: {} and {}", boot.len(), core.len()));
    }
    boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&(start / SECTOR).to_le_bytes());
    boot[DRIVE_CHECK..DRIVE_CHECK + 2].fill(0x90);
    core[REST..REST + 8].copy_from_slice(&(start / SECTOR + 1).to_le_bytes());
    let failed = |error| format!("writing GRUB: {error}");
    disk.write_all_at(&boot[..CODE], 0).and_then(|()| disk.write_all_at(&core, start)).map_err(failed)
}
