// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk is known by what it is, not by what it is called.

use std::fs::{self, File};

use dpsr::config::{DpsrRecord, PairConfig, choose};
use dpsr::error::Kind;
use dpsr::pair::inuse::in_use;
use dpsr::pair::lock::Mode;
use dpsr::pair::open::open_store_only;
use dpsr::pair::probe::Probe;
use dpsr::pair::sysfs::Roots;
use dpsr::sys::loops::Loop;
use dpsr::units::{Bytes, MIB};

use crate::loops::{Disk, Disks, with_loops};
use crate::tables::Part;
use crate::world::World;

/// A pair of loop devices: its record, and its DPSR disk.
fn pair(disks: &Disks) -> (PairConfig, Disk) {
    let primary = disks.disk("primary", 8 * MIB);
    let world = World::paired(disks, primary, 48 * MIB, vec![Part::whole(8 * MIB)], &[]);
    (choose(&world.config(), None).unwrap(), world.dpsr)
}

#[test]
fn loop_names_may_swap() {
    with_loops(|disks| {
        let (config, dpsr) = pair(disks);
        let other = disks.disk("other", 48 * MIB);
        let swapped = PairConfig { dpsr: DpsrRecord { path: other.path, ..config.dpsr.clone() }, ..config };
        let found = open_store_only(&Roots::default(), &swapped, Mode::Exclusive).unwrap();
        assert_eq!(found.probe.path, dpsr.path);
        drop(found);
        disks.detach(&dpsr);
        let error = open_store_only(&Roots::default(), &swapped, Mode::Exclusive).err().unwrap();
        assert!(error.to_string().contains("no other disk is the recorded one"), "{error}");
    });
}

#[test]
fn loop_clones_are_refused() {
    with_loops(|disks| {
        let (mut config, dpsr) = pair(disks);
        config.dpsr.inode = None;
        let clone = disks.file("clone");
        fs::copy(&dpsr.file, &clone).unwrap();
        let clone = disks.attach(&clone, 512);
        let error = open_store_only(&Roots::default(), &config, Mode::Exclusive).err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        for name in [&dpsr.path, &clone.path] {
            assert!(error.to_string().contains(name.to_str().unwrap()), "{error}");
        }
    });
}

#[test]
fn loop_a_backing_file_is_in_use() {
    with_loops(|disks| {
        let disk = disks.disk("disk", 48 * MIB);
        let probe = |path| Probe::open(&Roots::default(), path).unwrap();
        let uses = in_use(&Roots::default(), &probe(&disk.file));
        assert_eq!(uses.len(), 1, "{uses:?}");
        assert!(probe(&disk.file).same_storage(&probe(&disk.path)));
    });
}

/// The kernel names no holder for what lies behind a loop device.
#[test]
fn loop_a_loop_device_over_a_disk_is_a_use_of_it() {
    with_loops(|disks| {
        let primary = disks.disk("primary", 8 * MIB);
        let mut world = World::paired(disks, primary, 48 * MIB, vec![Part::whole(8 * MIB)], &[]);
        world.sync(&[]);
        let third = disks.disk("third", 48 * MIB);
        let size = (48 * MIB).to_string();
        let path = |disk: &Disk| disk.path.to_str().unwrap().to_owned();
        let over = |lower: &Disk, arguments: &[&str]| {
            let upper = disks.attach(&lower.path, 512);
            let (code, told) = world.refused(arguments);
            assert_eq!(code, 3, "{told}");
            let named = format!("it backs the loop device {}", upper.path.file_name().unwrap().display());
            assert!(told.contains(&named), "{named}: {told}");
            disks.detach(&upper);
        };
        over(&world.primary, &["sync", "--offline"]);
        over(&world.dpsr, &["sync", "--offline"]);
        over(&third, &["restore", "1", "--to", &path(&third), "--confirm", &size]);
        let (from, to) = (path(&world.primary), path(&third));
        over(
            &third,
            &["init", "--no-boot", "--pair", "b", "--primary", &from, "--dpsr", &to, "--confirm", &size],
        );
        world.sync(&[]);
        world.check();
    });
}

/// That for pre-images, which a killed run may leave behind, is told from those of others.
#[test]
fn loop_a_loop_device_of_our_own_is_no_use() {
    with_loops(|disks| {
        let disk = disks.disk("disk", 48 * MIB);
        let file = File::options().read(true).write(true).open(&disk.path).unwrap();
        let ours = Loop::direct(&file, Bytes(512), &(Bytes(MIB)..Bytes(4 * MIB))).unwrap();
        let uses = in_use(&Roots::default(), &Probe::open(&Roots::default(), &disk.path).unwrap());
        assert_eq!(uses, []);
        drop(ours);
    });
}

#[test]
fn loop_nothing_is_restored_through_a_device_on_the_dpsr_disk() {
    with_loops(|disks| {
        let primary = disks.disk("primary", 8 * MIB);
        let mut world = World::paired(disks, primary, 48 * MIB, vec![Part::whole(8 * MIB)], &[]);
        world.sync(&[]);
        let lower = disks.attach(&world.dpsr.path, 512);
        let upper = disks.attach(&lower.path, 512);
        let (size, path) = ((48 * MIB).to_string(), upper.path.to_str().unwrap());
        let (code, told) = world.refused(&["restore", "1", "--to", path, "--confirm", &size]);
        assert_eq!(code, 3, "{told}");
        let named = format!("it lies on the DPSR disk {}", world.dpsr.path.display());
        assert!(told.contains(&named), "{named}: {told}");
        disks.detach(&upper);
        disks.detach(&lower);
        world.check();
    });
}
