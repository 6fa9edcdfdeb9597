// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every planted flip is found, named right, and blamed on the generations that really read differently.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use dpsr::changes::Mode;
use dpsr::disk::faulty::{Fault, Faults, Faulty};
use dpsr::disk::ram::RamDisk;
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::error::Kind;
use dpsr::format::digests;
use dpsr::format::superblock::{Owner, State};
use dpsr::format::undo::{COMPANION, Layout};
use dpsr::pair::layout::{DpsrLayout, Guids, write_gpt};
use dpsr::progress::Silent;
use dpsr::scrub::{Damage, Report, Request, What, check, scrub};
use dpsr::store::undo::UndoReader;
use dpsr::store::{Contents, Store, contents};
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, CHUNK, Chunk, KIB, MIB, PAGE};

use crate::world::{BASE, World, mixed, stamped, volume};

const SIZE: usize = 2 * MIB as usize + 512 * 3;
/// The last chunks of the primary never change, so they can always be repaired from it.
const STILL: usize = 27;

/// Eleven generations; the primary is repartitioned on the way.
fn world() -> World {
    world_on(|disk| Arc::new(disk))
}

fn world_on(wrap: impl FnOnce(RamDisk) -> Arc<dyn WriteDisk>) -> World {
    let out = |start, size| vec![volume("table", 0, 0, false), volume("1", start, size, true)];
    let mut world = World::new(stamped(SIZE, 3), out(512 * KIB, 300 * KIB), 40 * MIB, wrap);
    world.sync(Mode::Digest).unwrap();
    let layouts = [
        out(512 * KIB, 600 * KIB),
        out(700 * KIB, 300 * KIB),
        vec![volume("1", 0, MIB, false)],
        out(0, 600 * KIB),
    ];
    for (i, volumes) in layouts.into_iter().enumerate() {
        world.disks.volumes = volumes;
        for round in 0..2 {
            let seed = (i * 2 + round) as u64;
            let at = mixed(seed) as usize % (STILL * CHUNK as usize - 100_000);
            world.write(at, &stamped(100_000, 50 + seed));
            world.sync(if round == 0 { Mode::Digest } else { Mode::Compare }).unwrap();
        }
    }
    // Whole extents are left out and nothing else changes: another map, another sum, no undo store.
    world.disks.volumes.push(volume("2", 1536 * KIB, 256 * KIB, true));
    world.sync(Mode::Digest).unwrap();
    world.write(700_000, &stamped(7, 9));
    world.sync(Mode::Digest).unwrap();
    world
}

fn contents(world: &World) -> Contents {
    contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap()
}

fn checked(world: &World) -> Report {
    checked_with(world, None)
}

fn checked_with(world: &World, table: Option<Bytes>) -> Report {
    let disk: Arc<dyn ReadDisk> = world.disks.dpsr.clone();
    check(&disk, &world.disks.partition, table, &Silent).unwrap()
}

fn scrubbed(world: &World, repair: bool) -> Report {
    scrubbed_with(world, repair, None)
}

fn scrubbed_with(world: &World, repair: bool, table: Option<Bytes>) -> Report {
    let primary: Option<Arc<dyn ReadDisk>> = repair.then(|| world.disks.primary.clone());
    let request = Request { repair, primary, table, time: 5000 };
    scrub(&world.disks.dpsr, &world.disks.partition, Owner::default(), &request, &Silent).unwrap()
}

/// A chunk, page or block that holds something, and what a scrub must call it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unit {
    what: What,
    generation: Option<u64>,
    copy: Option<u32>,
    number: u64,
    at: u64,
    len: u64,
    /// Number of the exception, of a saved chunk.
    entry: Option<u64>,
    /// Of the image: whether it is the newest generation's.
    newest: bool,
}

impl Unit {
    fn new(what: What, number: u64, at: Bytes, len: u64) -> Self {
        Self { what, generation: None, copy: None, number, at: at.0, len, entry: None, newest: true }
    }

    fn of(self, generation: u64) -> Self {
        Self { generation: Some(generation), ..self }
    }

    fn name(&self) -> (What, Option<u64>, Option<u32>, u64) {
        (self.what, self.generation, self.copy, self.number)
    }

    fn flip(&self, world: &World, seed: u64) {
        let at = self.at + mixed(seed) % self.len;
        let mut sector = Buffer::new(512).unwrap();
        let start = Bytes(at / 512 * 512);
        world.disks.dpsr.read_at(start, &mut sector).unwrap();
        sector[(at % 512) as usize] ^= 1 << (mixed(seed + 1) % 8);
        world.disks.dpsr.write_at(start, &sector).unwrap();
    }
}

/// Everything in the store that means something.
fn units(world: &World) -> Vec<Unit> {
    let contents = contents(world);
    let (geometry, base) = (contents.superblock.geometry, contents.base);
    let mut units = Vec::new();
    for (copy, at) in geometry.superblocks().into_iter().enumerate() {
        let copy = copy as u32;
        units
            .push(Unit { copy: Some(copy), ..Unit::new(What::Superblock, u64::from(copy), base + at, PAGE) });
    }
    let root = contents.superblock.index;
    for (copy, number) in (0..2).flat_map(|copy| (0..root.len.div_ceil(PAGE - 32)).map(move |n| (copy, n))) {
        let at = base + geometry.index(root.slot, copy) + Bytes(number * PAGE);
        units.push(Unit { copy: Some(copy as u32), ..Unit::new(What::IndexBlock, number, at, PAGE) });
    }
    for page in 0..16 {
        let at = contents.table().stretch(Bytes(page * PAGE)).at.unwrap();
        units.push(Unit::new(What::DigestPage, page, at, PAGE));
    }
    let mut seen = BTreeSet::new();
    let newest = contents.newest_map().id;
    for map in contents.index.maps.iter().rev() {
        let image = contents.image(map);
        for chunk in image.placed(map.chunks()).flatten() {
            let at = image.chunk(Chunk(chunk)).unwrap();
            if seen.insert(at) {
                let unit = Unit::new(What::Image, chunk, at, CHUNK);
                units.push(Unit { newest: map.id == newest, ..unit });
            }
        }
    }
    for record in &contents.index.generations {
        let Some(undo) = &record.undo else { continue };
        let place = |at: Bytes| contents.undo(undo).stretch(at).at.unwrap();
        let generation = record.generation.0;
        let mut add = |unit: Unit| units.push(unit.of(generation));
        let reader = UndoReader::new(contents.undo(undo), undo, record.generation);
        add(Unit::new(What::UndoHeader, 0, place(Bytes::ZERO), CHUNK));
        for area in 0..reader.layout.areas() {
            add(Unit::new(What::UndoArea, area, place(Layout::area(area)), CHUNK));
            let companion = place(reader.layout.companion(area));
            add(Unit::new(What::UndoCompanion, area, companion, COMPANION.0));
            let found = reader.area(&world.disks.dpsr, area).unwrap();
            for ((chunk, _), entry) in found.entries.iter().zip(found.first..) {
                let at = place(Layout::data(entry));
                let unit = match chunk.0.checked_sub(digests::BASE.0) {
                    Some(number) => Unit::new(What::UndoDigests, number, at, CHUNK),
                    None => Unit::new(What::UndoImage, chunk.0, at, CHUNK),
                };
                add(Unit { entry: Some(entry), ..unit });
            }
        }
    }
    units
}

/// The names of everything in a report, one by one.
fn names(report: &Report) -> Vec<(What, Option<u64>, Option<u32>, u64)> {
    let each = |damage: &Damage| {
        let generation = damage.generation.map(|generation| generation.0);
        let (what, copy, first) = (damage.what, damage.copy, damage.first);
        (0..damage.count).map(move |i| (what, generation, copy, first + i)).collect::<Vec<_>>()
    };
    let mut names: Vec<_> = report.damages.iter().flat_map(each).collect();
    names.sort();
    names
}

/// The generations that do not read back exactly.
fn unreadable(world: &World) -> Vec<u64> {
    let bad = |generation: &u64| match world.read(*generation) {
        Ok((bytes, damaged)) => damaged > 0 || bytes != world.expected[generation],
        Err(_) => true,
    };
    world.generations().into_iter().filter(bad).collect()
}

fn affected(report: &Report) -> Vec<u64> {
    let ranges = report.damages.iter().filter_map(|damage| damage.affected);
    ranges.flat_map(|range| range.oldest.0..=range.newest.0).collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn a_healthy_store_has_no_damage_and_a_check_writes_nothing() {
    let mut world = world();
    world.check();
    let before = contents(&world).superblock;
    let report = checked(&world);
    assert_eq!((names(&report), report.left), (vec![], 0), "{report}");
    assert!(report.complete && report.generations == 11 && report.bytes_read.0 > SIZE as u64);
    assert_eq!(contents(&world).superblock, before);
    assert_eq!(scrubbed(&world, true).found, 0);
    let scrub = contents(&world).index.scrub;
    assert_eq!((scrub.time, scrub.damaged), (5000, 0));
    world.sync(Mode::Digest).unwrap();
    world.check();
}

#[test]
fn every_single_flip_is_found_and_blamed_on_the_right_generations() {
    let world = world();
    let units = units(&world);
    for what in [What::Image, What::UndoImage, What::UndoDigests, What::UndoHeader, What::UndoArea] {
        assert!(units.iter().any(|unit| unit.what == what), "{what:?}");
    }
    assert!(units.iter().any(|unit| !unit.newest), "the store keeps what older partitions held");
    for (i, unit) in units.iter().chain(&units).enumerate() {
        let seed = i as u64 * 10;
        unit.flip(&world, seed);
        let report = checked(&world);
        assert_eq!(names(&report), [unit.name()], "{unit:?}: {report}");
        assert_eq!(affected(&report), unreadable(&world), "{unit:?}: {report}");
        assert_eq!(report.left, 1);
        unit.flip(&world, seed);
    }
    assert_eq!(checked(&world).found, 0);
}

#[test]
fn several_flips_at_once_are_all_found() {
    let world = world();
    let units = units(&world);
    let kinds: BTreeSet<What> = units.iter().map(|unit| unit.what).collect();
    for round in 0..100u64 {
        let mut chosen: Vec<Unit> = Vec::new();
        for i in 0..2 + mixed(round) % 9 {
            // Every kind as often as any other, however many of it there are.
            let kind = kinds.iter().nth(mixed(round * 100 + i) as usize % kinds.len()).unwrap();
            let those: Vec<&Unit> = units.iter().filter(|unit| unit.what == *kind).collect();
            let unit = those[mixed(round * 100 + i + 50) as usize % those.len()];
            // At least one copy of everything that has several must stay good.
            let spared = unit.copy == Some(0);
            if !spared && !chosen.contains(unit) && !is_hidden(&chosen, unit) {
                chosen.retain(|other| !is_hidden(std::slice::from_ref(unit), other));
                chosen.push(unit.clone());
            }
        }
        chosen.iter().zip(round * 1000..).for_each(|(unit, seed)| unit.flip(&world, seed));
        let mut expected: Vec<_> = chosen.iter().map(|unit| expected_name(&chosen, unit)).collect();
        expected.sort();
        let report = checked(&world);
        assert_eq!(names(&report), expected, "{report}");
        let blamed = affected(&report);
        assert!(unreadable(&world).iter().all(|generation| blamed.contains(generation)), "{report}");
        chosen.iter().zip(round * 1000..).for_each(|(unit, seed)| unit.flip(&world, seed));
    }
    assert_eq!(checked(&world).found, 0);
}

/// Whether nothing can tell any more that `unit` is damaged, because what says so is.
fn is_hidden(chosen: &[Unit], unit: &Unit) -> bool {
    chosen.iter().any(|other| match other.what {
        What::UndoCompanion => {
            let same = unit.generation == other.generation;
            (same && (unit.entry.is_some() || unit.what == What::UndoArea)) || !unit.newest
        }
        What::UndoArea => {
            !unit.newest || unit.what == What::UndoCompanion && unit.generation == other.generation
        }
        What::DigestPage => unit.what == What::Image && other.number == 0,
        What::UndoDigests => !unit.newest,
        _ => false,
    })
}

/// Without its area a saved chunk has no name of its own.
fn expected_name(chosen: &[Unit], unit: &Unit) -> (What, Option<u64>, Option<u32>, u64) {
    let area = |other: &Unit| other.what == What::UndoArea && other.generation == unit.generation;
    match unit.entry {
        Some(entry) if chosen.iter().any(area) => (What::UndoEntry, unit.generation, None, entry),
        _ => unit.name(),
    }
}

#[test]
fn neighbours_are_told_as_one_with_their_volume() {
    let world = world();
    let image = |number| {
        let find = |unit: &Unit| unit.what == What::Image && unit.number == number && unit.newest;
        units(&world).into_iter().find(find).unwrap()
    };
    [28, 29, 31].into_iter().for_each(|number| image(number).flip(&world, number));
    let report = checked(&world);
    let told: Vec<String> = report.damages.iter().map(ToString::to_string).collect();
    let rest = "it does not match its digest; generations 1 to 11; 'dpsr scrub --repair' replaces it where the \
                primary still has it";
    assert_eq!(
        told,
        [format!("image, 128 KiB at 1835008: {rest}"), format!("image, 64 KiB at 2031616: {rest}")]
    );
    assert!(serde_json::to_string(&report).unwrap().contains(r#""what":"image""#));
}

#[test]
fn what_exists_twice_and_what_the_primary_still_has_is_repaired() {
    let mut world = world();
    let all = units(&world);
    let mut flipped = 0;
    for (i, unit) in all.iter().enumerate() {
        let repaired = match unit.what {
            What::Superblock | What::IndexBlock => unit.copy == Some(1),
            What::UndoHeader | What::UndoEnd => true,
            What::Image => unit.newest && unit.number as usize > STILL,
            _ => false,
        };
        if repaired {
            unit.flip(&world, i as u64);
            flipped += 1;
        }
    }
    assert!(flipped > 10);
    let report = scrubbed(&world, true);
    assert_eq!((report.found, report.repaired, report.left), (flipped, flipped, 0), "{report}");
    assert_eq!(checked(&world).found, 0);
    world.check();
    world.sync(Mode::Digest).unwrap();
    world.check();
}

#[test]
fn a_digest_page_is_rebuilt_from_the_image() {
    let mut world = world();
    let page = units(&world).into_iter().find(|unit| unit.what == What::DigestPage).unwrap();
    page.flip(&world, 4);
    assert_eq!(world.sync(Mode::Digest).unwrap_err().kind(), Kind::Damaged);
    let report = scrubbed(&world, true);
    assert_eq!((report.found, report.left), (1, 0), "{report}");
    world.check();
    assert_eq!(checked(&world).found, 0);
    world.sync(Mode::Digest).unwrap();
    world.check();
}

#[test]
fn a_rebuilt_page_over_rot_is_reported_and_the_next_sync_is_right() {
    for mode in [Mode::Digest, Mode::Compare] {
        let mut world = world();
        let all = units(&world);
        all.iter().find(|unit| unit.what == What::DigestPage).unwrap().flip(&world, 4);
        all.iter().find(|unit| unit.what == What::Image && unit.number == 30).unwrap().flip(&world, 5);
        let report = scrubbed(&world, true);
        assert!(report.damages.iter().any(|damage| damage.what == What::DigestPage && damage.repaired));
        let newest = |damage: &Damage| damage.what == What::Digests && damage.generation.unwrap().0 == 11;
        assert!(report.damages.iter().any(newest), "{report}");
        assert!(contents(&world).index.scrub.damaged > 0);
        let made = world.sync(mode).unwrap().generation.0;
        let (bytes, damaged) = world.read(made).unwrap();
        assert!(damaged == 0 && bytes == world.expected[&made]);
        let report = checked(&world);
        assert!(!affected(&report).contains(&made) && affected(&report).contains(&11), "{report}");
    }
}

#[test]
fn what_the_primary_has_no_more_is_replaced_by_comparing_and_stays_damaged_before() {
    let mut world = world();
    let unit = units(&world).into_iter().find(|unit| unit.what == What::Image && unit.number == 30).unwrap();
    unit.flip(&world, 6);
    world.write(30 * CHUNK as usize + 5, b"moved on");
    let report = scrubbed(&world, true);
    assert_eq!((report.found, report.repaired), (1, 0));
    let remedy = report.damages[0].remedy.clone().unwrap();
    assert!(remedy.contains("sync --compare"), "{remedy}");
    let made = world.sync(Mode::Compare).unwrap();
    assert_eq!((made.generation.0, made.rotten_chunks), (12, 1));
    let report = scrubbed(&world, true);
    assert_eq!(names(&report), [(What::UndoImage, Some(11), None, 30)], "{report}");
    assert_eq!(affected(&report), unreadable(&world));
    assert_eq!(report.damages[0].why, "it was damaged when it was saved");
}

/// A primary in use cannot be opened for a repair, and to say "repair" once more would lead nowhere.
#[test]
fn what_a_repair_without_a_primary_leaves_is_not_sent_back_to_it() {
    let world = world();
    let image =
        |newest| units(&world).into_iter().find(|unit| unit.what == What::Image && unit.newest == newest);
    for (salt, unit) in [image(true), image(false)].into_iter().flatten().enumerate() {
        unit.flip(&world, salt as u64);
    }
    let request = Request { repair: true, primary: None, table: None, time: 5000 };
    let (disk, partition) = (&world.disks.dpsr, &world.disks.partition);
    let report = scrub(disk, partition, Owner::default(), &request, &Silent).unwrap();
    let told: Vec<String> = report.damages.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn the_sum_of_each_generation_is_checked() {
    let world = world();
    let dpsr = &world.disks.dpsr;
    for i in 0..11 {
        let mut store = Store::open(dpsr.clone(), world.disks.partition.clone(), Owner::default()).unwrap();
        let (state, good) = (store.contents.superblock.state, store.contents.index.clone());
        let mut bad = good.clone();
        bad.generations[i].root[i] ^= 1;
        let generation = bad.generations[i].generation.0;
        store.change(state, bad).unwrap();
        assert_eq!(names(&checked(&world)), [(What::Digests, Some(generation), None, generation)]);
        store.change(state, good).unwrap();
    }
}

#[test]
fn a_store_without_a_generation_has_its_metadata_checked() {
    let volumes = vec![volume("table", 0, 0, false)];
    let world = World::new(stamped(SIZE, 3), volumes, 40 * MIB, |disk| Arc::new(disk));
    let report = scrubbed(&world, true);
    assert!(!report.complete && report.found == 0);
    assert!(report.to_string().contains("only metadata was checked"));
}

#[test]
fn an_interrupted_sync_is_not_checked_before_it_is_rolled_back() {
    let world = world();
    let disks = &world.disks;
    let mut store = Store::open(disks.dpsr.clone(), disks.partition.clone(), Owner::default()).unwrap();
    let records = &store.contents.index.generations;
    let (from, to) = (records[9].generation, records[10].generation);
    let nonce = records[9].undo.as_ref().unwrap().nonce;
    let before = store.contents.superblock.index;
    store.mark(State::Updating { from, to, nonce, before }).unwrap();
    let disk: Arc<dyn ReadDisk> = disks.dpsr.clone();
    let error = check(&disk, &disks.partition, None, &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let report = scrubbed(&world, false);
    assert_eq!((report.rolled_back, report.found), (Some(from), 0), "{report}");
}

#[test]
fn a_disk_that_goes_away_during_a_repair_loses_nothing() {
    let mut world = world();
    let all = units(&world);
    let image = |unit: &&Unit| unit.what == What::Image && unit.newest && unit.number > STILL as u64;
    let damaged: Vec<&Unit> = all.iter().filter(image).chain(all.iter().take(1)).collect();
    let dpsr = world.disks.dpsr.clone();
    for round in 0.. {
        damaged.iter().for_each(|unit| unit.flip(&world, 8));
        let faults = Faults::new(round, Fault::Gone, true);
        let faulty: Arc<dyn WriteDisk> = Arc::new(Faulty::new(dpsr.clone(), faults.clone()));
        let request =
            Request { repair: true, primary: Some(world.disks.primary.clone()), table: None, time: 5000 };
        let outcome = scrub(&faulty, &world.disks.partition, Owner::default(), &request, &Silent);
        assert_eq!(outcome.is_err(), faults.struck());
        assert_eq!(scrubbed(&world, true).left, 0);
        if !faults.struck() {
            break;
        }
    }
    world.check();
    world.sync(Mode::Digest).unwrap();
    world.check();
}

/// Two areas, of which a second generation's is full to the last exception, and two chunks of digests.
#[test]
fn full_areas_and_their_closing_zeros_are_checked() {
    let chunks = 4200;
    let size = chunks * CHUNK as usize;
    let volumes = vec![volume("table", 0, 0, false)];
    let dpsr = RamDisk::new("dpsr", BASE as usize + 4 * size).strict(Bytes(512));
    let mut world = World::around(vec![0; size], volumes, Arc::new(dpsr), 4 * size as u64);
    world.create().unwrap();
    for (generation, changed) in [(1, 0), (2, chunks), (3, 4094)] {
        world.primary.chunks_mut(CHUNK as usize).rev().take(changed).for_each(|chunk| chunk[9] = generation);
        world.disks.primary = Arc::new(RamDisk::from_bytes("primary", world.primary.clone()));
        dpsr::sync::sync(&world.disks, &world.request(Mode::Digest), &Silent).unwrap();
    }
    assert_eq!(checked(&world).found, 0);
    let all = units(&world);
    let undo = contents(&world).index.generations[1].undo.clone().unwrap();
    assert_eq!(undo.entries, 4096);
    let end = contents(&world).undo(&undo).stretch(Layout::area(1)).at.unwrap();
    let end = Unit::new(What::UndoEnd, 0, end, CHUNK).of(2);
    let interesting = |unit: &&Unit| match unit.what {
        What::UndoImage => unit.entry == Some(4095) || unit.entry == Some(4096),
        What::UndoArea | What::UndoCompanion => unit.number == 1 || unit.generation == Some(2),
        What::UndoDigests => unit.number == 1,
        What::Image => unit.number.is_multiple_of(4000),
        _ => false,
    };
    for (i, unit) in all.iter().filter(interesting).chain([&end]).enumerate() {
        unit.flip(&world, i as u64);
        let report = checked(&world);
        assert_eq!(names(&report), [unit.name()], "{unit:?}: {report}");
        let blamed = match unit.what {
            What::UndoHeader | What::UndoEnd => vec![],
            // The last 4094 of 4200 chunks changed after generation 2, all after generation 1.
            What::Image if unit.number < 106 => vec![2, 3],
            What::Image => vec![3],
            _ => (1..=unit.generation.unwrap())
                .skip(usize::from(unit.entry.is_some() && unit.generation == Some(2)))
                .collect(),
        };
        assert_eq!(affected(&report), blamed, "{unit:?}: {report}");
        if unit.what == What::UndoEnd {
            assert_eq!(scrubbed(&world, true).left, 0);
            assert_eq!(checked(&world).found, 0);
        } else {
            unit.flip(&world, i as u64);
        }
    }
}

/// Some of its sectors cannot be read until they are written, and some take no write.
struct Rotten {
    disk: RamDisk,
    bad: Arc<Mutex<Vec<u64>>>,
    stuck: Arc<Mutex<Vec<u64>>>,
    /// The size of its sectors, of which a bad one takes only a write of all of it.
    sector: u64,
}

impl Rotten {
    fn takes(&self, covered: &Range<u64>) -> bool {
        let stuck = self.stuck.lock().unwrap().iter().any(|stuck| covered.contains(stuck));
        let torn = |bad: &u64| {
            let start = bad / self.sector * self.sector;
            let (first, last) = (covered.start.max(start), covered.end.min(start + self.sector));
            first < last && last - first < self.sector
        };
        !stuck && !self.bad.lock().unwrap().iter().any(torn)
    }
}

impl ReadDisk for Rotten {
    fn name(&self) -> &str {
        self.disk.name()
    }
    fn size(&self) -> Bytes {
        self.disk.size()
    }
    fn alignment(&self) -> Bytes {
        self.disk.alignment()
    }
    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        let covered = at.0..at.0 + buffer.len() as u64;
        match self.bad.lock().unwrap().iter().any(|bad| covered.contains(bad)) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => self.disk.read_at(at, buffer),
        }
    }
}

impl WriteDisk for Rotten {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        let covered = at.0..at.0 + buffer.len() as u64;
        if !self.takes(&covered) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.bad.lock().unwrap().retain(|bad| !covered.contains(bad));
        self.disk.write_at(at, buffer)
    }
    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        self.disk.zero(range)
    }
    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }
    fn prove(&self) -> io::Result<()> {
        self.disk.prove()
    }
}

#[test]
fn sectors_that_cannot_be_read_are_damage_and_no_reason_to_stop() {
    let bad = Arc::new(Mutex::new(Vec::new()));
    let (list, stuck) = (bad.clone(), Arc::default());
    let world = world_on(|disk| Arc::new(Rotten { disk, bad: list, stuck, sector: 512 }));
    let all = units(&world);
    for unit in all.iter().step_by(3) {
        *bad.lock().unwrap() = vec![unit.at + mixed(unit.at) % unit.len];
        let report = checked(&world);
        assert_eq!(names(&report), expected_unreadable(unit), "{unit:?}: {report}");
    }
    let image = |unit: &&Unit| unit.what == What::Image && unit.newest && unit.number > STILL as u64;
    let places: Vec<u64> = all.iter().filter(image).map(|unit| unit.at).collect();
    *bad.lock().unwrap() = places.clone();
    let report = scrubbed(&world, true);
    assert_eq!((report.found, report.left), (places.len() as u64, 0), "{report}");
    world.check();
}

/// The table is read by whole chunks, so one bad sector takes sixteen pages with it.
fn expected_unreadable(unit: &Unit) -> Vec<(What, Option<u64>, Option<u32>, u64)> {
    match unit.what {
        What::DigestPage => (0..16).map(|page| (What::DigestPage, None, None, page)).collect(),
        _ => vec![unit.name()],
    }
}

const BLOCK: Option<Bytes> = Some(Bytes(512));
/// The first copy of the partition table: MBR, header, 128 entries of 128 bytes.
const HEAD: u64 = 34 * 512;

/// A store of one generation on a disk that has a partition table, a place for GRUB, and sectors that go bad.
struct Tabled {
    world: World,
    bad: Arc<Mutex<Vec<u64>>>,
    stuck: Arc<Mutex<Vec<u64>>>,
    /// The size of the disk.
    end: u64,
}

impl Tabled {
    fn new() -> Self {
        Self::with_sectors(512)
    }

    fn with_sectors(sector: u64) -> Self {
        let (bad, stuck) = <(Arc<Mutex<Vec<u64>>>, Arc<Mutex<Vec<u64>>>)>::default();
        let store = 40 * MIB;
        let end = BASE + store + MIB;
        let disk = RamDisk::new("dpsr", end as usize).strict(Bytes(512));
        let dpsr = Arc::new(Rotten { disk, bad: bad.clone(), stuck: stuck.clone(), sector });
        let layout = DpsrLayout {
            bios_boot: Some(Bytes(64 * KIB)..Bytes(128 * KIB)),
            esp: None,
            store: Bytes(BASE)..Bytes(BASE + store),
        };
        write_gpt(dpsr.as_ref(), Bytes(512), &layout, &Guids::random()).unwrap();
        let volumes = vec![volume("table", 0, 0, false)];
        let mut world = World::around(stamped(SIZE, 3), volumes, dpsr, store);
        world.create().unwrap();
        world.sync(Mode::Digest).unwrap();
        let tabled = Self { world, bad, stuck, end };
        // GRUB's, and the mark without which some BIOSes start nothing.
        tabled.poke(0, b"boot code");
        tabled.poke(446, &[0x80]);
        tabled
    }

    fn poke(&self, at: u64, bytes: &[u8]) {
        let mut sector = self.sector(at);
        sector[(at % 512) as usize..][..bytes.len()].copy_from_slice(bytes);
        self.world.disks.dpsr.write_at(Bytes(at / 512 * 512), &sector).unwrap();
    }

    fn sector(&self, at: u64) -> Buffer {
        let mut sector = Buffer::new(512).unwrap();
        self.world.disks.dpsr.read_at(Bytes(at / 512 * 512), &mut sector).unwrap();
        sector
    }

    /// All that is part of the table.
    fn table(&self) -> Vec<u8> {
        let sectors = (0..HEAD).chain(self.end - HEAD..self.end).step_by(512);
        sectors.flat_map(|at| self.sector(at).to_vec()).collect()
    }

    fn flip_index(&self) {
        let second = |unit: &Unit| unit.what == What::IndexBlock && unit.copy == Some(1);
        units(&self.world).into_iter().find(second).unwrap().flip(&self.world, 7);
    }

    fn check(&self) -> Report {
        checked_with(&self.world, BLOCK)
    }

    fn repair(&self) -> Report {
        scrubbed_with(&self.world, true, BLOCK)
    }
}

fn told(report: &Report) -> Vec<String> {
    report.damages.iter().map(ToString::to_string).collect()
}

#[test]
fn a_check_tells_what_is_wrong_with_the_partition_table_and_writes_nothing() {
    let tabled = Tabled::new();
    assert_eq!(tabled.check().found, 0);
    tabled.poke(454, &[7]);
    tabled.poke(1024 + 56, b"?");
    tabled.poke(tabled.end - 512, &[0; 8]);
    let before = tabled.table();
    assert_eq!(
        told(&tabled.check()),
        [
            "first copy of the partition table: it does not match its checksum; 'dpsr scrub --repair' rewrites it \
             from the other copy",
            "last copy of the partition table: it has no signature; 'dpsr scrub --repair' rewrites it from the \
             other copy",
            "protective MBR: it does not protect the partition table; 'dpsr scrub --repair' makes it anew"
        ]
    );
    assert!(tabled.table() == before);
    let report = serde_json::to_value(tabled.check()).unwrap();
    let copies: Vec<_> = (0..3).map(|i| report["damages"][i]["copy"].as_u64()).collect();
    assert_eq!(copies, [Some(0), Some(1), None]);
}

#[test]
fn the_mbr_and_a_copy_at_once_come_back() {
    for copy in [512, 1024] {
        let tabled = Tabled::new();
        let whole = tabled.table();
        for at in [copy, tabled.end - 512] {
            tabled.poke(510, &[0; 2]);
            tabled.poke(at + 20, b"????");
            let report = tabled.repair();
            assert_eq!((report.found, report.repaired), (2, 2), "{report}");
            assert!(tabled.table() == whole, "{report}");
        }
        assert_eq!(tabled.check().found, 0);
    }
}

#[test]
fn boot_code_that_is_lost_with_the_mbr_is_told_of() {
    let tabled = Tabled::new();
    *tabled.bad.lock().unwrap() = vec![0];
    let unreadable = "protective MBR: it cannot be read; 'dpsr scrub --repair' makes it anew";
    assert_eq!(told(&tabled.check()), [unreadable]);
    let report = tabled.repair();
    let lost = "protective MBR: it cannot be read; repaired; its boot code is empty: where the disk boots by BIOS, \
                run 'dpsr boot update', or sync";
    assert_eq!((told(&report), report.left), (vec![lost.to_owned()], 0));
    assert_eq!(tabled.check().found, 0);
}

#[test]
fn a_bad_sector_under_mbr_and_header_is_written_as_a_whole() {
    let tabled = Tabled::with_sectors(PAGE);
    *tabled.bad.lock().unwrap() = vec![0, 512, 1024];
    let report = tabled.repair();
    assert_eq!((report.found, report.left), (2, 0), "{report}");
    assert_eq!(tabled.check().found, 0);
}

#[test]
fn a_table_without_a_sound_copy_is_refused_and_the_rest_is_repaired() {
    let tabled = Tabled::new();
    tabled.poke(512, &[0; 512]);
    tabled.bad.lock().unwrap().push(tabled.end - 512);
    tabled.poke(510, &[0; 2]);
    tabled.flip_index();
    let report = tabled.repair();
    assert_eq!((report.found, report.repaired, report.left), (4, 2, 2), "{report}");
    let rest = "the other copy does not help: repair it with sgdisk or gdisk";
    assert_eq!(
        told(&report)[..2],
        [
            format!("first copy of the partition table: it has no signature; {rest}"),
            format!("last copy of the partition table: it cannot be read; {rest}")
        ]
    );
    assert_eq!(contents(&tabled.world).index.scrub.damaged, 2);
}

#[test]
fn a_sector_of_the_table_that_takes_no_write_stops_no_other_repair() {
    let tabled = Tabled::new();
    for at in [0, 512, 1024, tabled.end - 512] {
        *tabled.bad.lock().unwrap() = vec![at];
        *tabled.stuck.lock().unwrap() = vec![at];
        tabled.flip_index();
        let report = tabled.repair();
        assert_eq!((report.found, report.repaired, report.left), (2, 1, 1), "{report}");
        let first = &told(&report)[0];
        assert!(first.ends_with("it cannot be read; it could not be written: replace the disk"), "{first}");
        assert_eq!(contents(&tabled.world).index.scrub.damaged, 1);
        tabled.stuck.lock().unwrap().clear();
        tabled.repair();
    }
}
