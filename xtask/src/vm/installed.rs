// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine as a user has it: Debian with dpsr installed and its initramfs made anew, on a disk from which
//! BIOS and UEFI boot. Built on the host, at its full speed, from the tree of the base image; kept like that.
//!
//! The disk is GPT: a BIOS boot partition with GRUB's core image, an ESP with the signed loaders, the root on
//! what its [`Layout`] says, and swap space. Everything is found by UUID; nothing by label or by node.

mod array;
mod layout;
mod system;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub use layout::{ARRAY_UUID, Layout, ROOT_PARTUUID, ROOT_UUID, SWAP_UUID, SYSTEM};
use layout::{BIOS, BOOT_UUID, ESP_ID};
pub use system::PASSPHRASE;

use super::image::{self, Debian, Image, fnv, tool};
use super::loader;
use crate::data::make_sparse;
use crate::dpsr::text;
use crate::process::output;
use crate::scratch::Scratch;
use crate::{Result, install};

/// Makes the initramfs and the loader's image; part of the recipe.
const SCRIPT: &str = include_str!("guest/installed.sh");

/// The second disk of an array.
const MIRROR: &str = "mirror.img";

/// An installed system that is there.
pub struct Installed {
    folder: PathBuf,
}

impl Installed {
    /// The installed system of this workspace as it is now: found, or built.
    pub fn of(debian: Debian, layout: Layout) -> Result<Self> {
        let image = Image::of(debian)?;
        let _lock = image::locked(debian)?;
        let scratch = Scratch::new(&std::env::temp_dir(), "installed")?;
        let files = install::install(scratch.path(), false)?;
        let kind = format!("installed-{}-{}-", debian.number(), layout.name());
        let name = format!("{kind}{:016x}", recipe(&image, &files, layout)?);
        let installed = Self { folder: image::store().join(name) };
        if !installed.folder.exists() {
            build((debian, layout), &image, (scratch.path(), &files), &installed.folder)?;
            image::remove_older(&kind, &installed.folder)?;
        }
        Ok(installed)
    }

    /// The whole disk, raw. Only ever a backing file.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }

    /// The second disk, where the system is on an array.
    pub fn mirror(&self) -> Option<PathBuf> {
        Some(self.folder.join(MIRROR)).filter(|file| file.exists())
    }
}

/// The name under which a system has its kernels on an ESP that is read by systemd-boot.
pub const TOKEN: &str = "debian";

/// What bootctl(1) and kernel-install(8) put there.
fn fill_for_systemd_boot(
    layout: Layout,
    root: &Path,
    partial: &Path,
    mtool: impl Fn(&str, &[&str]) -> Result<()>,
) -> Result<()> {
    let version = kernel(root)?;
    let folder = format!("::{TOKEN}/{version}");
    let written = |name: &str, content: String| {
        let file = partial.join(name);
        fs::write(&file, content).map_err(|error| format!("writing {}: {error}", file.display()))?;
        text(&file).map(str::to_owned)
    };
    let from = |file: &str| text(&root.join(file)).map(str::to_owned);
    let entry = format!(
        "title Debian\nsort-key debian\nversion {version}\nlinux /{TOKEN}/{version}/linux\n\
         initrd /{TOKEN}/{version}/initrd\noptions {} ro console=ttyS0 systemd.show_status=1 mitigations=off \
         rcupdate.rcu_expedited=1\n",
        layout.words()
    );
    mtool("mmd", &["::loader", "::loader/entries", &format!("::{TOKEN}"), &folder])?;
    for (file, to) in [
        (from("usr/lib/systemd/boot/efi/systemd-bootx64.efi")?, "::EFI/BOOT/BOOTX64.EFI".to_owned()),
        (from(&format!("boot/vmlinuz-{version}"))?, format!("{folder}/linux")),
        (from(&format!("boot/initrd.img-{version}"))?, format!("{folder}/initrd")),
        (written("loader.conf", "timeout 1\n".to_owned())?, "::loader/loader.conf".to_owned()),
        (written("entry.conf", entry)?, format!("::loader/entries/{TOKEN}-{version}.conf")),
    ] {
        mtool("mcopy", &[&file, &to])?;
    }
    Ok(())
}

/// What decides the content: the base image, what is installed into it, and how.
fn recipe(image: &Image, files: &[PathBuf], layout: Layout) -> Result<u64> {
    let mut bytes = Vec::new();
    for file in files {
        let content = fs::read(file).map_err(|error| format!("reading {}: {error}", file.display()))?;
        bytes.extend(fnv(&content).to_le_bytes());
    }
    let crypttab = layout.crypttab().unwrap_or_default();
    let texts =
        [&layout.words(), &layout.table(), &layout.fstab(), &layout.menu("V"), &layout.early(), &crypttab];
    for word in [&image.name(), SCRIPT].into_iter().chain(texts.map(String::as_str)) {
        bytes.extend(word.bytes());
    }
    Ok(fnv(&bytes))
}

fn build(
    (debian, layout): (Debian, Layout),
    image: &Image,
    (from, files): (&Path, &[PathBuf]),
    folder: &Path,
) -> Result<()> {
    println!("building an installed Debian {} ({}) …", debian.number(), layout.name());
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
    fill(layout, &root, &partial)?;
    println!("tree: {:.0} s", start.elapsed().as_secs_f64());
    make_disk(layout, &root, &partial)?;
    fs::remove_dir_all(&root).and_then(|()| fs::rename(&partial, folder)).map_err(failed)?;
    println!("installed Debian {}: {:.0} s", debian.number(), start.elapsed().as_secs_f64());
    Ok(())
}

/// What an installer writes last: the table of filesystems, the initramfs, the loader's menu.
fn fill(layout: Layout, root: &Path, beside: &Path) -> Result<()> {
    let write = |file: PathBuf, text: &str| {
        fs::write(&file, text).map_err(|error| format!("writing {}: {error}", file.display()))
    };
    let grub = root.join("boot/grub");
    fs::create_dir_all(&grub).map_err(|error| format!("making {}: {error}", grub.display()))?;
    write(root.join("etc/fstab"), &layout.fstab())?;
    if let Some(crypttab) = layout.crypttab() {
        write(root.join("etc/crypttab"), &crypttab)?;
    }
    write(grub.join("grub.cfg"), &layout.menu(&kernel(root)?))?;
    write(beside.join("early.cfg"), &layout.early())?;
    if layout == Layout::Raid {
        let mask = root.join("etc/systemd/system/mdadm-shutdown.service");
        fs::remove_file(&mask).map_err(|error| format!("removing {}: {error}", mask.display()))?;
    }
    write(beside.join("installed.sh"), SCRIPT)?;
    let mut script = Command::new("unshare");
    script.args(["--mount", "sh"]).arg(beside.join("installed.sh")).arg(root).arg(beside);
    output(script.arg(layout.generator())).map(drop)
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

fn make_disk(layout: Layout, root: &Path, partial: &Path) -> Result<()> {
    let disk = partial.join("disk.img");
    let file = make_sparse(&disk, layout.size())?;
    let script = partial.join("sfdisk");
    let failed = |error| format!("partitioning {}: {error}", disk.display());
    fs::write(&script, layout.table()).map_err(failed)?;
    let script = File::open(&script).map_err(failed)?;
    output(tool("sfdisk").args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(&disk).stdin(script))?;
    loader::write_bios(&file, BIOS, partial)?;
    make_swap(&file, layout.swap(), partial)?;
    make_esp(layout, root, partial, &disk)?;
    if let Some(boot) = layout.boot() {
        let from = root.join("boot");
        image::make_ext4(&disk, boot, &["-U", BOOT_UUID, "-L", "boot"], &from)?;
        let empty = fs::remove_dir_all(&from).and_then(|()| fs::create_dir(&from));
        empty.map_err(|error| format!("emptying {}: {error}", from.display()))?;
    }
    system::make(layout, root, &disk, partial)?;
    if layout == Layout::Raid {
        array::make(&disk, &partial.join(MIRROR))?;
    }
    Ok(())
}

/// Only the first page of swap space means anything.
fn make_swap(disk: &File, (start, size): layout::Place, partial: &Path) -> Result<()> {
    let made = partial.join("swap");
    make_sparse(&made, size)?;
    output(tool("mkswap").args(["--uuid", SWAP_UUID]).arg(&made))?;
    let failed = |error| format!("making swap space: {error}");
    let mut head = vec![0; 4096];
    File::open(&made).and_then(|made| made.read_exact_at(&mut head, 0)).map_err(failed)?;
    disk.write_all_at(&head, start).map_err(failed)
}

/// The ESP as Debian's installer fills it, and the path for firmware that has forgotten its entries.
fn make_esp(layout: Layout, root: &Path, partial: &Path, disk: &Path) -> Result<()> {
    let esp = layout.esp();
    image::make_fat(disk, esp, &["-i", ESP_ID.0, "-n", "EFI"])?;
    let inside = format!("{}@@{}", text(disk)?, esp.0);
    let mtool = |name: &str, words: &[&str]| output(tool(name).args(["-i", &inside]).args(words)).map(drop);
    mtool("mmd", &["::EFI", "::EFI/BOOT", "::EFI/debian"])?;
    if layout == Layout::SystemdBoot {
        return fill_for_systemd_boot(layout, root, partial, mtool);
    }
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
