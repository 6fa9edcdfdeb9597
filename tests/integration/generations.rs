// SPDX-License-Identifier: MIT OR Apache-2.0
//! Generations on disks in memory: every one reads back exactly, whatever happened in between.

use std::ops::Range;
use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::changes::source::Moving;
use dpsr::disk::recorded::{Event, Recorded};
use dpsr::error::Kind;
use dpsr::progress::Silent;
use dpsr::sync::{Report, Request, sync};
use dpsr::units::{Bytes, CHUNK, KIB, MIB};

use crate::world::{World, mixed, stamped, volume};

const SIZE: usize = 5 * MIB as usize + 512 * 3;

fn world() -> World {
    let volumes = vec![volume("table", 0, 0, false), volume("1", 512 * 7, 4 * MIB, false)];
    World::new(stamped(SIZE, 1), volumes, 40 * MIB, |disk| Arc::new(disk))
}

#[test]
fn ten_generations_read_back_exactly() {
    let mut world = world();
    let first = world.sync(Mode::Digest).unwrap();
    assert_eq!((first.generation.0, first.mode), (1, "full"));
    for round in 2..11u64 {
        for i in 0..round {
            let at = mixed(round * 100 + i) as usize % (SIZE - 9000);
            world.write(at, &stamped(1 + mixed(i) as usize % 9000, round));
        }
        let mode = if round.is_multiple_of(2) { Mode::Digest } else { Mode::Compare };
        assert_eq!(world.sync(mode).unwrap().generation.0, round);
    }
    assert_eq!(world.generations(), (1..11).collect::<Vec<_>>());
    world.check();
}

/// How many bytes of what was written to the DPSR disk lie in the image.
fn in_the_image(world: &World, events: &[Event]) -> u64 {
    let contents = world.contents();
    let map = contents.newest_map();
    let image = contents.image(map);
    let stretches = image.stretches(Bytes::ZERO..Bytes(map.chunks() * CHUNK));
    let places: Vec<_> =
        stretches.filter_map(|it| it.at.map(|at| at.0..(at + (it.range.end - it.range.start)).0)).collect();
    let written = events.iter().filter_map(|event| match event {
        Event::Write { at, data } => Some(at.0..at.0 + data.len() as u64),
        Event::Zero(range) => Some(range.start.0..range.end.0),
        Event::Flush => None,
    });
    let both = |a: &Range<u64>, b: &Range<u64>| a.end.min(b.end).saturating_sub(a.start.max(b.start));
    written.map(|range| places.iter().map(|place| both(place, &range)).sum::<u64>()).sum()
}

#[test]
fn what_is_written_is_what_differs() {
    let mut world = world();
    world.sync(Mode::Digest).unwrap();
    let unchanged = world.sync(Mode::Digest).unwrap();
    assert_eq!(
        (unchanged.bytes_changed.0, unchanged.bytes_written_image.0, unchanged.bytes_written_undo.0),
        (0, 0, 0)
    );
    for mode in [Mode::Compare, Mode::Digest] {
        for at in [0, 4096, 65536 * 3 + 5000, SIZE - 1] {
            let flipped = !world.primary[at];
            world.write(at, &[flipped]);
        }
        let recorded = Arc::new(Recorded::new(world.disks.dpsr.clone()));
        world.disks.dpsr = recorded.clone();
        let report = world.sync(mode).unwrap();
        assert_eq!(report.bytes_changed.0, 3 * CHUNK);
        assert_eq!(report.bytes_written_image.0, 4 * 4096);
        assert_eq!(in_the_image(&world, &recorded.events()), 4 * 4096);
    }
    world.check();
}

#[test]
fn a_report_tells_what_was_read_and_what_changed_in_each_volume() {
    let volumes =
        vec![volume("table", 0, 0, false), volume("1", MIB, MIB, false), volume("2", 2 * MIB, MIB, true)];
    let mut world = World::new(stamped(SIZE, 2), volumes, 40 * MIB, |disk| Arc::new(disk));
    let planned = sync(&world.disks, &Request { dry_run: true, ..world.request(Mode::Digest) }, &Silent);
    let first = world.sync(Mode::Digest).unwrap();
    let changed = |report: &Report| report.volumes.iter().map(|v| v.bytes_changed.0).collect::<Vec<_>>();
    assert_eq!(changed(&first), [0, MIB, 0]);
    assert_eq!(changed(&planned.unwrap()), [0, MIB, 0]);
    let full = world.sync(Mode::Full).unwrap();
    assert_eq!(full.bytes_read.0, 2 * full.bytes_changed.0, "both disks are read");
    assert!(full.bytes_read.0 > 0);
    let request = Request { no_undo: true, ..world.request(Mode::Full) };
    assert_eq!(changed(&sync(&world.disks, &request, &Silent).unwrap()), [0, MIB, 0]);
}

#[test]
fn left_out_ranges_read_as_zeros_and_cost_no_room() {
    let volumes = vec![
        volume("table", 0, 0, false),
        volume("1", 100 * KIB + 512, 700 * KIB, false),
        volume("2", 801 * KIB, 2 * MIB + 512, true),
        volume("3", 3 * MIB + 700 * KIB, 512, true),
        volume("4", 3 * MIB + 701 * KIB, 512, false),
    ];
    let mut world = World::new(stamped(SIZE, 2), volumes, 40 * MIB, |disk| Arc::new(disk));
    world.sync(Mode::Digest).unwrap();
    world.write(802 * KIB as usize, &stamped(MIB as usize, 9));
    assert_eq!(world.sync(Mode::Digest).unwrap().bytes_changed.0, 0);
    assert_eq!(world.sync(Mode::Compare).unwrap().bytes_changed.0, 0);
    world.write(790 * KIB as usize, &stamped(20 * KIB as usize, 9));
    world.sync(Mode::Digest).unwrap();
    world.check();
}

#[test]
fn repartitioning_is_followed_and_old_generations_stay() {
    let out = |id: &str, start, size| volume(id, start, size, true);
    let mut world = World::new(stamped(SIZE, 3), vec![out("1", MIB, MIB)], 40 * MIB, |disk| Arc::new(disk));
    world.sync(Mode::Digest).unwrap();
    let layouts = [
        vec![out("1", MIB, 3 * MIB)],
        vec![out("1", 2 * MIB, MIB)],
        vec![],
        vec![out("1", 0, 4 * MIB + 512)],
    ];
    for (i, volumes) in layouts.into_iter().enumerate() {
        world.disks.volumes = volumes;
        world.write(MIB as usize + 77 + i * 70_000, &stamped(100_000, 50 + i as u64));
        world.sync(if i % 2 == 0 { Mode::Digest } else { Mode::Compare }).unwrap();
        world.check();
        world.write(2 * MIB as usize + 77 + i * 70_000, &stamped(100_000, 60 + i as u64));
        world.sync(Mode::Digest).unwrap();
        world.check();
    }
    assert_eq!(world.generations().len(), 9);
}

#[test]
fn a_chunk_that_comes_back_as_zeros_has_no_digest_of_what_it_was() {
    let out = |start, size| vec![volume("1", start, size, true)];
    let mut world = World::new(stamped(SIZE, 3), out(4 * MIB, MIB), 40 * MIB, |disk| Arc::new(disk));
    world.sync(Mode::Digest).unwrap();
    world.disks.volumes = out(MIB, MIB);
    world.sync(Mode::Digest).unwrap();
    // Kept again, but by then the primary holds zeros there.
    world.disks.volumes = vec![];
    world.write(MIB as usize, &vec![0; MIB as usize]);
    for mode in [Mode::Compare, Mode::Digest] {
        world.sync(mode).unwrap();
        world.check();
    }
}

#[test]
fn the_oldest_make_room_and_too_much_is_refused() {
    let volumes = vec![volume("table", 0, 0, false)];
    let mut world = World::new(stamped(SIZE, 4), volumes, 24 * MIB, |disk| Arc::new(disk));
    world.sync(Mode::Digest).unwrap();
    let mut dropped = 0;
    for round in 2..9u64 {
        world.write(0, &stamped(2 * MIB as usize, round));
        dropped += world.sync(Mode::Digest).unwrap().dropped.len();
        world.check();
    }
    assert!(dropped > 0);
    assert_eq!(*world.generations().last().unwrap(), 8);
    let before = world.generations();
    world.write(0, &stamped(SIZE, 99));
    let error = world.sync(Mode::Digest).unwrap_err();
    assert_eq!(error.kind(), Kind::NoRoom);
    assert_eq!(world.generations(), before);
    world.check();

    let request = dpsr::sync::Request { no_undo: true, ..world.request(Mode::Full) };
    let report = sync(&world.disks, &request, &Silent).unwrap();
    assert_eq!(report.generation.0, 9);
    world.expected.insert(9, world.visible());
    assert_eq!(world.generations(), [9]);
    world.check();
}

#[test]
fn changes_beyond_the_limit_of_history_are_refused_and_drop_nothing() {
    let volumes = vec![volume("table", 0, 0, false)];
    let mut world = World::new(stamped(SIZE, 4), volumes, 40 * MIB, |disk| Arc::new(disk));
    world.disks.history = Some(Bytes(2 * MIB));
    for round in 1..4u64 {
        world.write(0, &stamped(64 << 10, round));
        world.sync(Mode::Digest).unwrap();
    }
    assert_eq!(world.generations(), [1, 2, 3]);
    world.write(0, &stamped(3 * MIB as usize, 99));
    let dry = dpsr::sync::Request { dry_run: true, ..world.request(Mode::Digest) };
    let planned = sync(&world.disks, &dry, &Silent).unwrap_err();
    let error = world.sync(Mode::Digest).unwrap_err();
    assert_eq!((planned.kind(), error.kind()), (Kind::NoRoom, Kind::NoRoom));
    let told = error.to_string();
    for said in ["of changes take", "and it may take 2 MiB", "'history'", "'dpsr sync --full --no-undo'"] {
        assert!(told.contains(said), "{said}: {told}");
    }
    assert_eq!(world.generations(), [1, 2, 3]);
    world.check();
    // Both ways out.
    let mut other = world.fork();
    other.disks.history = Some(Bytes(8 * MIB));
    assert_eq!(other.sync(Mode::Digest).unwrap().dropped, []);
    other.check();
    let request = dpsr::sync::Request { no_undo: true, ..world.request(Mode::Full) };
    assert_eq!(sync(&world.disks, &request, &Silent).unwrap().generation.0, 4);
}

/// Pinned generations may take more than the limit: what is kept on purpose is no reason to stop.
#[test]
fn a_limit_that_only_pinned_generations_exceed_stops_nothing() {
    let volumes = vec![volume("table", 0, 0, false)];
    let mut world = World::new(stamped(SIZE, 4), volumes, 40 * MIB, |disk| Arc::new(disk));
    for round in 1..4u64 {
        world.write(0, &stamped(2 * MIB as usize, round));
        world.sync(Mode::Digest).unwrap();
        world.pin(round, true);
    }
    world.disks.history = Some(Bytes(3 * MIB));
    world.write(0, &stamped(2 * MIB as usize, 9));
    assert_eq!(world.sync(Mode::Digest).unwrap().dropped, []);
    assert_eq!(world.generations(), [1, 2, 3, 4]);
    world.check();
}

#[test]
fn single_volumes_move_and_the_rest_stays_at_its_time() {
    let volumes = vec![
        volume("table", 0, 0, false),
        volume("1", 64 * KIB + 512, MIB, false),
        volume("2", MIB + 65 * KIB, MIB + 512, false),
    ];
    let mut world = World::new(stamped(SIZE, 5), volumes, 40 * MIB, |disk| Arc::new(disk));
    world.sync(Mode::Digest).unwrap();
    let old = world.primary.clone();
    world.write(0, &stamped(SIZE, 6));
    let request =
        dpsr::sync::Request { moving: Moving::Only(vec!["2".into()]), ..world.request(Mode::Digest) };
    let report = sync(&world.disks, &request, &Silent).unwrap();
    let mut mixed = old.clone();
    let range = (MIB + 65 * KIB) as usize..(2 * MIB + 65 * KIB + 512) as usize;
    mixed[range.clone()].copy_from_slice(&world.primary[range]);
    world.expected.insert(2, mixed);
    world.check();
    assert_eq!(report.volumes[1].time, 1060);
    assert_eq!(report.volumes[2].time, request.time);
    world.sync(Mode::Digest).unwrap();
    world.check();
}

#[test]
fn a_digest_from_before_a_partition_was_left_out_hides_nothing() {
    let parts = |out| vec![volume("table", 0, 0, false), volume("1", MIB, 2 * MIB, out)];
    let mut world = World::new(stamped(SIZE, 8), parts(false), 40 * MIB, |disk| Arc::new(disk));
    let content = world.primary[MIB as usize..3 * MIB as usize].to_vec();
    world.sync(Mode::Digest).unwrap();
    world.disks.volumes = parts(true);
    world.sync(Mode::Digest).unwrap();
    // Kept again while it holds zeros: its new extents hold zeros too, but the table remembers the content.
    world.write(MIB as usize, &vec![0; 2 * MIB as usize]);
    world.disks.volumes = parts(false);
    world.sync(Mode::Digest).unwrap();
    world.check();
    world.write(MIB as usize, &content);
    world.sync(Mode::Digest).unwrap();
    world.check();
}
