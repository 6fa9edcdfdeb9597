// SPDX-License-Identifier: MIT OR Apache-2.0
//! From generation G to G+1: the whole change set, then room, then every pre-image, then the flip, and only
//! then the image.

use std::ops::Range;
use std::time::Instant;

use uuid::Uuid;

use super::base::Base;
use super::report::VolumeReport;
use super::zero::zero;
use super::{Report, Session};
use crate::changes::find::{Found, Search};
use crate::changes::source::Moving;
use crate::changes::{ChangeSet, Mode, Source};
use crate::copy::overwrite::{Exceptions, Overwrite, Table};
use crate::copy::save::{Narrow, SaveUndo, table_chunks};
use crate::engine::digest::DigestRoot;
use crate::engine::{Disks as EngineDisks, Engine, Shape, WriteId};
use crate::error::{Error, Kind, Result};
use crate::format::index::{Index, Made, Map, Record, Run, Undo, Volume};
use crate::format::moment::Moment;
use crate::format::superblock::State;
use crate::format::undo::Layout;
use crate::history;
use crate::store::free::Free;
use crate::store::map::{self, Outline};
use crate::store::placement::Placement;
use crate::store::room::{self, Need};
use crate::store::space::Space;
use crate::store::table::TableReader;
use crate::store::undo::{UndoReader, UndoWriter};
use crate::swap;
use crate::sys::signal;
use crate::units::{Bytes, CHUNK, Chunk, Generation};

/// What the next generation's image takes. Its fresh extents have no place before there is room for all.
pub(super) struct Draft {
    base: Base,
    /// The next map, so far with the extents it keeps.
    pub(super) map: Map,
    /// Whether the partitions changed.
    moved: bool,
    /// How many extents are fresh.
    fresh: u64,
    fresh_chunks: Vec<Range<u64>>,
    /// The chunks that have a place or will get one.
    places: Vec<Range<u64>>,
    pub(super) space: Space,
}

/// How the next generation's image will lie in the store.
struct Plan {
    base: Base,
    map: Map,
    fresh: Vec<Run>,
    fresh_chunks: Vec<Range<u64>>,
    space: Space,
}

/// The change set saved: everything the last generation needs is in its undo store.
struct Saved {
    undo: Option<Undo>,
    root: DigestRoot,
    read: Bytes,
    image_bytes: Bytes,
    rotten: u64,
}

impl Session<'_> {
    /// Makes the generation after `from`.
    pub(super) fn next(&mut self, from: Generation) -> Result<Report> {
        let started = Instant::now();
        let draft = self.draft(from)?;
        let mut disks = EngineDisks::default();
        let primary = disks.add_read(self.disks.primary.clone());
        let target = disks.add_write(self.disks.dpsr.clone());
        let mut engine = Engine::new(disks, Shape::default())?;
        let image = draft.space.image.clone();
        let source = Source::new(&draft.map, &self.request.moving, primary, target.as_read(), image);
        let found = self.find(&mut engine, &draft, &source, target).map_err(|error| {
            let repair =
                "'dpsr scrub --repair' while nothing uses the primary, or 'dpsr sync --full --no-undo'";
            if draft.base.stale { error.next(repair) } else { error }
        })?;
        self.check_kept(&draft, &source, &found.set)?;
        let room = self.room(&draft, &found.set)?;
        if self.request.dry_run {
            return Ok(self.report(from, &draft, &found, None, &room.dropped, started));
        }
        let dropped = room.make(&mut self.store, self.progress)?;
        let plan = self.place(from, &draft)?;
        let saved = self.save(&mut engine, &plan, &source, &found.set, target)?;
        let report = self.report(from, &draft, &found, Some(&saved), &dropped, started);
        let moment = self.request.moment.moment()?;
        let index = self.next_index(from, &plan, &saved, &report, moment);
        match &saved.undo {
            None => self.store.change(State::Clean(from.next()), index)?,
            Some(undo) => {
                self.begin(from, undo, index)?;
                self.overwrite(&mut engine, from, &plan, &source, target, undo)?;
                self.progress.begin("flushing what was written", report.bytes_written_image);
                self.store.flush()?;
                self.request.moment.moment()?;
                self.store.mark(State::Clean(from.next()))?;
            }
        }
        Ok(Report { moment, seconds: started.elapsed().as_secs_f64(), ..report })
    }

    /// Follows the primary's volumes, without taking anything for them.
    fn draft(&self, from: Generation) -> Result<Draft> {
        let contents = &self.store.contents;
        let geometry = contents.superblock.geometry;
        let old = contents.map_of(contents.record(from)?);
        let moved = !Volume::same_layout(&old.volumes, &self.disks.volumes);
        if moved && self.request.moving != Moving::All {
            return Err(Error::new(
                Kind::Refused,
                "moving single volumes of",
                "it has been repartitioned since",
            )
            .on(self.disks.primary.name())
            .left(format!("generation {from} is intact"))
            .next("sync once without --volume"));
        }
        let volumes = if moved { &self.disks.volumes } else { &old.volumes };
        let outline = if moved {
            map::outline(old, volumes, &geometry)
        } else {
            Outline { kept: old.runs.clone(), fresh: vec![] }
        };
        let per = geometry.chunks_per_extent();
        let (id, chunks) = (old.id + u32::from(moved), old.chunks());
        let in_chunks = |n: u32| (u64::from(n) * per).min(chunks);
        let fresh = outline.fresh.iter().map(|range| in_chunks(range.start)..in_chunks(range.end));
        let fresh_chunks: Vec<Range<u64>> = fresh.collect();
        let space = self.space(&outline.kept);
        let base = self.base(from, old, &outline.kept)?;
        let mut places: Vec<Range<u64>> = space.image.placed(chunks).chain(fresh_chunks.clone()).collect();
        places.sort_by_key(|place| place.start);
        let fresh = outline.fresh_count();
        let map = Map { id, volumes: volumes.clone(), runs: outline.kept, ..old.clone() };
        Ok(Draft { base, map, moved, fresh, fresh_chunks, places, space })
    }

    /// Gives every extent of the image its place, now that there is room; fresh ones are zeroed here, before
    /// anything needs them.
    fn place(&self, from: Generation, draft: &Draft) -> Result<Plan> {
        let contents = &self.store.contents;
        let geometry = contents.superblock.geometry;
        let old = contents.map_of(contents.record(from)?).clone();
        let base = draft.base;
        if !draft.moved {
            let (fresh, fresh_chunks) = (vec![], vec![]);
            return Ok(Plan { base, space: self.space(&old.runs), map: old, fresh, fresh_chunks });
        }
        let mut free = Free::of(&contents.index, &geometry);
        let (map, fresh) = map::follow(&old, draft.map.volumes.clone(), &geometry, &mut free)
            .expect("room was made just now");
        self.zero(&fresh)?;
        let fresh_chunks = draft.fresh_chunks.clone();
        Ok(Plan { base, space: self.space(&map.runs), map, fresh, fresh_chunks })
    }

    pub(super) fn space(&self, image: &[Run]) -> Space {
        let contents = &self.store.contents;
        let image = Placement::new(image, contents.superblock.geometry, contents.base);
        Space { image, table: contents.table() }
    }

    fn zero(&self, fresh: &[Run]) -> Result<()> {
        self.store.prove()?;
        let (base, geometry) = (self.store.contents.base, self.store.contents.superblock.geometry);
        let range = |run: &Run| {
            let start = base + geometry.bytes_of(run.extent).start;
            start..start + Bytes(u64::from(run.count) * geometry.extent.0)
        };
        let fresh: Vec<_> = fresh.iter().map(range).collect();
        zero(self.disks.dpsr.as_ref(), &fresh, self.progress, signal::interrupted)?;
        self.store.flush()
    }

    fn find(&self, engine: &mut Engine, draft: &Draft, source: &Source, target: WriteId) -> Result<Found> {
        let search = Search {
            source,
            primary: self.disks.primary.as_ref(),
            dpsr: self.store.reader(),
            image_disk: target.as_read(),
            places: draft.places.clone(),
            space: draft.space.clone(),
            chunks: draft.map.chunks(),
            fresh: draft.fresh_chunks.clone(),
            damaged: draft.base.stale || self.store.contents.index.scrub.damaged > 0,
            key: &self.key,
            progress: self.progress,
        };
        search.run(engine, draft.base.mode)
    }

    /// Finds room for the undo store and the fresh extents together: what fits alone may not fit with the
    /// other, and by then generations would have been dropped for nothing.
    fn room(&self, draft: &Draft, set: &ChangeSet) -> Result<history::room::Plan> {
        let entries = set.count() + table_chunks(set).len() as u64;
        history::room::plan(&self.store, Need { entries, fresh: draft.fresh }, self.disks.history)
    }

    /// Saves every pre-image. They are durable once the index is that names them: one flush before the flip is for both.
    fn save(
        &mut self,
        engine: &mut Engine,
        plan: &Plan,
        source: &Source,
        set: &ChangeSet,
        target: WriteId,
    ) -> Result<Saved> {
        let root = plan.base.root;
        if set.count() == 0 {
            let (read, image_bytes) = (Bytes::ZERO, Bytes::ZERO);
            return Ok(Saved { undo: None, root, read, image_bytes, rotten: 0 });
        }
        let contents = &self.store.contents;
        let geometry = contents.superblock.geometry;
        let tail = table_chunks(set);
        let (image_entries, entries) = (set.count(), set.count() + tail.len() as u64);
        let mut free = Free::without(&contents.index, &geometry, &plan.fresh);
        let runs = room::take_undo(&mut free, &geometry, entries).expect("room was made just now");
        let undo = Undo { nonce: Uuid::new_v4().as_u64_pair().0, entries, image_entries, runs };
        let disk = self.disks.dpsr.as_ref();
        self.progress.begin("saving what will change", Bytes(entries * CHUNK));
        let all: Box<dyn Iterator<Item = Chunk> + '_> = Box::new(set.iter().chain(tail));
        let mut work = SaveUndo {
            source,
            set,
            entries: all.peekable(),
            planned: 0,
            space: plan.space.clone(),
            target,
            disk,
            undo: UndoWriter::new(contents.undo(&undo), entries, undo.nonce)?,
            key: &self.key,
            table: TableReader::new(contents.table(), plan.map.chunks())?,
            fresh: plan.fresh_chunks.clone(),
            narrow: if plan.base.mode == Mode::Full { Narrow::Nothing } else { Narrow::Pages },
            root,
            read: Bytes::ZERO,
            image_bytes: Bytes::ZERO,
            rotten: 0,
            unsound: None,
            progress: self.progress,
        };
        self.store.prove()?;
        engine.run(&mut work)?;
        if let Some(chunk) = work.unsound {
            return Err(self.unsound(&plan.map, chunk));
        }
        work.undo.finish(disk)?;
        let (root, read, image_bytes, rotten) = (work.root, work.read, work.image_bytes, work.rotten);
        Ok(Saved { undo: Some(undo), root, read, image_bytes, rotten })
    }

    /// The commit of the undo store: from here on an interruption is rolled back.
    fn begin(&mut self, from: Generation, undo: &Undo, index: Index) -> Result<()> {
        let before = self.store.contents.superblock.index;
        self.store.change(State::Updating { from, to: from.next(), nonce: undo.nonce, before }, index)
    }

    fn overwrite(
        &self,
        engine: &mut Engine,
        from: Generation,
        plan: &Plan,
        source: &Source,
        target: WriteId,
        undo: &Undo,
    ) -> Result<()> {
        let disk = self.disks.dpsr.as_ref();
        let reader = UndoReader::new(self.store.contents.undo(undo), undo, from);
        self.progress.begin("writing what changed", Bytes(undo.image_entries * CHUNK));
        let mut work = Overwrite {
            source,
            primary: self.disks.primary.name(),
            space: plan.space.clone(),
            target,
            disk,
            exceptions: Exceptions::new(&reader, disk, undo.image_entries),
            key: &self.key,
            table: Table::new()?,
            progress: self.progress,
        };
        engine.run(&mut work)?;
        work.finish()
    }

    fn next_index(
        &self,
        from: Generation,
        plan: &Plan,
        saved: &Saved,
        report: &Report,
        moment: Moment,
    ) -> Index {
        let mut index = self.store.contents.index.clone();
        if index.map(plan.map.id).is_none() {
            index.maps.push(plan.map.clone());
        }
        let last = index.generations.last_mut().expect("a clean store has a generation");
        last.undo = saved.undo.clone();
        let made = Made {
            mode: plan.base.mode.code(),
            read: report.bytes_read,
            changed: report.bytes_changed,
            image: report.bytes_written_image,
            undo: report.bytes_written_undo,
        };
        index.generations.push(Record {
            generation: from.next(),
            time: self.request.time,
            map: plan.map.id,
            pinned: false,
            moment,
            volume_times: self.times(&plan.map.volumes, Some(from)),
            root: saved.root.to_bytes(),
            made,
            undo: None,
        });
        swap::record(&mut index, &self.disks.swaps);
        index
    }

    fn report(
        &self,
        from: Generation,
        draft: &Draft,
        found: &Found,
        saved: Option<&Saved>,
        dropped: &[Generation],
        started: Instant,
    ) -> Report {
        let undo = saved.and_then(|saved| saved.undo.as_ref());
        let changed = |volume: &Volume| {
            let chunks = Chunk::covering(&(volume.start..volume.start + volume.size));
            Bytes(found.set.within(chunks).count() as u64 * CHUNK)
        };
        Report {
            generation: from.next(),
            mode: draft.base.mode.word(),
            dry_run: self.request.dry_run,
            // Where nothing was looked for, saving is what reads.
            bytes_read: match saved {
                Some(saved) if draft.base.mode == Mode::Full => saved.read,
                _ => found.read,
            },
            bytes_changed: Bytes(found.set.count() * CHUNK),
            bytes_written_image: saved.map_or(Bytes::ZERO, |saved| saved.image_bytes),
            bytes_written_undo: undo.map_or(Bytes::ZERO, |undo| Layout { entries: undo.entries }.size()),
            seconds: started.elapsed().as_secs_f64(),
            pause_ms: None,
            moment: Moment::default(),
            rolled_back: None,
            dropped: dropped.to_vec(),
            pruned: vec![],
            not_pruned: None,
            silent: false,
            rotten_chunks: saved.map_or(0, |saved| saved.rotten),
            stale_digests: draft.base.stale,
            volumes: self.volume_reports(&draft.map.volumes, changed, Some(from)),
        }
    }

    pub(super) fn volume_reports(
        &self,
        volumes: &[Volume],
        changed: impl Fn(&Volume) -> Bytes,
        from: Option<Generation>,
    ) -> Vec<VolumeReport> {
        let times = self.times(volumes, from);
        let report = |(volume, time): (&Volume, u64)| VolumeReport {
            id: volume.id.clone(),
            name: volume.name.clone(),
            label: volume.label.clone(),
            left_out: volume.left_out,
            time,
            bytes_changed: if volume.left_out { Bytes::ZERO } else { changed(volume) },
        };
        volumes.iter().zip(times).map(report).collect()
    }
}
