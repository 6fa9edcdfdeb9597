// SPDX-License-Identifier: MIT OR Apache-2.0
//! Partitions that are left out and kept again: nothing the store knew of them before hides what they hold.

use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::disk::whole::read_exact_at;
use dpsr::error::Kind;
use dpsr::format::index::Volume;
use dpsr::progress::Silent;
use dpsr::sync::{Request, sync};
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, KIB, MIB};

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

/// Six generations whose history leaves less free than `OUT` takes.
fn nearly_full() -> World {
    let mut world = World::new(stamped(LARGE, 1), out(3 * MIB, OUT), 24 * MIB, |disk| Arc::new(disk));
    for round in 1..=6 {
        world.write(0, &stamped(MIB as usize, round));
        world.sync(Mode::Digest).unwrap();
    }
    assert_eq!(world.generations(), [1, 2, 3, 4, 5, 6]);
    world
}

const OUT: u64 = 4 * MIB;
const LARGE: usize = 7 * MIB as usize;

fn all_bytes(world: &World) -> Vec<u8> {
    let mut bytes = Buffer::new(world.disks.dpsr.size().usize()).unwrap();
    read_exact_at(&world.disks.dpsr, Bytes::ZERO, &mut bytes).unwrap();
    bytes.to_vec()
}

fn dry(world: &World, mode: Mode) -> dpsr::error::Result<dpsr::sync::Report> {
    let request = Request { dry_run: true, ..world.request(mode) };
    sync(&world.disks, &request, &Silent)
}

#[test]
fn what_does_not_fit_together_drops_nothing() {
    for mode in [Mode::Digest, Mode::Compare, Mode::Full] {
        let mut world = nearly_full();
        // Each alone has room once others made way, but not both.
        world.disks.volumes = out(3 * MIB, 0);
        world.write(0, &stamped(3 * MIB as usize, 99));
        let before = all_bytes(&world);
        let planned = dry(&world, mode).unwrap_err();
        let error = world.sync(mode).unwrap_err();
        assert_eq!((planned.kind(), error.kind()), (Kind::NoRoom, Kind::NoRoom));
        assert_eq!(planned.cause(), error.cause());
        assert!(error.cause().contains("newly kept, which count twice"), "{error}");
        assert!(all_bytes(&world) == before, "nothing may be written");
        assert_eq!(world.generations(), [1, 2, 3, 4, 5, 6]);
        world.check();
    }
}

#[test]
fn what_never_fits_drops_nothing() {
    let mut world = World::new(stamped(LARGE, 1), out(512 * KIB, 6 * MIB), 19 * MIB, |disk| Arc::new(disk));
    for round in 1..=4 {
        world.write(0, &stamped(300 * KIB as usize, round));
        world.sync(Mode::Digest).unwrap();
    }
    world.disks.volumes = out(3 * MIB, 0);
    let before = all_bytes(&world);
    let generations = world.generations();
    assert_eq!(dry(&world, Mode::Digest).unwrap_err().kind(), Kind::NoRoom);
    assert_eq!(world.sync(Mode::Digest).unwrap_err().kind(), Kind::NoRoom);
    assert!(all_bytes(&world) == before, "nothing may be written");
    assert_eq!(world.generations(), generations);
}

#[test]
fn a_dry_run_tells_what_the_sync_then_drops() {
    for mode in [Mode::Digest, Mode::Compare] {
        let mut world = nearly_full();
        world.disks.volumes = out(3 * MIB, 3 * MIB);
        world.write(0, &stamped(200 * KIB as usize, 99));
        let before = all_bytes(&world);
        let planned = dry(&world, mode).unwrap();
        assert!(all_bytes(&world) == before, "a dry run writes nothing");
        let report = world.sync(mode).unwrap();
        assert!(!report.dropped.is_empty());
        assert_eq!(planned.dropped, report.dropped);
        assert_eq!(planned.bytes_changed, report.bytes_changed);
        assert_eq!(world.generations()[0], report.dropped.last().unwrap().0 + 1);
        world.check();
    }
}
