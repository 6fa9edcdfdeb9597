// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking at one generation: the undo stores between it and the newest, composed into one sorted exception
//! table over the image. Depth is always one, whatever the age.
//!
//! Everything that shows an older generation shares this composition: exporting and restoring read through
//! it, and [`kernel`] words the same table for dm-snapshot.

pub mod compose;
pub mod digests;
pub mod kernel;
pub mod read;
pub mod segments;

use crate::error::Result;
use crate::format::index::{Map, Record};
use crate::store::Contents;
use crate::store::placement::Placement;
use crate::store::undo::UndoReader;
use crate::units::{Chunk, Generation};

/// One generation, ready to be read.
pub struct View<'a> {
    /// What the store says of it.
    pub record: &'a Record,
    /// Its volumes and where its image lies.
    pub map: &'a Map,
    /// Where its image lies.
    pub image: Placement,
    /// Where the newest digest table lies.
    pub table: Placement,
    layers: Vec<Layer>,
}

/// One undo store between the generation and the newest.
struct Layer {
    reader: UndoReader,
    image_entries: u64,
    /// Places of the image in the generations after the viewed one up to this layer's, where they may differ
    /// from the viewed one's.
    other_places: Vec<Placement>,
}

impl<'a> View<'a> {
    /// The view of `generation`.
    pub fn of(contents: &'a Contents, generation: Generation) -> Result<Self> {
        contents.record(generation)?;
        let newest = contents.newest().expect("a record was found, so there is a newest generation");
        Self::through(contents, generation, newest)
    }

    /// The view of `generation` through the undo stores up to that of `last` alone: all that they say of it.
    pub fn through(contents: &'a Contents, generation: Generation, last: Generation) -> Result<Self> {
        contents.refuse_live(&format!("reading generation {generation}"))?;
        let record = contents.record(generation)?;
        let newest = contents.newest().expect("a record was found, so there is a newest generation");
        let mut layers = Vec::new();
        let mut other_places: Vec<Placement> = Vec::new();
        let mut map = record.map;
        let later = |r: &&Record| (generation..=newest).contains(&r.generation);
        let records: Vec<&Record> = contents.index.generations.iter().filter(later).collect();
        for pair in records.windows(2).take_while(|pair| pair[0].generation <= last) {
            if pair[0].map != map {
                map = pair[0].map;
                other_places.push(contents.image(contents.map_of(pair[0])));
            }
            if let Some(undo) = &pair[0].undo {
                let reader = UndoReader::new(contents.undo(undo), undo, pair[0].generation);
                let other_places = other_places.clone();
                layers.push(Layer { reader, image_entries: undo.image_entries, other_places });
            }
        }
        let map = contents.map_of(record);
        Ok(Self { record, map, image: contents.image(map), table: contents.table(), layers })
    }

    /// Whether what `layer` saved of `chunk` is this generation's: the chunk must not have been left out,
    /// and so have lost its place, in between.
    fn is_continuous(&self, layer: usize, chunk: Chunk) -> bool {
        let others = &self.layers[layer].other_places;
        others.is_empty() || {
            let place = self.image.chunk(chunk);
            others.iter().all(|other| other.chunk(chunk) == place)
        }
    }
}
