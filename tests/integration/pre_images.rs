// SPDX-License-Identifier: MIT OR Apache-2.0
//! Room on the DPSR disk for pre-images of the primary: nothing else is ever put there, and it comes and goes as
//! the record of the pair says.

use std::ops::Range;
use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::disk::whole::{read_exact_at, write_all_at};
use dpsr::error::{Kind, Result};
use dpsr::format::index::extents;
use dpsr::progress::Silent;
use dpsr::store::free::Free;
use dpsr::sync::ahead;
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, MIB};

use crate::world::{World, mixed, stamped, volume};

const SIZE: usize = 5 * MIB as usize;

fn world(store: u64) -> World {
    let volumes = vec![volume("table", 0, 0, false), volume("1", 512 * 8, 4 * MIB, false)];
    World::new(stamped(SIZE, 1), volumes, store, |disk| Arc::new(disk))
}

/// What a live sync does before the moment.
fn prepared(world: &World) -> Result<Vec<Range<Bytes>>> {
    ahead(&world.disks, &world.request(Mode::Digest), &Silent).map(|ready| ready.pre_images)
}

fn free(world: &World) -> u64 {
    let contents = world.contents();
    Free::of(&contents.index, &contents.superblock.geometry).count()
}

/// As the kernel does while the snapshot is held.
fn scribble(world: &World, parts: &[Range<Bytes>], with: u8) {
    for part in parts {
        let mut bytes = Buffer::new((part.end - part.start).usize()).unwrap();
        bytes.fill(with);
        write_all_at(&world.disks.dpsr, part.start, &bytes).unwrap();
    }
}

fn must_be_scribbled(world: &World, parts: &[Range<Bytes>], with: u8) {
    for part in parts {
        let mut bytes = Buffer::new((part.end - part.start).usize()).unwrap();
        read_exact_at(&world.disks.dpsr, part.start, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == with), "something else was put into {part:?}");
    }
}

/// More generations than there is room for: each sync takes what is free, and makes old ones go.
#[test]
fn nothing_else_is_put_there() {
    let mut world = world(40 * MIB);
    world.disks.pre_images = Bytes(3 * MIB - 1);
    // Before there is a generation, too.
    let parts = prepared(&world).unwrap();
    let size: u64 = parts.iter().map(|part| (part.end - part.start).0).sum();
    assert!((3 * MIB - 1..5 * MIB).contains(&size), "{parts:?}");
    for round in 0..40u8 {
        assert_eq!(prepared(&world).unwrap(), parts, "it stays where it is");
        scribble(&world, &parts, round);
        for change in 0..12 {
            let at = mixed(u64::from(round) * 12 + change) as usize % (SIZE - 5000);
            world.write(at, &[round; 5000]);
        }
        world.sync(Mode::Digest).unwrap();
        must_be_scribbled(&world, &parts, round);
    }
    assert!(world.generations().len() < 40, "the room was never short");
    world.check_all();
}

#[test]
fn it_grows_by_what_older_generations_leave_and_is_given_back() {
    let mut world = world(24 * MIB);
    world.sync(Mode::Digest).unwrap();
    let all = free(&world);
    let extent = world.contents().superblock.geometry.extent;
    for round in 0..20 {
        world.write(4096, &stamped(SIZE / 4, round + 9));
        world.sync(Mode::Digest).unwrap();
    }
    assert!(free(&world) < 8, "{} extents are free", free(&world));
    let before = world.generations();
    world.disks.pre_images = Bytes(8 * extent.0);
    prepared(&world).unwrap();
    let runs = world.contents().pre_images().map(extents);
    assert_eq!(runs, Some(8));
    let after = world.generations();
    assert!(after.len() < before.len() && after.last() == before.last(), "{before:?}, then {after:?}");
    world.check_all();

    world.disks.pre_images = Bytes(2 * extent.0);
    prepared(&world).unwrap();
    assert_eq!(world.contents().pre_images().map(extents), Some(2));
    let left = free(&world);
    world.disks.pre_images = Bytes::ZERO;
    assert_eq!(prepared(&world).unwrap(), []);
    assert_eq!((world.contents().pre_images().map(extents), free(&world)), (None, left + 2));
    assert!(free(&world) <= all);
    world.check_all();
}

#[test]
fn more_than_there_is_costs_no_generation() {
    let mut world = world(24 * MIB);
    for round in 0..3u8 {
        world.write(usize::from(round) * 100_000, &[round; 50_000]);
        world.sync(Mode::Digest).unwrap();
    }
    world.disks.pre_images = Bytes(64 * MIB);
    let error = prepared(&world).unwrap_err();
    assert_eq!(error.kind(), Kind::NoRoom);
    assert_eq!(
        error.to_string(),
        "keeping room for pre-images on dpsr: 64 MiB are not free on it, and dropping older generations does not \
         make them so; the copy is generation 3, intact; set cow_size in [live] to less, or cow to memory"
    );
    assert_eq!(world.generations(), [1, 2, 3]);
    world.check_all();
}
