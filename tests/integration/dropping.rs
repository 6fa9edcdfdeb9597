// SPDX-License-Identifier: MIT OR Apache-2.0
//! Generations that go from the middle: every other one reads as before, or nothing has happened.

use std::num::NonZeroU32;
use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::disk::ReadDisk;
use dpsr::disk::whole::{read_exact_at, write_all_at};
use dpsr::error::Kind;
use dpsr::format::index::{Record, Undo};
use dpsr::format::undo::Layout;
use dpsr::history;
use dpsr::keep::Rules;
use dpsr::progress::Silent;
use dpsr::store::contents::{self, Contents};
use dpsr::store::free::Free;
use dpsr::sync::{Request, sync};
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, CHUNK, Generation, MIB};

use crate::world::{World, stamped, volume};

const SIZE: usize = 5 * MIB as usize + 512 * 3;
const SPOT: usize = CHUNK as usize;

fn contents(world: &World) -> Contents {
    contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap()
}

fn record(world: &World, generation: u64) -> Record {
    contents(world).index.record(Generation(generation)).unwrap().clone()
}

fn undo(world: &World, generation: u64) -> Option<Undo> {
    record(world, generation).undo
}

fn free(world: &World) -> u64 {
    let contents = contents(world);
    Free::of(&contents.index, &contents.superblock.geometry).count()
}

fn world(store: u64) -> World {
    let volumes = vec![volume("table", 0, 0, false), volume("1", 512 * 7, 4 * MIB, false)];
    World::new(stamped(SIZE, 1), volumes, store, |disk| Arc::new(disk))
}

/// Generation 1 and one more for each list of chunks that change before it.
fn changing(world: &mut World, rounds: &[&[usize]]) {
    world.sync(Mode::Digest).unwrap();
    for (round, chunks) in rounds.iter().enumerate() {
        for chunk in *chunks {
            world.write(chunk * SPOT + 100, &stamped(700, (round * 100 + chunk) as u64));
        }
        world.sync(Mode::Digest).unwrap();
    }
}

fn image_entries(world: &World, generation: u64) -> u64 {
    undo(world, generation).map_or(0, |undo| undo.image_entries)
}

#[test]
fn a_middle_generation_goes_and_all_others_stay() {
    let mut world = world(40 * MIB);
    changing(&mut world, &[&[1, 2], &[2, 3], &[3, 4, 5], &[1]]);
    world.drop_now(&[3]);
    assert_eq!(world.generations(), [1, 2, 4, 5]);
    assert_eq!(image_entries(&world, 2), 4, "2, 3 of generation 2; 4, 5 of generation 3");
    world.check_all();
    world.drop_now(&[1]);
    world.drop_now(&[4]);
    assert_eq!(world.generations(), [2, 5]);
    assert_eq!(image_entries(&world, 2), 5);
    world.write(9 * SPOT, &stamped(70_000, 9));
    world.sync(Mode::Digest).unwrap();
    world.check_all();
}

#[test]
fn several_at_once_leave_what_they_leave_one_by_one() {
    let rounds: [&[usize]; 9] = [&[1, 2], &[2, 3], &[], &[3, 4], &[4, 5], &[1, 9], &[], &[7], &[8]];
    let (mut at_once, mut single) = (world(40 * MIB), world(40 * MIB));
    for world in [&mut at_once, &mut single] {
        changing(world, &rounds);
    }
    at_once.drop_now(&[8, 2, 3, 1, 6, 5, 3]);
    for generation in [5, 2, 6, 1, 3, 8] {
        single.drop_now(&[generation]);
        single.check_all();
    }
    assert_eq!(at_once.generations(), [4, 7, 9, 10]);
    at_once.check_all();
    for generation in [4, 7, 9] {
        let sizes = |undo: Undo| (undo.entries, undo.image_entries);
        assert_eq!(undo(&at_once, generation).map(sizes), undo(&single, generation).map(sizes));
    }
    assert_eq!(free(&at_once), free(&single));
}

#[test]
fn what_need_not_be_written_is_not() {
    // Nothing changed after 1 and after 4; what 2 changed, 3 changed again.
    let mut world = world(40 * MIB);
    changing(&mut world, &[&[], &[1, 2], &[1, 2], &[], &[6]]);
    let (of_2, of_3, of_5) = (undo(&world, 2), undo(&world, 3), undo(&world, 5));
    assert!(of_2.is_some() && of_3.is_some() && of_5.is_some());
    assert_eq!((undo(&world, 1), undo(&world, 4)), (None, None));
    world.drop_now(&[2]);
    assert_eq!(undo(&world, 1), of_2, "it has no undo store, so it gets that of 2 as it is");
    world.check_all();
    world.drop_now(&[3]);
    assert_eq!(undo(&world, 1), of_2, "it has saved all that 3 has");
    world.check_all();
    world.drop_now(&[4]);
    assert_eq!(undo(&world, 1), of_2, "4 has no undo store");
    world.check_all();
    world.drop_now(&[5]);
    assert_eq!(image_entries(&world, 1), 3);
    world.check_all();
    assert_eq!(world.generations(), [1, 6]);
}

#[test]
fn a_store_that_has_more_does_not_stand_in_for_an_older_one() {
    let mut world = world(40 * MIB);
    changing(&mut world, &[&[1], &[1, 2], &[3]]);
    let of_2 = undo(&world, 2);
    world.drop_now(&[2]);
    assert_eq!(image_entries(&world, 1), 2);
    assert_ne!(undo(&world, 1), of_2, "of 1 it has what 2 held");
    world.check_all();
}

#[test]
fn nothing_stays_nothing() {
    let mut world = world(40 * MIB);
    changing(&mut world, &[&[], &[], &[3]]);
    world.drop_now(&[2]);
    assert_eq!((world.generations(), undo(&world, 1)), (vec![1, 3, 4], None));
    world.check_all();
}

#[test]
fn the_newest_and_pinned_ones_are_refused_and_then_none_goes() {
    let mut world = world(40 * MIB);
    changing(&mut world, &[&[1], &[2], &[3]]);
    assert!(world.pin(2, true).changed);
    assert!(!world.pin(2, true).changed);
    let before = contents(&world);
    for (gone, kind, told) in [
        (vec![1, 4], Kind::Refused, "it is the newest"),
        (vec![1, 2, 3], Kind::Refused, "it is pinned; no generation was dropped; 'dpsr unpin 2'"),
        (vec![3, 9], Kind::NotFound, "keeps generations 1 to 4; no generation was dropped"),
    ] {
        let error = world.drop(&gone).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(told), "{error}");
    }
    assert_eq!(contents(&world).superblock, before.superblock);
    assert!(world.pin(2, false).changed);
    world.drop_now(&[2]);
    world.check_all();
}

#[test]
fn a_copy_that_is_not_complete_has_no_generations_to_change() {
    let world = world(40 * MIB);
    let error = world.drop(&[1]).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("'dpsr sync' goes on"), "{error}");
}

fn out(start: u64, size: u64) -> Vec<dpsr::format::index::Volume> {
    vec![volume("table", 0, 0, false), volume("1", start, size, true)]
}

/// What lay in a volume when it was last kept stands where it was, as the last generation before had it;
/// an older one that has saved other bytes keeps them, also when that last generation goes.
#[test]
fn what_was_saved_before_a_volume_was_left_out_is_still_read() {
    for back in [false, true] {
        let mut world = World::new(stamped(SIZE, 3), out(4 * MIB, MIB), 64 * MIB, |disk| Arc::new(disk));
        for round in 0..3u64 {
            world.write(MIB as usize + round as usize * SPOT, &stamped(3 * SPOT, 10 + round));
            world.sync(Mode::Digest).unwrap();
        }
        world.disks.volumes = out(MIB, MIB);
        world.sync(Mode::Digest).unwrap();
        if back {
            world.disks.volumes = out(4 * MIB, MIB);
            world.write(MIB as usize + SPOT, &stamped(4 * SPOT, 20));
            world.sync(Mode::Digest).unwrap();
        }
        world.write(0, &stamped(900, 30));
        world.sync(Mode::Digest).unwrap();
        let newest = *world.generations().last().unwrap();
        // Every way to drop some of those before the newest.
        for gone in 1u64..1 << (newest - 1) {
            let mut fork = world.fork();
            let gone: Vec<u64> = (1..newest).filter(|n| gone & 1 << (n - 1) != 0).collect();
            fork.drop_now(&gone);
            assert_eq!(fork.generations().len() as u64, newest - gone.len() as u64);
            fork.check_all();
            fork.write(MIB as usize, &stamped(2 * SPOT, 40));
            fork.disks.volumes = out(2 * MIB, MIB);
            fork.sync(Mode::Digest).unwrap();
            fork.check_all();
        }
    }
}

#[test]
fn what_does_not_fit_while_it_is_put_together_is_refused_with_both_numbers() {
    let mut world = world(23 * MIB);
    world.sync(Mode::Digest).unwrap();
    for at in [0, 1 << 20] {
        world.write(at, &stamped(MIB as usize, 7 + at as u64));
        world.sync(Mode::Digest).unwrap();
    }
    assert_eq!(world.generations(), [1, 2, 3]);
    let wanted = Layout { entries: undo(&world, 1).unwrap().entries + undo(&world, 2).unwrap().entries - 1 };
    let geometry = contents(&world).superblock.geometry;
    assert!(free(&world) < geometry.extents_for(wanted.size()), "{} are free", free(&world));
    let before = world.bytes();
    let error = world.drop(&[2]).unwrap_err();
    assert_eq!(error.kind(), Kind::NoRoom);
    let both = [geometry.extents_for(wanted.size()), free(&world)].map(|n| Bytes(n * geometry.extent.0));
    let told = format!("together takes {} beside the old ones, and only {} is free", both[0], both[1]);
    assert!(error.to_string().contains(&told), "{error}: {told}");
    assert!(world.bytes() == before, "nothing may be written");
    world.drop_now(&[1]);
    world.check_all();
}

#[test]
fn room_is_made_behind_a_pinned_generation() {
    let mut world = world(24 * MIB);
    world.sync(Mode::Digest).unwrap();
    world.pin(1, true);
    let mut dropped = Vec::new();
    for round in 2..20u64 {
        world.write(SPOT, &stamped(MIB as usize, round));
        let before = (world.bytes(), world.generations());
        let planned = sync(&world.disks, &Request { dry_run: true, ..world.request(Mode::Digest) }, &Silent);
        assert!(world.bytes() == before.0, "a dry run writes nothing");
        let report = world.sync(Mode::Digest).unwrap();
        assert_eq!(planned.unwrap().dropped, report.dropped, "of {:?}", before.1);
        dropped.extend(report.dropped.iter().map(|generation| generation.0));
        world.check_all();
    }
    assert!(dropped.len() > 5, "{dropped:?}");
    assert!(!dropped.contains(&1), "{dropped:?}");
    assert_eq!(world.generations()[0], 1);
    assert!(record(&world, 1).pinned);
    // With all of them pinned there is nothing left to give.
    for generation in world.generations() {
        world.pin(generation, true);
    }
    let before = world.bytes();
    world.write(0, &stamped(4 * MIB as usize, 99));
    let error = world.sync(Mode::Digest).unwrap_err();
    assert_eq!(error.kind(), Kind::NoRoom);
    assert!(world.bytes() == before, "nothing may be written");
}

#[test]
fn room_is_made_behind_a_pinned_generation_whatever_changes() {
    let mut world = world(40 * MIB);
    world.sync(Mode::Digest).unwrap();
    world.pin(1, true);
    let mut dropped = 0;
    for round in 2..40u64 {
        let at = crate::world::mixed(round) as usize % (4 * MIB as usize);
        world.write(at, &stamped(MIB as usize, round));
        dropped += world.sync(Mode::Digest).unwrap().dropped.len();
        if round == 20 {
            world.pin(18, true);
        }
    }
    world.check_all();
    let left = world.generations();
    assert!(dropped > 10 && left.contains(&1) && left.contains(&18), "{left:?}");
    assert!(left.len() > 3, "{left:?}");
}

#[test]
fn as_few_as_will_do_go_behind_a_pinned_generation() {
    let mut world = world(32 * MIB);
    world.sync(Mode::Digest).unwrap();
    world.pin(1, true);
    let mut round = 2;
    loop {
        world.write(SPOT, &stamped(MIB as usize, round));
        let mut fork = world.fork();
        let dropped = fork.sync(Mode::Digest).unwrap().dropped;
        if !dropped.is_empty() {
            assert!(dropped.len() <= 2 && dropped[0] == Generation(2), "{dropped:?}");
            break;
        }
        world.sync(Mode::Digest).unwrap();
        round += 1;
    }
}

#[test]
fn damage_is_not_merged() {
    let mut world = world(40 * MIB);
    changing(&mut world, &[&[1, 2], &[2, 3], &[5]]);
    let contents = contents(&world);
    for generation in [1, 2] {
        let undo = undo(&world, generation).unwrap();
        let (layout, place) = (Layout { entries: undo.entries }, contents.undo(&undo));
        let spots = [Bytes::ZERO, Layout::area(0), layout.companion(0), Layout::data(1)];
        for spot in spots {
            let fork = world.fork();
            flip(&fork, place.stretch(spot).at.unwrap());
            let error = fork.drop(&[2]).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "{error}");
            assert!(error.to_string().contains("no generation was dropped"), "{error}");
            assert_eq!(fork.generations(), [1, 2, 3, 4]);
            assert_eq!(self::contents(&fork).superblock, contents.superblock);
            for generation in [3, 4] {
                let (bytes, damaged) = fork.read(generation).unwrap();
                assert!(damaged == 0 && bytes == fork.expected[&generation]);
            }
        }
    }
}

fn flip(world: &World, at: Bytes) {
    let mut sector = Buffer::new(512).unwrap();
    read_exact_at(&world.disks.dpsr, at, &mut sector).unwrap();
    sector[5] ^= 1;
    write_all_at(&world.disks.dpsr, at, &sector).unwrap();
}

#[test]
fn a_sync_follows_the_rules_of_its_pair() {
    let mut world = world(40 * MIB);
    world.disks.keep = Rules { last: NonZeroU32::new(2), ..Rules::default() };
    let mut pruned = Vec::new();
    for round in 1..7u64 {
        world.write(round as usize * SPOT, &stamped(500, round));
        let report = world.sync(Mode::Digest).unwrap();
        assert_eq!(report.not_pruned, None);
        pruned.push(report.pruned.iter().map(|generation| generation.0).collect::<Vec<_>>());
        if round == 3 {
            world.pin(2, true);
        }
        world.check_all();
    }
    assert_eq!(pruned, [vec![], vec![], vec![1], vec![], vec![3], vec![4]]);
    assert_eq!(world.generations(), [2, 5, 6]);
}

#[test]
fn a_sync_whose_rules_cannot_be_followed_is_done_all_the_same() {
    let mut world = world(40 * MIB);
    changing(&mut world, &[&[1, 2], &[2, 3]]);
    let place = contents(&world).undo(&undo(&world, 2).unwrap());
    flip(&world, place.stretch(Layout::area(0)).at.unwrap());
    world.pin(1, true);
    world.disks.keep = Rules { last: NonZeroU32::new(2), ..Rules::default() };
    world.write(7 * SPOT, b"more");
    let report = world.sync(Mode::Digest).unwrap();
    assert_eq!((report.generation, report.pruned), (Generation(4), vec![]));
    assert!(report.not_pruned.unwrap().contains("no generation was dropped"));
    assert_eq!(world.generations(), [1, 2, 3, 4]);
}

#[test]
fn without_a_rule_nothing_is_pruned() {
    let mut world = world(40 * MIB);
    changing(&mut world, &[&[1]]);
    let error = history::prune(&mut world.store(), &Rules::default(), &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    let daily = Rules { daily: NonZeroU32::new(1), ..Rules::default() };
    let verdicts = history::simulate(&contents(&world), &daily).unwrap();
    assert_eq!(verdicts.iter().map(|one| one.kept()).collect::<Vec<_>>(), [false, true]);
    let pruned = history::prune(&mut world.store(), &daily, &Silent).unwrap();
    assert_eq!(pruned.dropped, [Generation(1)]);
    world.check_all();
    let again = history::prune(&mut world.store(), &daily, &Silent).unwrap();
    assert_eq!((again.dropped, again.freed), (vec![], Bytes::ZERO));
}

impl World {
    /// The whole DPSR disk.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Buffer::new(self.disks.dpsr.size().usize()).unwrap();
        read_exact_at(&self.disks.dpsr, Bytes::ZERO, &mut bytes).unwrap();
        bytes.to_vec()
    }
}
