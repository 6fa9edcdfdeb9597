// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the newest generation back to the oldest: the image first, then each undo store with what it saved.
//!
//! Damage is **live** in a generation as long as that generation would read it: it ends where an older undo
//! store has a copy of its own, or where the image lay elsewhere.

use std::collections::BTreeMap;
use std::ops::Range;

use super::found::{Found, Place, What};
use super::history::Saved;
use super::image::ImageCheck;
use super::report::Affected;
use super::sweep::{Piece, Reader};
use super::tables::{Tables, differing};
use crate::changes::ChangeSet;
use crate::engine::digest::{Digest, DigestKey};
use crate::error::Result;
use crate::format::digests;
use crate::format::index::{Map, Record};
use crate::store::Contents;
use crate::store::map::left_out;
use crate::store::placement::Placement;
use crate::units::{Bytes, CHUNK, Chunk, Generation, PAGES_PER_CHUNK};

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Everything.
    Data,
    /// Digest tables and undo metadata only.
    Digests,
}

/// What a walk found.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) found: Vec<Found>,
    /// Digests of what the image holds, of chunks whose digest page is bad.
    pub(super) unknown: BTreeMap<u64, Digest>,
    pub(super) generations: u64,
}

/// Damage that older generations would read too: where in `found`, and where it stands in the image.
type Live = Vec<(usize, Option<Bytes>)>;

/// A walk on its way.
pub(super) struct Walk<'a> {
    pub(super) contents: &'a Contents,
    pub(super) key: &'a DigestKey,
    pub(super) depth: Depth,
    pub(super) tables: Tables<'a>,
    pub(super) survey: Survey,
    live: BTreeMap<u64, Live>,
    /// Whether it is not known any more which digests older generations have.
    pub(super) broken: bool,
    /// Chunks that the current generation has saved although the next one has them at another place or
    /// nowhere: nobody reads the old place any more.
    pub(super) superseded: ChangeSet,
    pub(super) oldest: Generation,
    /// The generation the walk is at.
    pub(super) at: Generation,
    newest: Generation,
}

/// Goes through every generation.
pub(super) fn walk(
    contents: &Contents,
    key: &DigestKey,
    depth: Depth,
    reader: &mut Reader<'_>,
) -> Result<Survey> {
    let Some(newest) = contents.current() else { return Ok(Survey::default()) };
    let kept = contents.index.generations.iter().filter(|record| record.generation <= newest);
    let records: Vec<&Record> = kept.rev().collect();
    let map = contents.map_of(records[0]);
    let oldest = records.last().expect("the newest is one of them").generation;
    let (table, image) = (contents.table(), contents.image(map));
    let tables = Tables::newest(reader.disk, key, map.chunks(), &table, &image)?;
    let mut walk = Walk {
        contents,
        key,
        depth,
        tables,
        survey: Survey::default(),
        live: BTreeMap::new(),
        broken: false,
        superseded: ChangeSet::new(0),
        oldest,
        at: newest,
        newest,
    };
    walk.newest(reader, map, &image)?;
    for pair in records.windows(2) {
        walk.step(reader, pair[0], pair[1])?;
    }
    reader.read += walk.tables.read;
    walk.survey.generations = records.len() as u64;
    Ok(walk.survey)
}

impl Walk<'_> {
    fn newest(&mut self, reader: &mut Reader<'_>, map: &Map, image: &Placement) -> Result<()> {
        for number in 0..self.tables.len() {
            let bad = self.tables.bad_pages(number);
            for page in (0..PAGES_PER_CHUNK).filter(|page| bad.0 & 1 << page != 0) {
                let page = number * PAGES_PER_CHUNK + page;
                let found = Found::new(What::DigestPage, 0, page, "it does not match its checksum");
                self.note(found, digests::BASE.0 + number, None);
            }
        }
        let whole = image.placed(map.chunks()).flat_map(|chunks| {
            super::sweep::pieces(image, Chunk(chunks.start).start(), chunks.start, chunks.end - chunks.start)
        });
        self.image(reader, map, whole.collect(), "checking the image")?;
        self.check_sum(self.newest)
    }

    /// From `above` to `record`, the generation before it.
    fn step(&mut self, reader: &mut Reader<'_>, above: &Record, record: &Record) -> Result<()> {
        let contents = self.contents;
        let (before, map) = (contents.map_of(above), contents.map_of(record));
        let (before, image) = (contents.image(before), contents.image(map));
        self.at = record.generation;
        let moved = differing(&before, &image, map.chunks());
        self.tables.follow(&before, &image)?;
        self.end_moved(above.generation, &image);
        self.superseded = ChangeSet::new(map.chunks());
        if let Some(undo) = &record.undo {
            let (generation, above, chunks) = (record.generation, above.generation, map.chunks());
            let saved = Saved { generation, above, undo, before, image, chunks };
            saved.check(self, reader)?;
        }
        // What only older generations have: where the image lay before it was repartitioned.
        let there = moved.into_iter().filter_map(|(chunks, _, old)| old.map(|at| (chunks, at)));
        let pieces = there.flat_map(|(chunks, at)| self.still_read(chunks, at)).collect();
        self.image(reader, map, pieces, "checking the image of older partitions")?;
        self.check_sum(record.generation)
    }

    /// The pieces of `chunks`, which stand at `at`, that are not superseded.
    fn still_read(&self, chunks: Range<u64>, at: Bytes) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut next = chunks.start;
        let ends = self.superseded.within(chunks.clone()).map(|chunk| chunk.0);
        for end in ends.chain([chunks.end]) {
            if next < end {
                let at = at + Bytes((next - chunks.start) * CHUNK);
                pieces.push(Piece { item: next, count: end - next, at });
            }
            next = end + 1;
        }
        pieces
    }

    /// Checks part of the image against the digests of the current generation.
    fn image(
        &mut self,
        reader: &mut Reader<'_>,
        map: &Map,
        pieces: Vec<Piece>,
        what: &'static str,
    ) -> Result<()> {
        if self.depth == Depth::Digests || self.broken || pieces.is_empty() {
            return Ok(());
        }
        reader.progress.begin(what, Bytes(pieces.iter().map(|piece| piece.count * CHUNK).sum()));
        let left_out = left_out(&map.volumes, map.disk);
        reader.sweep(pieces, &mut ImageCheck { walk: self, map: map.id, left_out })
    }

    fn check_sum(&mut self, generation: Generation) -> Result<()> {
        let record = self.contents.record(generation)?;
        if !self.broken && self.tables.sum().is_some_and(|sum| sum.to_bytes() != record.root) {
            let why = "its digests do not add up to what was recorded";
            let mut found = Found::new(What::Digests, generation.0, generation.0, why);
            found.affected = Some(Affected { oldest: generation, newest: generation });
            found.newest = generation == self.newest;
            self.survey.found.push(found);
        }
        Ok(())
    }

    /// Notes a damaged chunk of the image that stands at `place`.
    pub(super) fn note_image(&mut self, map: u32, chunk: u64, place: Place, why: &'static str) {
        let mut found = Found::new(What::Image, u64::from(map), chunk, why);
        found.place = Some(place);
        self.note(found, chunk, Some(place.at));
    }

    /// Notes damage to `key` of the protected address space that the current generation reads, and older
    /// ones until they have a copy of their own.
    pub(super) fn note(&mut self, mut found: Found, key: u64, place: Option<Bytes>) {
        found.affected = Some(Affected { oldest: self.oldest, newest: self.at });
        found.newest = self.at == self.newest;
        self.live.entry(key).or_default().push((self.survey.found.len(), place));
        self.survey.found.push(found);
    }

    /// Notes damage that older generations do not share, or that is lost to all of them.
    pub(super) fn note_alone(&mut self, found: Found) {
        self.survey.found.push(found);
    }

    /// The current generation and those before it have a copy of their own of `key`; `above` is the last
    /// that has not.
    pub(super) fn end(&mut self, key: u64, above: Generation) {
        for (index, _) in self.live.remove(&key).unwrap_or_default() {
            end(&mut self.survey.found[index], above);
        }
    }

    /// Ends damage of the image where it does not lie any more.
    fn end_moved(&mut self, above: Generation, image: &Placement) {
        let found = &mut self.survey.found;
        self.live.retain(|&key, live| {
            live.retain(|&(index, place)| {
                let stays = key >= digests::BASE.0 || image.chunk(Chunk(key)) == place;
                if !stays {
                    end(&mut found[index], above);
                }
                stays
            });
            !live.is_empty()
        });
    }
}

fn end(found: &mut Found, above: Generation) {
    if let Some(affected) = &mut found.affected {
        affected.oldest = above;
    }
}
