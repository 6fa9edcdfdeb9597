// SPDX-License-Identifier: MIT OR Apache-2.0
//! Index fields that somebody made up: either they are refused, or everything reckons with them calmly.

use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::format::index::Index;
use dpsr::status::generations;
use dpsr::store::contents::{self, Contents};
use dpsr::store::free::Free;
use dpsr::store::{map, room};
use dpsr::units::{Bytes, Chunk, MIB};
use dpsr::view::View;
use proptest::prelude::*;

use crate::world::{World, stamped, volume};

fn contents() -> Contents {
    let out = |start, size| vec![volume("table", 0, 0, false), volume("1", start, size, true)];
    let mut world = World::new(stamped(4 * MIB as usize, 1), out(MIB, MIB), 32 * MIB, |disk| Arc::new(disk));
    world.sync(Mode::Digest).unwrap();
    world.disks.volumes = out(2 * MIB, MIB);
    world.write(0, &stamped(200_000, 2));
    world.sync(Mode::Digest).unwrap();
    contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap()
}

/// Does with `contents` whatever reckons with its index.
fn exercise(contents: &Contents) {
    let (index, geometry) = (&contents.index, contents.superblock.geometry);
    let newest = index.maps.iter().max_by_key(|map| map.id);
    for map in &index.maps {
        let placement = contents.image(map);
        let _ = (placement.size(), placement.placed(map.chunks()).count());
        placement.stretches(Bytes::ZERO..map.disk).for_each(drop);
        for chunk in [0, map.chunks(), 1 << 40, u64::MAX] {
            let _ = placement.chunk(Chunk(chunk));
        }
        let _ = map::needed_count(&map.volumes, map.disk, &geometry);
        if let Some(old) = newest {
            let mut free = Free::of(index, &geometry);
            let _ = map::outline(old, &map.volumes, &geometry).fresh_count();
            let _ = map::follow(old, map.volumes.clone(), &geometry, &mut free);
        }
    }
    let _ = (room::room(index, &geometry), generations(contents), contents.table().size());
    for record in &index.generations {
        let _ = record.undo.as_ref().map(|undo| contents.undo(undo).size());
        let _ = (record.generation.next(), View::of(contents, record.generation).map(drop));
    }
}

fn number() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 2, 255, 1 << 31, (1 << 32) - 2, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 56, u64::MAX];
    prop_oneof![prop::sample::select(edges.to_vec()), 0..64u64, any::<u64>()]
}

#[test]
fn a_run_that_ends_past_all_numbers_is_refused() {
    let contents = contents();
    let mut index = contents.index.clone();
    let last = index.maps[0].runs.last_mut().unwrap();
    last.at = u32::MAX - last.count + 1;
    assert!(Index::unpack(&index.pack(), &contents.superblock.geometry).is_err());
    let mut index = contents.index.clone();
    index.generations.last_mut().unwrap().generation.0 = u64::MAX;
    assert!(Index::unpack(&index.pack(), &contents.superblock.geometry).is_err());
}

#[test]
fn crafted_fields_are_refused_or_reckoned_with() {
    let good = contents();
    let payload = good.index.pack();
    let spot = (0..payload.len(), prop_oneof![Just(1usize), Just(4), Just(8)], number());
    let spots = prop::collection::vec(spot, 1..4);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&spots, |spots| {
            let mut bytes = payload.clone();
            for (at, len, value) in spots {
                let end = (at + len).min(bytes.len());
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            if let Ok(index) = Index::unpack(&bytes, &good.superblock.geometry)
                && !index.maps.is_empty()
            {
                exercise(&Contents { index, ..good.clone() });
            }
            Ok(())
        })
        .unwrap();
}

/// The same, field by field, where bytes at random seldom hit a run.
#[test]
fn crafted_runs_and_volumes_are_refused_or_reckoned_with() {
    let good = contents();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let strategy = (0..8u8, any::<prop::sample::Index>(), number(), number());
    runner
        .run(&strategy, |(field, which, a, b)| {
            let mut index = good.index.clone();
            let map = which.index(index.maps.len());
            let map = &mut index.maps[map];
            let run = which.index(map.runs.len());
            match field {
                0 => map.runs[run].at = a as u32,
                1 => map.runs[run].count = a as u32,
                2 => (map.runs[run].at, map.runs[run].count) = (a as u32, b as u32),
                3 => map.id = a as u32,
                4 => map.disk = Bytes(a),
                5 => (map.volumes[1].start, map.volumes[1].size) = (Bytes(a), Bytes(b)),
                6 => {
                    let twin = map.volumes[1].clone();
                    map.volumes[0] = dpsr::format::index::Volume { start: Bytes(a), size: Bytes(b), ..twin };
                }
                _ => index.generations[1].generation.0 = a,
            }
            if field == 3 {
                let id = index.maps[0].id;
                index.generations[0].map = id;
            }
            if let Ok(index) = Index::unpack(&index.pack(), &good.superblock.geometry) {
                exercise(&Contents { index, ..good.clone() });
            }
            Ok(())
        })
        .unwrap();
}
