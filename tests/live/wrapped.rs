// SPDX-License-Identifier: MIT OR Apache-2.0
//! A wrapped primary with five partitions in use: vfat, ext4, XFS and btrfs kept, one left out straight on
//! the raw disk.

use std::fs;
use std::path::{Path, PathBuf};

use dpsr::dm::{Mapped, Name};
use dpsr::pair::sysfs::DevNum;
use dpsr::units::Bytes;
use dpsr::wrap::{DiskId, Under, Wrapped};

use crate::disk::Disk;
use crate::shell;
use crate::world::World;

/// The GUID that the disk gets.
const GUID: &str = "5d0cb6a6-7f6c-4a5c-9c53-3f2d1b7e8a90";

/// The kept partitions.
const KEPT: [u32; 4] = [1, 2, 3, 5];

/// The one that is left out.
pub const LEFT_OUT: u32 = 4;

/// Partitions, makes filesystems, puts device-mapper under them and mounts the kept ones; where they are
/// mounted.
pub fn make(world: &World) -> Vec<PathBuf> {
    let disk = &world.primary;
    let lines = ["size=34M, type=U", "size=48M", "size=64M", "size=16M", "size=64M"];
    disk.partition_as(&format!("label: gpt\\nlabel-id: {GUID}"), &lines);
    let part = |number| disk.part(number);
    shell::ok(&format!(
        "mkfs.fat -F 16 {}; mkfs.ext4 -q {}; {} {}",
        part(1),
        part(2),
        shell::SMALL_XFS,
        part(3)
    ));
    shell::ok(&format!("mkfs.btrfs --quiet --mixed {}", part(5)));
    wrap(disk);
    KEPT.iter().map(|number| world.mount(&node(&id().partition(*number)), "")).collect()
}

/// As a boot does it.
fn wrap(disk: &Disk) {
    let name = disk.node.trim_start_matches("/dev/");
    let number = |file: &str| fs::read_to_string(file).unwrap().trim().parse::<u64>().unwrap();
    let size = number(&format!("/sys/block/{name}/size"));
    let parts: Vec<(u32, u64, u64)> = (1..=5)
        .map(|part| {
            let at = format!("/sys/block/{name}/{name}{part}");
            (part, number(&format!("{at}/start")), number(&format!("{at}/size")))
        })
        .collect();
    // udev looks into what has just been made.
    shell::ok(&format!("udevadm settle --timeout=60; partx --delete {}", disk.node));
    create(&id().disk(), &format!("0 {size} linear {} 0", disk.node));
    for (part, start, len) in parts {
        let below = if part == LEFT_OUT { disk.node.clone() } else { node(&id().disk()) };
        create(&id().partition(part), &format!("0 {len} linear {below} {start}"));
    }
}

fn create(name: &Name, table: &str) {
    shell::ok(&format!("dmsetup create {} --uuid {} --table '{table}'", name.name, name.uuid));
}

/// Its identity.
pub fn id() -> DiskId {
    DiskId(GUID.to_owned())
}

/// The node of a device by its name.
pub fn node(name: &Name) -> String {
    format!("/dev/mapper/{}", name.name)
}

/// What [`make`] made, found again.
pub fn found() -> Wrapped {
    let disk = Disk::of("primary");
    let name = disk.node.trim_start_matches("/dev/").to_owned();
    let read = |file: String| fs::read_to_string(file).unwrap().trim().to_owned();
    let sectors: u64 = read(format!("/sys/block/{name}/size")).parse().unwrap();
    let raw = DevNum::parse(&read(format!("/sys/block/{name}/dev"))).unwrap();
    let partitions = KEPT.iter().map(|number| mapped(id().partition(*number))).collect();
    Wrapped {
        id: id(),
        raw,
        size: Bytes(sectors * 512),
        disk: mapped(id().disk()),
        under: Under::Raw,
        partitions,
        left_out: vec![],
    }
}

fn mapped(name: Name) -> Mapped {
    let told =
        shell::ok(&format!("dmsetup info --columns --noheadings --separator : -o major,minor {}", name.name));
    Mapped { number: DevNum::parse(told.trim()).unwrap(), name }
}

/// Asserts that nothing is left of any snapshot: the disk is plain linear, nothing waits, no layer, no loop.
pub fn must_be_plain() {
    let disk = id().disk().name;
    let table = shell::ok(&format!("dmsetup table {disk}"));
    assert!(table.contains(" linear "), "{table}");
    let info = shell::ok("dmsetup info --columns --noheadings --separator : -o name,suspended,tables_loaded");
    for line in info.lines() {
        let fields: Vec<_> = line.split(':').collect();
        assert_eq!(fields[1..], ["Active", "Live"], "{info}");
        assert!(fields[0] == disk || fields[0].starts_with(&format!("{disk}-part")), "{info}");
    }
    assert_eq!(shell::ok("losetup --list --noheadings"), "");
}

/// A kept partition as the snapshot has it; gone again with [`remove`].
pub fn of_snapshot(snapshot: &Path, part: u32) -> String {
    let table = shell::ok(&format!("dmsetup table {}", id().partition(part).name));
    let fields: Vec<_> = table.split_whitespace().collect();
    let table = format!("0 {} linear {} {}", fields[1], snapshot.display(), fields[4]);
    shell::ok(&format!("dmsetup create --readonly look{part} --table '{table}'"));
    format!("/dev/mapper/look{part}")
}

/// Removes what [`of_snapshot`] made.
pub fn remove(part: u32) {
    shell::ok(&format!("dmsetup remove --retry look{part}"));
}
