// SPDX-License-Identifier: MIT OR Apache-2.0
//! The root filesystem, and what it stands on, in the file of a whole disk. The build machine needs neither
//! device-mapper nor any of these filesystems for it: tools write into files.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::layout::{
    HOME_UUID, HOME_VOLUME, LUKS_HEADER, LUKS_UUID, Layout, Place, ROOT_UUID, ROOT_VOLUME, SYSTEM,
};
use crate::Result;
use crate::data::{MIB, make_sparse};
use crate::dpsr::text;
use crate::process::output;
use crate::vm::image::{make_ext4, tool};

/// Opens what is encrypted.
pub const PASSPHRASE: &str = "correct horse";

/// Puts the tree `root` into its partition of `disk`; `beside` is a directory for what comes between.
pub fn make(layout: Layout, root: &Path, disk: &Path, beside: &Path) -> Result<()> {
    let place = layout.root();
    let ext4 = ["-U", ROOT_UUID, "-L", "installed"];
    let whole = beside.join("system.img");
    if layout.is_plain() {
        if let Some(homes) = layout.homes() {
            make_homes(disk, homes, beside)?;
        }
        return make_ext4(disk, place, &ext4, root);
    }
    match layout {
        Layout::Xfs => make_xfs(root, &whole, place.1, beside)?,
        Layout::Btrfs | Layout::Raid => {
            make_sparse(&whole, place.1)?;
            let words = ["--quiet", "--metadata", "single", "--uuid", ROOT_UUID, "--rootdir"];
            output(tool("mkfs.btrfs").args(words).arg(root).arg(&whole))?;
        }
        Layout::Lvm | Layout::Stock => {
            make_volumes(&whole, place.1)?;
            make_ext4(&whole, ROOT_VOLUME, &ext4, root)?;
            make_homes(&whole, HOME_VOLUME, beside)?;
        }
        Layout::Luks => {
            let (plain, size) = (beside.join("plain.img"), place.1 - LUKS_HEADER);
            make_sparse(&plain, size)?;
            make_ext4(&plain, (0, size), &ext4, root)?;
            encrypt(&plain, &whole)?;
        }
        Layout::Stacked => {
            let (plain, size) = (beside.join("plain.img"), place.1 - LUKS_HEADER);
            make_volumes(&plain, size)?;
            make_xfs(root, &whole, ROOT_VOLUME.1, beside)?;
            put(&whole, &plain, ROOT_VOLUME)?;
            make_homes(&plain, HOME_VOLUME, beside)?;
            encrypt(&plain, &whole)?;
        }
        _ => unreachable!("all others are plain"),
    }
    put(&whole, disk, place)
}

/// The volume for the homes, of which there are none.
fn make_homes(disk: &Path, place: Place, beside: &Path) -> Result<()> {
    let empty = beside.join("home");
    fs::create_dir_all(&empty).map_err(|error| format!("making {}: {error}", empty.display()))?;
    make_ext4(disk, place, &["-U", HOME_UUID], &empty)
}

/// Copies a file into a partition, holes left as they are.
fn put(from: &Path, disk: &Path, (start, size): Place) -> Result<()> {
    let there = fs::metadata(from).map_err(|error| format!("looking at {}: {error}", from.display()))?;
    if there.len() > size {
        return Err(format!("{} has {} bytes, and its partition {size}", from.display(), there.len()));
    }
    let words =
        [format!("if={}", text(from)?), format!("of={}", text(disk)?), format!("seek={}", start / MIB)];
    let mut copy = Command::new("dd");
    output(copy.args(words).args(["bs=1M", "conv=notrunc,sparse", "status=none"]))?;
    fs::remove_file(from).map_err(|error| format!("removing {}: {error}", from.display()))
}

/// A volume group with two volumes, one after the other. Nothing is activated, and no other disk is looked at.
fn make_volumes(file: &Path, size: u64) -> Result<()> {
    make_sparse(file, size)?;
    let node = output(tool("losetup").args(["--find", "--show"]).arg(file))?;
    let node = node.trim();
    let made = (|| {
        lvm(node, &["pvcreate", "--dataalignment", "1m", node])?;
        lvm(node, &["vgcreate", "--autobackup", "n", SYSTEM, node])?;
        for (name, (_, size)) in [("root", ROOT_VOLUME), ("home", HOME_VOLUME)] {
            let size = format!("{}m", size / MIB);
            let inactive =
                ["--autobackup", "n", "--activate", "n", "--zero", "n", "--wipesignatures", "n", "--yes"];
            let named = ["--size", &size, "--name", name, SYSTEM];
            lvm(node, &[&["lvcreate"][..], &inactive, &named].concat())?;
        }
        Ok(())
    })();
    output(tool("losetup").args(["--detach", node]))?;
    made
}

fn lvm(node: &str, words: &[&str]) -> Result<()> {
    let config = format!(
        "devices {{ use_devicesfile=0 filter=[\"a|^{node}$|\",\"r|.*|\"] obtain_device_list_from_udev=0 \
         external_device_info_source=\"none\" }} activation {{ udev_sync=0 udev_rules=0 }} \
         global {{ event_activation=0 use_lvmpolld=0 }}"
    );
    let (verb, rest) = words.split_first().expect("there is a verb");
    let mut command = tool("lvm");
    command.env("LVM_SUPPRESS_FD_WARNINGS", "1");
    output(command.args([verb, "--driverloaded", "n", "--config", &config]).args(rest)).map(drop)
}

/// LUKS1 around the bytes of `plain`, by QEMU's own cipher; keys are derived quickly, nobody attacks them.
fn encrypt(plain: &Path, into: &Path) -> Result<()> {
    let secret = format!("secret,id=key,data={PASSPHRASE}");
    let options = "key-secret=key,iter-time=10";
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "--object", &secret, "-f", "raw", "-O", "luks", "-o", options]);
    output(convert.arg(plain).arg(into))?;
    fs::remove_file(plain).map_err(|error| format!("removing {}: {error}", plain.display()))?;
    set_uuid(into)
}

/// The UUID in the header of LUKS1, at 168 in 40 bytes. (LUKS1 On-Disk Format Specification, section 2)
fn set_uuid(file: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let failed = |error| format!("writing {}: {error}", file.display());
    let mut field = [0; 40];
    field[..LUKS_UUID.len()].copy_from_slice(LUKS_UUID.as_bytes());
    let opened = File::options().write(true).open(file).map_err(failed)?;
    opened.write_all_at(&field, 168).map_err(failed)
}

fn make_xfs(root: &Path, file: &Path, size: u64, beside: &Path) -> Result<()> {
    make_sparse(file, size)?;
    let proto = beside.join("proto");
    let mut list = "/\n0 0\n".to_owned();
    list.push_str(&format!("{} 0 0\n", mode(0o40_755)));
    enter(root, &mut list)?;
    list.push_str("$\n");
    fs::write(&proto, list).map_err(|error| format!("writing {}: {error}", proto.display()))?;
    let uuid = format!("uuid={ROOT_UUID}");
    let mut make = tool("mkfs.xfs");
    output(make.args(["-q", "-f", "-m", &uuid, "-p"]).arg(&proto).arg(file)).map(drop)
}

/// The files of a directory in the words of mkfs.xfs(8)'s protofile. What it cannot say (blanks in names, devices)
/// is left out; a guest has devtmpfs.
fn enter(folder: &Path, list: &mut String) -> Result<()> {
    let failed = |error| format!("reading {}: {error}", folder.display());
    let mut entries: Vec<_> =
        fs::read_dir(folder).map_err(failed)?.collect::<std::io::Result<_>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, meta) = (entry.path(), entry.metadata().map_err(failed)?);
        let (name, path) = (entry.file_name(), text(&path)?.to_owned());
        let name = name.to_string_lossy();
        if path.contains(char::is_whitespace) {
            continue;
        }
        let head = format!("{name} {} {} {}", mode(meta.mode()), meta.uid(), meta.gid());
        if meta.is_dir() {
            let _infallible = writeln!(list, "{head}");
            enter(&entry.path(), list)?;
            list.push_str("$\n");
        } else if meta.is_file() {
            let _infallible = writeln!(list, "{head} {path}");
        } else if meta.is_symlink() {
            let to = fs::read_link(entry.path()).map_err(failed)?;
            let _infallible = writeln!(list, "{head} {}", to.display());
        }
    }
    Ok(())
}

/// Six characters: the type, set-user-ID, set-group-ID, and the permissions in octal.
fn mode(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        _ => '-',
    };
    let (user, group) = (mode & 0o4_000 != 0, mode & 0o2_000 != 0);
    let letter = |set: bool, letter: char| if set { letter } else { '-' };
    format!("{kind}{}{}{:03o}", letter(user, 'u'), letter(group, 'g'), mode & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_a_protofile_says_them() {
        assert_eq!(mode(0o100_644), "---644");
        assert_eq!(mode(0o104_755), "-u-755");
        assert_eq!(mode(0o042_755), "d-g755");
        assert_eq!(mode(0o120_777), "l--777");
    }
}
