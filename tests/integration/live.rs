// SPDX-License-Identifier: MIT OR Apache-2.0
//! Syncs of a primary that is written to meanwhile, on disks in memory: what is copied ahead of the moment is
//! no generation, and a moment that is lost makes none.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dpsr::changes::Mode;
use dpsr::disk::ReadDisk;
use dpsr::disk::ram::RamDisk;
use dpsr::error::{Error, Kind, Result};
use dpsr::format::moment::Moment;
use dpsr::format::superblock::State;
use dpsr::progress::Silent;
use dpsr::sync::{Held, Request, ahead, sync};
use dpsr::units::{Bytes, CHUNK, MIB};

use crate::world::{World, mixed, stamped, volume};

const SIZE: usize = 5 * MIB as usize + 512 * 3;

fn world() -> World {
    let volumes = vec![volume("table", 0, 0, false), volume("1", 512 * 7, 4 * MIB, false)];
    World::new(stamped(SIZE, 1), volumes, 40 * MIB, |disk| Arc::new(disk))
}

/// A primary that somebody writes to: each read finds a few bytes changed.
struct Restless {
    disk: RamDisk,
    reads: AtomicU64,
}

impl ReadDisk for Restless {
    fn name(&self) -> &str {
        "restless"
    }
    fn size(&self) -> Bytes {
        self.disk.size()
    }
    fn alignment(&self) -> Bytes {
        self.disk.alignment()
    }
    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.disk.read_at(at, buffer)?;
        let number = mixed(self.reads.fetch_add(1, Ordering::Relaxed));
        if read > 0 {
            buffer[number as usize % read] ^= 0x5a;
        }
        Ok(read)
    }
}

fn restless(world: &World) -> Arc<dyn ReadDisk> {
    let disk = RamDisk::from_bytes("restless", world.primary.clone());
    Arc::new(Restless { disk, reads: AtomicU64::new(0) })
}

#[test]
fn what_is_copied_ahead_is_no_generation_and_only_what_changed_since_is_written_again() {
    for no_undo in [false, true] {
        let mut world = world();
        if no_undo {
            world.sync(Mode::Digest).unwrap();
            world.write(70_000, &[9; 5000]);
            world.expected.clear();
        }
        let request = Request { no_undo, ..world.request(Mode::Full) };
        let still = world.disks.clone();
        world.disks.primary = restless(&world);
        let ready = ahead(&world.disks, &request, &Silent).unwrap();
        let whole = Bytes(SIZE as u64).round_up(CHUNK);
        assert_eq!((ready.read, ready.written), (whole, whole));
        let state = world.contents().superblock.state;
        assert!(matches!(state, State::Filling { .. } | State::NoValid { .. }), "{state:?}");
        assert!(world.contents().index.generations.is_empty());

        world.disks = still;
        let report = sync(&world.disks, &request, &Silent).unwrap();
        let most = 16 * CHUNK;
        assert!((1..most).contains(&report.bytes_written_image.0), "{}", report.bytes_written_image.0);
        world.expected.insert(report.generation.0, world.visible());
        world.check();
        let whole = ready.with(report);
        assert!(whole.bytes_read.0 >= 2 * SIZE as u64);
    }
}

#[test]
fn nothing_is_copied_ahead_where_there_is_a_generation() {
    let mut world = world();
    world.sync(Mode::Digest).unwrap();
    let before = world.contents().superblock;
    let still = world.disks.clone();
    world.disks.primary = restless(&world);
    let ready = ahead(&world.disks, &world.request(Mode::Digest), &Silent).unwrap();
    assert_eq!(ready, dpsr::sync::Ready::default());
    assert_eq!(world.contents().superblock, before);
    world.disks = still;
    world.check();
}

/// A moment that is lost once it was asked for so often.
struct Lost {
    asked: AtomicU32,
    after: u32,
}

impl Held for Lost {
    fn moment(&self) -> Result<Moment> {
        if self.asked.fetch_add(1, Ordering::Relaxed) < self.after {
            return Ok(Moment::default());
        }
        Err(Error::new(Kind::NoRoom, "holding the moment of", "its pre-images have outgrown 64 MiB")
            .on("disk"))
    }
}

#[test]
fn a_moment_that_is_lost_makes_no_generation() {
    for after in [0, 1] {
        let mut world = world();
        world.sync(Mode::Digest).unwrap();
        world.write(100_000, &stamped(200_000, 5));
        let held = Arc::new(Lost { asked: AtomicU32::new(0), after });
        let request = Request { moment: held.clone(), ..world.request(Mode::Digest) };
        let error = sync(&world.disks, &request, &Silent).unwrap_err();
        assert_eq!(held.asked.load(Ordering::Relaxed), after + 1);
        assert_eq!(error.kind(), Kind::NoRoom);
        assert!(error.to_string().contains("the copy is generation 1, intact"), "{error}");
        assert_eq!(world.generations(), [1]);
        world.check();
        assert_eq!(world.sync(Mode::Digest).unwrap().generation.0, 2);
        world.check();
    }
}

#[test]
fn a_first_moment_that_is_lost_leaves_a_copy_to_go_on_with() {
    let mut world = world();
    let held = Arc::new(Lost { asked: AtomicU32::new(0), after: 0 });
    let request = Request { moment: held, ..world.request(Mode::Digest) };
    let error = sync(&world.disks, &request, &Silent).unwrap_err();
    assert!(error.to_string().contains("the next sync goes on"), "{error}");
    assert!(matches!(world.contents().superblock.state, State::Filling { done } if done > 0));
    let report = world.sync(Mode::Digest).unwrap();
    assert_eq!((report.generation.0, report.bytes_written_image.0), (1, 0));
    world.check();
}
