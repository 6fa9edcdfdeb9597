// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power cuts by replay: whatever a cut leaves of a verb, the disk is G or G+1 exactly, every older
//! generation still reads back, and the next sync hides no change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpsr::changes::Mode;
use dpsr::disk::recorded::{Event, Recorded};
use dpsr::disk::whole::read_exact_at;
use dpsr::error::Kind;
use dpsr::format::Parsed;
use dpsr::format::index::Volume;
use dpsr::format::superblock::{self, Owner, State, Superblock};
use dpsr::progress::Silent;
use dpsr::store::free::Free;
use dpsr::store::{Store, contents, recover};
use dpsr::sync::{Request, sync};
use dpsr::units::{Bytes, CHUNK, MIB};

use crate::cuts::{Cut, Dice, During, Loss, Overlay, all, cut, cuts, rot_a_superblock};
use crate::world::{BASE, World, same, stamped, volume};

pub const SIZE: usize = 2 * MIB as usize + 512 * 3;
pub const STORE: u64 = 24 * MIB;

/// One verb, recorded, and what may be left of it.
struct Scene {
    name: &'static str,
    start: Overlay,
    events: Vec<Event>,
    volumes: Vec<Volume>,
    /// The primary as it was before and as it is now.
    primaries: [Vec<u8>; 2],
    expected: BTreeMap<u64, Vec<u8>>,
    /// Which generations a complete store may list.
    lists: Vec<Vec<u64>>,
    /// The generation that a copy without undo leads to, where one may be under way.
    unfinished: Option<u64>,
    /// Whether there may be no store yet, or none that holds together.
    nothing: bool,
    each: usize,
}

/// A world on a disk that can be forked.
pub struct Stage {
    pub world: World,
    pub disk: Arc<Overlay>,
    before: Vec<u8>,
}

pub fn whole() -> Vec<Volume> {
    vec![volume("table", 0, 0, false), volume("1", 512 * 7, MIB, false)]
}

impl Stage {
    pub fn bare(store: u64, volumes: Vec<Volume>) -> Self {
        let mut primary = stamped(SIZE, 1);
        primary[5 * CHUNK as usize..8 * CHUNK as usize].fill(0);
        let size = BASE + store;
        let disk = Arc::new(Overlay::new("dpsr", stamped(size as usize, 77), size));
        let world = World::around(primary.clone(), volumes, disk.clone(), store);
        Self { world, disk, before: primary }
    }

    /// A store with `generations` small generations behind the newest.
    pub fn with(generations: u64, volumes: Vec<Volume>) -> Self {
        let mut stage = Self::bare(STORE, volumes);
        stage.world.create().unwrap();
        for generation in 1..=generations {
            stage.world.sync(Mode::Digest).unwrap();
            stage.change(10 + generation, 3);
        }
        stage
    }

    /// Changes about `count` places of the primary; some become zeros.
    pub fn change(&mut self, seed: u64, count: u64) {
        self.before = self.world.primary.clone();
        let mut dice = Dice(seed << 20);
        for i in 0..count {
            let at = dice.below(SIZE as u64 - 70_000) as usize;
            let len = 1 + dice.below(70_000) as usize;
            let bytes = if i % 4 == 3 { vec![0; len] } else { stamped(len, seed * 100 + i) };
            self.world.write(at, &bytes);
        }
    }

    /// Records `verb`; the disk is then as it left it.
    fn record(&mut self, verb: impl FnOnce(&mut World)) -> (Overlay, Vec<Event>) {
        let start = self.disk.fork();
        let recorded = Arc::new(Recorded::new(self.disk.clone()));
        self.world.disks.dpsr = recorded.clone();
        verb(&mut self.world);
        self.world.disks.dpsr = self.disk.clone();
        (start, recorded.events())
    }

    /// The scene of `verb`, which makes generation `last` out of `last - 1`, with `lists` besides its own.
    fn scene(mut self, name: &'static str, each: usize, verb: impl FnOnce(&mut World)) -> Scene {
        let before = if self.world.expected.is_empty() { vec![] } else { self.world.generations() };
        let (start, events) = self.record(verb);
        let mut lists = vec![before];
        if let Ok(Some(found)) = contents::read(&self.world.disks.dpsr, &self.world.disks.partition)
            && found.current().is_some()
        {
            lists.push(self.world.generations());
        }
        Scene {
            name,
            start,
            events,
            volumes: self.world.disks.volumes.clone(),
            primaries: [self.before, self.world.primary.clone()],
            expected: self.world.expected,
            lists,
            unfinished: None,
            nothing: false,
            each,
        }
    }
}

fn no_undo(world: &World) -> Request {
    Request { no_undo: true, ..world.request(Mode::Full) }
}

fn afresh(world: &mut World) {
    let report = sync(&world.disks, &no_undo(world), &Silent).unwrap();
    world.expected.insert(report.generation.0, world.visible());
}

fn recovered(world: &World) -> Store {
    let disks = &world.disks;
    let mut store = Store::open(disks.dpsr.clone(), disks.partition.clone(), Owner::default()).unwrap();
    recover::recover(&mut store).unwrap();
    store
}

/// Where in a log of a sync the image starts to be overwritten: behind the flip to `Updating`.
fn in_the_middle(start: &Overlay, events: &[Event]) -> Overlay {
    let updating = |after: &usize| {
        let world = around(cut_at(start, events, *after));
        let found = contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap();
        matches!(found.superblock.state, State::Updating { .. }) && found.stale_superblocks == 0
    };
    let inside: Vec<usize> = (0..events.len()).filter(updating).collect();
    cut_at(start, events, inside[inside.len() * 3 / 4])
}

fn cut_at(start: &Overlay, events: &[Event], after: usize) -> Overlay {
    cut(start, events, Cut { after, loss: Loss::Nothing, seed: 0 })
}

pub fn around(disk: Overlay) -> World {
    World::around(vec![], vec![], Arc::new(disk), STORE)
}

/// A stage whose last sync, to the generation after `generations`, was cut while it overwrote the image.
pub fn interrupted(generations: u64) -> Stage {
    let mut stage = Stage::with(generations, whole());
    stage.change(30, 9);
    let (start, events) = stage.record(|world| drop(world.sync(Mode::Digest).unwrap()));
    let torn = Arc::new(in_the_middle(&start, &events));
    stage.world.expected.remove(&(generations + 1));
    stage.world.disks.dpsr = torn.clone();
    stage.disk = torn;
    stage
}

fn scenes() -> Vec<Scene> {
    let mut scenes = Vec::new();
    let create = Stage::bare(STORE, whole()).scene("create", 12, |world| world.create().unwrap());
    scenes.push(Scene { nothing: true, unfinished: Some(1), ..create });

    let mut stage = Stage::bare(STORE, whole());
    stage.world.create().unwrap();
    let first = stage.scene("first copy", 12, |world| drop(world.sync(Mode::Digest).unwrap()));
    scenes.push(Scene { unfinished: Some(1), ..first });
    scenes.push(resumed());

    let mut stage = Stage::with(3, whole());
    stage.change(31, 9);
    scenes.push(stage.scene("sync by digest", 14, |world| drop(world.sync(Mode::Digest).unwrap())));
    let mut stage = Stage::with(2, whole());
    stage.change(32, 9);
    scenes.push(stage.scene("sync by compare", 12, |world| drop(world.sync(Mode::Compare).unwrap())));

    let mut stage = Stage::with(3, whole());
    for round in 0..2 {
        stage.world.write(0, &stamped(SIZE, 42 + round));
        stage.world.sync(Mode::Digest).unwrap();
    }
    stage.change(33, 4);
    stage.world.write(0, &stamped(SIZE - 300_000, 41));
    let drops = stage.scene("sync that drops", 12, |world| {
        assert!(!world.sync(Mode::Digest).unwrap().dropped.is_empty());
    });
    scenes.push(with_dropped(drops));

    let out = |start, size| vec![volume("table", 0, 0, false), volume("1", start, size, true)];
    let mut stage = Stage::with(2, out(MIB / 2, MIB));
    stage.change(34, 6);
    stage.world.write(MIB as usize / 2 + 100_000, &[0; 200_000]);
    stage.world.disks.volumes = out(MIB, MIB / 2 + 512);
    scenes.push(stage.scene("repartitioned", 12, |world| drop(world.sync(Mode::Digest).unwrap())));

    scenes.push(repartitioned_with_drops());

    let mut stage = Stage::with(2, whole());
    stage.change(35, 9);
    let full = stage.scene("full without undo", 8, afresh);
    scenes.push(Scene { unfinished: Some(3), ..full });
    let stage = interrupted(2);
    let full = stage.scene("full without undo from Updating", 14, afresh);
    scenes.push(Scene { unfinished: Some(3), ..full });

    let four = Stage::with(4, whole());
    scenes.push(four.scene("drop in the middle", 14, |world| world.drop_now(&[2, 3])));
    scenes.push(dropped_across_partitions());
    scenes.push(behind_a_pinned_one());

    scenes.push(interrupted(3).scene("recovery", 16, |world| drop(recovered(world))));
    scenes.push(healed());
    scenes
}

/// Much is kept again, for which the oldest generations go.
fn repartitioned_with_drops() -> Scene {
    let out = |size| vec![volume("table", 0, 0, false), volume("1", MIB / 2, size, true)];
    let mut stage = Stage::with(1, out(3 * MIB / 2));
    let contents = |stage: &Stage| {
        let disks = &stage.world.disks;
        contents::read(&disks.dpsr, &disks.partition).unwrap().unwrap()
    };
    let free = |stage: &Stage| {
        let contents = contents(stage);
        Free::of(&contents.index, &contents.superblock.geometry).count()
    };
    let mut round = 60;
    while free(&stage) >= 6 {
        stage.world.write(0, &stamped(MIB as usize / 2, round));
        stage.world.sync(Mode::Digest).unwrap();
        round += 1;
    }
    stage.change(38, 6);
    stage.world.disks.volumes = out(MIB / 8);
    let scene = stage.scene("repartitioned with drops", 12, |world| {
        assert!(!world.sync(Mode::Digest).unwrap().dropped.is_empty());
    });
    with_dropped(scene)
}

/// The last generation that had a volume goes, of which an older one has saved other bytes.
fn dropped_across_partitions() -> Scene {
    let out = |start, size| vec![volume("table", 0, 0, false), volume("1", start, size, true)];
    let mut stage = Stage::with(2, out(MIB / 2, MIB / 4));
    stage.world.disks.volumes = out(MIB, MIB / 2 + 512);
    stage.world.sync(Mode::Digest).unwrap();
    stage.change(39, 6);
    stage.scene("drop across a repartitioning", 14, |world| world.drop_now(&[2]))
}

/// A sync that finds room only by merging behind a pinned generation.
fn behind_a_pinned_one() -> Scene {
    let mut stage = Stage::with(2, whole());
    stage.world.pin(1, true);
    for round in 70.. {
        stage.before = stage.world.primary.clone();
        stage.world.write(round as usize % 4 * SIZE / 8, &stamped(SIZE / 2, round));
        if !stage.world.fork().sync(Mode::Digest).unwrap().dropped.is_empty() {
            break;
        }
        stage.world.sync(Mode::Digest).unwrap();
    }
    let scene = stage.scene("room behind a pinned generation", 12, |world| {
        assert!(!world.sync(Mode::Digest).unwrap().dropped.is_empty());
    });
    with_dropped(scene)
}

/// A first copy that was cut between its last mark and its commit, resumed on a primary that has changed.
fn resumed() -> Scene {
    let mut stage = Stage::bare(STORE, whole());
    stage.world.create().unwrap();
    let (start, events) = stage.record(|world| drop(world.sync(Mode::Digest).unwrap()));
    let filled = |after: &usize| {
        let world = around(cut_at(&start, &events, *after));
        let found = contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap();
        matches!(found.superblock.state, State::Filling { done } if done > 0) && found.stale_superblocks == 0
    };
    let after = (0..events.len()).find(filled).unwrap();
    stage.disk = Arc::new(cut_at(&start, &events, after));
    stage.world.disks.dpsr = stage.disk.clone();
    stage.world.expected.clear();
    stage.change(36, 12);
    let scene = stage.scene("first copy resumed", 20, |world| drop(world.sync(Mode::Digest).unwrap()));
    Scene { unfinished: Some(1), ..scene }
}

/// Two stale superblock copies, as a cut in a flip leaves them, made equal again.
fn healed() -> Scene {
    let mut stage = Stage::with(3, whole());
    stage.change(37, 6);
    let (start, events) = stage.record(|world| drop(world.sync(Mode::Digest).unwrap()));
    let stale = |after: &usize| {
        let world = around(cut_at(&start, &events, *after));
        contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap().stale_superblocks == 2
    };
    let after = (0..events.len()).rev().find(stale).unwrap();
    stage.disk = Arc::new(cut_at(&start, &events, after));
    stage.world.disks.dpsr = stage.disk.clone();
    let mut scene = stage.scene("heal", 40, |world| drop(recovered(world)));
    // Nobody was told of the fourth generation yet: if its only superblock copy rots, it is the third.
    scene.lists.push(vec![1, 2, 3]);
    scene
}

/// A drop is a flip of its own: the same newest generation with fewer behind it is a state in between.
fn with_dropped(mut scene: Scene) -> Scene {
    let kept = scene.lists[1][..scene.lists[1].len() - 1].to_vec();
    scene.lists.push(kept);
    scene
}

/// The primary of the next sync: per chunk as it was, as it is, zeros or new, so that every digest that is
/// not that of the image it stands for hides a change.
fn next_primary(scene: &Scene, dice: &mut Dice) -> Vec<u8> {
    let mut primary = scene.primaries[1].clone();
    let ranges = (0..primary.len()).step_by(CHUNK as usize);
    for start in ranges {
        let range = start..(start + CHUNK as usize).min(primary.len());
        match dice.below(5) {
            0 | 1 => primary[range.clone()].copy_from_slice(&scene.primaries[0][range]),
            2 => primary[range].fill(0),
            _ => {}
        }
    }
    primary
}

/// Checks what a cut has left on `disk`; `ended` where the verb had told of its success.
fn check(scene: &Scene, disk: Overlay, ended: bool, dice: &mut Dice) {
    let primary = next_primary(scene, dice);
    let mut world = World::around(primary, scene.volumes.clone(), Arc::new(disk), STORE);
    world.expected = scene.expected.clone();
    let contents = match contents::read(&world.disks.dpsr, &world.disks.partition) {
        Ok(Some(contents)) => contents,
        Ok(None) if scene.nothing => return,
        Err(error) if scene.nothing && error.kind() == Kind::Damaged => return,
        other => panic!("{other:?}"),
    };
    if matches!(contents.superblock.state, State::Updating { .. }) {
        // Reading needs no roll-back.
        let (bytes, damaged) = world.read(contents.current().unwrap().0).unwrap();
        assert_eq!(damaged, 0, "before the roll-back");
        assert!(same(&bytes, &world.expected[&contents.current().unwrap().0]), "before the roll-back");
    }
    let store = recovered(&world);
    let healed = contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap();
    assert_eq!(healed.stale_superblocks, 0);
    let list = world.generations();
    let next = match store.contents.superblock.state {
        State::Clean(generation) => {
            assert!(scene.lists.contains(&list), "{list:?} is none of {:?}", scene.lists);
            assert!(!ended || list == scene.lists[1], "after a success: {list:?}, not {:?}", scene.lists[1]);
            assert_eq!(list.last(), Some(&generation.0));
            generation.0 + 1
        }
        State::Filling { .. } | State::NoValid { .. } => {
            assert!(!ended || scene.lists.len() == 1, "a copy that succeeded is still under way");
            scene.unfinished.expect("no copy is under way")
        }
        other => panic!("still {}", other.word()),
    };
    world.check();
    assert_eq!(world.sync(Mode::Digest).unwrap().generation.0, next);
    for generation in world.generations().into_iter().rev().take(2 + dice.below(3) as usize) {
        let (bytes, damaged) = world.read(generation).unwrap();
        assert_eq!(damaged, 0, "generation {generation} after the next sync");
        assert!(same(&bytes, &world.expected[&generation]), "generation {generation} after the next sync");
    }
}

/// Whether only the superblock copy at `location` says what the store is.
fn decides(disk: &Overlay, location: Bytes) -> bool {
    let partition = Bytes(BASE)..Bytes(BASE + STORE);
    let Ok(Some(found)) = contents::read(disk, &partition) else { return false };
    let mut copy = [0; superblock::SIZE];
    read_exact_at(disk, partition.start + location, &mut copy).unwrap();
    found.stale_superblocks == 2 && Superblock::unpack(&copy, location) == Parsed::Ours(found.superblock)
}

/// What opening the store makes of a cut: its state, the generations it lists, and what the newest reads as; nothing
/// where there is no store.
fn outcome(disk: Overlay) -> Option<(State, Vec<u64>, Option<Vec<u8>>)> {
    let world = around(disk);
    contents::read(&world.disks.dpsr, &world.disks.partition).ok().flatten()?;
    let state = recovered(&world).contents.superblock.state;
    let generations = world.generations();
    let newest = generations.last().map(|newest| world.read(*newest).unwrap().0);
    Some((state, generations, newest))
}

/// Lets a superblock copy rot, which makes no difference unless only that one says what the store is; whether it is so.
fn rot(disk: &Overlay, dice: &mut Dice) -> bool {
    let sound = disk.fork();
    let location = rot_a_superblock(disk, STORE, dice);
    let alone = decides(&sound, location);
    assert!(
        alone || outcome(disk.fork()) == outcome(sound),
        "a superblock copy that rots makes a difference"
    );
    alone
}

#[test]
fn a_power_cut_leaves_one_generation_or_the_next() {
    let scenes = scenes();
    let mut points = Vec::new();
    for (number, scene) in scenes.iter().enumerate() {
        let cuts = cuts(&scene.events, scene.each, number as u64 + 1);
        println!("{}: {} events, {} points, {:?}", scene.name, scene.events.len(), cuts.len(), scene.lists);
        points.extend(cuts.into_iter().map(|cut| (number, cut)));
    }
    println!("{} points", points.len());
    assert!(points.len() >= 1000, "{} points are too few", points.len());
    let (others, alone) = (AtomicUsize::new(0), AtomicUsize::new(0));
    all(points.len(), |i| {
        let (scene, at) = (&scenes[points[i].0], points[i].1);
        let mut dice = Dice((i as u64) << 24);
        let rotten = dice.below(2) == 0 && !matches!(at.loss, Loss::Garbage);
        let _during = During(format!("{} {at:?} rotten {rotten}", scene.name));
        let disk = cut(&scene.start, &scene.events, at);
        if rotten {
            let counter = if rot(&disk, &mut dice) { &alone } else { &others };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        check(scene, disk, at.after == scene.events.len(), &mut dice);
    });
    let (others, alone) = (others.into_inner(), alone.into_inner());
    println!("{alone} superblock copies rotted that stood alone, and {others} that did not");
    assert!(others >= 500 && alone > 0);
}

#[test]
fn a_power_cut_in_a_roll_back_and_in_its_repetition_changes_nothing() {
    let outer = interrupted(2).scene("roll-back", 8, |world| drop(recovered(world)));
    let first = cuts(&outer.events, outer.each, 50);
    let points = AtomicUsize::new(0);
    all(first.len(), |i| {
        let _during = During(format!("roll-back {:?}", first[i]));
        let disk = Arc::new(cut(&outer.start, &outer.events, first[i]));
        let recorded = Arc::new(Recorded::new(disk.fork()));
        let mut world = around(disk.fork());
        world.disks.dpsr = recorded.clone();
        recovered(&world);
        let events = recorded.events();
        for at in cuts(&events, 1, i as u64 + 100) {
            let _during = During(format!("and again {at:?}"));
            let mut dice = Dice(at.seed);
            let again = cut(&disk, &events, at);
            check(&outer, again, at.after == events.len(), &mut dice);
            points.fetch_add(1, Ordering::Relaxed);
        }
    });
    let points = points.into_inner();
    println!("{points} points in the repetition of a roll-back");
    assert!(points >= 200, "{points} points are too few");
}
