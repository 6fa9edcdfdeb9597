// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fault at every I/O: the verb says so and names the disk, and what is left is G or G+1 exactly.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dpsr::changes::Mode;
use dpsr::disk::faulty::{Fault, Faults, Faulty};
use dpsr::disk::ram::RamDisk;
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::error::Kind;
use dpsr::format::geometry::Geometry;
use dpsr::format::superblock::{Owner, State};
use dpsr::store::{Store, recover};
use dpsr::units::{Bytes, MIB};

use crate::cuts::{During, Overlay, all};
use crate::world::{BASE, World, stamped, volume};

const SIZE: usize = MIB as usize + 512 * 3;
const STORE: u64 = 22 * MIB;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Read,
    Write,
    Zero,
    Flush,
    Prove,
}

/// One I/O of a run without faults.
#[derive(Clone, Copy, Debug)]
struct Seen {
    call: Call,
    at: Bytes,
    len: usize,
}

/// Notes every I/O, in the order in which [`Faulty`] counts them.
struct Trace<D>(D, Arc<Mutex<Vec<Seen>>>);

impl<D> Trace<D> {
    fn note(&self, call: Call, at: Bytes, len: usize) {
        self.1.lock().unwrap().push(Seen { call, at, len });
    }
}

impl<D: ReadDisk> ReadDisk for Trace<D> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size(&self) -> Bytes {
        self.0.size()
    }

    fn alignment(&self) -> Bytes {
        self.0.alignment()
    }

    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        self.note(Call::Read, at, buffer.len());
        self.0.read_at(at, buffer)
    }
}

impl<D: WriteDisk> WriteDisk for Trace<D> {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        self.note(Call::Write, at, buffer.len());
        self.0.write_at(at, buffer)
    }

    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        self.note(Call::Zero, range.start, 0);
        self.0.zero(range)
    }

    fn flush(&self) -> io::Result<()> {
        self.note(Call::Flush, Bytes::ZERO, 0);
        self.0.flush()
    }

    fn prove(&self) -> io::Result<()> {
        self.note(Call::Prove, Bytes::ZERO, 0);
        self.0.prove()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Sync(Mode),
    RollBack,
}

/// A verb on two disks, and what it starts from.
struct Scene {
    name: &'static str,
    verb: Verb,
    start: Overlay,
    primary: Vec<u8>,
    expected: BTreeMap<u64, Vec<u8>>,
    /// Which generation it may be afterwards; 0 for a copy that is not complete.
    outcomes: [u64; 2],
}

impl Scene {
    fn world(&self, dpsr: Arc<dyn WriteDisk>, primary: Arc<dyn ReadDisk>) -> World {
        let volumes = vec![volume("table", 0, 0, false), volume("1", 512 * 7, MIB / 2, false)];
        let mut world = World::around(self.primary.clone(), volumes, dpsr, STORE);
        world.expected = self.expected.clone();
        world.disks.primary = primary;
        world
    }

    fn healthy(&self, dpsr: Arc<dyn WriteDisk>) -> World {
        self.world(dpsr, Arc::new(RamDisk::from_bytes("primary", self.primary.clone())))
    }

    fn run(&self, world: &mut World) -> dpsr::error::Result<()> {
        match self.verb {
            Verb::Sync(mode) => world.sync(mode).map(drop),
            Verb::RollBack => {
                let disks = &world.disks;
                let mut store = Store::open(disks.dpsr.clone(), disks.partition.clone(), Owner::default())?;
                recover::recover(&mut store).map(drop)
            }
        }
    }

    /// The I/Os of a run without faults: those on the DPSR disk, and those on the primary.
    fn trace(&self) -> [Vec<Seen>; 2] {
        let logs = [Arc::default(), Arc::default()];
        let primary = RamDisk::from_bytes("primary", self.primary.clone());
        let mut world = self.world(
            Arc::new(Trace(self.start.fork(), Arc::clone(&logs[0]))),
            Arc::new(Trace(primary, Arc::clone(&logs[1]))),
        );
        self.run(&mut world).unwrap();
        logs.map(|log: Arc<Mutex<Vec<Seen>>>| log.lock().unwrap().clone())
    }
}

fn scenes() -> Vec<Scene> {
    let empty = |primary: Vec<u8>| {
        let start = Overlay::new("dpsr", stamped((BASE + STORE) as usize, 77), BASE + STORE);
        let (verb, expected) = (Verb::Sync(Mode::Digest), BTreeMap::new());
        Scene { name: "first copy", verb, start, primary, expected, outcomes: [0, 1] }
    };
    let mut first = empty(stamped(SIZE, 1));
    let disk = Arc::new(first.start.fork());
    let mut world = first.healthy(disk.clone());
    world.create().unwrap();
    first.start = disk.fork();
    for round in 0..3 {
        world.sync(Mode::Digest).unwrap();
        world.write(round * 90_000, &stamped(80_000, 5 + round as u64));
        world.write(SIZE - 700, &[round as u8 + 1; 300]);
    }
    let next = |name, mode, start: Overlay| Scene {
        name,
        verb: Verb::Sync(mode),
        start,
        primary: world.primary.clone(),
        expected: world.expected.clone(),
        outcomes: [3, 4],
    };
    let digest = next("sync by digest", Mode::Digest, disk.fork());
    let compare = next("sync by compare", Mode::Compare, disk.fork());
    let torn = updating(&digest);
    let interrupted = next("sync after an interrupted one", Mode::Digest, torn.fork());
    let back =
        Scene { name: "roll-back", verb: Verb::RollBack, outcomes: [3, 3], ..next("", Mode::Digest, torn) };
    vec![first, digest, compare, interrupted, back]
}

/// The disk of `scene` in the middle of its sync: gone for good at the last I/Os.
fn updating(scene: &Scene) -> Overlay {
    let count = scene.trace()[0].len() as u64;
    let torn = (0..count).rev().find_map(|from| {
        let disk = Arc::new(scene.start.fork());
        let faults = Faults::new(from, Fault::Gone, true);
        let mut world = scene.healthy(Arc::new(Faulty::new(disk.clone(), faults)));
        drop(scene.run(&mut world));
        let world = scene.healthy(disk.clone());
        let found = dpsr::store::contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap();
        let inside = matches!(found.superblock.state, State::Updating { .. });
        (inside && found.stale_superblocks == 0).then(|| disk.fork())
    });
    torn.expect("a sync passes through Updating")
}

/// Whether what was read has a second copy: then a fault there costs nothing but the copy.
fn redundant(seen: Seen) -> bool {
    let geometry = Geometry::choose(Bytes(STORE)).unwrap();
    let at = seen.at.saturating_sub(Bytes(BASE));
    let index = (0..2).flat_map(|slot| (0..2).map(move |copy| (slot, copy)));
    seen.call == Call::Read
        && (geometry.superblocks().contains(&at)
            || index.into_iter().any(|(slot, copy)| {
                let start = geometry.index(slot, copy);
                (start..start + geometry.index_slot).contains(&at)
            }))
}

fn strikes(fault: Fault, seen: Seen) -> bool {
    match fault {
        Fault::Eio => matches!(seen.call, Call::Read | Call::Write | Call::Zero),
        Fault::ShortRead => seen.call == Call::Read && seen.len > 512,
        Fault::ShortWrite => seen.call == Call::Write && seen.len > 512,
        Fault::Enospc => matches!(seen.call, Call::Write | Call::Zero),
        Fault::Gone => true,
        Fault::FlushFails => seen.call == Call::Flush,
        Fault::ProveFails => seen.call == Call::Prove,
    }
}

/// One fault at one I/O.
#[derive(Clone, Copy, Debug)]
struct Point {
    scene: usize,
    disk: &'static str,
    number: usize,
    seen: Seen,
    fault: Fault,
    sticky: bool,
}

fn points(scenes: &[Scene]) -> Vec<Point> {
    use Fault::{Eio, Enospc, FlushFails, Gone, ProveFails, ShortRead, ShortWrite};
    let mut points = Vec::new();
    for (scene, about) in scenes.iter().enumerate() {
        let [dpsr, primary] = about.trace();
        println!("{}: {} I/Os on dpsr, {} on the primary", about.name, dpsr.len(), primary.len());
        for (disk, log) in [("dpsr", dpsr), ("primary", primary)] {
            for (number, seen) in log.into_iter().enumerate() {
                for fault in [Eio, ShortRead, ShortWrite, Enospc, Gone, FlushFails, ProveFails] {
                    for sticky in [false, true] {
                        if strikes(fault, seen) && !(fault == Gone && sticky) {
                            points.push(Point { scene, disk, number, seen, fault, sticky });
                        }
                    }
                }
            }
        }
    }
    points
}

fn check(scene: &Scene, point: Point) {
    let disk = Arc::new(scene.start.fork());
    let faults = Faults::new(point.number as u64, point.fault, point.sticky);
    let primary = RamDisk::from_bytes("primary", scene.primary.clone());
    let mut world = if point.disk == "dpsr" {
        scene.world(Arc::new(Faulty::new(disk.clone(), faults.clone())), Arc::new(primary))
    } else {
        scene.world(disk.clone(), Arc::new(Faulty::new(primary, faults.clone())))
    };
    let result = scene.run(&mut world);
    assert!(faults.struck(), "the run is the same every time, so the fault must strike");
    let short = matches!(point.fault, Fault::ShortRead | Fault::ShortWrite);
    match &result {
        Ok(()) => {
            assert!(short || (redundant(point.seen) && point.fault == Fault::Eio), "the fault did not show")
        }
        Err(error) => {
            assert!(!short, "short transfers are continued: {error}");
            assert_eq!(error.kind(), Kind::Device, "{error}");
            let text = error.to_string();
            let (head, _) = text.split_once(": ").unwrap();
            assert!(head.ends_with(point.disk), "{text}");
        }
    }
    afterwards(scene, &result, disk);
}

/// With healthy disks the store is one generation exactly, and the next sync hides nothing.
fn afterwards(scene: &Scene, result: &dpsr::error::Result<()>, disk: Arc<Overlay>) {
    let mut world = scene.healthy(disk);
    let (old, new) = (scene.outcomes[0], scene.outcomes[1]);
    if scene.verb != Verb::RollBack {
        world.expected.insert(new, world.visible());
    }
    let mut store =
        Store::open(world.disks.dpsr.clone(), world.disks.partition.clone(), Owner::default()).unwrap();
    recover::recover(&mut store).unwrap();
    let found = store.contents.current().map_or(0, |generation| generation.0);
    assert!(found == new || (found == old && result.is_err()), "generation {found} after {result:?}");
    assert_eq!(world.generations(), (1..=found).collect::<Vec<_>>());
    world.check();
    if found != 0 {
        world.write(200_000, &stamped(1000, 99));
    }
    world.primary[..30_000].fill(0);
    world.write(0, &[]);
    assert_eq!(world.sync(Mode::Digest).unwrap().generation.0, found + 1);
    world.check();
}

#[test]
fn a_fault_at_any_io_is_told_and_costs_at_most_this_sync() {
    let scenes = scenes();
    let points = points(&scenes);
    println!("{} faults", points.len());
    assert!(points.len() >= 800, "{} faults are too few", points.len());
    let told = AtomicUsize::new(0);
    all(points.len(), |i| {
        let point = points[i];
        let _during = During(format!("{}: {point:?}", scenes[point.scene].name));
        check(&scenes[point.scene], point);
        told.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(told.into_inner(), points.len());
}
