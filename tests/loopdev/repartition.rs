// SPDX-License-Identifier: MIT OR Apache-2.0
//! The primary is repartitioned between two syncs: the copy follows, and older generations stay.

use crate::loops::{Disks, on_both};
use crate::tables::{delete, parts, retype, sfdisk};
use crate::world::{World, stamped};

const SIZE: u64 = 24 << 20;

const GPT: &str = "label: gpt\nfirst-lba: 34\n\
    start=2048,  size=4000\n\
    start=6100,  size=7001\n\
    start=20001, size=6000\n\
    start=30000, size=9000\n";

fn world<'a>(disks: &'a Disks, out: &[&str]) -> World<'a> {
    let primary = disks.disk("primary", SIZE);
    primary.write(0, &stamped(SIZE, 31));
    sfdisk(&primary, &[], GPT);
    let all = parts(&primary, &[]);
    World::paired(disks, primary, 96 << 20, all, out)
}

/// Notes the new layout, and makes two generations of it, one found by digest and one by comparing.
fn follow(world: &mut World<'_>, out: &[&str], round: u64) {
    world.parts = parts(&world.primary, out);
    let first = if round.is_multiple_of(2) { &[] as &[&str] } else { &["--compare"] };
    world.sync(first);
    world.check();
    world.change(100 + round);
    world.sync(if first.is_empty() { &["--compare"] } else { &[] });
    world.check();
    assert_eq!(world.sync(&["--compare"])["bytes_changed"], 0);
}

#[test]
fn loop_partitions_come_and_go() {
    on_both(|disks| {
        let mut world = world(disks, &["2"]);
        world.sync(&[]);
        delete(&world.primary, "3");
        follow(&mut world, &["2"], 1);
        sfdisk(&world.primary, &["--append"], "start=14000, size=3001\nstart=39000, size=10000\n");
        follow(&mut world, &["2"], 2);
        assert_eq!(world.parts.len(), 5);
        world.check_volumes();
        world.check_restore(1, 512);
        world.check_restore(7, 512);
    });
}

/// What is given back by a left-out partition is kept from then on; what it takes is gone from then on, and
/// only from then on.
#[test]
fn loop_a_left_out_partition_grows_shrinks_and_moves() {
    on_both(|disks| {
        let mut world = world(disks, &["2"]);
        world.sync(&[]);
        for (round, change) in ["6100, 13901", "6100, 3", "9000, 11001", "6100, 700"].iter().enumerate() {
            sfdisk(&world.primary, &["-N", "2"], change);
            follow(&mut world, &["2"], round as u64);
        }
        world.check_volumes();
        world.check_restore(1, 512);
        world.check_restore(4, 512);
    });
}

/// A partition with another identity in the place of the one left out is kept.
#[test]
fn loop_a_left_out_partition_is_replaced() {
    on_both(|disks| {
        let mut world = world(disks, &["2", "4"]);
        world.sync(&[]);
        delete(&world.primary, "2");
        sfdisk(&world.primary, &["--append"], "start=6100, size=7001\n");
        follow(&mut world, &["4"], 1);
        delete(&world.primary, "4");
        follow(&mut world, &[], 2);
        world.check_restore(1, 512);
    });
}

#[test]
fn loop_a_type_is_no_layout() {
    on_both(|disks| {
        let mut world = world(disks, &["2"]);
        world.sync(&[]);
        // Neither is anything newly left out, nor does what is left out come back.
        for (number, kind) in [("1", "swap"), ("2", "linux"), ("3", "uefi")] {
            retype(&world.primary, number, kind);
        }
        let report = world.sync(&[]);
        assert_eq!(report["bytes_changed"].as_u64(), Some(2 * (64 << 10)), "both copies of the table");
        world.change(9);
        world.sync(&[]);
        world.check();
    });
}

#[test]
fn loop_single_volumes_wait_until_all_have_moved() {
    on_both(|disks| {
        let mut world = world(disks, &[]);
        world.sync(&[]);
        delete(&world.primary, "3");
        let before = world.dpsr.read();
        let name = world.primary.path.display();
        let refused = world.refused(&["sync", "--offline", "--volume", "4"]);
        let text = format!(
            "dpsr: moving single volumes of {name}: it has been repartitioned since; the copy is generation 1, intact; \
             sync once without --volume"
        );
        assert_eq!(refused, (3, text));
        assert!(world.dpsr.read() == before);
    });
}
