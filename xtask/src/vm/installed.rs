// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine as a user has it: Debian with dpsr installed and its initramfs made anew, on a disk from which
//! BIOS and UEFI boot. Built on the host, at its full speed, from the tree of the base image; kept like that.
//!
//! The disk is GPT: a BIOS boot partition with GRUB's core image, an ESP with the signed loaders, and the root
//! filesystem (ext4), and swap space. Everything is found by UUID; nothing by label or by node.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::image::{self, Debian, Image, fnv, tool};
use super::loader;
use crate::data::{MIB, make_sparse};
use crate::dpsr::text;
use crate::process::output;
use crate::scratch::Scratch;
use crate::{Result, install};

/// Makes the initramfs and the loader's image; part of the recipe.
const SCRIPT: &str = include_str!("guest/installed.sh");

/// The UUID of the root filesystem.
pub const ROOT_UUID: &str = "1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a01";

/// The volume number of the ESP, as mkfs.fat(8) and as blkid(8) write it.
const ESP_ID: (&str, &str) = ("1d3f6bb6", "1D3F-6BB6");

/// The GUID of the partition with it.
pub const ROOT_PARTUUID: &str = "1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a03";

/// The UUID of the swap space.
pub const SWAP_UUID: &str = "1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a02";

const BIOS: (u64, u64) = (MIB, MIB);
const ESP: (u64, u64) = (BIOS.0 + BIOS.1, 64 * MIB);
const ROOT: (u64, u64) = (ESP.0 + ESP.1, 1200 * MIB);
const SWAP: (u64, u64) = (ROOT.0 + ROOT.1, 64 * MIB);
const SIZE: u64 = SWAP.0 + SWAP.1 + MIB;

/// An installed system that is there.
pub struct Installed {
    folder: PathBuf,
}

impl Installed {
    /// The installed system of this workspace as it is now: found, or built.
    pub fn of(debian: Debian) -> Result<Self> {
        let image = Image::of(debian)?;
        let _lock = image::locked(debian)?;
        let scratch = Scratch::new(&std::env::temp_dir(), "installed")?;
        let files = install::install(scratch.path(), false)?;
        let name = format!("installed-{}-{:016x}", debian.number(), recipe(&image, &files)?);
        let installed = Self { folder: image::store().join(name) };
        if !installed.folder.exists() {
            build(debian, &image, (scratch.path(), &files), &installed.folder)?;
            image::remove_older(&format!("installed-{}-", debian.number()), &installed.folder)?;
        }
        Ok(installed)
    }

    /// The whole disk, raw. Only ever a backing file.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }
}

/// What decides the content: the base image, what is installed into it, and how.
fn recipe(image: &Image, files: &[PathBuf]) -> Result<u64> {
    let mut bytes = Vec::new();
    for file in files {
        let content = fs::read(file).map_err(|error| format!("reading {}: {error}", file.display()))?;
        bytes.extend(fnv(&content).to_le_bytes());
    }
    for word in [&image.name(), SCRIPT, &table(), &fstab(), &menu("V"), &early()] {
        bytes.extend(word.bytes());
    }
    Ok(fnv(&bytes))
}

fn build(debian: Debian, image: &Image, (from, files): (&Path, &[PathBuf]), folder: &Path) -> Result<()> {
    println!("building an installed Debian {} …", debian.number());
    let start = Instant::now();
    let partial = folder.with_extension("partial");
    let failed = |error| format!("preparing {}: {error}", partial.display());
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(failed)?;
    }
    let root = partial.join("root");
    fs::create_dir_all(&root).map_err(failed)?;
    image::unpack(&image.archive(), &root)?;
    for file in files {
        let below = file.strip_prefix(from).map_err(|error| format!("{}: {error}", file.display()))?;
        install::put(file, &root.join(below), install::is_executable(file)?)?;
    }
    fill(&root, &partial)?;
    println!("tree: {:.0} s", start.elapsed().as_secs_f64());
    make_disk(&root, &partial)?;
    fs::remove_dir_all(&root).and_then(|()| fs::rename(&partial, folder)).map_err(failed)?;
    println!("installed Debian {}: {:.0} s", debian.number(), start.elapsed().as_secs_f64());
    Ok(())
}

/// What an installer writes last: the table of filesystems, the initramfs, the loader's menu.
fn fill(root: &Path, beside: &Path) -> Result<()> {
    let write = |file: PathBuf, text: &str| {
        fs::write(&file, text).map_err(|error| format!("writing {}: {error}", file.display()))
    };
    let grub = root.join("boot/grub");
    fs::create_dir_all(&grub).map_err(|error| format!("making {}: {error}", grub.display()))?;
    write(root.join("etc/fstab"), &fstab())?;
    write(grub.join("grub.cfg"), &menu(&kernel(root)?))?;
    write(beside.join("early.cfg"), &early())?;
    write(beside.join("installed.sh"), SCRIPT)?;
    let mut script = Command::new("unshare");
    output(script.args(["--mount", "sh"]).arg(beside.join("installed.sh")).arg(root).arg(beside)).map(drop)
}

/// The version of the only kernel in the tree.
fn kernel(root: &Path) -> Result<String> {
    let modules = root.join("usr/lib/modules");
    let entries =
        fs::read_dir(&modules).map_err(|error| format!("reading {}: {error}", modules.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    match &names.collect::<Vec<_>>()[..] {
        [only] => Ok(only.clone()),
        other => Err(format!("one kernel expected in {}, found {other:?}", modules.display())),
    }
}

fn fstab() -> String {
    format!(
        "UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\nUUID={} /boot/efi vfat umask=0077 0 2\n\
         UUID={SWAP_UUID} none swap sw 0 0\n",
        ESP_ID.1
    )
}

/// The menu: what both loaders end at. The console of the loader is the serial line, too.
fn menu(kernel: &str) -> String {
    format!(
        "serial --unit=0 --speed=115200\nterminal_output console serial\nset timeout=1\n\
         menuentry 'Debian' {{\n\
         \x20   echo 'the primary loads its kernel'\n\
         \x20   linux /boot/vmlinuz-{kernel} root=UUID={ROOT_UUID} ro console=ttyS0 systemd.show_status=1 \
         mitigations=off rcupdate.rcu_expedited=1\n\
         \x20   initrd /boot/initrd.img-{kernel}\n}}\n"
    )
}

/// Read first, from inside the loader or beside it: where the menu is.
fn early() -> String {
    format!("search.fs_uuid {ROOT_UUID} root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n")
}

fn make_disk(root: &Path, partial: &Path) -> Result<()> {
    let disk = partial.join("disk.img");
    let file = make_sparse(&disk, SIZE)?;
    let script = partial.join("sfdisk");
    let failed = |error| format!("partitioning {}: {error}", disk.display());
    fs::write(&script, table()).map_err(failed)?;
    let script = File::open(&script).map_err(failed)?;
    output(tool("sfdisk").args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(&disk).stdin(script))?;
    loader::write_bios(&file, BIOS, partial)?;
    make_swap(&file, partial)?;
    make_esp(root, partial, &disk)?;
    image::make_ext4(&disk, ROOT, &["-U", ROOT_UUID, "-L", "installed"], root)
}

/// Only the first page of swap space means anything.
fn make_swap(disk: &File, partial: &Path) -> Result<()> {
    let made = partial.join("swap");
    make_sparse(&made, SWAP.1)?;
    output(tool("mkswap").args(["--uuid", SWAP_UUID]).arg(&made))?;
    let failed = |error| format!("making swap space: {error}");
    let mut head = vec![0; 4096];
    File::open(&made).and_then(|made| made.read_exact_at(&mut head, 0)).map_err(failed)?;
    disk.write_all_at(&head, SWAP.0).map_err(failed)
}

/// The ESP as Debian's installer fills it, and the path for firmware that has forgotten its entries.
fn make_esp(root: &Path, partial: &Path, disk: &Path) -> Result<()> {
    image::make_fat(disk, ESP, &["-i", ESP_ID.0, "-n", "EFI"])?;
    let inside = format!("{}@@{}", text(disk)?, ESP.0);
    let mtool = |name: &str, words: &[&str]| output(tool(name).args(["-i", &inside]).args(words)).map(drop);
    mtool("mmd", &["::EFI", "::EFI/BOOT", "::EFI/debian"])?;
    let from = |file: &str| text(&root.join(file)).map(str::to_owned);
    let shim = from("usr/lib/shim/shimx64.efi.signed")?;
    let grub = from("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")?;
    let early = text(&partial.join("early.cfg"))?.to_owned();
    for (file, to) in [
        (&shim, "EFI/BOOT/BOOTX64.EFI"),
        (&grub, "EFI/BOOT/grubx64.efi"),
        (&shim, "EFI/debian/shimx64.efi"),
        (&grub, "EFI/debian/grubx64.efi"),
        (&early, "EFI/debian/grub.cfg"),
    ] {
        mtool("mcopy", &[file, &format!("::{to}")])?;
    }
    Ok(())
}

/// The partition table as sfdisk(8) reads it.
fn table() -> String {
    let part = |(start, size): (u64, u64), kind: &str, name: &str| {
        format!("start={}, size={}, type={kind}, name={name}\n", start / 512, size / 512)
    };
    let bios = part(BIOS, "21686148-6449-6E6F-744E-656564454649", "bios");
    let root = format!("L, uuid={ROOT_PARTUUID}");
    let (esp, root, swap) = (part(ESP, "U", "esp"), part(ROOT, &root, "root"), part(SWAP, "S", "swap"));
    format!("label: gpt\n{bios}{esp}{root}{swap}")
}
