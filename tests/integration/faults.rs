// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fault at every I/O: the verb says so and names the disk, and what is left is G or G+1 exactly.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dpsr::changes::Mode;
use dpsr::disk::faulty::{Fault, Faults, Faulty};
use dpsr::disk::file::{Access, FileDisk};
use dpsr::disk::ram::RamDisk;
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::error::Kind;
use dpsr::format::geometry::Geometry;
use dpsr::format::index::Volume;
use dpsr::format::superblock::{Owner, State};
use dpsr::history;
use dpsr::progress::Silent;
use dpsr::store::{Store, recover};
use dpsr::sync::{Request, sync};
use dpsr::units::{Bytes, Generation, MIB};

use crate::cut_targets::{NEW, is_new, junk, try_init, unpaired};
use crate::cuts::{During, Overlay, all};
use crate::world::{BASE, World, mixed, restore, same, stamped, volume};

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
    NoUndo,
    RollBack,
    Drop(&'static [u64]),
}

/// A verb on two disks, and what it starts from.
struct Scene {
    name: &'static str,
    verb: Verb,
    start: Overlay,
    primary: Vec<u8>,
    volumes: Vec<Volume>,
    expected: BTreeMap<u64, Vec<u8>>,
    /// Which generations there may be afterwards: all that there were, all that there should be, others.
    lists: Vec<Vec<u64>>,
    /// The number of the generation it makes.
    new: u64,
    /// Bytes of the store.
    store: u64,
}

impl Scene {
    fn world(&self, dpsr: Arc<dyn WriteDisk>, primary: Arc<dyn ReadDisk>) -> World {
        let mut world = World::around(self.primary.clone(), self.volumes.clone(), dpsr, self.store);
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
            Verb::NoUndo => {
                let request = Request { no_undo: true, ..world.request(Mode::Full) };
                sync(&world.disks, &request, &Silent).map(drop)
            }
            Verb::Drop(gone) => {
                let disks = &world.disks;
                let mut store = Store::open(disks.dpsr.clone(), disks.partition.clone(), Owner::default())?;
                let gone: Vec<_> = gone.iter().copied().map(Generation).collect();
                history::drop(&mut store, &gone, &Silent).map(drop)
            }
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

fn whole() -> Vec<Volume> {
    vec![volume("table", 0, 0, false), volume("1", 512 * 7, MIB / 2, false)]
}

fn without(start: u64) -> Vec<Volume> {
    vec![volume("table", 0, 0, false), volume("1", start, MIB / 2, true)]
}

/// A disk for a first copy.
fn empty(volumes: Vec<Volume>) -> Scene {
    let start = Overlay::new("dpsr", stamped((BASE + STORE) as usize, 77), BASE + STORE);
    let (primary, expected, lists) = (stamped(SIZE, 1), BTreeMap::new(), vec![vec![], vec![1]]);
    let verb = Verb::Sync(Mode::Digest);
    let mut scene =
        Scene { name: "first copy", verb, start, primary, volumes, expected, lists, new: 1, store: STORE };
    let disk = Arc::new(scene.start.fork());
    scene.healthy(disk.clone()).create().unwrap();
    scene.start = disk.fork();
    scene
}

/// A disk with three generations, and a primary that has changed since.
fn three(volumes: Vec<Volume>) -> (World, Arc<Overlay>) {
    let first = empty(volumes);
    let disk = Arc::new(first.start.fork());
    let mut world = first.healthy(disk.clone());
    for round in 0..3 {
        world.sync(Mode::Digest).unwrap();
        world.write(round * 90_000, &stamped(80_000, 5 + round as u64));
        world.write(SIZE - 700, &[round as u8 + 1; 300]);
    }
    (world, disk)
}

fn scenes() -> Vec<Scene> {
    let (world, disk) = three(whole());
    let next = |name, verb, start: Overlay| Scene {
        name,
        verb,
        start,
        primary: world.primary.clone(),
        volumes: whole(),
        expected: world.expected.clone(),
        lists: vec![vec![1, 2, 3], vec![1, 2, 3, 4]],
        new: 4,
        store: STORE,
    };
    let digest = next("sync by digest", Verb::Sync(Mode::Digest), disk.fork());
    let compare = next("sync by compare", Verb::Sync(Mode::Compare), disk.fork());
    let torn = updating(&digest);
    let interrupted = next("sync after an interrupted one", Verb::Sync(Mode::Digest), torn.fork());
    let back = Scene { lists: vec![vec![1, 2, 3]; 2], ..next("roll-back", Verb::RollBack, torn) };
    let afresh = Scene {
        lists: vec![vec![1, 2, 3], vec![4], vec![]],
        ..next("full without undo", Verb::NoUndo, disk.fork())
    };
    let lists = vec![vec![1, 2, 3], vec![1, 3]];
    let middle = Scene { lists, ..next("drop in the middle", Verb::Drop(&[2]), disk.fork()) };
    vec![empty(whole()), digest, compare, interrupted, back, afresh, repartitioned(), drops(), middle]
}

/// What was left out is kept now, in extents that held nothing, and something else is left out.
fn repartitioned() -> Scene {
    let (world, disk) = three(without(MIB / 4));
    Scene {
        name: "sync after a repartitioning",
        verb: Verb::Sync(Mode::Digest),
        start: disk.fork(),
        primary: world.primary.clone(),
        volumes: without(MIB / 2),
        expected: world.expected,
        lists: vec![vec![1, 2, 3], vec![1, 2, 3, 4]],
        new: 4,
        store: STORE,
    }
}

/// A sync for which old generations must go: that is a flip of its own, before the sync.
fn drops() -> Scene {
    let (mut world, disk) = three(whole());
    for seed in 50.. {
        world.write(0, &stamped(SIZE, seed));
        let (start, expected, before) = (disk.fork(), world.expected.clone(), world.generations());
        let report = world.sync(Mode::Digest).unwrap();
        if report.dropped.is_empty() {
            continue;
        }
        let after = world.generations();
        let kept = after[..after.len() - 1].to_vec();
        return Scene {
            name: "sync that drops",
            verb: Verb::Sync(Mode::Digest),
            start,
            primary: world.primary,
            volumes: whole(),
            expected,
            lists: vec![before, after, kept],
            new: report.generation.0,
            store: STORE,
        };
    }
    unreachable!("no store is endless")
}

/// A primary that takes many transfers: its first copy, and two syncs after scattered changes.
fn large() -> [Scene; 3] {
    const LARGE: usize = 4 * MIB as usize + 512 * 3;
    const STORE: u64 = 32 * MIB;
    let volumes = vec![volume("table", 0, 0, false), volume("1", 512 * 7, 3 * MIB, false)];
    let disk = Arc::new(Overlay::new("dpsr", vec![0; (BASE + STORE) as usize], BASE + STORE));
    let primary = stamped(LARGE, 1);
    let first = Scene { primary, start: disk.fork(), store: STORE, ..empty(volumes.clone()) };
    let mut world = first.healthy(disk.clone());
    world.create().unwrap();
    let first = Scene { start: disk.fork(), ..first };
    world.sync(Mode::Digest).unwrap();
    for at in (0..40).map(|number| mixed(number) as usize % (LARGE - 5000)) {
        world.write(at, &stamped(5000, at as u64));
    }
    let next = |name, mode| Scene {
        name,
        verb: Verb::Sync(mode),
        start: disk.fork(),
        primary: world.primary.clone(),
        volumes: volumes.clone(),
        expected: world.expected.clone(),
        lists: vec![vec![1], vec![1, 2]],
        new: 2,
        store: STORE,
    };
    let [digest, compare] = [("sync by digest", Mode::Digest), ("sync by compare", Mode::Compare)]
        .map(|(name, mode)| next(name, mode));
    [first, digest, compare]
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
fn afterwards(scene: &Scene, result: &dpsr::error::Result<()>, disk: Arc<dyn WriteDisk>) {
    let mut world = scene.healthy(disk);
    if matches!(scene.verb, Verb::Sync(_) | Verb::NoUndo) {
        world.expected.insert(scene.new, world.visible());
    }
    let mut store =
        Store::open(world.disks.dpsr.clone(), world.disks.partition.clone(), Owner::default()).unwrap();
    recover::recover(&mut store).unwrap();
    let list = world.generations();
    assert_eq!(list.last().copied(), store.contents.current().map(|generation| generation.0));
    match result {
        Ok(()) => assert_eq!(list, scene.lists[1]),
        Err(error) => assert!(scene.lists.contains(&list), "{list:?} after {error}"),
    }
    world.check();
    if !list.is_empty() {
        world.write(200_000, &stamped(1000, 99));
    }
    world.primary[..30_000].fill(0);
    world.write(0, &[]);
    let next = list.last().map_or(scene.new, |last| last + 1);
    assert_eq!(world.sync(Mode::Digest).unwrap().generation.0, next);
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

/// The same of each transfer of an engine, on files; what goes by single calls there does in the other test.
#[test]
fn a_fault_at_any_transfer_in_the_kernel_is_told_and_costs_at_most_this_sync() {
    use Fault::{Eio, Enospc, Gone, ShortRead, ShortWrite};
    let scenes = large();
    // Threads take their transfers in no order, so that any few of them are as good as any others.
    let step = if std::env::var_os("DPSR_IO").is_some_and(|io| io == "posix") { 3 } else { 1 };
    let mut points = Vec::new();
    for (scene, about) in scenes.iter().enumerate() {
        for disk in ["dpsr", "primary"] {
            let files = Files::of(about);
            let faults = Faults::new(u64::MAX, Eio, false);
            about.run(&mut files.world(about, disk, &faults)).unwrap();
            let count = faults.count();
            assert!(count > 1, "{count} transfers of {} went through the engine", about.name);
            println!("{}: {count} transfers on {disk}", about.name);
            for number in (0..count).step_by(step) {
                for fault in [Eio, ShortRead, ShortWrite, Enospc, Gone] {
                    points.push((scene, disk, number, fault));
                }
            }
        }
    }
    let struck = AtomicUsize::new(0);
    all(points.len(), |i| {
        let (scene, disk, number, fault) = points[i];
        let scene = &scenes[scene];
        let _during = During(format!("{}: {:?}", scene.name, points[i]));
        let files = Files::of(scene);
        let faults = Faults::new(number, fault, number % 4 > 1);
        let result = scene.run(&mut files.world(scene, disk, &faults));
        let short = matches!(fault, ShortRead | ShortWrite);
        match &result {
            Ok(()) => assert!(short || !faults.struck(), "the fault did not show"),
            Err(error) => {
                assert!(faults.struck() && !short, "{error}");
                assert_eq!(error.kind(), Kind::Device, "{error}");
                let text = error.to_string();
                assert!(text.split_once(": ").unwrap().0.ends_with(disk), "{text}");
            }
        }
        struck.fetch_add(usize::from(faults.struck()), Ordering::Relaxed);
        let left = std::fs::read(files.0.path().join("dpsr")).unwrap();
        afterwards(scene, &result, Arc::new(RamDisk::from_bytes("dpsr", left)));
    });
    let struck = struck.into_inner();
    println!("{struck} faults in transfers of an engine");
    assert!(struck >= 200, "{struck} faults are too few");
}

/// A third of them with the other engine.
#[test]
fn a_fault_at_any_transfer_of_pread_and_pwrite_is_told_and_costs_at_most_this_sync() {
    let mut tests = Command::new(std::env::current_exe().unwrap());
    let name = "faults::a_fault_at_any_transfer_in_the_kernel_is_told_and_costs_at_most_this_sync";
    let run = tests.args(["--exact", name]).env("DPSR_IO", "posix").output().unwrap();
    let told = [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(run.status.success() && told.contains("1 passed"), "{told}");
}

#[test]
fn a_fault_in_init_is_told_and_init_can_be_done_again() {
    use Fault::{Eio, Enospc, FlushFails, Gone, ProveFails, ShortRead, ShortWrite};
    let log = Arc::new(Mutex::new(Vec::new()));
    try_init(&unpaired(Arc::new(Trace(junk(), log.clone()))), NEW).unwrap();
    let mut points = Vec::new();
    for (number, seen) in log.lock().unwrap().iter().copied().enumerate() {
        let faults = [Eio, ShortRead, ShortWrite, Enospc, Gone, FlushFails, ProveFails].into_iter();
        let faults = faults.filter(|fault| strikes(*fault, seen));
        points.extend(faults.map(|fault| Point {
            scene: 0,
            disk: "dpsr",
            number,
            seen,
            fault,
            sticky: true,
        }));
    }
    println!("{} faults in init", points.len());
    assert!(points.len() >= 50, "{} faults are too few", points.len());
    all(points.len(), |i| {
        let point = points[i];
        let _during = During(format!("init: {point:?}"));
        let disk = Arc::new(junk());
        let faults = Faults::new(point.number as u64, point.fault, point.sticky);
        let result = try_init(&unpaired(Arc::new(Faulty::new(disk.clone(), faults.clone()))), NEW);
        assert!(faults.struck());
        match result {
            Ok(()) => assert!(matches!(point.fault, ShortRead | ShortWrite)),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Device, "{error}");
                assert!(error.to_string().split_once(": ").unwrap().0.ends_with("dpsr"), "{error}");
            }
        }
        let world = unpaired(disk);
        try_init(&world, NEW).unwrap();
        assert!(is_new(&world), "init once more");
    });
}

/// The disks of a scene as files.
struct Files(tempfile::TempDir);

impl Files {
    fn of(scene: &Scene) -> Self {
        // In memory: what counts is who makes the transfers, and how many there are.
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let files = Self(dir.unwrap());
        let mut dpsr = vec![0; scene.start.size().usize()];
        let fork = scene.start.fork();
        let mut at = 0;
        while at < dpsr.len() {
            at += fork.read_at(Bytes(at as u64), &mut dpsr[at..]).unwrap();
        }
        let file = File::create(files.0.path().join("dpsr")).unwrap();
        file.set_len(dpsr.len() as u64).unwrap();
        for (chunk, bytes) in
            dpsr.chunks(65536).enumerate().filter(|(_, bytes)| bytes.iter().any(|it| *it != 0))
        {
            file.write_all_at(bytes, chunk as u64 * 65536).unwrap();
        }
        std::fs::write(files.0.path().join("primary"), &scene.primary).unwrap();
        files
    }

    fn open(&self, name: &str, access: Access) -> FileDisk {
        FileDisk::open(self.0.path().join(name), access).unwrap()
    }

    /// The world on them, of which one fails as `faults` say.
    fn world(&self, scene: &Scene, which: &str, faults: &Arc<Faults>) -> World {
        let never = Faults::new(u64::MAX, Fault::Eio, false);
        let of = |name| if name == which { faults.clone() } else { never.clone() };
        let dpsr = Faulty::in_kernel(self.open("dpsr", Access::Write), of("dpsr"));
        let primary = Faulty::in_kernel(self.open("primary", Access::Read), of("primary"));
        scene.world(Arc::new(dpsr), Arc::new(primary))
    }
}

/// A restore in which one disk fails: it says which, the copy is untouched, and doing it again is enough.
#[test]
fn a_fault_in_a_restore_is_told_and_costs_at_most_the_target() {
    use Fault::{Eio, Enospc, FlushFails, Gone, ProveFails, ShortRead, ShortWrite};
    let (world, disk) = three(without(MIB / 4));
    let target = || Overlay::new("target", stamped(SIZE, 55), SIZE as u64);
    let run = |dpsr: Arc<dyn WriteDisk>, target: Arc<dyn WriteDisk>| {
        let world = World::around(vec![], without(MIB / 4), dpsr, STORE);
        restore(&world.disks, 2, target, false).map(|damaged| assert_eq!(damaged, 0))
    };
    let mut wanted = world.expected[&2].clone();
    let out = (MIB / 4) as usize..(3 * MIB / 4) as usize;
    wanted[out.clone()].copy_from_slice(&stamped(SIZE, 55)[out]);
    let logs: [Arc<Mutex<Vec<Seen>>>; 2] = Default::default();
    run(Arc::new(Trace(disk.fork(), logs[0].clone())), Arc::new(Trace(target(), logs[1].clone()))).unwrap();
    let mut points = Vec::new();
    for (name, log) in ["dpsr", "target"].into_iter().zip(logs) {
        for (number, seen) in log.lock().unwrap().iter().copied().enumerate() {
            for fault in [Eio, ShortRead, ShortWrite, Enospc, Gone, FlushFails, ProveFails] {
                if strikes(fault, seen) {
                    points.push(Point { scene: 0, disk: name, number, seen, fault, sticky: true });
                }
            }
        }
    }
    println!("{} faults in a restore", points.len());
    all(points.len(), |i| {
        let point = points[i];
        let _during = During(format!("restore: {point:?}"));
        let (dpsr, to) = (Arc::new(disk.fork()), Arc::new(target()));
        let faults = Faults::new(point.number as u64, point.fault, point.sticky);
        let result = match point.disk {
            "dpsr" => run(Arc::new(Faulty::new(dpsr.clone(), faults.clone())), to.clone()),
            _ => run(dpsr.clone(), Arc::new(Faulty::new(to.clone(), faults.clone()))),
        };
        assert!(faults.struck());
        match result {
            Ok(()) => assert!(matches!(point.fault, ShortRead | ShortWrite)),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Device, "{error}");
                assert!(error.to_string().split_once(": ").unwrap().0.ends_with(point.disk), "{error}");
            }
        }
        let mut healthy = World::around(vec![], without(MIB / 4), dpsr.clone(), STORE);
        healthy.expected = world.expected.clone();
        assert_eq!(healthy.generations(), [1, 2, 3]);
        if i % 8 == 0 {
            healthy.check();
        }
        run(dpsr, to.clone()).unwrap();
        let mut bytes = vec![0; SIZE];
        dpsr::disk::whole::read_exact_at(&*to, Bytes(0), &mut bytes).unwrap();
        assert!(same(&bytes, &wanted), "done again");
    });
}
