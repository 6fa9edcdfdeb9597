// SPDX-License-Identifier: MIT OR Apache-2.0
//! From generation G to G+1: the whole change set, then room, then every pre-image, then the flip, and only
//! then the image.

use std::ops::Range;
use std::time::Instant;

use uuid::Uuid;

use super::report::VolumeReport;
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
use crate::format::superblock::State;
use crate::format::undo::Layout;
use crate::store::free::Free;
use crate::store::map;
use crate::store::placement::Placement;
use crate::store::room::{self, Need};
use crate::store::space::Space;
use crate::store::table::{self, TableReader};
use crate::store::undo::{UndoReader, UndoWriter};
use crate::units::{Bytes, CHUNK, Chunk, Generation};

/// How the next generation's image will lie in the store.
struct Plan {
    map: Map,
    fresh: Vec<Run>,
    fresh_chunks: Vec<Range<u64>>,
    space: Space,
}

/// The change set saved: everything the last generation needs is durable in its undo store.
struct Saved {
    undo: Option<Undo>,
    root: DigestRoot,
    image_bytes: Bytes,
    rotten: u64,
}

impl Session<'_> {
    /// Makes the generation after `from`.
    pub(super) fn next(&mut self, from: Generation) -> Result<Report> {
        let started = Instant::now();
        let plan = self.plan(from)?;
        let mut disks = EngineDisks::default();
        let primary = disks.add_read(self.disks.primary.clone());
        let target = disks.add_write(self.disks.dpsr.clone());
        let mut engine = Engine::new(disks, Shape::default())?;
        let image = plan.space.image.clone();
        let source = Source::new(&plan.map, &self.request.moving, primary, target.as_read(), image);
        let found = self.find(&mut engine, &plan, &source, target)?;
        if self.request.dry_run {
            return Ok(self.report(from, &plan, &found, None, &[], started));
        }
        let dropped = self.make_room(&plan, &found.set)?;
        let saved = self.save(&mut engine, from, &plan, &source, &found.set, target)?;
        let report = self.report(from, &plan, &found, Some(&saved), &dropped, started);
        let index = self.next_index(from, &plan, &saved, &report);
        match &saved.undo {
            None => self.store.change(State::Clean(from.next()), index)?,
            Some(undo) => {
                self.begin(from, undo, index)?;
                self.overwrite(&mut engine, from, &plan, &source, target, undo)?;
                self.store.flush()?;
                self.store.mark(State::Clean(from.next()))?;
            }
        }
        Ok(Report { seconds: started.elapsed().as_secs_f64(), ..report })
    }

    /// Follows the primary's volumes; new extents of the image are zeroed here, before anything needs them.
    fn plan(&mut self, from: Generation) -> Result<Plan> {
        let old = self.store.contents.map_of(self.store.contents.record(from)?).clone();
        if Volume::same_layout(&old.volumes, &self.disks.volumes) {
            return Ok(self.planned_as(old, vec![]));
        }
        if self.request.moving != Moving::All {
            return Err(Error::new(
                Kind::Refused,
                "moving single volumes of",
                "it has been repartitioned since",
            )
            .on(self.disks.primary.name())
            .left(format!("generation {from} is intact"))
            .next("sync once without --volume"));
        }
        let geometry = self.store.contents.superblock.geometry;
        let volumes = self.disks.volumes.clone();
        let mut trial = Free::of(&self.store.contents.index, &geometry);
        if !self.request.dry_run && map::follow(&old, volumes.clone(), &geometry, &mut trial).is_none() {
            let fresh = map::fresh_count(&old, &volumes, &geometry);
            room::make(&mut self.store, Need { entries: 0, fresh }, None)?;
        }
        let mut free = Free::of(&self.store.contents.index, &geometry);
        let (map, fresh) = map::follow(&old, volumes, &geometry, &mut free).ok_or_else(|| {
            Error::new(Kind::NoRoom, "following the new partitions onto", "there is no room for all of them")
                .on(self.disks.dpsr.name())
                .next("leave a partition out, or use a larger DPSR disk")
        })?;
        if !self.request.dry_run {
            self.zero(&fresh)?;
        }
        Ok(self.planned_as(map, fresh))
    }

    fn planned_as(&self, map: Map, fresh: Vec<Run>) -> Plan {
        let contents = &self.store.contents;
        let place = |runs: &[Run]| Placement::new(runs, contents.superblock.geometry, contents.base);
        let space = Space { image: place(&map.runs), table: contents.table() };
        let fresh_chunks = place(&fresh).placed(map.chunks()).collect();
        Plan { map, fresh, fresh_chunks, space }
    }

    fn zero(&self, fresh: &[Run]) -> Result<()> {
        self.store.prove()?;
        let geometry = self.store.contents.superblock.geometry;
        for run in fresh {
            let start = self.store.contents.base + geometry.bytes_of(run.extent).start;
            let end = Bytes(start.0 + u64::from(run.count) * geometry.extent.0);
            let disk = &self.disks.dpsr;
            disk.zero(start..end)
                .map_err(|error| Error::device("zeroing new extents of", disk.name(), &error))?;
        }
        self.store.flush()
    }

    fn find(&self, engine: &mut Engine, plan: &Plan, source: &Source, target: WriteId) -> Result<Found> {
        let search = Search {
            source,
            primary: self.disks.primary.as_ref(),
            dpsr: self.store.reader(),
            image_disk: target.as_read(),
            space: plan.space.clone(),
            chunks: plan.map.chunks(),
            fresh: plan.fresh_chunks.clone(),
            key: &self.key,
            progress: self.progress,
        };
        search.run(engine, self.request.mode)
    }

    fn make_room(&mut self, plan: &Plan, set: &ChangeSet) -> Result<Vec<Generation>> {
        let entries = set.count() + table_chunks(set).len() as u64;
        let fresh = crate::format::index::extents(&plan.fresh);
        room::make(&mut self.store, Need { entries, fresh }, self.disks.history)
    }

    /// Saves every pre-image and makes it durable.
    fn save(
        &mut self,
        engine: &mut Engine,
        from: Generation,
        plan: &Plan,
        source: &Source,
        set: &ChangeSet,
        target: WriteId,
    ) -> Result<Saved> {
        let root = self.base_root(from, plan)?;
        if set.count() == 0 {
            return Ok(Saved { undo: None, root, image_bytes: Bytes::ZERO, rotten: 0 });
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
            narrow: if self.request.mode == Mode::Full { Narrow::Nothing } else { Narrow::Pages },
            root,
            image_bytes: Bytes::ZERO,
            rotten: 0,
            progress: self.progress,
        };
        self.store.prove()?;
        engine.run(&mut work)?;
        work.undo.finish(disk)?;
        let (root, image_bytes, rotten) = (work.root, work.image_bytes, work.rotten);
        self.store.flush()?;
        Ok(Saved { undo: Some(undo), root, image_bytes, rotten })
    }

    /// The sum of the digests that the next generation starts from: the last one's, unless the map changed
    /// or a scrub left damage: a digest page rebuilt from the image may not add up to what was recorded.
    fn base_root(&self, from: Generation, plan: &Plan) -> Result<DigestRoot> {
        let contents = &self.store.contents;
        let record = contents.record(from)?;
        let trusted = contents.index.scrub.damaged == 0 && self.request.mode != Mode::Compare;
        if record.map == plan.map.id && trusted {
            return Ok(DigestRoot::from_bytes(record.root));
        }
        let mut table = TableReader::new(contents.table(), plan.map.chunks())?;
        let kept = plan.space.image.placed(plan.map.chunks()).flat_map(|place| {
            place.filter(|chunk| !plan.fresh_chunks.iter().any(|fresh| fresh.contains(chunk)))
        });
        table::sum(self.store.reader(), &mut table, kept.map(|chunk| chunk..chunk + 1), &self.key)
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

    fn next_index(&self, from: Generation, plan: &Plan, saved: &Saved, report: &Report) -> Index {
        let mut index = self.store.contents.index.clone();
        if index.map(plan.map.id).is_none() {
            index.maps.push(plan.map.clone());
        }
        let last = index.generations.last_mut().expect("a clean store has a generation");
        last.undo = saved.undo.clone();
        let made = Made {
            mode: self.request.mode.code(),
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
            volume_times: self.times(&plan.map.volumes, Some(from)),
            root: saved.root.to_bytes(),
            made,
            undo: None,
        });
        index
    }

    fn report(
        &self,
        from: Generation,
        plan: &Plan,
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
            mode: self.request.mode.word(),
            dry_run: self.request.dry_run,
            bytes_read: found.read,
            bytes_changed: Bytes(found.set.count() * CHUNK),
            bytes_written_image: saved.map_or(Bytes::ZERO, |saved| saved.image_bytes),
            bytes_written_undo: undo.map_or(Bytes::ZERO, |undo| Layout { entries: undo.entries }.size()),
            seconds: started.elapsed().as_secs_f64(),
            rolled_back: None,
            dropped: dropped.to_vec(),
            rotten_chunks: saved.map_or(0, |saved| saved.rotten),
            volumes: self.volume_reports(&plan.map.volumes, changed, Some(from)),
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
