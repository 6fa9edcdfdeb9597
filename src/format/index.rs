// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index: which extents belong to what, and which generations there are.
//!
//! It is written whole, copy-on-write, into the slot the current superblock does not name, twice; so the
//! set of free extents is always "whatever the index does not mention", and a roll-back of the superblock
//! rolls it back. On disk it is a payload cut into 4 KiB blocks framed by [`crate::format::block`]; either
//! copy of each block will do.

mod pack;

use uuid::Uuid;

use crate::format::block::{self, HEADER, Magic};
use crate::format::digests;
use crate::format::moment::Moment;
use crate::format::packer::{Packer, Unpacker};
use crate::format::superblock::IndexRoot;
use crate::format::undo::{Layout, MAX_ENTRIES};
use crate::format::{Parsed, geometry::Geometry};
use crate::units::{Bytes, CHUNK, Extent, Generation, PAGE};
use pack::{
    pack_map, pack_object, pack_record, pack_run, unpack_map, unpack_object, unpack_record, unpack_run,
};

/// Magic number of an index block.
pub const MAGIC: Magic = Magic(*b"DPix");
const BLOCK: usize = PAGE as usize;
const PAYLOAD: usize = BLOCK - HEADER;

/// `count` extents of an object from `at` (in extents of the object) on, at `extent` of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First extent, counted in the object.
    pub at: u32,
    /// First extent, counted in the store.
    pub extent: Extent,
    /// How many follow each other in both.
    pub count: u32,
}

/// One volume of the primary as a generation saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Stable identity: GPT partition GUID, MBR PARTUUID, `table` or `disk`.
    pub id: String,
    /// What people call it: the partition number, or `table` or `disk`.
    pub name: String,
    /// Partition or filesystem label, may be empty.
    pub label: String,
    /// Where it starts on the primary; zero for `table`, which is what lies outside all others.
    pub start: Bytes,
    /// Its size; zero for `table`.
    pub size: Bytes,
    /// Whether it is left out of the image and reads as zeros.
    pub left_out: bool,
    /// Whether it always moves together with the others so marked.
    pub group: bool,
}

impl Volume {
    /// Whether two lists of volumes put the same bytes into the image; labels may differ.
    pub fn same_layout(old: &[Self], new: &[Self]) -> bool {
        let place = |volume: &Self| (volume.id.clone(), volume.start, volume.size, volume.left_out);
        old.iter().map(place).eq(new.iter().map(place))
    }
}

/// How the image of some generations lies in the store. Extents not mentioned are holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Number of the map, referred to by generations.
    pub id: u32,
    /// Exact size of the primary.
    pub disk: Bytes,
    /// Its logical block size.
    pub block: Bytes,
    /// Its volumes.
    pub volumes: Vec<Volume>,
    /// Where the image lies, sorted, not overlapping.
    pub runs: Vec<Run>,
}

impl Map {
    /// Chunks in the image; the last one may be partial and is padded with zeros.
    pub fn chunks(&self) -> u64 {
        self.disk.div_ceil(CHUNK)
    }
}

/// The undo store that turns the next generation back into the one it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// Ties every companion block to the sync that wrote it.
    pub nonce: u64,
    /// Exceptions in all.
    pub entries: u64,
    /// Exceptions of the image; those of the digest table follow.
    pub image_entries: u64,
    /// Where it lies.
    pub runs: Vec<Run>,
}

/// How a generation was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// 1 full, 2 digest, 3 compare.
    pub mode: u8,
    /// Bytes read from the primary and the image to find the changes.
    pub read: Bytes,
    /// Bytes in chunks that changed.
    pub changed: Bytes,
    /// Bytes written to the image.
    pub image: Bytes,
    /// Bytes written to the undo store of the generation before.
    pub undo: Bytes,
}

/// One committed point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub generation: Generation,
    /// When it was taken: seconds since 1970, UTC.
    pub time: u64,
    /// Which map describes it.
    pub map: u32,
    /// Never dropped to make room.
    pub pinned: bool,
    /// What is known of the moment it stands at.
    pub moment: Moment,
    /// The time each volume of the map stands at, in the order of the map: seconds since 1970, UTC.
    pub volume_times: Vec<u64>,
    /// Sum over all digests: what the digest table of this generation must add up to.
    pub root: [u8; 32],
    /// How it was made.
    pub made: Made,
    /// Turns the next generation back into this one; absent for the newest, and where nothing changed.
    pub undo: Option<Undo>,
}

/// Kind of the object in which a machine that runs from the image keeps what it overwrites.
pub const LIVE_STORE: u16 = 1;

/// Kind of the object that stands for a swap volume that is left out of the image.
pub const SWAP: u16 = 2;

/// Kind of the object that says to which disk the machine is to go back.
pub const FAILBACK: u16 = 7;

/// Kind of the object that says to which disk the machine went back last.
pub const HOME: u16 = 8;

/// Kind of the object that keeps room for what is overwritten on the primary while its snapshot is read.
pub const PRE_IMAGES: u16 = 9;

/// Kind of the object that says which volumes a machine that runs from the image has on its primary still.
pub const STAYS: u16 = 10;

/// An object this version does not interpret: its extents are taken, that is all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is; kinds below 256 are reserved for dpsr.
    pub kind: u16,
    /// Kind-specific bytes.
    pub about: Vec<u8>,
    /// Where it lies.
    pub runs: Vec<Run>,
}

/// The last completed scrub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrub {
    /// When it ended: seconds since 1970, UTC; 0 for never.
    pub time: u64,
    /// Damaged chunks and blocks it left.
    pub damaged: u64,
}

/// The whole index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Identity of the store, as in the superblock.
    pub store: Uuid,
    /// Secret from which the digest keys are derived.
    pub secret: [u8; 32],
    /// What the primary was known by at init, as a text for people: its serial number, else its WWN, else its exact
    /// size in bytes.
    pub primary: String,
    /// Where the digest table lies.
    pub digests: Vec<Run>,
    /// The maps generations refer to.
    pub maps: Vec<Map>,
    /// The generations, oldest first.
    pub generations: Vec<Record>,
    /// Everything else that occupies extents.
    pub objects: Vec<Object>,
    /// The last scrub.
    pub scrub: Scrub,
}

impl Index {
    /// The payload as bytes.
    pub fn pack(&self) -> Vec<u8> {
        let mut packer = Packer::default();
        packer.bytes(self.store.as_bytes()).bytes(&self.secret).text(&self.primary);
        packer.list(&self.digests, pack_run).list(&self.maps, pack_map);
        packer.list(&self.generations, pack_record).list(&self.objects, pack_object);
        packer.u64(self.scrub.time).u64(self.scrub.damaged);
        packer.0
    }

    /// Parses a payload and checks every number in it against `geometry`; the text says what is wrong.
    pub fn unpack(payload: &[u8], geometry: &Geometry) -> Result<Self, String> {
        let mut unpacker = Unpacker(payload);
        let index = Self::unpack_fields(&mut unpacker).ok_or("its fields do not make sense")?;
        if !unpacker.0.is_empty() {
            return Err("something follows its last field".into());
        }
        index.check(geometry)?;
        Ok(index)
    }

    fn unpack_fields(unpacker: &mut Unpacker<'_>) -> Option<Self> {
        Some(Self {
            store: Uuid::from_bytes(unpacker.array()?),
            secret: unpacker.array()?,
            primary: unpacker.text()?,
            digests: unpacker.list(unpack_run)?,
            maps: unpacker.list(unpack_map)?,
            generations: unpacker.list(unpack_record)?,
            objects: unpacker.list(unpack_object)?,
            scrub: Scrub { time: unpacker.u64()?, damaged: unpacker.u64()? },
        })
    }

    /// Every list of runs, with the name of what it holds.
    pub fn all_runs(&self) -> impl Iterator<Item = &[Run]> {
        let maps = self.maps.iter().map(|map| map.runs.as_slice());
        let undo = self.generations.iter().filter_map(|g| g.undo.as_ref()).map(|undo| undo.runs.as_slice());
        let objects = self.objects.iter().map(|object| object.runs.as_slice());
        std::iter::once(self.digests.as_slice()).chain(maps).chain(undo).chain(objects)
    }

    fn check(&self, geometry: &Geometry) -> Result<(), String> {
        for runs in self.all_runs() {
            check_runs(runs, geometry)?;
        }
        self.check_owners()?;
        let mut ids: Vec<u32> = self.maps.iter().map(|map| map.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two of its maps have one number".into());
        }
        // A next map, a next generation and the extents of the image must have numbers.
        let extents = |map: &Map| geometry.extents_for(map.disk);
        if self.maps.iter().any(|map| map.id == u32::MAX || extents(map) > u64::from(u32::MAX)) {
            return Err("one of its maps is out of range".into());
        }
        let mut last = 0;
        for record in &self.generations {
            if record.generation.0 <= last || record.generation.0 == u64::MAX {
                return Err("its generations are not in order".into());
            }
            last = record.generation.0;
            self.check_record(record, geometry)?;
        }
        let chunks = self.maps.iter().map(Map::chunks).max().unwrap_or(0);
        if dense_extents(&self.digests) < geometry.extents_for(digests::table_size(chunks)) {
            return Err("its digest table is too short".into());
        }
        Ok(())
    }

    /// Every extent belongs to one object. Only maps may share extents, and only where each has it as the
    /// same extent of the image: that is how generations before and after a repartitioning share it.
    fn check_owners(&self) -> Result<(), String> {
        let shift = |run: &Run| i64::from(run.extent.0) - i64::from(run.at);
        let end = |run: &Run| run.extent.0 + run.count;
        let maps = self.maps.iter().flat_map(|map| &map.runs).map(|run| (run, Some(shift(run))));
        let others = self.all_runs().skip(1 + self.maps.len()).flatten().chain(&self.digests);
        let mut all: Vec<_> = maps.chain(others.map(|run| (run, None))).collect();
        all.sort_unstable_by_key(|(run, _)| run.extent.0);
        // Runs that overlap at one place all agree, so comparing with the one that reaches furthest will do.
        let mut furthest = (0, None);
        for (run, shift) in all {
            if run.extent.0 < furthest.0 && (shift.is_none() || shift != furthest.1) {
                return Err(format!("extent {} belongs to two objects", run.extent.0));
            }
            if end(run) > furthest.0 {
                furthest = (end(run), shift);
            }
        }
        Ok(())
    }

    fn check_record(&self, record: &Record, geometry: &Geometry) -> Result<(), String> {
        let Some(map) = self.map(record.map) else {
            return Err(format!("generation {} has no map", record.generation));
        };
        if record.volume_times.len() != map.volumes.len() {
            return Err(format!("generation {} has {} times", record.generation, record.volume_times.len()));
        }
        if let Some(undo) = &record.undo {
            let sound = undo.entries <= MAX_ENTRIES && undo.image_entries <= undo.entries;
            if !sound
                || dense_extents(&undo.runs) < geometry.extents_for(Layout { entries: undo.entries }.size())
            {
                return Err(format!("the undo store of generation {} is too short", record.generation));
            }
        }
        Ok(())
    }

    /// The map with this number.
    pub fn map(&self, id: u32) -> Option<&Map> {
        self.maps.iter().find(|map| map.id == id)
    }

    /// The record of `generation`.
    pub fn record(&self, generation: Generation) -> Option<&Record> {
        self.generations.iter().find(|record| record.generation == generation)
    }

    /// Drops maps that no generation refers to, except `keep`.
    pub fn drop_unused_maps(&mut self, keep: u32) {
        let used: Vec<u32> = self.generations.iter().map(|record| record.map).collect();
        self.maps.retain(|map| map.id == keep || used.contains(&map.id));
    }

    /// Blocks of the index slot that a payload of `len` bytes takes.
    pub fn blocks_for(len: u64) -> u64 {
        len.div_ceil(PAYLOAD as u64)
    }

    /// The sealed blocks of `payload` as they stand from `location` on.
    pub fn seal(payload: &[u8], location: Bytes, version: u64) -> Vec<u8> {
        let tag = tag(version, crc32c::crc32c(payload));
        let mut blocks = vec![0; Self::blocks_for(payload.len() as u64) as usize * BLOCK];
        for (i, (block, part)) in blocks.chunks_mut(BLOCK).zip(payload.chunks(PAYLOAD)).enumerate() {
            block[HEADER..HEADER + part.len()].copy_from_slice(part);
            block::seal(block, MAGIC, Bytes(location.0 + (i * BLOCK) as u64), tag);
        }
        blocks
    }

    /// Puts a payload together from two copies, block by block, taking whichever copy is good.
    /// Returns the payload and how many blocks were bad in either copy.
    pub fn assemble(
        root: &IndexRoot,
        copies: [&[u8]; 2],
        locations: [Bytes; 2],
    ) -> Result<(Vec<u8>, u64), String> {
        let wanted = tag(root.version, root.crc);
        let mut payload = Vec::with_capacity(root.len as usize + PAYLOAD);
        let mut bad = 0;
        for i in 0..Self::blocks_for(root.len) as usize {
            let at = i * BLOCK;
            let mut good = None;
            for (copy, location) in copies.iter().zip(locations) {
                let block = copy.get(at..at + BLOCK).unwrap_or(&[]);
                match block::open(block, MAGIC, Bytes(location.0 + at as u64)) {
                    Parsed::Ours((tag, part)) if tag == wanted => good = good.or(Some(part)),
                    _ => bad += 1,
                }
            }
            payload.extend_from_slice(good.ok_or_else(|| format!("both copies of block {i} are bad"))?);
        }
        payload.truncate(root.len as usize);
        if crc32c::crc32c(&payload) != root.crc {
            return Err("its checksum does not match the superblock".into());
        }
        Ok((payload, bad))
    }
}

/// What ties a block to one payload. A version number alone is not enough: the version after a roll-back has
/// the number of the one that was rolled back and stands in the same slot.
fn tag(version: u64, crc: u32) -> u64 {
    version ^ u64::from(crc) << 32
}

/// How many extents `runs` cover.
pub fn extents(runs: &[Run]) -> u64 {
    runs.iter().map(|run| u64::from(run.count)).sum()
}

/// How many extents an object has from its start on without a gap.
fn dense_extents(runs: &[Run]) -> u64 {
    runs.iter()
        .fold(0, |next, run| if u64::from(run.at) == next { next + u64::from(run.count) } else { next })
}

fn check_runs(runs: &[Run], geometry: &Geometry) -> Result<(), String> {
    let mut next = 0u64;
    for run in runs {
        let end = u64::from(run.extent.0) + u64::from(run.count);
        if run.count == 0 || u64::from(run.at) < next || end > u64::from(geometry.extents()) {
            return Err("it points outside the store".into());
        }
        next = u64::from(run.at) + u64::from(run.count);
        // Whoever adds the two may do so in 32 bits.
        if next > u64::from(u32::MAX) {
            return Err("it points outside its object".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    fn sample() -> Index {
        let volume = Volume {
            id: "0f".into(),
            name: "1".into(),
            label: "root".into(),
            start: Bytes(MIB),
            size: Bytes(MIB),
            left_out: false,
            group: true,
        };
        let run = |at, extent, count| Run { at, extent: Extent(extent), count };
        let map = Map {
            id: 3,
            disk: Bytes(3 * MIB),
            block: Bytes(512),
            volumes: vec![volume],
            runs: vec![run(0, 1, 12)],
        };
        let undo = Undo { nonce: 5, entries: 3, image_entries: 2, runs: vec![run(0, 20, 3)] };
        let record = |generation, undo| Record {
            generation: Generation(generation),
            time: 10,
            map: 3,
            pinned: generation == 1,
            moment: Moment { quiet: generation == 1, one_instant: generation == 2 },
            volume_times: vec![10],
            root: [4; 32],
            made: Made { mode: 2, read: Bytes(1), changed: Bytes(2), image: Bytes(3), undo: Bytes(4) },
            undo,
        };
        Index {
            store: Uuid::from_u128(1),
            secret: [9; 32],
            primary: "serial X".into(),
            digests: vec![run(0, 0, 1)],
            maps: vec![map],
            generations: vec![record(1, Some(undo)), record(2, None)],
            objects: vec![Object { kind: 300, about: vec![1, 2], runs: vec![run(0, 40, 1)] }],
            scrub: Scrub { time: 7, damaged: 1 },
        }
    }

    #[test]
    fn survives_the_disk_with_one_bad_copy_of_any_block() {
        let geometry = Geometry::choose(Bytes(64 * MIB)).unwrap();
        let mut index = sample();
        index.primary = "x".repeat(9000);
        let payload = index.pack();
        let root =
            IndexRoot { slot: 1, version: 4, len: payload.len() as u64, crc: crc32c::crc32c(&payload) };
        let locations = [geometry.index(1, 0), geometry.index(1, 1)];
        let good = locations.map(|at| Index::seal(&payload, at, 4));
        for at in (0..good[0].len()).step_by(97) {
            let mut copies = good.clone();
            copies[at % 2][at] ^= 1;
            let (found, bad) = Index::assemble(&root, [&copies[0], &copies[1]], locations).unwrap();
            assert_eq!(bad, 1);
            assert_eq!(Index::unpack(&found, &geometry).unwrap(), index);
            copies[1 - at % 2][at] ^= 1;
            assert!(Index::assemble(&root, [&copies[0], &copies[1]], locations).is_err());
        }
    }

    #[test]
    fn a_block_of_another_payload_with_the_same_version_is_bad() {
        let geometry = Geometry::choose(Bytes(64 * MIB)).unwrap();
        let (payload, other) = (sample().pack(), Index { primary: "serial Y".into(), ..sample() }.pack());
        let root =
            IndexRoot { slot: 1, version: 4, len: payload.len() as u64, crc: crc32c::crc32c(&payload) };
        let locations = [geometry.index(1, 0), geometry.index(1, 1)];
        let lost = Index::seal(&other, locations[0], 4);
        let good = Index::seal(&payload, locations[1], 4);
        assert_eq!(Index::assemble(&root, [&lost, &good], locations), Ok((payload, 1)));
    }

    #[test]
    fn nonsense_is_refused() {
        let geometry = Geometry::choose(Bytes(64 * MIB)).unwrap();
        let good = sample();
        assert_eq!(Index::unpack(&good.pack(), &geometry), Ok(good.clone()));
        let cases: [fn(&mut Index); 10] = [
            |index| index.generations.reverse(),
            |index| index.generations[0].map = 8,
            |index| index.digests.clear(),
            |index| index.maps[0].runs[0].extent = Extent(1 << 30),
            |index| index.generations[0].undo.as_mut().unwrap().entries = 1 << 20,
            |index| index.generations[0].undo.as_mut().unwrap().runs[0].at = 1,
            |index| index.digests[0].at = 1,
            |index| index.maps.push(index.maps[0].clone()),
            |index| index.maps[0].disk = Bytes((1 << 56) + 1),
            |index| index.objects[0].runs[0].extent = Extent(12),
        ];
        for spoil in cases {
            let mut index = good.clone();
            spoil(&mut index);
            assert!(Index::unpack(&index.pack(), &geometry).is_err());
        }
        let mut shared = good.clone();
        shared.maps.push(Map {
            id: 4,
            runs: vec![Run { at: 5, extent: Extent(6), count: 2 }],
            ..good.maps[0].clone()
        });
        assert_eq!(Index::unpack(&shared.pack(), &geometry), Ok(shared.clone()));
        shared.maps[1].runs[0].at = 6;
        assert!(Index::unpack(&shared.pack(), &geometry).unwrap_err().ends_with("two objects"));
        for len in 0..good.pack().len() {
            assert!(Index::unpack(&good.pack()[..len], &geometry).is_err());
        }
    }
}
