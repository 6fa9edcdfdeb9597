// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pair of disks in memory, and a model of what every generation must read as.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::changes::source::Moving;
use dpsr::disk::ram::RamDisk;
use dpsr::disk::whole::read_exact_at;
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::engine::digest::DigestKey;
use dpsr::engine::{Batch, Disks as EngineDisks, Engine, Shape};
use dpsr::error::Result;
use dpsr::format::index::Volume;
use dpsr::format::moment::Moment;
use dpsr::format::superblock::Owner;
use dpsr::history::{self, Dropped, Pinned};
use dpsr::keep::Rules;
use dpsr::progress::Silent;
use dpsr::restore::Part;
use dpsr::store::Store;
use dpsr::store::contents::{self, Contents};
use dpsr::store::create::{Template, create};
use dpsr::store::map::left_out;
use dpsr::sync::{Disks, Report, Request, sync};
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, Generation};
use dpsr::view::View;
use dpsr::view::read::{Reading, Sink};
use uuid::Uuid;

/// Where the store partition starts on the DPSR disk of the tests.
pub const BASE: u64 = 1 << 20;

/// A volume of a primary.
pub fn volume(id: &str, start: u64, size: u64, left_out: bool) -> Volume {
    let (start, size) = (Bytes(start), Bytes(size));
    Volume { id: id.into(), name: id.into(), label: String::new(), start, size, left_out, group: false }
}

/// A number that looks random and is the same in every run.
pub fn mixed(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Bytes stamped with their sector number and `seed`, so that a misplaced sector shows.
pub fn stamped(len: usize, seed: u64) -> Vec<u8> {
    let sectors = (0..len.div_ceil(8) as u64).flat_map(|word| mixed(seed ^ word << 8).to_le_bytes());
    sectors.take(len).collect()
}

/// A pair of disks and what is known of it.
pub struct World {
    pub primary: Vec<u8>,
    pub volumes: Vec<Volume>,
    pub disks: Disks,
    /// What each generation must read as.
    pub expected: BTreeMap<u64, Vec<u8>>,
    pub time: u64,
}

impl World {
    /// A pair with an empty store of `store` bytes on a disk in memory, wrapped by `wrap`.
    pub fn new(
        primary: Vec<u8>,
        volumes: Vec<Volume>,
        store: u64,
        wrap: impl FnOnce(RamDisk) -> Arc<dyn WriteDisk>,
    ) -> Self {
        let dpsr = RamDisk::from_bytes("dpsr", stamped((BASE + store) as usize, 77)).strict(Bytes(512));
        let mut world = Self::around(primary, volumes, wrap(dpsr), store);
        world.create().expect("the store is large enough");
        world
    }

    /// A pair around a DPSR disk that may hold a store already.
    pub fn around(primary: Vec<u8>, volumes: Vec<Volume>, dpsr: Arc<dyn WriteDisk>, store: u64) -> Self {
        let disks = Disks {
            primary: Arc::new(RamDisk::from_bytes("primary", primary.clone())),
            block: Bytes(512),
            volumes: volumes.clone(),
            swaps: vec![],
            dpsr,
            partition: Bytes(BASE)..Bytes(BASE + store),
            owner: Owner::default(),
            history: None,
            keep: Rules::default(),
            pre_images: Bytes::ZERO,
        };
        Self { primary, volumes, disks, expected: BTreeMap::new(), time: 1000 }
    }

    /// Makes the store.
    pub fn create(&mut self) -> Result<()> {
        create(self.disks.dpsr.clone(), self.disks.partition.clone(), self.template(1)).map(drop)
    }

    /// What store number `store` of the pair is made of.
    pub fn template(&self, store: u8) -> Template {
        Template {
            store: Uuid::from_u128(store.into()),
            pair: Uuid::from_u128(2),
            secret: [6 + store; 32],
            primary: "test".into(),
            disk: Bytes(self.primary.len() as u64),
            block: Bytes(512),
            volumes: self.volumes.clone(),
            owner: Owner::default(),
        }
    }

    /// Overwrites part of the primary.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.primary[at..at + bytes.len()].copy_from_slice(bytes);
        self.disks.primary = Arc::new(RamDisk::from_bytes("primary", self.primary.clone()));
    }

    /// What the primary reads as now, with left-out volumes as zeros.
    pub fn visible(&self) -> Vec<u8> {
        let mut bytes = self.primary.clone();
        for volume in self.disks.volumes.iter().filter(|volume| volume.left_out) {
            let end = (volume.start + volume.size).usize().min(bytes.len());
            bytes[volume.start.usize()..end].fill(0);
        }
        bytes
    }

    pub fn request(&self, mode: Mode) -> Request {
        let (moving, moment) = (Moving::All, Arc::new(Moment::default()));
        Request { mode, no_undo: false, moving, dry_run: false, time: self.time, moment }
    }

    /// Syncs, and notes what the new generation must read as.
    pub fn sync(&mut self, mode: Mode) -> Result<Report> {
        self.time += 60;
        let report = sync(&self.disks, &self.request(mode), &Silent)?;
        self.expected.insert(report.generation.0, self.visible());
        Ok(report)
    }

    /// What the store says about itself.
    pub fn contents(&self) -> Contents {
        contents::read(&self.disks.dpsr, &self.disks.partition).unwrap().expect("there is a store")
    }

    /// The generations the store lists.
    pub fn generations(&self) -> Vec<u64> {
        let contents = self.contents();
        let current = contents.current().map_or(0, |generation| generation.0);
        let all = contents.index.generations.iter().map(|record| record.generation.0);
        all.filter(|number| *number <= current).collect()
    }

    /// The store, to change its generations.
    pub fn store(&self) -> Store {
        let (disk, partition) = (self.disks.dpsr.clone(), self.disks.partition.clone());
        Store::open(disk, partition, Owner::default()).unwrap()
    }

    /// Pins a generation, or lets it go again.
    pub fn pin(&self, generation: u64, pinned: bool) -> Pinned {
        history::pin(&mut self.store(), Generation(generation), pinned).unwrap()
    }

    /// Drops generations.
    pub fn drop(&self, gone: &[u64]) -> Result<Dropped> {
        let gone: Vec<_> = gone.iter().copied().map(Generation).collect();
        history::drop(&mut self.store(), &gone, &Silent)
    }

    /// Drops generations, for which there must be room, and which must be gone then.
    pub fn drop_now(&self, gone: &[u64]) {
        let before = self.generations();
        let dropped = self.drop(gone).unwrap().dropped;
        assert!(gone.iter().all(|generation| dropped.contains(&Generation(*generation))), "{dropped:?}");
        let left = before.into_iter().filter(|generation| !gone.contains(generation));
        assert_eq!(self.generations(), left.collect::<Vec<_>>());
    }

    /// The same world on a copy of its DPSR disk.
    pub fn fork(&self) -> Self {
        let mut bytes = Buffer::new(self.disks.dpsr.size().usize()).unwrap();
        read_exact_at(&self.disks.dpsr, Bytes::ZERO, &mut bytes).unwrap();
        let dpsr: Arc<dyn WriteDisk> = Arc::new(RamDisk::from_bytes("dpsr", bytes.to_vec()));
        Self {
            primary: self.primary.clone(),
            volumes: self.volumes.clone(),
            disks: Disks { dpsr, ..self.disks.clone() },
            expected: self.expected.clone(),
            time: self.time,
        }
    }

    /// Asserts that every generation reads as it must, and that a scrub finds nothing.
    pub fn check_all(&self) {
        self.check();
        let disk: Arc<dyn ReadDisk> = self.disks.dpsr.clone();
        let report = dpsr::scrub::check(&disk, &self.disks.partition, None, &Silent).unwrap();
        assert_eq!(report.left, 0, "{report}");
    }

    /// Reads a generation through the composed view; the chunks found damaged come with it.
    pub fn read(&self, generation: u64) -> Result<(Vec<u8>, usize)> {
        read_generation(&self.disks, generation)
    }

    /// Reads a generation that need not be whole: how much of it is damaged, not whether it adds up.
    pub fn read_what_is_there(&self, generation: u64) -> Result<(Vec<u8>, usize)> {
        let target = Arc::new(RamDisk::new("target", self.expected[&generation].len()));
        let damaged = restore(&self.disks, generation, target.clone(), false)?;
        Ok((target.contents(), damaged))
    }

    /// Asserts that every generation the store lists reads as it must.
    pub fn check(&self) {
        for generation in self.generations() {
            let (bytes, damaged) = self.read(generation).unwrap();
            assert_eq!(damaged, 0, "generation {generation}");
            assert!(same(&bytes, &self.expected[&generation]), "generation {generation} differs");
        }
    }
}

/// Whether two images are the same; says where they first differ.
pub fn same(found: &[u8], expected: &[u8]) -> bool {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(at) = differs {
        eprintln!("first difference at byte {at} (chunk {}) of {}", at / 65536, expected.len());
    }
    differs.is_none() && found.len() == expected.len()
}

/// Reads a generation through the composed view; the number of damaged chunks comes with it.
pub fn read_generation(disks: &Disks, generation: u64) -> Result<(Vec<u8>, usize)> {
    let size = contents::read(&disks.dpsr, &disks.partition)?.expect("there is a store").newest_map().disk;
    let mut sink = Memory(vec![0; size.usize()]);
    let damaged = read_into(disks, generation, [Bytes(0)..size], &mut sink)?;
    Ok((sink.0, damaged))
}

/// The same of some ranges, into `sink`.
pub fn read_into(
    disks: &Disks,
    generation: u64,
    ranges: impl IntoIterator<Item = Range<Bytes>>,
    sink: &mut impl Sink,
) -> Result<usize> {
    let contents = contents::read(&disks.dpsr, &disks.partition)?.expect("there is a store");
    let view = View::of(&contents, Generation(generation))?;
    let key = DigestKey::new(contents.index.secret);
    let mut engine_disks = EngineDisks::default();
    let id = engine_disks.add_read(Arc::new(disks.dpsr.clone()));
    let mut engine = Engine::new(engine_disks, Shape { buffer: Bytes(256 << 10), depth: 2, spare: 1 })?;
    let mut damaged = 0;
    for range in ranges {
        let reading = Reading { view: &view, disk: &disks.dpsr, id, range, key: &key, progress: &Silent };
        damaged += reading.run(&mut engine, sink)?.len();
    }
    let root = dpsr::view::digests::ViewDigests::of(&view, &disks.dpsr)?.sum(&key)?;
    assert_eq!(root.to_bytes(), view.record.root, "the digests of generation {generation} do not add up");
    Ok(damaged)
}

/// Writes a generation back to `target`, as the verb does, and says how many chunks are damaged.
pub fn restore(disks: &Disks, generation: u64, target: Arc<dyn WriteDisk>, sparse: bool) -> Result<usize> {
    let contents = contents::read(&disks.dpsr, &disks.partition)?.expect("there is a store");
    let view = View::of(&contents, Generation(generation))?;
    let part = Part {
        range: Bytes(0)..view.map.disk,
        at: Bytes(0),
        spared: left_out(&view.map.volumes, view.map.disk),
        sparse,
        shape: Shape { buffer: Bytes(64 << 10), depth: 2, spare: 1 },
    };
    let key = DigestKey::new(contents.index.secret);
    part.write(&view, &key, Arc::new(disks.dpsr.clone()), target, &Silent).map(|damaged| damaged.len())
}

/// Keeps what is read.
struct Memory(Vec<u8>);

impl Sink for Memory {
    fn zeros(&mut self, _range: Range<Bytes>) -> Result<()> {
        Ok(())
    }

    fn data(&mut self, batch: &mut Batch, range: Range<Bytes>, offset: usize) -> Result<()> {
        let len = (range.end - range.start).usize();
        self.0[range.start.usize()..range.end.usize()].copy_from_slice(&batch.bytes()[offset..offset + len]);
        Ok(())
    }
}
