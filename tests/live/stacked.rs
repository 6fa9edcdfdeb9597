// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filesystems that do not lie straight on a partition, and so are frozen by themselves: on LVM and in LUKS.

use std::fs;
use std::path::PathBuf;

use crate::mount::{directory, umount};
use crate::shell;
use crate::sync::{one_instant, plain_again, quick};
use crate::world::{World, in_vm};
use crate::writer::Writer;

/// The volume group and the opened LUKS.
const GROUP: &str = "dpsrtest";
const OPENED: &str = "dpsrtest-opened";

/// An ext4 on the first partition, one on LVM on the second, one in LUKS on the third; wrapped and mounted.
fn mounted(world: &World, key: &str) -> Vec<PathBuf> {
    world.primary.partition(&["size=48M, type=L", "size=64M, type=L", "size=64M, type=L"]);
    let [plain, lvm, luks] = [1, 2, 3].map(|number| world.primary.part(number));
    let format = "cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000";
    let open = |device: &str| format!("cryptsetup open --key-file {key} {device} {OPENED}");
    shell::ok(&format!(
        "pvcreate -q {lvm}; vgcreate -q {GROUP} {lvm}; lvcreate -q -l 100%FREE -n root {GROUP}"
    ));
    shell::ok(&format!("{format} {luks} {key}; {}", open(&luks)));
    let upper = [format!("/dev/{GROUP}/root"), format!("/dev/mapper/{OPENED}")];
    for device in [&plain, &upper[0], &upper[1]] {
        shell::ok(&format!("mkfs.ext4 -q {device}"));
    }
    shell::ok(&format!("cryptsetup close {OPENED}; vgchange -q -an {GROUP}; udevadm settle"));
    world.init(&[]);
    quick(world, "");
    world.ok(&["wrap"]);
    let [plain, luks] = [1, 3].map(|number| wrapped(world, number));
    shell::ok(&format!("udevadm settle; vgchange -q -ay {GROUP}; {}", open(&luks)));
    [&plain, &upper[0], &upper[1]].map(|device| world.mount(device, "")).into()
}

/// The node of a partition of the wrapped disk.
fn wrapped(world: &World, number: u32) -> String {
    let id = shell::ok(&format!("lsblk --noheadings --nodeps --output PTUUID {}", world.primary.node));
    format!("/dev/mapper/dpsr-{}-part{number}", &id.trim()[..8])
}

/// The number in a volume of a generation, whose filesystem must be clean.
fn number(world: &World, generation: u64, volume: &str, key: &str) -> u64 {
    let at = directory();
    let there = at.to_str().unwrap();
    world.ok(&["mount", &generation.to_string(), there, "--volume", volume, "--key-file", key]);
    let node = shell::ok(&format!("findmnt --noheadings --output SOURCE {there}")).trim().to_owned();
    shell::ok(&format!("e2fsck -fn {node}"));
    // One that was not frozen has a journal to be replayed.
    let features = shell::ok(&format!("dumpe2fs -h {node} 2>/dev/null"));
    assert!(!features.contains("needs_recovery"), "generation {generation}, volume {volume}: {features}");
    let number = Writer::number(&at.join("counter"));
    umount(&at);
    number
}

#[test]
fn lvm_and_luks_stand_at_the_same_instant() {
    in_vm(|world| {
        let key = world.config().join("key");
        fs::write(&key, "a passphrase").unwrap();
        let key = key.to_str().unwrap();
        let mounts = mounted(world, key);
        let files: Vec<_> = mounts.iter().map(|mount| mount.join("counter")).collect();
        let writer = Writer::start(&files);
        let mut last = 0;
        for generation in 1..=2 {
            let report = world.json(&["sync"]);
            assert_eq!((&report["generation"], &report["one_instant"]), (&generation.into(), &true.into()));
            plain_again(world);
            let numbers = ["1", "2", "3"].map(|volume| number(world, generation, volume, key));
            println!("{numbers:?}, pause {} ms", report["pause_ms"]);
            one_instant(&numbers);
            assert!(numbers[2] > last, "{numbers:?} after {last}");
            last = numbers[2];
        }
        println!("{:?}", writer.stop());
        mounts.iter().for_each(|mount| world.unmount(mount));
        shell::ok(&format!("cryptsetup close {OPENED}; vgchange -q -an {GROUP}"));
    });
}
