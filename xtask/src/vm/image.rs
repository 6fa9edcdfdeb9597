// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disk images to boot from: built once for each recipe, kept below `target/vm`, never written afterwards.
//!
//! The disk is GPT: a BIOS boot partition, an ESP (label `VM-ESP`) and the root filesystem (ext4, label
//! `dpsr-root`). Nothing of it touches a block device of this machine: the tools write into a file.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Instant;

use crate::data::{GIB, MIB, make_sparse};
use crate::dpsr::text;
use crate::process::{self, output};
use crate::sources;
use crate::{Result, cargo};

/// Copied next to the image while it is built; part of the recipe.
const FILES: [(&str, &str); 4] = [
    ("agent.sh", include_str!("guest/agent.sh")),
    ("dpsr-agent.service", include_str!("guest/dpsr-agent.service")),
    ("essential.sh", include_str!("guest/essential.sh")),
    ("customize.sh", include_str!("guest/customize.sh")),
];

/// What is in the image besides Debian's essential packages.
const PACKAGES: &str = "linux-image-amd64,dracut,systemd-sysv,udev,dbus,kmod,procps,util-linux,\
    lvm2,dmsetup,e2fsprogs,xfsprogs,btrfs-progs,dosfstools,cryptsetup-bin,gdisk,fdisk,\
    parted,grub-pc-bin,grub-efi-amd64-bin,grub2-common,shim-signed,grub-efi-amd64-signed,efibootmgr,\
    fio,strace,mdadm,systemd-boot-efi,zstd";

/// Nobody reads these in a virtual machine, and each file costs time while the image is built.
const LEFT_OUT: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];

const SIZE: u64 = 4 * GIB;
const ESP: (u64, u64) = (2 * MIB, 64 * MIB);
const ROOT: (u64, u64) = (ESP.0 + ESP.1, SIZE - MIB - ESP.0 - ESP.1);

/// A release of Debian that dpsr is tested with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debian {
    Bookworm,
    Trixie,
}

impl Debian {
    pub fn number(self) -> u32 {
        match self {
            Self::Bookworm => 12,
            Self::Trixie => 13,
        }
    }

    fn codename(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

impl FromStr for Debian {
    type Err = ();

    fn from_str(number: &str) -> std::result::Result<Self, ()> {
        [Self::Bookworm, Self::Trixie].into_iter().find(|it| it.number().to_string() == number).ok_or(())
    }
}

/// An image that is there.
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image of the present recipe: found, or built.
    pub fn of(debian: Debian) -> Result<Self> {
        let _lock = locked(debian)?;
        let name = format!("debian-{}-{:016x}", debian.number(), recipe(debian));
        let image = Self { folder: store().join(name) };
        if !image.folder.exists() {
            build(debian, &image.folder)?;
            remove_older(&format!("debian-{}-", debian.number()), &image.folder)?;
        }
        Ok(image)
    }

    /// The name of this image, which no other one has.
    pub fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The whole disk, raw. Only ever a backing file: a machine writes into an overlay of its own.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }

    /// The tree of the root filesystem, to make other disks of.
    pub fn archive(&self) -> PathBuf {
        self.folder.join("root.tar")
    }

    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("initrd.img")
    }
}

/// Where images are kept.
pub fn store() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| cargo::workspace().join("target")).join("vm")
}

/// Two tasks at once must not build the same thing; the kernel drops the lock when this one ends.
pub fn locked(debian: Debian) -> Result<File> {
    let store = store();
    let failed = |error| format!("preparing {}: {error}", store.display());
    fs::create_dir_all(&store).map_err(failed)?;
    let lock = File::create(store.join(format!("debian-{}.lock", debian.number()))).map_err(failed)?;
    lock.lock().map_err(failed)?;
    Ok(lock)
}

/// A number over what decides the content of an image. The state of the archive does not count: an image is as
/// fresh as the day it was built, and whoever wants a newer one deletes it.
fn recipe(debian: Debian) -> u64 {
    let files = FILES.iter().flat_map(|(name, text)| [*name, *text]);
    let table = table();
    let words = files.chain(LEFT_OUT).chain([PACKAGES, debian.codename(), &table]);
    fnv(&words.flat_map(|word| word.bytes().chain([0])).collect::<Vec<u8>>())
}

/// FNV-1a, 64 bits.
pub fn fnv(bytes: &[u8]) -> u64 {
    let next = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, next)
}

fn build(debian: Debian, folder: &Path) -> Result<()> {
    if !process::is_root() {
        return Err("building a virtual machine's image keeps owners of files, and so needs root".to_owned());
    }
    println!("building the image of Debian {} …", debian.number());
    let start = Instant::now();
    let partial = folder.with_extension("partial");
    let failed = |error| format!("preparing {}: {error}", partial.display());
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(failed)?;
    }
    fs::create_dir_all(&partial).map_err(failed)?;
    for (name, content) in FILES {
        fs::write(partial.join(name), content).map_err(failed)?;
    }
    install(debian, &partial)?;
    println!("packages: {:.0} s", start.elapsed().as_secs_f64());
    make_disk(&partial)?;
    fs::rename(&partial, folder).map_err(failed)?;
    println!("image of Debian {}: {:.0} s", debian.number(), start.elapsed().as_secs_f64());
    Ok(())
}

/// Lets mmdebstrap make the root filesystem as `root.tar`, beside the kernel and its initramfs.
fn install(debian: Debian, partial: &Path) -> Result<()> {
    let here = text(partial)?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=apt", "--format=tar"]).arg(format!("--include={PACKAGES}"));
    command.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    command.arg(format!("--essential-hook=sh '{here}/essential.sh' \"$1\""));
    command.arg(format!("--customize-hook=sh '{here}/customize.sh' \"$1\" '{here}'"));
    command.args([debian.codename(), &format!("{here}/root.tar")]);
    let lines = sources::lines(debian.codename());
    if lines.is_empty() {
        println!("this machine's package sources know no {}; mmdebstrap's own choice", debian.codename());
        command.stdin(Stdio::null());
    } else {
        let list = partial.join("sources.list");
        let failed = |error| format!("writing {}: {error}", list.display());
        fs::write(&list, lines.join("\n") + "\n").map_err(failed)?;
        command.arg(&list);
    }
    output(&mut command).map(drop)
}

fn make_disk(partial: &Path) -> Result<()> {
    let disk = partial.join("disk.img");
    make_sparse(&disk, SIZE)?;
    let script = partial.join("sfdisk");
    let failed = |error| format!("partitioning {}: {error}", disk.display());
    fs::write(&script, table()).map_err(failed)?;
    let script = File::open(&script).map_err(failed)?;
    output(tool("sfdisk").args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(&disk).stdin(script))?;

    make_fat(&disk, ESP, &["-n", "VM-ESP"])?;
    let root = partial.join("root");
    let failed = |error| format!("unpacking into {}: {error}", root.display());
    fs::create_dir(&root).map_err(failed)?;
    unpack(&partial.join("root.tar"), &root)?;
    make_ext4(&disk, ROOT, &["-L", "dpsr-root"], &root)?;
    fs::remove_dir_all(&root).map_err(failed)
}

/// Unpacks the tree of a root filesystem. The guest has devtmpfs: no device node of it is ever made on this
/// machine.
pub fn unpack(archive: &Path, root: &Path) -> Result<()> {
    let how = ["--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*"];
    output(Command::new("tar").args(how).arg("--file").arg(archive).arg("--directory").arg(root)).map(drop)
}

/// An empty FAT32 in the partition `(start, size)` of a raw file, in bytes.
pub fn make_fat(disk: &Path, (start, size): (u64, u64), words: &[&str]) -> Result<()> {
    let offset = (start / 512).to_string();
    let mut make = tool("mkfs.fat");
    make.args(["-F", "32", "-s", "1", "--offset", &offset]).args(words).arg(disk);
    output(make.arg((size / 1024).to_string())).map(drop)
}

/// An ext4 with the tree `root` in the partition `(start, size)` of a raw file, in bytes. Tables left for the
/// kernel to zero would make the guest write while a test wants silence.
pub fn make_ext4(disk: &Path, (start, size): (u64, u64), words: &[&str], root: &Path) -> Result<()> {
    let settings = format!("offset={start},lazy_itable_init=0,lazy_journal_init=0");
    let mut make = tool("mke2fs");
    make.args(["-q", "-F", "-t", "ext4"]).args(words).args(["-E", &settings, "-d"]).arg(root).arg(disk);
    output(make.arg(format!("{}k", size / 1024))).map(drop)
}

/// The partition table as sfdisk(8) reads it.
fn table() -> String {
    let part = |(start, size): (u64, u64), kind: &str, name: &str| {
        format!("start={}, size={}, type={kind}, name={name}\n", start / 512, size / 512)
    };
    let bios = part((MIB, MIB), "21686148-6449-6E6F-744E-656564454649", "bios");
    format!("label: gpt\n{bios}{}{}", part(ESP, "U", "esp"), part(ROOT, "L", "root"))
}

/// A program of the system directories, which need not be on the `PATH`.
pub fn tool(name: &str) -> Command {
    Command::new(process::find(name).unwrap_or_else(|| name.into()))
}

/// What has the same beginning of its name and is not `present`: older recipes.
pub fn remove_older(beginning: &str, present: &Path) -> Result<()> {
    let entries = fs::read_dir(store()).into_iter().flatten().flatten().map(|entry| entry.path());
    for folder in entries.filter(|path| path != present) {
        if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning)) {
            fs::remove_dir_all(&folder).map_err(|error| format!("removing {}: {error}", folder.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_has_an_image_of_its_own() {
        assert_eq!("12".parse(), Ok(Debian::Bookworm));
        assert_eq!("13".parse(), Ok(Debian::Trixie));
        assert_eq!("11".parse::<Debian>(), Err(()));
        assert_ne!(recipe(Debian::Bookworm), recipe(Debian::Trixie));
    }

    #[test]
    fn the_table_fits_the_disk() {
        assert_eq!(ROOT.0 + ROOT.1 + MIB, SIZE);
        assert!(table().contains("start=4096, size=131072, type=U, name=esp"), "{}", table());
    }
}
