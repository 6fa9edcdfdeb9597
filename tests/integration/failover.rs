// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine that runs from the copy, with a twin of the kernel's dm-snapshot: whatever it overwrites, the
//! generations come back, and a power cut on the way back costs nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::disk::faulty::{Fault, Faults, Faulty};
use dpsr::disk::recorded::{Event, Recorded};
use dpsr::disk::whole::{read_exact_at, write_all_at};
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::error::{Kind, Result};
use dpsr::failback::Parts;
use dpsr::failback::put_back::{give_up, give_up_all, put_back, put_back_whole};
use dpsr::failback::target::Target;
use dpsr::failover::mark::{Marked, go_live, placement};
use dpsr::failover::stays::Stays;
use dpsr::format::index::{FAILBACK, HOME, LIVE_STORE, Object, Volume};
use dpsr::format::superblock::{Owner, State};
use dpsr::progress::Silent;
use dpsr::store::placement::Placement;
use dpsr::store::{Contents, Store};
use dpsr::swap::{self, Swap};
use dpsr::sync::{Request, sync};
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, CHUNK, Chunk, Generation};
use uuid::Uuid;

use crate::cuts::{During, Overlay, all, cut, cuts};
use crate::oracle::Dump;
use crate::powercut::{SIZE, STORE, Stage, interrupted, whole};
use crate::world::{BASE, World, stamped, volume};

pub const NOW: u64 = 1_795_161_600;
const PER_AREA: u64 = 4096;

/// Every generation can be shown.
pub fn any(_: &Contents, _: Generation) -> Result<Vec<Object>> {
    Ok(vec![])
}

/// What the kernel does below a machine that runs from the image.
struct Kernel {
    disk: Arc<dyn WriteDisk>,
    image: Placement,
    live: Placement,
    kept: BTreeSet<u64>,
    entries: u64,
}

impl Kernel {
    /// Activates the live store of a store that is live.
    fn of(store: &Store) -> Self {
        let contents = &store.contents;
        let live = placement(store, &contents.live_store().unwrap().runs);
        let image = contents.image(contents.newest_map());
        let kernel = Self { disk: store.disk.clone(), image, live, kept: BTreeSet::new(), entries: 0 };
        let mut header = kernel.read(&kernel.live, 0);
        assert!(header.iter().all(|byte| *byte == 0), "a fresh live store is zeros");
        assert!(kernel.read(&kernel.live, 1).iter().all(|byte| *byte == 0), "and its first area");
        for (at, word) in [0x7041_6e53_u32, 1, 1, (CHUNK / 512) as u32].into_iter().enumerate() {
            header[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        kernel.put(&kernel.live, 0, &header);
        kernel
    }

    fn read(&self, place: &Placement, chunk: u64) -> Buffer {
        let mut bytes = Buffer::new(CHUNK as usize).unwrap();
        read_exact_at(&self.disk, place.chunk(Chunk(chunk)).unwrap(), &mut bytes).unwrap();
        bytes
    }

    fn put(&self, place: &Placement, chunk: u64, bytes: &[u8]) {
        write_all_at(self.disk.as_ref(), place.chunk(Chunk(chunk)).unwrap(), bytes).unwrap();
    }

    /// Overwrites a chunk of the image from `at` of it on.
    fn write(&mut self, chunk: u64, at: usize, bytes: &[u8]) {
        let mut now = self.read(&self.image, chunk);
        if self.kept.insert(chunk) {
            self.keep(chunk, &now);
        }
        now[at..at + bytes.len()].copy_from_slice(bytes);
        self.put(&self.image, chunk, &now);
    }

    fn keep(&mut self, chunk: u64, before: &[u8]) {
        let (k, slot) = (self.entries / PER_AREA, (self.entries % PER_AREA) as usize);
        let new = 2 + self.entries + k;
        self.put(&self.live, new, before);
        let area = 1 + k * (PER_AREA + 1);
        let mut exceptions = self.read(&self.live, area);
        exceptions[slot * 16..slot * 16 + 8].copy_from_slice(&chunk.to_le_bytes());
        exceptions[slot * 16 + 8..slot * 16 + 16].copy_from_slice(&new.to_le_bytes());
        self.put(&self.live, area, &exceptions);
        self.entries += 1;
    }

    /// Runs out of room.
    fn overflow(&self) {
        let mut header = self.read(&self.live, 0);
        header[4] = 0;
        self.put(&self.live, 0, &header);
    }

    /// A morning's work, in no order.
    fn work(&mut self) {
        let chunks = (SIZE as u64).div_ceil(CHUNK);
        for (round, chunk) in [7, 3, chunks - 1, 0, 12, 3, 9].into_iter().enumerate() {
            let room = (SIZE - (chunk * CHUNK) as usize).min(CHUNK as usize);
            let len = room.min(900 + 64 * round);
            self.write(chunk, room - len, &stamped(len, 500 + round as u64));
        }
    }
}

pub fn opened(world: &World) -> Store {
    Store::open(world.disks.dpsr.clone(), world.disks.partition.clone(), Owner::default()).unwrap()
}

fn live(world: &World) -> (Marked, Kernel) {
    let mut store = opened(world);
    let marked = go_live(&mut store, None, NOW, &mut any).unwrap();
    let kernel = Kernel::of(&store);
    (marked, kernel)
}

pub fn bytes_of(disk: &Arc<dyn WriteDisk>) -> Vec<u8> {
    let mut bytes = Buffer::new(disk.size().usize()).unwrap();
    read_exact_at(disk, Bytes::ZERO, &mut bytes).unwrap();
    bytes.to_vec()
}

pub fn image_of(store: &Store) -> Vec<u8> {
    let image = store.contents.image(store.contents.newest_map());
    let mut chunk = Buffer::new(CHUNK as usize).unwrap();
    let chunks = (0..(SIZE as u64).div_ceil(CHUNK)).map(|at| image.chunk(Chunk(at)).unwrap());
    let read = |at| {
        read_exact_at(&store.disk, at, &mut chunk).unwrap();
        chunk.to_vec()
    };
    chunks.flat_map(read).collect()
}

#[test]
fn what_a_machine_overwrites_comes_back_and_history_goes_on() {
    let mut stage = Stage::with(3, whole());
    let (marked, mut kernel) = live(&stage.world);
    let from = Generation(3);
    assert_eq!(marked, Marked { from, resumed: false, rolled_back: false, keeps: true, dropped: vec![] });
    kernel.work();
    // A second reader finds the generation while the machine runs.
    let dump = Dump::of(&bytes_of(&stage.world.disks.dpsr), Some(STORE));
    for generation in 1..=3 {
        assert!(dump.export(generation) == stage.world.expected[&generation], "generation {generation}");
    }
    // A later boot goes on with the same live store.
    let mut store = opened(&stage.world);
    let before = store.contents.superblock.sequence;
    let resumed = Marked { resumed: true, ..marked.clone() };
    assert_eq!(go_live(&mut store, None, NOW + 9, &mut any).unwrap(), resumed);
    assert_eq!(store.contents.superblock.sequence, before, "nothing is written for that");
    assert_eq!(store.contents.live_since(), Some(NOW), "it began then");
    kernel.write(20, 0, &stamped(512, 9));
    assert_eq!(put_back(&mut store, &Silent).unwrap(), Some(from));
    assert_eq!(store.contents.superblock.state, State::Clean(from));
    assert!(store.contents.index.objects.is_empty());
    stage.world.check_all();
    stage.change(40, 5);
    stage.world.sync(Mode::Digest).unwrap();
    stage.world.check_all();
}

#[test]
fn nothing_else_touches_a_live_store() {
    let stage = Stage::with(2, whole());
    let (_, mut kernel) = live(&stage.world);
    kernel.work();
    let before = bytes_of(&stage.world.disks.dpsr);
    let refused = |error: dpsr::error::Error| {
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("a system was started from it, at generation 2"), "{error}");
    };
    refused(sync(&stage.world.disks, &stage.world.request(Mode::Digest), &Silent).unwrap_err());
    refused(stage.world.drop(&[1]).unwrap_err());
    refused(stage.world.read(1).unwrap_err());
    let disk: Arc<dyn ReadDisk> = stage.world.disks.dpsr.clone();
    refused(dpsr::scrub::check(&disk, &stage.world.disks.partition, None, &Silent).unwrap_err());
    let no_undo = Request { no_undo: true, ..stage.world.request(Mode::Full) };
    refused(sync(&stage.world.disks, &no_undo, &Silent).unwrap_err());
    assert!(bytes_of(&stage.world.disks.dpsr) == before, "something was written");
}

#[test]
fn an_interrupted_sync_is_rolled_back_before_a_machine_starts() {
    let stage = interrupted(2);
    let (marked, mut kernel) = live(&stage.world);
    assert_eq!(
        marked,
        Marked { from: Generation(2), resumed: false, rolled_back: true, keeps: true, dropped: vec![] }
    );
    kernel.work();
    put_back(&mut opened(&stage.world), &Silent).unwrap();
    stage.world.check_all();
}

#[test]
fn history_that_was_lost_is_told_and_the_next_sync_starts_afresh() {
    let mut stage = Stage::with(3, whole());
    let (_, mut kernel) = live(&stage.world);
    kernel.work();
    kernel.overflow();
    let mut store = opened(&stage.world);
    let marked = go_live(&mut store, None, NOW, &mut any).unwrap();
    assert_eq!((marked.keeps, marked.resumed), (false, true));
    assert_eq!(store.contents.superblock.state, State::LiveNoHistory(Generation(3)));
    assert_eq!(go_live(&mut store, None, NOW, &mut any).unwrap(), marked);
    assert_eq!(put_back(&mut store, &Silent).unwrap(), None);
    assert!(matches!(store.contents.superblock.state, State::NoValid { done: 0, to: Generation(4) }));
    assert!(stage.world.generations().is_empty());
    stage.world.expected.clear();
    stage.world.sync(Mode::Digest).unwrap();
    stage.world.check_all();
}

/// A store whose machine is to go back to `serial`.
fn going_back(world: &World, serial: &str) -> Target {
    let target = Target { size: Bytes(SIZE as u64), serial: Some(serial.to_owned()), wwn: None };
    let mut store = opened(world);
    let (state, mut index) = (store.contents.superblock.state, store.contents.index.clone());
    index.objects.push(target.object());
    store.change(state, index).unwrap();
    target
}

#[test]
fn the_disk_it_went_back_to_is_remembered_and_is_no_way_back_any_more() {
    let stage = Stage::with(2, whole());
    for serial in ["first", "second"] {
        let (_, mut kernel) = live(&stage.world);
        kernel.work();
        let target = going_back(&stage.world, serial);
        let mut store = opened(&stage.world);
        assert_eq!(Target::in_store(&store.contents), Some(target.clone()));
        put_back(&mut store, &Silent).unwrap();
        let contents = stage.world.contents();
        assert_eq!((Target::in_store(&contents), Target::home(&contents)), (None, Some(target)));
        assert_eq!(contents.index.objects.len(), 1);
        stage.world.check_all();
    }
}

#[test]
fn what_is_half_put_back_starts_nothing() {
    let stage = Stage::with(2, whole());
    let (_, mut kernel) = live(&stage.world);
    kernel.work();
    let mut store = opened(&stage.world);
    store.mark(State::Returning(Generation(2))).unwrap();
    let before = bytes_of(&stage.world.disks.dpsr);
    let error = go_live(&mut store, None, NOW, &mut any).unwrap_err();
    assert!(error.to_string().contains("it is being made a generation again"), "{error}");
    assert!(bytes_of(&stage.world.disks.dpsr) == before, "something was written");
    assert_eq!(put_back(&mut store, &Silent).unwrap(), Some(Generation(2)));
    stage.world.check_all();
}

#[test]
fn a_kept_chunk_that_rotted_is_never_put_back() {
    let stage = Stage::with(2, whole());
    let (_, mut kernel) = live(&stage.world);
    kernel.work();
    let mut rotten = kernel.read(&kernel.live, 4);
    rotten[100] ^= 1;
    kernel.put(&kernel.live, 4, &rotten);
    let mut store = opened(&stage.world);
    assert_eq!(put_back(&mut store, &Silent).unwrap(), None);
    assert!(matches!(store.contents.superblock.state, State::NoValid { .. }));
}

/// Whether the newest generation ran or an older one, and whether a way back was begun: all of it is given up, and every
/// generation is there. Where one could not be had, nothing is given up.
#[test]
fn what_a_machine_wrote_is_given_up_whole_or_not_at_all() {
    for wanted in [None, Some(Generation(1))] {
        let stage = Stage::with(3, whole());
        let mut store = opened(&stage.world);
        go_live(&mut store, wanted, NOW, &mut any).unwrap();
        if wanted.is_none() {
            Kernel::of(&store).work();
        }
        drop(store);
        going_back(&stage.world, "other");
        let mut store = opened(&stage.world);
        give_up_all(&mut store, &Silent).unwrap();
        assert_eq!(store.contents.superblock.state, State::Clean(Generation(3)));
        let left = |kind| store.contents.index.objects.iter().any(|object| object.kind == kind);
        assert!(!left(LIVE_STORE) && !left(FAILBACK) && !left(HOME));
        drop(store);
        stage.world.check_all();
    }
    let stage = Stage::with(2, whole());
    let (_, mut kernel) = live(&stage.world);
    kernel.work();
    // The last one: whoever looks at one after the other has seen all others by then.
    let last = 1 + kernel.entries;
    let mut rotten = kernel.read(&kernel.live, last);
    rotten[77] ^= 1;
    kernel.put(&kernel.live, last, &rotten);
    let everything = || {
        let mut bytes = Buffer::new(stage.disk.size().usize()).unwrap();
        read_exact_at(stage.disk.as_ref(), Bytes::ZERO, &mut bytes).unwrap();
        bytes.to_vec()
    };
    let before = everything();
    let mut store = opened(&stage.world);
    assert_eq!(give_up_all(&mut store, &Silent).unwrap_err().kind(), Kind::Damaged);
    assert!(everything() == before, "something was written");
    kernel.overflow();
    let before = everything();
    assert_eq!(give_up_all(&mut store, &Silent).unwrap_err().kind(), Kind::Damaged);
    assert!(everything() == before, "something was written");
    go_live(&mut store, None, NOW, &mut any).unwrap();
    assert_eq!(give_up_all(&mut store, &Silent).unwrap_err().kind(), Kind::Refused);
    assert_eq!(put_back_whole(&mut store, &Silent).unwrap_err().kind(), Kind::Damaged);
    assert!(matches!(opened(&stage.world).contents.superblock.state, State::LiveNoHistory(_)));
}

/// The power may be cut there, too: the image is what the machine made of it, or comes back.
#[test]
fn the_power_may_be_cut_while_all_is_given_up() {
    let stage = Stage::with(3, whole());
    live(&stage.world).1.work();
    going_back(&stage.world, "other");
    let machines = image_of(&opened(&stage.world));
    let start = stage.disk.fork();
    let events = recorded(&stage, |store| give_up_all(store, &Silent).unwrap());
    each_cut(&stage, &start, &events, |world| {
        let mut store = opened(&world);
        if let State::Live(_) = store.contents.superblock.state {
            assert!(image_of(&store) == machines, "a machine may start from it, and half of it is put back");
            give_up_all(&mut store, &Silent).unwrap();
        }
        // A start that finds it half put back does the rest.
        put_back(&mut store, &Silent).unwrap();
        assert_eq!(store.contents.superblock.state, State::Clean(Generation(3)));
        let left = |kind| store.contents.index.objects.iter().any(|object| object.kind == kind);
        assert!(!left(LIVE_STORE) && !left(FAILBACK) && !left(HOME));
        drop(store);
        world.check_all();
    });
}

/// What rots while it is put back costs no generation where nothing else holds them, and may be had again.
#[test]
fn what_cannot_be_put_back_now_is_not_given_up() {
    let stage = Stage::with(2, whole());
    let (_, mut kernel) = live(&stage.world);
    kernel.work();
    opened(&stage.world).mark(State::Returning(Generation(2))).unwrap();
    let good = kernel.read(&kernel.live, 3);
    let mut rotten = kernel.read(&kernel.live, 3);
    rotten[9] ^= 1;
    kernel.put(&kernel.live, 3, &rotten);
    let mut store = opened(&stage.world);
    assert_eq!(put_back_whole(&mut store, &Silent).unwrap_err().kind(), Kind::Damaged);
    assert_eq!(opened(&stage.world).contents.index.generations.len(), 2);
    kernel.put(&kernel.live, 3, &good);
    assert_eq!(put_back_whole(&mut store, &Silent).unwrap(), Some(Generation(2)));
    drop(store);
    stage.world.check_all();
}

/// A read error while it is put back costs no generation by itself, however often it is begun anew; who waits no longer
/// says so, and copies afresh.
#[test]
fn what_cannot_be_read_to_be_put_back_is_given_up_only_where_that_is_asked_for() {
    let mut stage = Stage::with(2, whole());
    live(&stage.world).1.work();
    opened(&stage.world).mark(State::Returning(Generation(2))).unwrap();
    let failing = |from| {
        let faults = Faults::new(from, Fault::Eio, false);
        let disk = Arc::new(Faulty::new(stage.world.disks.dpsr.clone(), faults.clone()));
        let store = Store::open(disk, stage.world.disks.partition.clone(), Owner::default()).unwrap();
        (store, faults)
    };
    let opening = failing(u64::MAX).1.count();
    let (mut store, faults) = failing(opening);
    assert_eq!(put_back(&mut store, &Silent).unwrap_err().kind(), Kind::Device);
    assert!(faults.struck());
    drop(store);
    assert_eq!(stage.world.contents().superblock.state, State::Returning(Generation(2)));
    let before = bytes_of(&stage.world.disks.dpsr);
    let no_undo = Request { no_undo: true, ..stage.world.request(Mode::Full) };
    for request in [stage.world.request(Mode::Digest), Request { dry_run: true, ..no_undo.clone() }] {
        let error = sync(&stage.world.disks, &request, &Silent).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("'dpsr sync --full --no-undo' gives up all history"), "{error}");
    }
    assert!(bytes_of(&stage.world.disks.dpsr) == before, "something was written");

    let start = stage.disk.fork();
    let given_up = recorded(&stage, |store| give_up(store, Generation(2)).unwrap());
    each_cut(&stage, &start, &given_up, |world| {
        let State::Returning(_) = world.contents().superblock.state else {
            assert!(world.generations().is_empty());
            return;
        };
        assert_eq!(put_back(&mut opened(&world), &Silent).unwrap(), Some(Generation(2)));
        world.check_all();
    });
    stage.disk = Arc::new(start);
    stage.world.disks.dpsr = stage.disk.clone();
    let report = sync(&stage.world.disks, &no_undo, &Silent).unwrap();
    assert_eq!((report.generation, stage.world.generations()), (Generation(3), vec![3]));
    assert!(stage.world.contents().index.objects.iter().all(|object| object.kind != LIVE_STORE));
    stage.world.expected.insert(3, stage.world.visible());
    stage.world.check_all();
}

#[test]
fn a_copy_that_is_not_complete_starts_nothing() {
    let stage = Stage::bare(STORE, whole());
    let mut world = stage.world;
    world.create().unwrap();
    let error = go_live(&mut opened(&world), None, NOW, &mut any).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("no complete generation"), "{error}");
}

/// Records `verb` on a disk that then holds what it left.
pub fn recorded(stage: &Stage, verb: impl FnOnce(&mut Store)) -> Vec<Event> {
    let recorded = Arc::new(Recorded::new(stage.disk.clone()));
    let partition = stage.world.disks.partition.clone();
    verb(&mut Store::open(recorded.clone(), partition, Owner::default()).unwrap());
    recorded.events()
}

/// Lets `check` see whatever a power cut may have left of what was recorded in `stage`.
fn each_cut(stage: &Stage, start: &Overlay, events: &[Event], check: impl Fn(World) + Sync) {
    let all_cuts = cuts(events, 6, 4);
    assert!(all_cuts.len() > 20);
    all(all_cuts.len(), |i| {
        let _during = During(format!("{:?}", all_cuts[i]));
        let disk = Arc::new(cut(start, events, all_cuts[i]));
        let mut world = World::around(vec![], whole(), disk, STORE);
        world.expected.clone_from(&stage.world.expected);
        check(world);
    });
}

#[test]
fn the_power_may_be_cut_while_a_machine_is_started() {
    let stage = Stage::with(2, whole());
    let start = stage.disk.fork();
    let events = recorded(&stage, |store| assert!(go_live(store, None, NOW, &mut any).unwrap().keeps));
    each_cut(&stage, &start, &events, |world| {
        // Whether it had become live or not, the machine starts, and what it does is undone.
        let (marked, mut kernel) = live(&world);
        assert_eq!((marked.from, marked.keeps), (Generation(2), true));
        kernel.work();
        assert_eq!(put_back(&mut opened(&world), &Silent).unwrap(), Some(Generation(2)));
        world.check_all();
    });
}

#[test]
fn the_power_may_be_cut_on_the_way_back() {
    let stage = Stage::with(3, whole());
    let (_, mut kernel) = live(&stage.world);
    kernel.work();
    drop(kernel);
    let machines = image_of(&opened(&stage.world));
    let start = stage.disk.fork();
    let events = recorded(&stage, |store| assert_eq!(put_back(store, &Silent).unwrap(), Some(Generation(3))));
    each_cut(&stage, &start, &events, |world| {
        let mut store = opened(&world);
        if store.contents.superblock.state == State::Live(Generation(3)) {
            assert!(image_of(&store) == machines, "a machine may start from it, and half of it is put back");
        }
        assert_eq!(put_back(&mut store, &Silent).unwrap(), Some(Generation(3)));
        drop(store);
        world.check_all();
    });
    assert_eq!(BASE, stage.world.disks.partition.start.0);
}

/// A stage with a volume of three extents at its end that is left out, and is swap space.
fn with_swap() -> (Stage, Swap) {
    let [table, data] = whole().try_into().ok().unwrap();
    let start = SIZE as u64 / 2 / 512 * 512;
    let mut left_out =
        Volume { size: Bytes(SIZE as u64 - 4096) - Bytes(start), ..volume("2", start, 0, true) };
    left_out.id = "swap".into();
    let data = Volume { size: Bytes(start) - data.start, ..data };
    let mut stage = Stage::bare(STORE, vec![table, data, left_out.clone()]);
    let swap = Swap { volume: "swap".into(), uuid: Uuid::from_u128(0x5a), label: "night".into(), page: 4096 };
    stage.world.write(start as usize, &swap.header(left_out.size).unwrap());
    stage.world.disks.swaps = Swap::left_out(stage.world.disks.primary.as_ref(), &stage.world.volumes, &[]);
    assert_eq!(stage.world.disks.swaps, std::slice::from_ref(&swap));
    stage.world.create().unwrap();
    for seed in 1..=2 {
        stage.world.sync(Mode::Digest).unwrap();
        stage.change(10 + seed, 3);
    }
    (stage, swap)
}

#[test]
fn left_out_swap_comes_back_empty_and_goes_again() {
    let (mut stage, swap) = with_swap();
    let free = || opened(&stage.world).contents;
    let before = free().index;
    let (_, mut kernel) = live(&stage.world);
    let store = opened(&stage.world);
    let found = swap::recorded(&store.contents.index, store.contents.newest_map());
    let [placed] = &found[..] else { panic!("one swap volume is recorded") };
    assert_eq!(placed.swap, swap);
    let place = placement(&store, &placed.runs);
    assert!(place.size() > Bytes::ZERO);
    let at = place.stretch(Bytes::ZERO).at.unwrap();
    let header = swap.header(place.size()).unwrap();
    let mut there = Buffer::new(4096).unwrap();
    read_exact_at(&store.disk, at, &mut there).unwrap();
    assert!(there[..] == header[..], "the header tells the size it has here");
    // What is swapped out is nobody's.
    write_all_at(store.disk.as_ref(), at, &stamped(CHUNK as usize, 3)).unwrap();
    kernel.work();
    let mut store = store;
    assert_eq!(put_back(&mut store, &Silent).unwrap(), Some(Generation(2)));
    assert_eq!(store.contents.index.objects, before.objects, "its extents are free again");
    drop(store);
    stage.world.check_all();
    stage.world.disks.swaps.clear();
    stage.world.sync(Mode::Digest).unwrap();
    assert!(opened(&stage.world).contents.index.objects.is_empty(), "the primary has none any more");
}

#[test]
fn the_way_back_spares_what_was_left_out() {
    let (stage, _) = with_swap();
    let contents = stage.world.contents();
    let parts = Parts::of(&contents, None);
    let swap = stage.world.volumes.iter().find(|volume| volume.left_out).unwrap();
    let extent = contents.superblock.geometry.extent.0;
    assert!(!swap.start.0.is_multiple_of(extent), "it shares an extent with what is kept");
    let mut covered = vec![false; SIZE / 512];
    for range in parts.body.iter().chain(&parts.edges) {
        assert!(range.start.0.is_multiple_of(512) && range.end.0.is_multiple_of(512));
        covered[(range.start.0 / 512) as usize..(range.end.0 / 512) as usize].fill(true);
    }
    for (sector, covered) in covered.into_iter().enumerate() {
        let at = Bytes(sector as u64 * 512);
        let left_out = (swap.start..swap.start + swap.size).contains(&at);
        assert_eq!(covered, !left_out, "sector {sector}");
    }
}

/// A volume that a machine has on its primary still is in nobody's way back, and is forgotten there.
#[test]
fn what_stays_on_the_primary_is_left_alone_until_the_machine_is_back() {
    let mib = 1024 * 1024;
    let volumes = vec![
        volume("table", 0, 0, false),
        volume("1", 512 * 7, mib, false),
        volume("2", 1_200_128, 512 * 900, false),
    ];
    let mut stage = Stage::with(2, volumes);
    let disk = Target { size: Bytes(SIZE as u64), serial: Some("old".into()), wwn: None };
    let stays = Stays { disk, volumes: vec!["2".into()] };
    let mut ready = |_: &Contents, _: Generation| Ok(vec![stays.object()]);
    let mut store = opened(&stage.world);
    go_live(&mut store, None, NOW, &mut ready).unwrap();
    assert_eq!(Stays::in_store(&store.contents).unwrap().as_ref(), Some(&stays));
    // Whatever a later boot asks for, what the store says goes on.
    go_live(&mut store, None, NOW, &mut any).unwrap();
    let contents = stage.world.contents();
    assert_eq!(Stays::in_store(&contents).unwrap().as_ref(), Some(&stays));
    let parts = Parts::of(&contents, Some(&stays));
    let mut covered = vec![false; SIZE / 512];
    for range in parts.body.iter().chain(&parts.edges) {
        assert!(range.start.0.is_multiple_of(512) && range.end.0.is_multiple_of(512));
        covered[(range.start.0 / 512) as usize..(range.end.0 / 512) as usize].fill(true);
    }
    for (sector, covered) in covered.into_iter().enumerate() {
        let stay = (1_200_128..1_200_128 + 512 * 900).contains(&(sector * 512));
        assert_eq!(covered, !stay, "sector {sector}");
    }
    assert_eq!(put_back(&mut store, &Silent).unwrap(), Some(Generation(2)));
    assert_eq!(Stays::in_store(&store.contents).unwrap(), None);
    stage.world.sync(Mode::Digest).unwrap();
    stage.world.check_all();
}
