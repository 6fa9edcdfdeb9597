// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flipped bits: every byte of every structure of a real store. Either a second copy serves, or the store
//! refuses, or the damaged chunk is told; nothing that differs is ever handed out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpsr::changes::Mode;
use dpsr::disk::ReadDisk;
use dpsr::disk::faulty::{Fault, Faults, Faulty};
use dpsr::disk::recorded::Recorded;
use dpsr::engine::digest::DigestKey;
use dpsr::engine::{Disks as EngineDisks, Engine, Shape};
use dpsr::error::{Kind, Result};
use dpsr::format::digests::PER_CHUNK;
use dpsr::format::index::{Index, Run, Undo};
use dpsr::format::superblock::{Owner, State};
use dpsr::format::undo::{COMPANION, Layout, PER_AREA, Record};
use dpsr::progress::Silent;
use dpsr::store::contents::{self, Contents};
use dpsr::store::placement::Placement;
use dpsr::store::table::TableReader;
use dpsr::store::undo::{UndoReader, UndoWriter};
use dpsr::store::{Store, recover};
use dpsr::units::{Bytes, CHUNK, Chunk, Extent, Generation, MIB, PAGE};
use dpsr::view::View;
use dpsr::view::compose::{Exceptions, Part};
use dpsr::view::read::{Reading, Sink};

use crate::cuts::{Dice, During, Overlay, all};
use crate::world::{BASE, World, same, stamped, volume};

const SIZE: usize = MIB as usize + 512 * 3;
const STORE: u64 = 22 * MIB;

/// A store with three generations, and the same disk in the middle of the sync to the fourth.
pub struct Sample {
    pub world: World,
    pub clean: Overlay,
    pub torn: Overlay,
}

pub fn sample() -> Sample {
    let base = stamped((BASE + STORE) as usize, 77);
    let disk = Arc::new(Overlay::new("dpsr", base, BASE + STORE));
    let volumes = vec![volume("table", 0, 0, false), volume("1", 512 * 7, MIB / 2, false)];
    let mut world = World::around(stamped(SIZE, 1), volumes, disk.clone(), STORE);
    world.create().unwrap();
    for round in 0..3 {
        world.sync(Mode::Digest).unwrap();
        world.write(round * 190_000, &stamped(150_000, 5 + round as u64));
    }
    let clean = disk.fork();
    let torn = (0..).find_map(|from| {
        let torn = Arc::new(clean.fork());
        world.disks.dpsr = Arc::new(Faulty::new(torn.clone(), Faults::new(from, Fault::Gone, true)));
        world.sync(Mode::Digest).unwrap_err();
        let found = read(&torn).unwrap();
        let inside = matches!(found.superblock.state, State::Updating { .. });
        (inside && found.stale_superblocks == 0).then(|| torn.fork())
    });
    world.disks.dpsr = disk;
    Sample { world, clean, torn: torn.unwrap() }
}

fn read(disk: &Overlay) -> Result<Contents> {
    contents::read(disk, &(Bytes(BASE)..Bytes(BASE + STORE))).map(Option::unwrap)
}

/// Flips one bit in each byte of `range`, another one each time, with all threads; `check` sees each disk.
fn each_byte(disk: &Overlay, range: std::ops::Range<u64>, check: impl Fn(&Overlay, u64) + Sync) -> usize {
    const PART: u64 = 1024;
    let len = range.end - range.start;
    all(len.div_ceil(PART) as usize, |part| {
        let fork = disk.fork();
        let start = range.start + part as u64 * PART;
        for at in start..(start + PART).min(range.end) {
            let bit = Dice(at).below(8) as u32;
            let _during = During(format!("bit {bit} of byte {at}"));
            fork.flip(at, bit);
            check(&fork, at);
            fork.flip(at, bit);
        }
    });
    len as usize
}

#[test]
fn every_bit_of_a_superblock_copy() {
    let sample = sample();
    let tried = AtomicUsize::new(0);
    for disk in [&sample.clean, &sample.torn] {
        let good = read(disk).unwrap();
        let copies = good.superblock.geometry.superblocks();
        let per = PAGE as usize / 8;
        all(3 * 8 * per, |i| {
            let fork = disk.fork();
            let at = BASE + copies[i / (8 * per)].0 + (i % (8 * per)) as u64;
            for bit in 0..8 {
                let _during = During(format!("bit {bit} of byte {at}"));
                fork.flip(at, bit);
                let found = read(&fork).unwrap();
                assert_eq!(found.stale_superblocks, 1);
                assert_eq!((&found.superblock, &found.index), (&good.superblock, &good.index));
                fork.flip(at, bit);
                tried.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    println!("{} flips in superblocks", tried.into_inner());
}

#[test]
fn every_byte_of_an_index_copy() {
    let sample = sample();
    let mut tried = 0;
    for disk in [&sample.clean, &sample.torn] {
        let good = read(disk).unwrap();
        let mut roots = vec![good.superblock.index];
        if let State::Updating { before, .. } = good.superblock.state {
            roots.push(before);
        }
        for root in roots {
            let size = Index::blocks_for(root.len) * PAGE;
            let geometry = good.superblock.geometry;
            let (index, _) = contents::read_index(disk, Bytes(BASE), &geometry, &root).unwrap();
            for copy in 0..2 {
                let start = BASE + geometry.index(root.slot, copy).0;
                tried += each_byte(disk, start..start + size, |fork, _| {
                    let (found, bad) = contents::read_index(fork, Bytes(BASE), &geometry, &root).unwrap();
                    assert_eq!((found, bad), (index.clone(), 1));
                });
                let other = BASE + geometry.index(root.slot, 1 - copy).0;
                let rotten = disk.fork();
                rotten.flip(other + 77, 3);
                each_byte(&rotten, start..start + PAGE, |fork, _| {
                    let error = contents::read_index(fork, Bytes(BASE), &geometry, &root).unwrap_err();
                    assert_eq!(error.kind(), Kind::Damaged);
                });
            }
        }
    }
    println!("{tried} flips in index copies");
}

#[test]
fn every_byte_of_the_digest_pages() {
    let Sample { world, clean, .. } = sample();
    let good = read(&clean).unwrap();
    let chunks = good.newest_map().chunks();
    let start = good.table().chunk(Chunk(0)).unwrap().0;
    assert!(chunks < PER_CHUNK);
    let tried = each_byte(&clean, start..start + CHUNK, |fork, _| {
        let mut table = TableReader::new(good.table(), chunks).unwrap();
        assert_eq!(table.get(fork, Chunk(0)).unwrap_err().kind(), Kind::Damaged);
    });
    println!("{tried} flips in digest pages");
    let mut dice = Dice(1);
    for _ in 0..20 {
        let fork = Arc::new(clean.fork());
        fork.flip(start + dice.below(PAGE), dice.below(8) as u32);
        let before = read(&fork).unwrap();
        let mut world = World::around(world.primary.clone(), world.volumes.clone(), fork.clone(), STORE);
        assert_eq!(world.read(3).unwrap_err().kind(), Kind::Damaged);
        assert_eq!(world.sync(Mode::Digest).unwrap_err().kind(), Kind::Damaged);
        assert_eq!(read(&fork).unwrap().superblock.index, before.superblock.index);
    }
}

/// The parts of an undo store, as ranges of its own bytes: header, areas and companions, saved chunks.
fn undo_parts(undo: &Undo) -> (Vec<std::ops::Range<Bytes>>, Vec<std::ops::Range<Bytes>>) {
    let layout = Layout { entries: undo.entries };
    let mut meta = Vec::new();
    for area in 0..layout.areas() {
        meta.push(Layout::area(area)..Layout::area(area) + Bytes(CHUNK));
        meta.push(layout.companion(area)..layout.companion(area) + COMPANION);
    }
    let data = (0..undo.entries).map(|entry| Layout::data(entry)..Layout::data(entry) + Bytes(CHUNK));
    (meta, data.collect())
}

fn on_disk(placement: &Placement, range: &std::ops::Range<Bytes>) -> Vec<std::ops::Range<u64>> {
    let stretches = placement.stretches(range.clone());
    stretches
        .map(|stretch| {
            let at = stretch.at.unwrap();
            at.0..at.0 + (stretch.range.end - stretch.range.start).0
        })
        .collect()
}

#[test]
fn every_byte_of_undo_metadata_seen_by_a_view() {
    let Sample { world, clean, .. } = sample();
    let good = read(&clean).unwrap();
    let first = &good.index.generations[0];
    let undo = first.undo.as_ref().unwrap();
    let (meta, _) = undo_parts(undo);
    let view = View::of(&good, Generation(1)).unwrap();
    let mut tried = 0;
    for range in meta.iter().flat_map(|range| on_disk(&good.undo(undo), range)) {
        tried += each_byte(&clean, range, |fork, at| {
            let merged = Exceptions::of(&view, fork, Part::Image);
            assert_eq!(merged.err().unwrap().kind(), Kind::Damaged);
            if at % 4096 == 7 {
                let world = reader(&world, fork.fork());
                assert_eq!(world.read(1).unwrap_err().kind(), Kind::Damaged);
                for generation in [2, 3] {
                    let (bytes, damaged) = world.read(generation).unwrap();
                    assert!(damaged == 0 && same(&bytes, &world.expected[&generation]));
                }
            }
        });
    }
    println!("{tried} flips in undo metadata");
}

pub fn reader(world: &World, disk: Overlay) -> World {
    let mut reader = World::around(world.primary.clone(), world.volumes.clone(), Arc::new(disk), STORE);
    reader.expected = world.expected.clone();
    reader
}

#[test]
fn the_header_and_the_closing_area_of_an_undo_store() {
    let geometry = dpsr::format::geometry::Geometry::choose(Bytes(320 * MIB)).unwrap();
    let disk = Overlay::new("dpsr", vec![], 320 * MIB);
    let entries = PER_AREA;
    let count = geometry.extents_for(Layout { entries }.size()) as u32;
    let runs = vec![Run { at: 0, extent: Extent(1), count }];
    let placement = Placement::new(&runs, geometry, Bytes::ZERO);
    let mut writer = UndoWriter::new(placement.clone(), entries, 9).unwrap();
    for entry in 0..entries {
        writer.push(&disk, Chunk(entry * 3), Record::default()).unwrap();
    }
    writer.finish(&disk).unwrap();
    let about = Undo { nonce: 9, entries, image_entries: entries, runs };
    let reader = UndoReader::new(placement.clone(), &about, Generation(1));
    reader.check_frame(&disk).unwrap();
    reader.area(&disk, 0).unwrap();
    let frame = [Bytes::ZERO..Bytes(CHUNK), Layout::area(1)..Layout::area(1) + Bytes(CHUNK)];
    let mut tried = 0;
    for range in frame.iter().flat_map(|range| on_disk(&placement, range)) {
        tried += each_byte(&disk, range, |fork, _| {
            assert_eq!(reader.check_frame(fork).unwrap_err().kind(), Kind::Damaged);
        });
    }
    println!("{tried} flips in header and closing area");
}

#[test]
fn a_roll_back_with_a_flipped_undo_store_writes_nothing() {
    let Sample { torn, .. } = sample();
    let good = read(&torn).unwrap();
    let State::Updating { from, .. } = good.superblock.state else { panic!("it was torn while updating") };
    let undo = good.record(from).unwrap().undo.clone().unwrap();
    let (mut ranges, data) = undo_parts(&undo);
    ranges.push(Bytes::ZERO..Bytes(CHUNK));
    ranges.extend(data);
    let placement = good.undo(&undo);
    let bytes: Vec<u64> = ranges
        .iter()
        .flat_map(|range| on_disk(&placement, range))
        .flat_map(|range| (range.start..range.end).step_by(1021))
        .collect();
    all(bytes.len(), |i| {
        let _during = During(format!("byte {}", bytes[i]));
        let fork = torn.fork();
        fork.flip(bytes[i], (i % 8) as u32);
        let recorded = Arc::new(Recorded::new(fork));
        let partition = Bytes(BASE)..Bytes(BASE + STORE);
        let mut store = Store::open(recorded.clone(), partition, Owner::default()).unwrap();
        let error = recover::recover(&mut store).unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged, "{error}");
        assert!(
            error.to_string().contains("it cannot be rolled back: 'dpsr export N' still reads"),
            "{error}"
        );
        assert!(recorded.events().is_empty(), "something was written");
        assert_eq!(read(recorded.inner()).unwrap().superblock, good.superblock);
    });
    println!("{} flips under a roll-back", bytes.len());
}

/// Which chunks a reading of `generation` reports.
fn damaged(disk: &Arc<Overlay>, contents: &Contents, generation: u64) -> Result<Vec<Chunk>> {
    struct Nowhere;
    impl Sink for Nowhere {
        fn zeros(&mut self, _: std::ops::Range<Bytes>) -> Result<()> {
            Ok(())
        }
        fn data(&mut self, _: &mut dpsr::engine::Batch, _: std::ops::Range<Bytes>, _: usize) -> Result<()> {
            Ok(())
        }
    }
    let view = View::of(contents, Generation(generation))?;
    let key = DigestKey::new(contents.index.secret);
    let mut disks = EngineDisks::default();
    let read: Arc<dyn ReadDisk> = disk.clone();
    let id = disks.add_read(read);
    let mut engine = Engine::new(disks, Shape { buffer: Bytes(4 * CHUNK), depth: 2, spare: 1 })?;
    let (range, disk) = (Bytes(0)..view.map.disk, disk.as_ref());
    Reading { view: &view, disk, id, range, key: &key, progress: &Silent }.run(&mut engine, &mut Nowhere)
}

#[test]
fn a_flip_in_the_image_or_in_a_saved_chunk_names_that_chunk() {
    let Sample { clean, .. } = sample();
    let good = read(&clean).unwrap();
    let image = good.image(good.newest_map());
    let chunks = good.newest_map().chunks();
    let undo = good.index.generations[0].undo.clone().unwrap();
    let about = UndoReader::new(good.undo(&undo), &undo, Generation(1));
    let saved = about.area(&clean, 0).unwrap().entries;
    all(400, |i| {
        let mut dice = Dice((i as u64) << 16);
        let fork = Arc::new(clean.fork());
        let (chunk, place, generation) = if i % 2 == 0 {
            let chunk = Chunk(dice.below(chunks));
            (chunk, image.chunk(chunk).unwrap(), 3)
        } else {
            let entry = dice.below(undo.image_entries);
            let place = good.undo(&undo).stretch(Layout::data(entry)).at.unwrap();
            (saved[entry as usize].0, place, 1)
        };
        let _during = During(format!("{chunk:?} of generation {generation}"));
        fork.flip(place.0 + dice.below(CHUNK), dice.below(8) as u32);
        assert_eq!(damaged(&fork, &good, generation).unwrap(), [chunk]);
    });
    for entry in undo.image_entries..undo.entries {
        let place = good.undo(&undo).stretch(Layout::data(entry)).at.unwrap();
        for byte in (0..CHUNK).step_by(509) {
            let fork = Arc::new(clean.fork());
            fork.flip(place.0 + byte, (byte % 8) as u32);
            assert_eq!(damaged(&fork, &good, 1).unwrap_err().kind(), Kind::Damaged);
        }
    }
}
