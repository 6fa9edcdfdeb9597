// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power cuts on a disk of more than one of everything: a first copy goes window by window, and what a sync has saved
//! lies in several undo areas. Nearly all of the disk is holes, so that it takes memory for what is written only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::iter;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpsr::changes::Mode;
use dpsr::disk::recorded::{Event, Recorded};
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::engine::Batch;
use dpsr::error::Result;
use dpsr::format::superblock::{Owner, State};
use dpsr::format::undo::PER_AREA;
use dpsr::progress::Silent;
use dpsr::store::create::{Template, create};
use dpsr::store::{Store, contents, recover};
use dpsr::sync::sync;
use dpsr::units::{Bytes, CHUNK, GIB, MIB, PAGE, SECTOR};
use dpsr::view::read::Sink;

use crate::cuts::{Cut, Dice, During, Loss, Overlay, all, cut, cuts};
use crate::powercut::whole;
use crate::world::{BASE, World, read_into, stamped};

/// Three windows of a first copy, of which the last is not whole.
const SIZE: u64 = 9 * GIB + 3 * SECTOR;
const STORE: u64 = 10 * GIB;
/// More than the exceptions of one undo area, by a little.
const CHANGED: u64 = 4100;
/// More places than it pays to read one by one.
const MANY: usize = 1000;

/// A primary of which little is no hole: pages, by their number.
#[derive(Clone, Default)]
struct Sparse(BTreeMap<u64, Vec<u8>>);

impl Sparse {
    /// Something in every part of it, its last sectors included.
    fn new() -> Self {
        let mut disk = Self::default();
        (0..36).for_each(|i| disk.put(i * (SIZE / 36), 1 + i % 3, i));
        disk.put(SIZE - 1, 1, 99);
        disk
    }

    /// Puts `pages` from the page of the byte `at` on, which is then no hole.
    fn put(&mut self, at: u64, pages: u64, seed: u64) {
        let first = at / PAGE;
        for page in first..first + pages.min((SIZE.div_ceil(PAGE)) - first) {
            let len = PAGE.min(SIZE - page * PAGE);
            self.0.insert(page, stamped(len as usize, seed << 32 | page));
        }
    }

    fn within(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &[u8])> {
        let pages = self.0.range(range.start / PAGE..range.end.div_ceil(PAGE));
        pages.map(|(page, bytes)| (page * PAGE, &bytes[..]))
    }
}

impl ReadDisk for Sparse {
    fn name(&self) -> &str {
        "primary"
    }

    fn size(&self) -> Bytes {
        Bytes(SIZE)
    }

    fn alignment(&self) -> Bytes {
        Bytes(SECTOR)
    }

    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        let end = (at.0 + buffer.len() as u64).min(SIZE);
        let buffer = &mut buffer[..(end - at.0) as usize];
        buffer.fill(0);
        for (start, page) in self.within(at.0..end) {
            let (from, to) = (start.max(at.0), (start + page.len() as u64).min(end));
            buffer[(from - at.0) as usize..(to - at.0) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
        Ok(buffer.len())
    }

    fn next_data(&self, at: Bytes) -> io::Result<Option<Range<Bytes>>> {
        let next = self.within(at.0..SIZE).next();
        Ok(next.map(|(start, page)| Bytes(start.max(at.0))..Bytes(start + page.len() as u64)))
    }
}

/// Compares what a generation reads as with what it must.
struct Against<'a> {
    expected: &'a Sparse,
    /// Bytes that were told to be zeros, and those that were read.
    zeros: u64,
    read: u64,
}

impl Sink for Against<'_> {
    fn zeros(&mut self, range: Range<Bytes>) -> Result<()> {
        self.zeros += (range.end - range.start).0;
        let lost = self.expected.within(range.start.0..range.end.0).next();
        assert!(lost.is_none(), "{range:?} became zeros");
        Ok(())
    }

    fn data(&mut self, batch: &mut Batch, range: Range<Bytes>, offset: usize) -> Result<()> {
        let len = (range.end - range.start).usize();
        self.read += len as u64;
        let mut expected = vec![0; len];
        self.expected.read_at(range.start, &mut expected).unwrap();
        assert!(batch.bytes()[offset..offset + len] == expected, "{range:?} differs");
        Ok(())
    }
}

/// Chunks whose place in the image holds something before there is a copy.
fn littered() -> impl Iterator<Item = u64> {
    (0..97).map(|i| i * (SIZE / CHUNK / 97) + 1)
}

/// A store of a large disk, and what its generations must read as.
#[derive(Clone)]
struct Large {
    primary: Sparse,
    expected: BTreeMap<u64, Sparse>,
}

impl Large {
    fn world(&self, disk: Arc<dyn WriteDisk>) -> World {
        let mut world = World::around(vec![], whole(), disk, STORE);
        world.disks.primary = Arc::new(self.primary.clone());
        world
    }

    fn blank() -> (Self, Arc<Overlay>) {
        let large = Self { primary: Sparse::new(), expected: BTreeMap::new() };
        let disk = Arc::new(Overlay::new("dpsr", stamped((BASE + 8 * MIB) as usize, 7), BASE + STORE));
        let world = large.world(disk.clone());
        let template = Template { disk: Bytes(SIZE), ..world.template(1) };
        create(disk.clone(), world.disks.partition.clone(), template).unwrap();
        // Where the image will be something stands already, also where the primary has a hole.
        let contents = world.contents();
        let image = contents.image(contents.newest_map());
        for chunk in littered() {
            let bytes = Bytes(chunk * CHUNK)..Bytes((chunk + 1) * CHUNK);
            let at = image.stretches(bytes).next().unwrap().at.unwrap();
            disk.write_at(at, &stamped(PAGE as usize, chunk)).unwrap();
        }
        (large, disk)
    }

    /// Syncs, and says what was written meanwhile.
    fn sync(&mut self, disk: &Arc<Overlay>) -> Vec<Event> {
        let recorded = Arc::new(Recorded::new(disk.clone()));
        let world = self.world(recorded.clone());
        let report = sync(&world.disks, &world.request(Mode::Digest), &Silent).unwrap();
        self.expected.insert(report.generation.0, self.primary.clone());
        recorded.events()
    }

    /// Where a generation may hold something: what any of them ever held, and a few places more.
    fn places(&self, dice: &mut Dice) -> BTreeSet<u64> {
        let pages = self.expected.values().chain([&self.primary]).flat_map(|disk| disk.0.keys());
        let random = (0..64).map(|_| dice.below(SIZE / CHUNK));
        pages.map(|page| page * PAGE / CHUNK).chain(littered()).chain(random).collect()
    }

    /// Checks all that may be there of each generation; with `everything`, or where that is no less to do,
    /// all of it.
    fn check(&self, world: &World, everything: bool, dice: &mut Dice) {
        let places = self.places(dice);
        let everything = everything || places.len() > MANY;
        let chunks = places.into_iter().map(|chunk| chunk * CHUNK..SIZE.min((chunk + 1) * CHUNK));
        let ranges: Vec<_> = if everything { iter::once(0..SIZE).collect() } else { chunks.collect() };
        for generation in world.generations() {
            let mut sink = Against { expected: &self.expected[&generation], zeros: 0, read: 0 };
            let bytes = ranges.iter().map(|range| Bytes(range.start)..Bytes(range.end));
            let damaged = read_into(&world.disks, generation, bytes, &mut sink).unwrap();
            assert_eq!(damaged, 0, "generation {generation}");
            let all: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            assert_eq!(sink.zeros + sink.read, all, "generation {generation}");
        }
    }

    /// Checks whatever a cut has left, and goes on. `lists` says which generations there may be; where the verb had
    /// `ended`, they are the last of these.
    fn resume(&self, disk: Overlay, lists: &[Vec<u64>], ended: bool, dice: &mut Dice) -> State {
        let disk = Arc::new(disk);
        let mut next = self.clone();
        let world = next.world(disk.clone());
        let found = contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap();
        let mut store = Store::open(disk.clone(), world.disks.partition.clone(), Owner::default()).unwrap();
        recover::recover(&mut store).unwrap();
        let list = world.generations();
        assert!(lists.contains(&list) && (!ended || list == lists[lists.len() - 1]), "{list:?} of {lists:?}");
        // Reading all of so large a disk takes a second.
        let everything = dice.below(16) == 0;
        self.check(&world, everything, dice);
        // Some of what the copy had come to is another by now.
        (0..12).for_each(|i| next.primary.put(dice.below(SIZE), 1, 1000 + i));
        next.sync(&disk);
        next.check(&next.world(disk), everything, dice);
        found.superblock.state
    }
}

#[test]
fn a_power_cut_between_the_windows_of_a_first_copy() {
    let (mut large, disk) = Large::blank();
    let start = disk.fork();
    let events = large.sync(&disk);
    let points = cuts(&events, 6, 11);
    println!("{} events, {} points", events.len(), points.len());
    let states = [const { AtomicUsize::new(0) }; 4];
    all(points.len(), |i| {
        let at = points[i];
        let _during = During(format!("first copy {at:?}"));
        let ended = at.after == events.len();
        let left = cut(&start, &events, at);
        match large.resume(left, &[vec![], vec![1]], ended, &mut Dice(i as u64)) {
            State::Filling { done } => {
                states[done.div_ceil(4 * GIB / CHUNK) as usize].fetch_add(1, Ordering::Relaxed)
            }
            _ => 0,
        };
    });
    println!("cut in each window, and before the commit: {states:?}");
    assert!(states.into_iter().all(|count| count.into_inner() > 0));
}

/// A store whose next sync saves more than an undo area holds, and what that sync writes.
fn of_two_areas() -> (Large, Overlay, Vec<Event>) {
    let (mut large, disk) = Large::blank();
    large.sync(&disk);
    (0..9).for_each(|i| large.primary.put(i * GIB + MIB, 2, 200 + i));
    large.sync(&disk);
    let start = disk.fork();
    (0..CHANGED).for_each(|i| large.primary.put(i * 2 * MIB + i % 16 * PAGE, 1, 300 + i));
    let events = large.sync(&disk);
    let contents = large.world(disk).contents();
    let undo = contents.index.generations[1].undo.as_ref().unwrap();
    assert!(undo.entries > PER_AREA, "{} fit into one area", undo.entries);
    (large, start, events)
}

/// Every loss, and some of the prefixes: about `count` of them, and the whole.
fn some(events: &[Event], each: usize, count: usize) -> Vec<Cut> {
    let step = (events.len() / count).max(1);
    let chosen = |cut: &Cut| match cut.loss {
        Loss::Nothing => cut.after.is_multiple_of(step) || cut.after == events.len(),
        _ => true,
    };
    cuts(events, each, 12).into_iter().filter(chosen).collect()
}

#[test]
fn a_power_cut_in_a_sync_that_saves_more_than_an_undo_area_holds() {
    let (large, start, events) = of_two_areas();
    let points = some(&events, 1, 16);
    println!("{} events, {} points", events.len(), points.len());
    let updating = AtomicUsize::new(0);
    all(points.len(), |i| {
        let at = points[i];
        let _during = During(format!("two areas {at:?}"));
        let left = cut(&start, &events, at);
        let state =
            large.resume(left, &[vec![1, 2], vec![1, 2, 3]], at.after == events.len(), &mut Dice(i as u64));
        updating.fetch_add(usize::from(matches!(state, State::Updating { .. })), Ordering::Relaxed);
    });
    println!("{updating:?} in the middle of the image");
    assert!(updating.into_inner() > 0);
}

#[test]
fn a_power_cut_in_a_roll_back_of_more_than_an_undo_area_holds() {
    let (mut large, start, events) = of_two_areas();
    let world = |disk: Arc<dyn WriteDisk>| World::around(vec![], vec![], disk, STORE);
    let is_updating = |after: usize| {
        let world = world(Arc::new(cut(&start, &events, Cut { after, loss: Loss::Nothing, seed: 0 })));
        let found = contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap();
        matches!(found.superblock.state, State::Updating { .. })
    };
    // The flip behind the overwriting is the last that happens.
    let last = (0..events.len()).rev().find(|after| is_updating(*after)).unwrap();
    let torn = cut(&start, &events, Cut { after: last, loss: Loss::Nothing, seed: 0 });
    let recorded = Arc::new(Recorded::new(Arc::new(torn.fork())));
    let world = world(recorded.clone());
    let mut store = Store::open(recorded.clone(), world.disks.partition.clone(), Owner::default()).unwrap();
    recover::recover(&mut store).unwrap();
    let back = recorded.events();
    let points = some(&back, 1, 8);
    println!("{} events of the roll-back, {} points", back.len(), points.len());
    large.expected.remove(&3);
    all(points.len(), |i| {
        let at = points[i];
        let _during = During(format!("roll-back of two areas {at:?}"));
        large.resume(cut(&torn, &back, at), &[vec![1, 2]], true, &mut Dice(i as u64));
    });
}
