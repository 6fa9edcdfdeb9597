// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk is known by what it is, not by what it is called.

use std::fs;

use dpsr::config::{DpsrRecord, PairConfig, choose};
use dpsr::error::Kind;
use dpsr::pair::inuse::in_use;
use dpsr::pair::lock::Mode;
use dpsr::pair::open::open_store_only;
use dpsr::pair::probe::Probe;
use dpsr::pair::sysfs::Roots;
use dpsr::units::MIB;

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
