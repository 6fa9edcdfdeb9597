// SPDX-License-Identifier: MIT OR Apache-2.0
//! How an installed disk is divided, and the texts that follow from it.

use crate::data::MIB;

/// The UUID of the root filesystem.
pub const ROOT_UUID: &str = "1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a01";

/// The UUID of the swap space.
pub const SWAP_UUID: &str = "1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a02";

/// The GUID of the partition with the root, or with what it stands on.
pub const ROOT_PARTUUID: &str = "1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a03";

/// The UUID of the filesystem with the kernels, where that is one of its own.
pub const BOOT_UUID: &str = "1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a04";

/// The UUID of what is encrypted.
pub const LUKS_UUID: &str = "1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a05";

/// The UUID of the array, as mdadm(8) writes it.
pub const ARRAY_UUID: &str = "1d3f6bb6:5d3c4a5e:9a0b0c5e:5d2f7a08";

/// The UUID of the filesystem with the homes, where that is one of its own.
pub const HOME_UUID: &str = "1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a06";

/// The volume number of the ESP, as mkfs.fat(8) and as blkid(8) write it.
pub const ESP_ID: (&str, &str) = ("1d3f6bb6", "1D3F-6BB6");

/// The volume group.
pub const SYSTEM: &str = "system";

/// Start and size, in bytes.
pub type Place = (u64, u64);

pub const BIOS: Place = (MIB, MIB);

/// What LUKS1 of QEMU takes of a partition at most, for its header and keys.
pub const LUKS_HEADER: u64 = 4 * MIB;

/// In the volume group, from the first extent on, which is 1 MiB behind the start of the physical volume.
pub const ROOT_VOLUME: Place = (MIB, 480 * MIB);
pub const HOME_VOLUME: Place = (ROOT_VOLUME.0 + ROOT_VOLUME.1, 32 * MIB);

/// What the root stands on. All but the first four have a filesystem of its own for the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// ext4 on a partition.
    Plain,
    /// The same, started by systemd-boot, which reads kernel and initramfs from the ESP.
    SystemdBoot,
    /// The same, and another partition for the homes.
    Homes,
    /// The same as the first, with swap space for all of the memory.
    Sleeps,
    /// btrfs on a partition of an array of two disks that are alike.
    Raid,
    /// XFS on a partition.
    Xfs,
    /// btrfs on a partition.
    Btrfs,
    /// ext4 on a logical volume, and another one for the homes.
    Lvm,
    /// The same, and its initramfs is made by initramfs-tools; what a switch to dracut takes is at hand.
    Stock,
    /// ext4 on LUKS; the passphrase is asked for on the console.
    Luks,
    /// XFS on a logical volume, and ext4 on another one for the homes, all of it in LUKS.
    Stacked,
}

impl Layout {
    /// Part of the names of files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Stock => "stock",
            Self::SystemdBoot => "systemd-boot",
            Self::Homes => "homes",
            Self::Sleeps => "sleeps",
            Self::Raid => "raid",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Lvm => "lvm",
            Self::Luks => "luks",
            Self::Stacked => "stacked",
        }
    }

    /// What makes its initramfs.
    pub fn generator(self) -> &'static str {
        if self == Self::Stock { "initramfs-tools" } else { "dracut" }
    }

    /// The type of the root filesystem.
    pub fn filesystem(self) -> &'static str {
        match self {
            Self::Xfs | Self::Stacked => "xfs",
            Self::Btrfs | Self::Raid => "btrfs",
            _ => "ext4",
        }
    }

    /// Whether it is encrypted.
    pub fn is_locked(self) -> bool {
        matches!(self, Self::Luks | Self::Stacked)
    }

    /// Whether it has logical volumes.
    pub fn has_volumes(self) -> bool {
        matches!(self, Self::Lvm | Self::Stock | Self::Stacked)
    }

    /// The partition with the kernels.
    pub fn boot(self) -> Option<Place> {
        let esp = self.esp();
        (!self.is_plain()).then_some((esp.0 + esp.1, 160 * MIB))
    }

    /// Whether the root is a filesystem on a partition, with the kernels in it.
    pub fn is_plain(self) -> bool {
        matches!(self, Self::Plain | Self::SystemdBoot | Self::Homes | Self::Sleeps)
    }

    pub fn esp(self) -> Place {
        (BIOS.0 + BIOS.1, if self == Self::SystemdBoot { 160 * MIB } else { 40 * MIB })
    }

    /// The partition with the root, or with what it stands on.
    pub fn root(self) -> Place {
        let before = self.boot().unwrap_or(self.esp());
        // All of it is copied in emulation. mkfs.btrfs plans generously for what it is to hold.
        let size = if self.filesystem() == "btrfs" {
            720 * MIB
        } else if self.is_plain() {
            480 * MIB
        } else {
            528 * MIB
        };
        (before.0 + before.1, size)
    }

    pub fn swap(self) -> Place {
        let root = self.root();
        (root.0 + root.1, if self == Self::Sleeps { 512 * MIB } else { 64 * MIB })
    }

    /// The partition with the homes, where there is one.
    pub fn homes(self) -> Option<Place> {
        let swap = self.swap();
        (self == Self::Homes).then_some((swap.0 + swap.1, HOME_VOLUME.1))
    }

    /// Of all that the table divides: the whole disk, or the array.
    pub fn size(self) -> u64 {
        let last = self.homes().unwrap_or(self.swap());
        last.0 + last.1 + MIB
    }

    /// What the kernel is told of the root.
    pub fn words(self) -> String {
        match self {
            Self::Raid => format!("root=UUID={ROOT_UUID} rd.md.uuid={ARRAY_UUID}"),
            Self::Lvm => format!("root=/dev/mapper/{SYSTEM}-root rd.lvm.lv={SYSTEM}/root"),
            // As Debian's installer leaves it.
            Self::Stock => format!("root=/dev/mapper/{SYSTEM}-root rd.lvm.lv={SYSTEM}/root quiet"),
            Self::Luks => format!("root=UUID={ROOT_UUID} rd.luks.name={LUKS_UUID}=locked"),
            Self::Stacked => {
                let opened = format!("rd.luks.name={LUKS_UUID}=locked rd.lvm.lv={SYSTEM}/root");
                format!("root=/dev/mapper/{SYSTEM}-root {opened}")
            }
            _ => format!("root=UUID={ROOT_UUID}"),
        }
    }

    pub fn fstab(self) -> String {
        let options = if self.filesystem() == "ext4" { "errors=remount-ro" } else { "defaults" };
        let check = if self.filesystem() == "ext4" { 1 } else { 0 };
        let mut lines = format!("UUID={ROOT_UUID} / {} {options} 0 {check}\n", self.filesystem());
        if self.boot().is_some() {
            lines.push_str(&format!("UUID={BOOT_UUID} /boot ext4 defaults 0 2\n"));
        }
        if self.has_volumes() || self == Self::Homes {
            lines.push_str(&format!("UUID={HOME_UUID} /home ext4 defaults 0 2\n"));
        }
        lines.push_str(&format!(
            "UUID={} /boot/efi vfat umask=0077 0 2\nUUID={SWAP_UUID} none swap sw 0 0\n",
            ESP_ID.1
        ));
        lines
    }

    pub fn crypttab(self) -> Option<String> {
        self.is_locked().then(|| format!("locked UUID={LUKS_UUID} none luks\n"))
    }

    /// The partition table as sfdisk(8) reads it.
    pub fn table(self) -> String {
        let part = |(start, size): Place, kind: &str, name: &str| {
            format!("start={}, size={}, type={kind}, name={name}\n", start / 512, size / 512)
        };
        let kind = if matches!(self, Self::Lvm | Self::Stock) { "V" } else { "L" };
        let mut lines = format!("label: gpt\n{}", part(BIOS, "21686148-6449-6E6F-744E-656564454649", "bios"));
        lines.push_str(&part(self.esp(), "U", "esp"));
        if let Some(boot) = self.boot() {
            lines.push_str(&part(boot, "L", "boot"));
        }
        lines.push_str(&part(self.root(), &format!("{kind}, uuid={ROOT_PARTUUID}"), "root"));
        lines.push_str(&part(self.swap(), "S", "swap"));
        if let Some(homes) = self.homes() {
            lines.push_str(&part(homes, "L", "homes"));
        }
        lines
    }

    /// The menu: what both loaders end at. The console of the loader is the serial line, too.
    pub fn menu(self, kernel: &str) -> String {
        let at = if self.boot().is_some() { "" } else { "/boot" };
        let root = self.words();
        format!(
            "serial --unit=0 --speed=115200\nterminal_output console serial\nset timeout=1\n\
             menuentry 'Debian' {{\n\
             \x20   echo 'the primary loads its kernel'\n\
             \x20   linux {at}/vmlinuz-{kernel} {root} ro console=ttyS0 systemd.show_status=1 \
             mitigations=off rcupdate.rcu_expedited=1\n\
             \x20   initrd {at}/initrd.img-{kernel}\n}}\n"
        )
    }

    /// Read first, from inside the loader or beside it: where the menu is.
    pub fn early(self) -> String {
        let (uuid, at) = if self.boot().is_some() { (BOOT_UUID, "") } else { (ROOT_UUID, "/boot") };
        format!("search.fs_uuid {uuid} root\nset prefix=($root){at}/grub\nconfigfile $prefix/grub.cfg\n")
    }
}
