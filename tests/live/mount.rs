// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of generations, read beside the mounted filesystems they are copies of.

use std::fs;
use std::path::PathBuf;

use crate::attach::{links, nothing_is_left};
use crate::shell;
use crate::world::{World, in_vm};

/// A directory to mount at, below what is cleaned up after a test.
pub fn directory() -> PathBuf {
    let directory = PathBuf::from("/run/dpsr-live/generation");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Two generations of a filesystem that `make` makes on the only partition, with "old" and "new" in a file.
fn two_generations(world: &World, make: &str) {
    world.primary.partition(&["size=200M, type=L"]);
    let part = world.primary.part(1);
    shell::ok(&make.replace("PART", &part));
    world.init(&[]);
    for text in ["old", "new"] {
        let live = world.mount(&part, "");
        fs::write(live.join("text"), text).unwrap();
        world.unmount(&live);
        world.ok(&["sync", "--offline"]);
    }
}

/// Mounts generation 1 while the live filesystem, which is generation 2, is mounted too.
fn both_are_readable(world: &World, options: &[&str], live: &str) {
    let live = world.mount(live, "");
    let at = directory();
    let words = ["mount", "1", at.to_str().unwrap()];
    let told = world.ok(&[&words[..], options].concat());
    assert!(told.contains("is mounted at"), "{told}");
    assert_eq!(fs::read_to_string(at.join("text")).unwrap(), "old");
    assert_eq!(fs::read_to_string(live.join("text")).unwrap(), "new");
    assert!(fs::write(at.join("text"), "other").is_err());
    let flags = shell::ok(&format!("findmnt --noheadings --output VFS-OPTIONS {}", at.display()));
    assert!(["ro", "nosuid", "nodev", "noexec"].iter().all(|flag| flags.contains(flag)), "{flags}");
    shell::ok("udevadm trigger --settle --subsystem-match=block; udevadm settle");
    assert_eq!(links(), "");
    let (code, told) = world.refused(&["sync", "--offline"]);
    assert_eq!(code, 4, "{told}");
    let (code, told) = world.refused(&["detach", "1"]);
    assert!(code == 3 && told.contains("mounted at"), "{told}");
    world.unmount(&live);
    umount(&at);
    nothing_is_left();
    assert_eq!(world.json(&["sync", "--offline"])["generation"], 3);
}

/// `dpsr umount`.
pub fn umount(at: &std::path::Path) {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_dpsr")).arg("umount").arg(at).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn plain(make: &str) {
    in_vm(|world| {
        two_generations(world, make);
        both_are_readable(world, &[], &world.primary.part(1));
    });
}

#[test]
fn ext4_beside_its_original() {
    plain("mkfs.ext4 -q PART");
}

#[test]
fn xfs_beside_its_original() {
    plain(&format!("{} PART", shell::SMALL_XFS));
}

#[test]
#[ignore = "slow: half a minute in emulation"]
fn vfat_beside_its_original() {
    plain("mkfs.fat PART");
}

#[test]
fn btrfs_beside_its_original() {
    plain("mkfs.btrfs -q PART");
}

#[test]
fn a_mount_of_what_is_attached_leaves_it_attached() {
    in_vm(|world| {
        two_generations(world, "mkfs.ext4 -q PART");
        world.ok(&["attach", "1"]);
        let at = directory();
        world.ok(&["mount", "1", at.to_str().unwrap(), "--volume", "1"]);
        umount(&at);
        world.ok(&["detach", "1"]);
        nothing_is_left();
        // What cannot be mounted leaves nothing behind.
        let nowhere = at.join("nowhere");
        assert_eq!(world.refused(&["mount", "1", nowhere.to_str().unwrap()]).0, 2);
        assert_eq!(world.refused(&["mount", "1", at.to_str().unwrap(), "--volume", "7"]).0, 9);
        nothing_is_left();
        shell::ok(&format!("wipefs --quiet --all {}", world.primary.part(1)));
        world.ok(&["sync", "--offline"]);
        let (code, told) = world.refused(&["mount", "3", at.to_str().unwrap()]);
        assert_eq!(code, 9, "{told}");
        let (code, told) = world.refused(&["mount", "3", at.to_str().unwrap(), "--volume", "1"]);
        assert_eq!(code, 3, "{told}");
        nothing_is_left();
    });
}

#[test]
#[ignore = "slow: half a minute in emulation"]
fn luks_with_ext4_in_it() {
    in_vm(|world| {
        let key = world.config().join("key");
        fs::write(&key, "a passphrase").unwrap();
        let key = key.to_str().unwrap().to_owned();
        world.primary.partition(&["size=200M, type=L"]);
        let part = world.primary.part(1);
        let open = format!("cryptsetup open --key-file {key} {part} live");
        let format = "cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000";
        shell::ok(&format!("{format} {part} {key}; {open}; mkfs.ext4 -q /dev/mapper/live"));
        shell::ok("cryptsetup close live");
        world.init(&[]);
        for text in ["old", "new"] {
            shell::ok(&open);
            let live = world.mount("/dev/mapper/live", "");
            fs::write(live.join("text"), text).unwrap();
            world.unmount(&live);
            shell::ok("cryptsetup close live");
            world.ok(&["sync", "--offline"]);
        }
        let at = directory();
        let words = ["mount", "1", at.to_str().unwrap(), "--key-file", &key];
        let wrong = world.config().join("wrong");
        fs::write(&wrong, "another").unwrap();
        world.refused(&["mount", "1", at.to_str().unwrap(), "--key-file", wrong.to_str().unwrap()]);
        nothing_is_left();
        shell::ok(&open);
        let uuid = shell::ok("blkid --probe --match-tag UUID --output value /dev/mapper/live");
        world.ok(&words);
        assert_eq!(fs::read_to_string(at.join("text")).unwrap(), "old");
        shell::ok("udevadm trigger --settle --subsystem-match=block; udevadm settle");
        let link = fs::canonicalize(format!("/dev/disk/by-uuid/{}", uuid.trim())).unwrap();
        assert_eq!(link, fs::canonicalize("/dev/mapper/live").unwrap());
        umount(&at);
        shell::ok("cryptsetup close live");
        nothing_is_left();
    });
}

#[test]
#[ignore = "slow: half a minute in emulation"]
fn lvm_beside_its_original() {
    in_vm(|world| {
        world.primary.partition(&["size=200M, type=L"]);
        let part = world.primary.part(1);
        shell::ok(&format!("pvcreate -q {part}; vgcreate -q live {part}; lvcreate -q -L 64M -n root live"));
        shell::ok("lvcreate -q -L 16M -n other live; mkfs.ext4 -q /dev/live/root");
        shell::ok("vgchange -q -an live");
        world.init(&[]);
        for text in ["old", "new"] {
            shell::ok("vgchange -q -ay live; udevadm settle");
            let live = world.mount("/dev/live/root", "");
            fs::write(live.join("text"), text).unwrap();
            world.unmount(&live);
            shell::ok("vgchange -q -an live");
            world.ok(&["sync", "--offline"]);
        }
        shell::ok("vgchange -q -ay live; udevadm settle");
        let live = world.mount("/dev/live/root", "");
        let group = || shell::ok("vgs --noheadings -o vg_name,vg_uuid,pv_name live");
        let before = group();
        let at = directory();
        let (code, told) = world.refused(&["mount", "1", at.to_str().unwrap()]);
        assert!(code == 2 && told.contains("--lv"), "{told}");
        world.ok(&["mount", "1", at.to_str().unwrap(), "--lv", "root"]);
        assert_eq!(fs::read_to_string(at.join("text")).unwrap(), "old");
        assert_eq!(fs::read_to_string(live.join("text")).unwrap(), "new");
        shell::ok("udevadm trigger --settle --subsystem-match=block; udevadm settle");
        assert_eq!(before, group(), "LVM takes no device of the generation for one of the live group");
        let link = fs::canonicalize("/dev/live/root").unwrap();
        let uuid = shell::ok("blkid --probe --match-tag UUID --output value /dev/live/root");
        assert_eq!(fs::canonicalize(format!("/dev/disk/by-uuid/{}", uuid.trim())).unwrap(), link);
        umount(&at);
        world.unmount(&live);
        shell::ok("vgchange -q -an live");
        nothing_is_left();
    });
}
