// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine that runs from an older generation writes to the live store alone: the image, and with it every
//! generation, stays what it is, whenever the power goes.

use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::disk::whole::write_all_at;
use dpsr::error::{Error, Kind};
use dpsr::failback::put_back::{discard, put_back};
use dpsr::failback::target::Target;
use dpsr::failover::mark::{go_live, placement};
use dpsr::format::index::{Index, Object};
use dpsr::format::superblock::State;
use dpsr::progress::Silent;
use dpsr::store::free::Free;
use dpsr::store::{Contents, Store};
use dpsr::sync::sync;
use dpsr::units::{Bytes, CHUNK, Generation};

use crate::cuts::{all, cut, cuts};
use crate::failover::{NOW, any, bytes_of, image_of, opened, recorded};
use crate::powercut::{SIZE, STORE, Stage, whole};
use crate::world::{World, stamped};

const OLDER: Generation = Generation(2);
const NEWEST: Generation = Generation(3);

/// What a machine leaves in the live store, as far as the image is concerned: anything, anywhere in it.
fn work(store: &Store) {
    let place = placement(store, &store.contents.live_store().unwrap().runs);
    let chunks = place.size().0 / CHUNK;
    for chunk in (0..chunks).step_by(3) {
        let at = place.stretch(Bytes(chunk * CHUNK)).at.unwrap();
        write_all_at(store.disk.as_ref(), at, &stamped(CHUNK as usize, chunk)).unwrap();
    }
}

/// Writes a header as the kernel does, which says that there is no room any more.
fn overflow(store: &Store) {
    let place = placement(store, &store.contents.live_store().unwrap().runs);
    let mut header = vec![0; CHUNK as usize];
    header[..4].copy_from_slice(&0x7041_6e53_u32.to_le_bytes());
    write_all_at(store.disk.as_ref(), place.stretch(Bytes::ZERO).at.unwrap(), &header).unwrap();
}

/// Leaves `count` extents free, and the rest to nobody who would give it back.
fn leave(world: &World, count: u64) {
    let mut store = opened(world);
    let geometry = store.contents.superblock.geometry;
    let index = store.contents.index.clone();
    let mut free = Free::of(&index, &geometry);
    let runs = free.take(0, (free.count() - count) as u32).unwrap();
    let mut objects = index.objects.clone();
    objects.push(Object { kind: 300, about: vec![], runs });
    let state = store.contents.superblock.state;
    store.change(state, Index { objects, ..index }).unwrap();
}

#[test]
fn whatever_it_writes_all_generations_stay() {
    let mut stage = Stage::with(3, whole());
    let mut store = opened(&stage.world);
    let image = image_of(&store);
    let marked = go_live(&mut store, Some(OLDER), NOW, &mut any).unwrap();
    assert_eq!((marked.from, marked.resumed, marked.keeps, marked.dropped.len()), (OLDER, false, true, 0));
    assert_eq!(
        (store.contents.superblock.state, store.contents.aside()),
        (State::Aside(NEWEST), Some(OLDER))
    );
    work(&store);
    assert!(image_of(&store) == image);
    stage.world.check_all();
    // Every later boot goes on with it, whatever its menu entry says.
    let sequence = store.contents.superblock.sequence;
    for wanted in [None, Some(NEWEST), Some(Generation(1))] {
        let marked = go_live(&mut store, wanted, NOW, &mut any).unwrap();
        assert_eq!((marked.from, marked.resumed), (OLDER, true), "{wanted:?}");
    }
    assert_eq!(store.contents.superblock.sequence, sequence, "nothing is written for that");
    assert_eq!(put_back(&mut store, &Silent).unwrap(), Some(NEWEST));
    assert_eq!(store.contents.superblock.state, State::Clean(NEWEST));
    assert!(store.contents.index.objects.is_empty());
    drop(store);
    stage.change(40, 5);
    stage.world.sync(Mode::Digest).unwrap();
    stage.world.check_all();
}

#[test]
fn nobody_changes_the_store_meanwhile() {
    let stage = Stage::with(3, whole());
    go_live(&mut opened(&stage.world), Some(OLDER), NOW, &mut any).unwrap();
    let before = bytes_of(&stage.world.disks.dpsr);
    let refused = |error: dpsr::error::Error| {
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("a system was started from it, from generation 2"), "{error}");
    };
    refused(sync(&stage.world.disks, &stage.world.request(Mode::Digest), &Silent).unwrap_err());
    refused(stage.world.drop(&[1]).unwrap_err());
    let no_undo = dpsr::sync::Request { no_undo: true, ..stage.world.request(Mode::Full) };
    refused(sync(&stage.world.disks, &no_undo, &Silent).unwrap_err());
    assert!(bytes_of(&stage.world.disks.dpsr) == before, "something was written");
}

#[test]
fn a_generation_that_is_not_there_starts_nothing() {
    let stage = Stage::with(2, whole());
    let before = bytes_of(&stage.world.disks.dpsr);
    let error = go_live(&mut opened(&stage.world), Some(Generation(9)), NOW, &mut any).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(bytes_of(&stage.world.disks.dpsr) == before, "something was written");
}

#[test]
fn a_generation_that_cannot_be_shown_starts_nothing() {
    let stage = Stage::with(3, whole());
    let before = bytes_of(&stage.world.disks.dpsr);
    let mut rotten = |_: &Contents, from: Generation| {
        assert_eq!(from, OLDER);
        Err(Error::new(Kind::Damaged, "reading", "it has rotted"))
    };
    let error = go_live(&mut opened(&stage.world), Some(OLDER), NOW, &mut rotten).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(bytes_of(&stage.world.disks.dpsr) == before, "something was written");
}

#[test]
fn one_that_has_run_out_of_room_does_not_go_on() {
    let stage = Stage::with(3, whole());
    let mut store = opened(&stage.world);
    go_live(&mut store, Some(OLDER), NOW, &mut any).unwrap();
    overflow(&store);
    let error = go_live(&mut store, None, NOW, &mut any).unwrap_err();
    assert!(error.to_string().contains("the room for what it wrote had run out"), "{error}");
    assert_eq!(put_back(&mut store, &Silent).unwrap(), Some(NEWEST));
    stage.world.check_all();
}

#[test]
fn the_power_may_be_cut_while_it_is_started_and_on_the_way_back() {
    let stage = Stage::with(3, whole());
    let start = stage.disk.fork();
    let events = recorded(&stage, |store| {
        go_live(store, Some(OLDER), NOW, &mut any).unwrap();
        work(store);
        put_back(store, &Silent).unwrap();
    });
    let all_cuts = cuts(&events, 4, 3);
    assert!(all_cuts.len() > 40);
    all(all_cuts.len(), |i| {
        let disk: Arc<_> = Arc::new(cut(&start, &events, all_cuts[i]));
        let mut world = World::around(vec![], whole(), disk, STORE);
        world.expected.clone_from(&stage.world.expected);
        let mut store = opened(&world);
        world.check_all();
        assert!(matches!(store.contents.superblock.state, State::Clean(NEWEST) | State::Aside(NEWEST)));
        put_back(&mut store, &Silent).unwrap();
    });
}

#[test]
fn the_oldest_generations_make_room() {
    let stage = Stage::with(6, whole());
    leave(&stage.world, 0);
    let start = stage.disk.fork();
    let from = Generation(4);
    let events = recorded(&stage, |store| {
        let marked = go_live(store, Some(from), NOW, &mut any).unwrap();
        assert_eq!((marked.from, &marked.dropped[..1]), (from, &[Generation(1)][..]));
        let place = placement(store, &store.contents.live_store().unwrap().runs);
        assert!(place.size() >= Bytes(SIZE as u64 / 16));
        work(store);
    });
    stage.world.check_all();
    let all_cuts = cuts(&events, 4, 3);
    all(all_cuts.len(), |i| {
        let mut world = World::around(vec![], whole(), Arc::new(cut(&start, &events, all_cuts[i])), STORE);
        world.expected.clone_from(&stage.world.expected);
        drop(opened(&world));
        world.check_all();
    });
}

#[test]
fn without_any_room_the_newest_starts_and_an_older_one_does_not() {
    let stage = Stage::with(3, whole());
    stage.world.pin(1, true);
    leave(&stage.world, 0);
    let before = bytes_of(&stage.world.disks.dpsr);
    let error = go_live(&mut opened(&stage.world), Some(OLDER), NOW, &mut any).unwrap_err();
    assert_eq!(error.kind(), Kind::NoRoom);
    assert!(bytes_of(&stage.world.disks.dpsr) == before, "something was written");
    let mut store = opened(&stage.world);
    let marked = go_live(&mut store, None, NOW, &mut any).unwrap();
    assert_eq!((marked.from, marked.resumed, marked.keeps), (NEWEST, false, false));
    assert_eq!(store.contents.superblock.state, State::LiveNoHistory(NEWEST));
}

/// The disk to which a way back was begun is not the machine's home where that was given up.
#[test]
fn what_is_given_up_makes_no_disk_the_home() {
    let stage = Stage::with(3, whole());
    let mut store = opened(&stage.world);
    go_live(&mut store, Some(OLDER), NOW, &mut any).unwrap();
    let target = Target { size: Bytes(1 << 20), serial: Some("new".into()), wwn: None };
    let (state, mut index) = (store.contents.superblock.state, store.contents.index.clone());
    index.objects.push(target.object());
    store.change(state, index).unwrap();
    discard(&mut store).unwrap();
    let contents = stage.world.contents();
    assert_eq!(contents.superblock.state, State::Clean(NEWEST));
    assert_eq!((Target::in_store(&contents), Target::home(&contents)), (None, None));
}
