// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power cuts in the verbs that overwrite a whole disk: whatever a cut leaves of `init`, no generation of
//! the new store or of an older one is made up; whatever it leaves of a restore, doing it again is enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpsr::disk::WriteDisk;
use dpsr::disk::recorded::{Event, Recorded};
use dpsr::error::{Kind, Result};
use dpsr::format::superblock::State;
use dpsr::init::prepare;
use dpsr::pair::layout::{DpsrLayout, Guids, find_store};
use dpsr::store::contents;
use dpsr::units::{Bytes, MIB};
use uuid::Uuid;

use crate::cuts::{Dice, During, Overlay, all, cut, cuts};
use crate::powercut::{SIZE, STORE, Stage, interrupted, whole};
use crate::world::{BASE, World, restore, same, stamped, volume};

/// Room for the backup table behind the store.
const DISK: u64 = BASE + STORE + MIB;
const BLOCK: Bytes = Bytes(512);
const OLD: u8 = 1;
/// Number of the store that is made.
pub const NEW: u8 = 9;

fn guids(store: u8) -> Guids {
    let guid = |n: u128| Uuid::from_u128(u128::from(store) << 64 | n);
    Guids { disk: guid(1), bios_boot: guid(2), esp: guid(3), store: guid(4) }
}

/// A disk that holds something else, of the size that [`unpaired`] needs.
pub fn junk() -> Overlay {
    Overlay::new("dpsr", stamped(DISK as usize, 77), DISK)
}

/// Two disks before `init`.
pub fn unpaired(dpsr: Arc<dyn WriteDisk>) -> World {
    World::around(stamped(SIZE, 1), whole(), dpsr, STORE)
}

/// `init`, once it was confirmed.
pub fn try_init(world: &World, store: u8) -> Result<()> {
    let disk = &world.disks.dpsr;
    let layout = DpsrLayout::plan(disk.size(), BLOCK, false, false).unwrap();
    assert_eq!(layout.store, world.disks.partition);
    prepare(disk.clone(), BLOCK, (&layout, &guids(store)), world.template(store)).map(drop)
}

fn init(world: &World, store: u8) {
    try_init(world, store).unwrap();
}

/// Whether the disk is laid out, with an empty store.
pub fn is_new(world: &World) -> bool {
    look(world) == Left::New
}

/// What a cut left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Damaged,
    Old,
    OldInPart,
    New,
}

const LEFT: [Left; 5] = [Left::Nothing, Left::Damaged, Left::Old, Left::OldInPart, Left::New];

/// Looks at the disk with the partition table and without it.
fn look(world: &World) -> Left {
    let disks = &world.disks;
    let table = find_store(&disks.dpsr, BLOCK);
    let named = table.as_ref().map(|found| found.disk);
    if let Some(found) = &table {
        assert_eq!(found.range, disks.partition);
        assert!([OLD, NEW].contains(&((found.disk.as_u128() >> 64) as u8)));
    }
    let contents = match contents::read(&disks.dpsr, &disks.partition) {
        Ok(None) => return Left::Nothing,
        Err(error) => {
            assert_eq!(error.kind(), Kind::Damaged, "{error}");
            return Left::Damaged;
        }
        Ok(Some(contents)) => contents,
    };
    if contents.superblock.store == Uuid::from_u128(NEW.into()) {
        assert_eq!(named, Some(guids(NEW).disk), "the store comes after its table");
        assert_eq!(contents.superblock.state, State::Filling { done: 0 });
        assert!(contents.index.generations.is_empty() && contents.index.objects.is_empty());
        assert_eq!(contents.index.secret, world.template(NEW).secret);
        return Left::New;
    }
    assert_eq!(contents.superblock.store, Uuid::from_u128(OLD.into()));
    assert_ne!(named, Some(guids(NEW).disk), "the old store is wiped before the new table is written");
    let listed = world.generations();
    assert_eq!(listed, world.expected.keys().copied().collect::<Vec<_>>());
    let intact = |generation: &u64| match world.read_what_is_there(*generation) {
        Ok((bytes, 0)) => {
            assert!(same(&bytes, &world.expected[generation]), "generation {generation} is made up");
            true
        }
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), Kind::Damaged, "{error}");
            false
        }
    };
    if listed.iter().filter(|generation| intact(generation)).count() == listed.len() {
        Left::Old
    } else {
        Left::OldInPart
    }
}

fn fork(from: &World, disk: Overlay) -> World {
    let mut world = World::around(from.primary.clone(), from.volumes.clone(), Arc::new(disk), STORE);
    world.expected = from.expected.clone();
    world
}

/// A world on `disk`, whose `init` is recorded.
fn recorded(world: &mut World, disk: &Arc<Overlay>) -> (Overlay, Vec<Event>) {
    let start = disk.fork();
    let recorded = Arc::new(Recorded::new(disk.clone()));
    world.disks.dpsr = recorded.clone();
    init(world, NEW);
    world.disks.dpsr = disk.clone();
    assert_eq!(look(world), Left::New);
    (start, recorded.events())
}

/// Whatever a cut leaves of `init` on a disk in `world`, and how often.
fn cut_init(name: &str, mut world: World, disk: &Arc<Overlay>) -> [usize; LEFT.len()] {
    let (start, events) = recorded(&mut world, disk);
    let points = cuts(&events, 30, 7);
    let counts: [AtomicUsize; LEFT.len()] = Default::default();
    all(points.len(), |i| {
        let _during = During(format!("init over {name} {:?}", points[i]));
        let world = fork(&world, cut(&start, &events, points[i]));
        let left = look(&world);
        counts[left as usize].fetch_add(1, Ordering::Relaxed);
        if Dice(points[i].seed).below(4) == 0 {
            init(&world, NEW);
            assert_eq!(look(&world), Left::New, "init once more");
        }
    });
    let counts = counts.map(AtomicUsize::into_inner);
    println!("init over {name}: {} events, {} points", events.len(), points.len());
    LEFT.iter().zip(counts).for_each(|(left, count)| println!("  {left:?}: {count}"));
    counts
}

#[test]
fn a_power_cut_in_init_leaves_no_store_or_an_empty_one() {
    let disk = Arc::new(junk());
    let world = unpaired(disk.clone());
    let [nothing, _, old, in_part, new] = cut_init("junk", world, &disk);
    assert!(nothing > 10 && new > 1 && old + in_part == 0);
}

#[test]
fn a_power_cut_in_init_over_a_store_mixes_no_generations() {
    let disk = Arc::new(junk());
    let mut world = unpaired(disk.clone());
    init(&world, OLD);
    for round in 0..3 {
        world.sync(dpsr::changes::Mode::Digest).unwrap();
        world.write(round * 400_000, &stamped(300_000, 5 + round as u64));
    }
    assert_eq!(look(&world), Left::Old);
    let [nothing, damaged, old, _, new] = cut_init("a store", world, &disk);
    assert!(nothing > 10 && damaged > 0 && old > 0 && new > 1);
}

/// A restore, and what it starts from.
struct Scene {
    name: &'static str,
    world: World,
    generation: u64,
    sparse: bool,
}

fn restores() -> Vec<Scene> {
    let out = vec![volume("table", 0, 0, false), volume("1", MIB / 2 + 512, MIB, true)];
    let scene = |name, stage: Stage, generation, sparse| {
        let Stage { mut world, disk, .. } = stage;
        // What the disk is forked from must stay what it is.
        world.disks.dpsr = Arc::new(disk.fork());
        Scene { name, world, generation, sparse }
    };
    vec![
        scene("the newest", Stage::with(3, whole()), 3, false),
        scene("an older one", Stage::with(3, whole()), 1, false),
        scene("an older one to a file", Stage::with(3, whole()), 2, true),
        scene("around what is left out", Stage::with(2, out), 1, false),
        scene("from Updating", interrupted(2), 2, false),
    ]
}

/// What the target must hold: the generation, and between it what was there before.
fn wanted(scene: &Scene, before: &[u8]) -> Vec<u8> {
    let mut wanted = before.to_vec();
    wanted[..SIZE].copy_from_slice(&scene.world.expected[&scene.generation]);
    for volume in scene.world.volumes.iter().filter(|volume| volume.left_out) {
        let range = volume.start.usize()..(volume.start + volume.size).usize();
        wanted[range.clone()].copy_from_slice(&before[range]);
    }
    wanted
}

fn holds(disk: &Overlay, wanted: &[u8]) -> bool {
    let mut bytes = vec![0; wanted.len()];
    dpsr::disk::whole::read_exact_at(disk, Bytes(0), &mut bytes).unwrap();
    same(&bytes, wanted)
}

/// The DPSR disk is wrapped where every write to it would be seen, in the restore and in its repetition.
fn untouched(world: &World, body: impl FnOnce(&World)) {
    let recorded = Arc::new(Recorded::new(world.disks.dpsr.clone()));
    let mut watched = World::around(vec![], world.volumes.clone(), recorded.clone(), STORE);
    watched.expected = world.expected.clone();
    body(&watched);
    assert_eq!(recorded.events(), [], "the DPSR disk was written");
}

#[test]
fn a_restore_cut_anywhere_is_done_again() {
    let total = AtomicUsize::new(0);
    for (number, scene) in restores().iter().enumerate() {
        let size = SIZE as u64 + 3 * 512;
        let before = stamped(size as usize, 55);
        let start = Overlay::new("target", before.clone(), size);
        let wanted = wanted(scene, &before);
        let target = Arc::new(Recorded::new(Arc::new(start.fork())));
        untouched(&scene.world, |world| {
            assert_eq!(restore(&world.disks, scene.generation, target.clone(), scene.sparse).unwrap(), 0);
            world.check();
        });
        assert!(holds(target.inner(), &wanted));
        let events = target.events();
        assert_eq!(events.last(), Some(&Event::Flush));
        let points = cuts(&events, 60, number as u64 + 200);
        println!("restore of {}: {} events, {} points", scene.name, events.len(), points.len());
        all(points.len(), |i| {
            let _during = During(format!("restore of {} {:?}", scene.name, points[i]));
            let target = Arc::new(cut(&start, &events, points[i]));
            if points[i].after == events.len() {
                assert!(holds(&target, &wanted), "success was said");
            }
            untouched(&scene.world, |world| {
                let to: Arc<dyn WriteDisk> = target.clone();
                assert_eq!(restore(&world.disks, scene.generation, to, scene.sparse).unwrap(), 0);
            });
            assert!(holds(&target, &wanted), "done again");
            total.fetch_add(1, Ordering::Relaxed);
        });
        scene.world.check();
    }
    let total = total.into_inner();
    println!("{total} points in restores");
    assert!(total >= 400, "{total} points are too few");
}
