// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel would show of a generation, computed from the tables and the memory it is handed: every
//! chunk must be that of the generation.
//!
//! The model is `drivers/md/dm-snap-persistent.c` (`persistent_read_metadata`, `insert_exceptions`) and
//! `dm-snap.c` (`remap_exception`).

use std::collections::BTreeMap;
use std::sync::Arc;

use dpsr::attach::tables::{self, Base};
use dpsr::changes::Mode;
use dpsr::disk::whole::read_exact_at;
use dpsr::dm::Table;
use dpsr::format::undo::PER_AREA;
use dpsr::pair::sysfs::DevNum;
use dpsr::store::contents;
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, CHUNK, Chunk, Generation, MIB};
use dpsr::view::View;
use dpsr::view::compose::Exception;
use dpsr::view::kernel::CowLayout;
use proptest::prelude::*;

use crate::flips;
use crate::model::{SIZE, Step, layout, step, volumes};
use crate::world::{BASE, World, same, stamped, volume};

const STORE: DevNum = DevNum { major: 8, minor: 17 };
const MEMORY: DevNum = DevNum { major: 7, minor: 3 };

/// The devices below the tables.
struct Machine<'a> {
    store: &'a dyn Fn(Bytes, &mut [u8]),
    memory: BTreeMap<u64, Vec<u8>>,
}

impl Machine<'_> {
    /// Reads a chunk, or what there is of one, of the device `table` makes.
    fn read(&self, table: &Table, chunk: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let end = table.size().0.min((chunk + 1) * CHUNK);
        assert!(chunk * CHUNK < end, "a read behind the end of a device");
        while chunk * CHUNK + (bytes.len() as u64) < end {
            self.read_row(table, chunk * CHUNK + bytes.len() as u64, end, &mut bytes);
        }
        bytes
    }

    fn read_row(&self, table: &Table, at: u64, end: u64, bytes: &mut Vec<u8>) {
        let rows = table.to_kernel();
        let row = rows.iter().find(|(start, len, ..)| (start * 512..(start + len) * 512).contains(&at));
        let (start, len, kind, words) = row.unwrap();
        let mut part = vec![0; ((start + len) * 512).min(end) as usize - at as usize];
        match kind.as_str() {
            "zero" => {}
            "linear" => {
                let (device, offset) = words.split_once(' ').unwrap();
                let there = offset.parse::<u64>().unwrap() * 512 + (at - start * 512);
                match DevNum::parse(device).unwrap() {
                    STORE => (self.store)(Bytes(there), &mut part),
                    MEMORY => part = self.memory(there, part.len()),
                    other => panic!("a row leads to {other}"),
                }
            }
            other => panic!("a row is {other}"),
        }
        bytes.append(&mut part);
    }

    /// Whole chunks, as they were put; zeros elsewhere.
    fn memory(&self, at: u64, len: usize) -> Vec<u8> {
        assert_eq!((at % CHUNK, len as u64), (0, CHUNK), "chunks of the COW device do not straddle");
        self.memory.get(&at).cloned().unwrap_or(vec![0; len])
    }

    /// The exceptions the kernel would load from a COW device.
    fn exceptions(&self, cow: &Table) -> BTreeMap<u64, u64> {
        let header = self.read(cow, 0);
        let word = |i: usize| u32::from_le_bytes(header[4 * i..][..4].try_into().unwrap());
        assert_eq!([word(0), word(1), word(2), word(3)], [0x7041_6e53, 1, 1, 128]);
        let mut found = BTreeMap::new();
        for area in 0.. {
            let bytes = self.read(cow, 1 + area * (PER_AREA + 1));
            for entry in bytes.chunks(16) {
                let number = |half: &[u8]| u64::from_le_bytes(half.try_into().unwrap());
                let (old, new) = (number(&entry[..8]), number(&entry[8..]));
                if new == 0 {
                    return found;
                }
                assert!(found.insert(old, new).is_none(), "chunk {old} has two exceptions");
            }
        }
        unreachable!("the last area is not full");
    }
}

/// What the kernel would show of a generation; the number of its exceptions comes with it.
fn shown(world: &World, generation: u64, start: u64) -> (Vec<u8>, u64) {
    let disks = &world.disks;
    let contents = contents::read(&disks.dpsr, &disks.partition).unwrap().unwrap();
    let view = View::of(&contents, Generation(generation)).unwrap();
    let layout = CowLayout::of(&contents, &view, &disks.dpsr).unwrap();
    let mut memory = BTreeMap::new();
    let mut put = |at: Bytes, bytes: &[u8]| {
        assert!(memory.insert(at.0, bytes.to_vec()).is_none());
        Ok(())
    };
    layout.write(&view, &disks.dpsr, &mut put).unwrap();
    let store = |at: Bytes, part: &mut [u8]| {
        let mut bytes = Buffer::new(part.len()).unwrap();
        read_exact_at(&disks.dpsr, at + Bytes(start), &mut bytes).unwrap();
        part.copy_from_slice(&bytes);
    };
    let machine = Machine { store: &store, memory };
    let base = Base { device: STORE, start: Bytes(start) };
    let (origin, cow) = (tables::origin(&view, base), tables::cow(&layout, MEMORY, base));
    assert_eq!((origin.size(), cow.size()), (tables::size(&view), layout.size()));
    let exceptions = machine.exceptions(&cow);
    assert_eq!(exceptions.len() as u64, layout.exceptions);
    let mut image = Vec::new();
    for chunk in 0..Chunk::covering(&(Bytes::ZERO..origin.size())).end {
        let mut bytes = machine.read(&origin, chunk);
        if let Some(new) = exceptions.get(&chunk) {
            let len = bytes.len();
            bytes.copy_from_slice(&machine.read(&cow, *new)[..len]);
        }
        image.append(&mut bytes);
    }
    (image, layout.exceptions)
}

fn check(world: &World) {
    for generation in world.generations() {
        for start in [0, BASE] {
            let (mut found, _) = shown(world, generation, start);
            let expected = &world.expected[&generation];
            // A size that is not in whole sectors is rounded up, with zeros.
            let rest = found.split_off(expected.len());
            assert!(rest.len() < 512 && rest.iter().all(|byte| *byte == 0));
            assert!(same(&found, expected), "generation {generation} differs");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_generation_of_any_history_is_shown(
        first in layout(),
        store in 20u64..32,
        steps in prop::collection::vec(step(), 1..20),
    ) {
        let mut world = World::new(stamped(SIZE, 1), volumes(&first), store * MIB, |disk| Arc::new(disk));
        for step in steps {
            let syncs = matches!(step, Step::Sync(_) | Step::SyncVolume(_) | Step::Afresh);
            world.take(step);
            if syncs {
                check(&world);
            }
        }
    }
}

#[test]
fn repartitioned_generations_with_holes() {
    let out = |start, size| vec![volume("table", 0, 0, false), volume("1", start, size, true)];
    let mut world = World::new(stamped(SIZE, 3), out(MIB, MIB / 2), 30 * MIB, |disk| Arc::new(disk));
    for round in 0..6u64 {
        world.disks.volumes = out(MIB / 2 * (round % 3), MIB);
        world.write(round as usize * 200_000, &stamped(300_000, 40 + round));
        world.sync(Mode::Digest).unwrap();
    }
    check(&world);
    let holes = |world: &World| shown(world, 1, 0).0[..MIB as usize].to_vec();
    assert!(holes(&world).iter().all(|byte| *byte == 0));
}

#[test]
fn a_size_that_is_not_in_sectors() {
    let mut world = World::new(stamped(SIZE + 77, 3), vec![], 30 * MIB, |disk| Arc::new(disk));
    for round in 0..3 {
        world.write(SIZE - 1000 + round, &stamped(1000, round as u64));
        world.sync(Mode::Digest).unwrap();
    }
    check(&world);
}

#[test]
fn generations_beside_an_interrupted_sync() {
    let flips::Sample { world, torn, .. } = flips::sample();
    let torn = flips::reader(&world, torn.fork());
    check(&torn);
    assert!(shown(&torn, 3, 0).1 > 0, "what the interrupted sync overwrote is in its undo store");
}

/// The list ends where the kernel thinks it does, whether the last area is full or not.
#[test]
fn exactly_full_areas() {
    let saved = vec![Bytes(3 * MIB)..Bytes(4 * MIB), Bytes(64 * MIB)..Bytes(900 * MIB)];
    for exceptions in [0, 1, PER_AREA - 1, PER_AREA, PER_AREA + 1, 2 * PER_AREA, 2 * PER_AREA + 1] {
        let layout = CowLayout { exceptions, saved: saved.clone() };
        let place = |entry: u64| match entry % 17 {
            16 => Bytes(3 * MIB + entry / 17 % 16 * CHUNK),
            _ => Bytes(64 * MIB + entry * CHUNK),
        };
        let (mut next, mut memory) = (0, BTreeMap::new());
        let mut all = || {
            next += 1;
            let exception = Exception { chunk: Chunk((next - 1) * 3), at: place(next - 1), crc: 0, layer: 0 };
            Ok((next <= exceptions).then_some(exception))
        };
        let mut put = |at: Bytes, bytes: &[u8]| {
            memory.insert(at.0, bytes.to_vec());
            Ok(())
        };
        assert!(layout.write_all(&mut all, &mut put).unwrap());
        // Each chunk of the store says where it stands.
        let store = |at: Bytes, part: &mut [u8]| part[..8].copy_from_slice(&at.0.to_le_bytes());
        let machine = Machine { store: &store, memory };
        let cow = tables::cow(&layout, MEMORY, Base { device: STORE, start: Bytes::ZERO });
        let found = machine.exceptions(&cow);
        assert_eq!(found.len() as u64, exceptions);
        for (entry, (old, new)) in found.into_iter().enumerate() {
            assert_eq!(old, entry as u64 * 3);
            assert_eq!(machine.read(&cow, new)[..8], place(entry as u64).0.to_le_bytes());
        }
        let mut none = || Ok(None);
        assert_eq!(layout.write_all(&mut none, &mut |_, _| Ok(())).unwrap(), exceptions == 0);
    }
}
