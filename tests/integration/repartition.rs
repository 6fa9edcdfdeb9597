// SPDX-License-Identifier: MIT OR Apache-2.0
//! Partitions that are left out and kept again: nothing the store knew of them before hides what they hold.

use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::format::index::Volume;
use dpsr::units::{KIB, MIB};

use crate::world::{World, stamped, volume};

const SIZE: usize = 4 * MIB as usize;

fn out(start: u64, size: u64) -> Vec<Volume> {
    vec![volume("table", 0, 0, false), volume("1", start, size, true)]
}

#[test]
fn a_partition_kept_again_as_zeros_and_then_as_it_was_is_seen() {
    for mode in [Mode::Digest, Mode::Compare] {
        let mut world = World::new(stamped(SIZE, 1), out(3 * MIB, MIB), 32 * MIB, |disk| Arc::new(disk));
        world.sync(mode).unwrap();
        let old = world.primary.clone();
        world.disks.volumes = out(MIB, MIB);
        world.sync(mode).unwrap();
        world.check();
        world.write(MIB as usize, &vec![0; MIB as usize]);
        world.disks.volumes = out(3 * MIB, MIB);
        world.sync(mode).unwrap();
        world.check();
        world.write(0, &old);
        world.sync(Mode::Digest).unwrap();
        world.check();
    }
}

#[test]
fn extents_that_go_make_no_room_for_those_that_come() {
    let mut world = World::new(stamped(SIZE, 1), out(2 * MIB, 2 * MIB), 22 * MIB, |disk| Arc::new(disk));
    world.sync(Mode::Digest).unwrap();
    for round in 2..40u64 {
        let free = |world: &World| {
            let contents =
                dpsr::store::contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap();
            dpsr::store::free::Free::of(&contents.index, &contents.superblock.geometry).count()
        };
        // Room for one extent, but not for the eight that come in as eight others go.
        if (1..4).contains(&free(&world)) {
            break;
        }
        world.write(0, &stamped(200 * KIB as usize, round));
        world.sync(Mode::Digest).unwrap();
    }
    let last = *world.generations().last().unwrap();
    world.disks.volumes = out(0, 2 * MIB);
    assert_eq!(world.sync(Mode::Digest).unwrap().generation.0, last + 1);
    world.check();
}
