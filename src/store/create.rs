// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making an empty store: nothing is copied yet, the state is `Filling`.

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use crate::disk::WriteDisk;
use crate::error::{Error, Kind, Result};
use crate::format::digests;
use crate::format::geometry::Geometry;
use crate::format::index::{Index, Map, Run, Scrub, Volume};
use crate::format::superblock::{IndexRoot, Owner, State, Superblock};
use crate::store::free::Free;
use crate::store::map;
use crate::store::write::Store;
use crate::units::{Bytes, CHUNK};

/// What a new store is made of.
#[derive(Clone, Debug)]
pub struct Template {
    /// Identity of the new store.
    pub store: Uuid,
    /// Identity of the pair.
    pub pair: Uuid,
    /// Secret for the digest keys, from the system's random source.
    pub secret: [u8; 32],
    /// Identity of the primary as a text.
    pub primary: String,
    /// Exact size of the primary.
    pub disk: Bytes,
    /// Its logical block size.
    pub block: Bytes,
    /// Its volumes.
    pub volumes: Vec<Volume>,
    /// Who makes it.
    pub owner: Owner,
}

/// How much of a store partition its parts take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The image.
    pub image: Bytes,
    /// The digest table.
    pub digests: Bytes,
    /// Guard bands and index.
    pub overhead: Bytes,
    /// What remains for history.
    pub history: Bytes,
    /// What is missing, where it does not fit; history is zero then.
    pub missing: Bytes,
}

/// The least room for history that makes sense: one small undo store.
const MIN_HISTORY_EXTENTS: u64 = 2;

/// How a store partition of `store` bytes would be divided; `None` if it is too small for any store.
pub fn sizes(store: Bytes, volumes: &[Volume], disk: Bytes) -> Option<Sizes> {
    let geometry = Geometry::choose(store)?;
    let bytes = |extents: u64| Bytes(extents * geometry.extent.0);
    let image = map::needed_count(volumes, disk, &geometry);
    let table = geometry.extents_for(digests::table_size(disk.div_ceil(CHUNK)));
    let have = u64::from(geometry.extents());
    let free = have.saturating_sub(image + table);
    Some(Sizes {
        image: bytes(image),
        digests: bytes(table),
        overhead: geometry.store - bytes(have),
        history: bytes(free),
        missing: bytes((image + table + MIN_HISTORY_EXTENTS).saturating_sub(have)),
    })
}

/// Makes an empty store in `partition` of `disk`. The image comes first, each kept stretch contiguous, so
/// that a volume can be read by its plain offset after the worst disaster.
pub fn create(disk: Arc<dyn WriteDisk>, partition: Range<Bytes>, template: Template) -> Result<Store> {
    let size = partition.end - partition.start;
    let too_small = || {
        Error::new(Kind::NoRoom, "making a store on", format!("{size} is too small for this primary"))
            .on(disk.name())
    };
    let geometry = Geometry::choose(size).ok_or_else(too_small)?;
    let mut index = empty_index(&template);
    let mut free = Free::of(&index, &geometry);
    for range in map::needed(&template.volumes, template.disk, &geometry) {
        let runs = free.take(range.start, range.end - range.start).ok_or_else(too_small)?;
        index.maps[0].runs.extend(runs);
    }
    index.digests = take_table(&template, &geometry, &mut free).ok_or_else(too_small)?;
    let superblock = Superblock {
        writer_features: 0,
        store: template.store,
        pair: template.pair,
        geometry,
        sequence: 0,
        state: State::Filling { done: 0 },
        index: IndexRoot { slot: 1, version: 0, len: 0, crc: 0 },
        owner: template.owner,
    };
    let mut store = Store::begin(disk, partition, superblock, index.clone());
    store.change(State::Filling { done: 0 }, index)?;
    Ok(store)
}

fn take_table(template: &Template, geometry: &Geometry, free: &mut Free) -> Option<Vec<Run>> {
    let chunks = template.disk.div_ceil(CHUNK);
    let extents = geometry.extents_for(digests::table_size(chunks));
    free.take(0, u32::try_from(extents).ok()?)
}

fn empty_index(template: &Template) -> Index {
    let map = Map {
        id: 1,
        disk: template.disk,
        block: template.block,
        volumes: template.volumes.clone(),
        runs: vec![],
    };
    Index {
        store: template.store,
        secret: template.secret,
        primary: template.primary.clone(),
        digests: vec![],
        maps: vec![map],
        generations: vec![],
        objects: vec![],
        scrub: Scrub::default(),
    }
}
