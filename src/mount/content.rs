// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is on a device, and how the kernel is told to read it without writing and beside its original.

use std::path::Path;

use crate::disk::ReadDisk;
use crate::disk::file::{Access, FileDisk};
use crate::error::Result;
use crate::pair::content::content;
use crate::units::Bytes;

/// What a device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A filesystem that is mounted as it is.
    Filesystem(Filesystem),
    /// A btrfs: the kernel tells them apart by UUID alone, so it needs another one.
    Btrfs,
    /// LUKS: something encrypted.
    Luks,
    /// A physical volume of LVM: logical volumes.
    Lvm,
    /// Something else, or nothing.
    Other(String),
}

/// A filesystem as mount(2) wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Its driver.
    pub driver: &'static str,
    /// The driver's own options.
    pub options: &'static str,
}

/// Looks at the device `node`.
pub fn look(node: &Path) -> Result<Holds> {
    let disk = FileDisk::open(node, Access::Read)?;
    let found = content(&disk, &(Bytes::ZERO..disk.size()));
    Ok(of(&found.map(|found| found.fstype).unwrap_or_default()))
}

/// From the name libblkid has for it.
fn of(fstype: &str) -> Holds {
    let plain = |driver, options| Holds::Filesystem(Filesystem { driver, options });
    match fstype {
        // A journal is not replayed: that would be a write.
        "ext2" | "ext3" | "ext4" => plain("ext4", "noload"),
        "xfs" => plain("xfs", "nouuid,norecovery"),
        "vfat" => plain("vfat", ""),
        "exfat" => plain("exfat", ""),
        "iso9660" => plain("iso9660", ""),
        "squashfs" => plain("squashfs", ""),
        "erofs" => plain("erofs", ""),
        "btrfs" => Holds::Btrfs,
        "crypto_LUKS" => Holds::Luks,
        "LVM2_member" => Holds::Lvm,
        "" => Holds::Other("nothing known".to_owned()),
        other => Holds::Other(other.to_owned()),
    }
}

impl Holds {
    /// Whether it can be mounted, or leads to something that perhaps can.
    pub fn leads_on(&self) -> bool {
        !matches!(self, Self::Other(_))
    }
}
