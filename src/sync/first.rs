// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first copy, and a copy that gives up history: no undo, but resumable.

use std::ops::Range;
use std::time::Instant;

use super::{Report, Session};
use crate::changes::{Mode, Source};
use crate::copy::fill::{Filled, Filling};
use crate::engine::{Disks as EngineDisks, Engine, Shape};
use crate::error::{Error, Kind, Result};
use crate::format::digests::PER_CHUNK;
use crate::format::index::{Index, Made, Record, Volume};
use crate::format::moment::Moment;
use crate::format::superblock::State;
use crate::store::free::Free;
use crate::store::table::{self, TableReader};
use crate::store::{create, map};
use crate::swap;
use crate::units::{Bytes, CHUNK, Chunk, Generation};

impl Session<'_> {
    /// Gives up every generation, because it was asked to, and copies afresh.
    pub(super) fn afresh(&mut self, from: Generation) -> Result<Report> {
        self.give_up(from)?;
        self.first(0)
    }

    /// From here on there is no valid generation until the copy ends.
    pub(super) fn give_up(&mut self, from: Generation) -> Result<()> {
        if self.request.dry_run {
            return Ok(());
        }
        self.store.mark(State::NoValid { done: 0, to: from.next() })
    }

    /// Frees what the generations given up took. This is a flip of its own: until the one to `NoValid`, the
    /// index slot to be written may hold the index that the roll-back of an interrupted sync returns to.
    pub(super) fn forget_generations(&mut self) -> Result<()> {
        let mut index = self.store.contents.index.clone();
        if index.generations.is_empty() {
            return Ok(());
        }
        let newest = self.store.contents.newest_map().id;
        index.generations.clear();
        index.drop_unused_maps(newest);
        self.store.change(self.store.contents.superblock.state, index)
    }

    /// The generation that the copy becomes when it is whole.
    pub(super) fn coming(&self) -> Generation {
        match self.store.contents.superblock.state {
            State::NoValid { to, .. } => to,
            State::Filling { .. } => Generation(1),
            State::Clean(from)
            | State::Updating { from, .. }
            | State::Live(from)
            | State::LiveNoHistory(from)
            | State::Returning(from)
            | State::Aside(from) => from.next(),
        }
    }

    /// Copies everything; chunks below `done` only where they differ.
    pub(super) fn first(&mut self, done: u64) -> Result<Report> {
        let started = Instant::now();
        let generation = self.coming();
        if self.request.dry_run {
            return Ok(self.planned(generation));
        }
        let filled = self.copy(done, generation)?;
        let moment = self.request.moment.moment()?;
        self.commit_first(generation, &filled, moment)?;
        let report = self.planned(generation);
        Ok(Report {
            dry_run: false,
            moment,
            bytes_read: filled.read,
            bytes_written_image: filled.written,
            seconds: started.elapsed().as_secs_f64(),
            ..report
        })
    }

    /// One pass over everything; what it leaves is no generation yet.
    pub(super) fn copy(&mut self, done: u64, generation: Generation) -> Result<Filled> {
        self.forget_generations()?;
        let done = self.follow_volumes(done)?;
        self.fill(done, generation)
    }

    /// A repartitioned primary gets a new map, and the copy starts over.
    fn follow_volumes(&mut self, done: u64) -> Result<u64> {
        let old = self.store.contents.newest_map().clone();
        if Volume::same_layout(&old.volumes, &self.disks.volumes) {
            return Ok(done);
        }
        let geometry = self.store.contents.superblock.geometry;
        let mut index = self.store.contents.index.clone();
        let mut free = Free::of(&index, &geometry);
        let volumes = self.disks.volumes.clone();
        let Some((map, _)) = map::follow(&old, volumes.clone(), &geometry, &mut free) else {
            let sizes = create::sizes(geometry.store, &volumes, old.disk);
            let missing = sizes.map_or(Bytes::ZERO, |sizes| sizes.missing);
            return Err(Error::new(
                Kind::NoRoom,
                "following the new partitions onto",
                format!("{missing} are missing"),
            )
            .on(self.disks.dpsr.name())
            .next("leave a partition out, or use a larger DPSR disk"));
        };
        index.maps = vec![map];
        let state = match self.store.contents.superblock.state {
            State::NoValid { to, .. } => State::NoValid { done: 0, to },
            _ => State::Filling { done: 0 },
        };
        self.store.change(state, index)?;
        Ok(0)
    }

    fn fill(&mut self, done: u64, generation: Generation) -> Result<Filled> {
        let contents = &self.store.contents;
        let map = contents.newest_map().clone();
        let (image, table) = (contents.image(&map), contents.table());
        self.store.prove()?;
        table::clear(self.disks.dpsr.as_ref(), &table, done.div_ceil(PER_CHUNK))?;
        self.store.flush()?;
        let mut disks = EngineDisks::default();
        let primary = disks.add_read(self.disks.primary.clone());
        let target = disks.add_write(self.disks.dpsr.clone());
        let mut engine = Engine::new(disks, Shape::default())?;
        let source =
            Source::new(&map, &crate::changes::source::Moving::All, primary, target.as_read(), image.clone());
        self.progress.begin("copying", image.size());
        let (primary, disk) = (self.disks.primary.as_ref(), self.disks.dpsr.as_ref());
        let (key, progress) = (&self.key, self.progress);
        let chunks = map.chunks();
        let filling = Filling { source: &source, primary, image, table, chunks, target, disk, key, progress };
        let no_valid = matches!(self.store.contents.superblock.state, State::NoValid { .. });
        let store = &mut self.store;
        filling.run(&mut engine, done, |done| {
            let to = generation;
            store.mark(if no_valid { State::NoValid { done, to } } else { State::Filling { done } })
        })
    }

    fn commit_first(&mut self, generation: Generation, filled: &Filled, moment: Moment) -> Result<()> {
        let contents = &self.store.contents;
        let map = contents.newest_map();
        let mut reader = TableReader::new(contents.table(), map.chunks())?;
        let places = contents.image(map);
        let root = table::sum(self.store.reader(), &mut reader, places.placed(map.chunks()), &self.key)?;
        let made = Made {
            mode: Mode::Full.code(),
            read: filled.read,
            changed: places.size(),
            image: filled.written,
            undo: Bytes::ZERO,
        };
        let record = Record {
            generation,
            time: self.request.time,
            map: map.id,
            pinned: false,
            moment,
            volume_times: vec![self.request.time; map.volumes.len()],
            root: root.to_bytes(),
            made,
            undo: None,
        };
        let mut index = Index { generations: vec![record], ..contents.index.clone() };
        swap::record(&mut index, &self.disks.swaps);
        self.store.change(State::Clean(generation), index)
    }

    fn planned(&self, generation: Generation) -> Report {
        let contents = &self.store.contents;
        let map = contents.newest_map();
        let image = contents.image(map);
        let within = |wanted: Range<u64>| {
            let clip = |place: Range<u64>| {
                place.end.min(wanted.end).saturating_sub(place.start.max(wanted.start)) * CHUNK
            };
            Bytes(image.placed(map.chunks()).map(clip).sum())
        };
        let changed = within(0..map.chunks());
        let changed_in =
            |volume: &Volume| within(Chunk::covering(&(volume.start..volume.start + volume.size)));
        Report {
            generation,
            mode: Mode::Full.word(),
            dry_run: true,
            bytes_read: Bytes::ZERO,
            bytes_changed: changed,
            bytes_written_image: Bytes::ZERO,
            bytes_written_undo: Bytes::ZERO,
            seconds: 0.0,
            pause_ms: None,
            moment: Moment::default(),
            rolled_back: None,
            dropped: vec![],
            pruned: vec![],
            not_pruned: None,
            silent: false,
            rotten_chunks: 0,
            stale_digests: false,
            volumes: self.volume_reports(&self.disks.volumes, changed_in, None),
        }
    }
}
