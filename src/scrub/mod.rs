// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading everything the store holds against what was recorded of it, and repairing what can be repaired.
//!
//! * **check**: reads only, and leaves nothing behind.
//! * **scrub**: checks a store that may be written, repairs it if asked to, and records the outcome.
//! * **found**: one damaged chunk, page or block; **damage**: neighbours of one kind, as they are told.

mod found;
mod frame;
mod history;
mod image;
mod repair;
pub mod report;
mod sweep;
mod tables;
mod walk;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::disk::whole::read_exact_at;
use crate::disk::{ReadDisk, WriteDisk};
use crate::engine::digest::DigestKey;
use crate::engine::{Disks, Engine, Shape};
use crate::error::{Error, Kind, Result};
use crate::format::index::{Index, Scrub};
use crate::format::superblock::{Owner, State};
use crate::progress::{Progress, Silent};
use crate::store::contents::{self, Contents};
use crate::store::{Store, recover};
use crate::units::{Bytes, Generation};
use found::Found;
pub use found::What;
pub use report::{Damage, Report};
use sweep::Reader;
use walk::{Depth, Survey};

/// What is asked for.
#[derive(Clone)]
pub struct Request {
    /// Whether to repair what can be repaired.
    pub repair: bool,
    /// The primary, or a snapshot of it: the source of chunks that rotted.
    pub primary: Option<Arc<dyn ReadDisk>>,
    /// The size of the disk's logical blocks, where it has a partition table.
    pub table: Option<Bytes>,
    /// Seconds since 1970, UTC: recorded as the time of the scrub.
    pub time: u64,
}

/// Checks the store in `partition` of `disk` without writing anything; and its partition table, where it has one and
/// `table` is the size of its logical blocks.
pub fn check(
    disk: &Arc<dyn ReadDisk>,
    partition: &Range<Bytes>,
    table: Option<Bytes>,
    progress: &dyn Progress,
) -> Result<Report> {
    let started = Instant::now();
    let contents = contents::read(disk.as_ref(), partition)?
        .ok_or_else(|| Error::new(Kind::Refused, "scrubbing", "it holds no DPSR store").on(disk.name()))?;
    contents.refuse_live("scrubbing").map_err(|error| error.on(disk.name()))?;
    if matches!(contents.superblock.state, State::Updating { .. }) {
        let why = "an interrupted sync must be rolled back before anything can be checked";
        return Err(Error::new(Kind::Refused, "scrubbing", why)
            .on(disk.name())
            .left("nothing was written")
            .next("scrub it writable, or sync"));
    }
    let found = [frame::tables(disk.as_ref(), table), frame::superblocks(disk.as_ref(), &contents)?].concat();
    let mut run = Run { contents: &contents, found, started };
    let (survey, read) = run.survey(disk, Depth::Data, progress)?;
    run.found.extend(&survey.found);
    Ok(run.report(survey.generations, read, None))
}

/// Checks the store in `partition` of `disk`, after rolling back an interrupted sync; repairs it if asked
/// to; and records the outcome. Interrupted, it leaves nothing behind but finished repairs.
pub fn scrub(
    disk: &Arc<dyn WriteDisk>,
    partition: &Range<Bytes>,
    owner: Owner,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Report> {
    let started = Instant::now();
    let looked = Store::look(disk.clone(), partition.clone(), owner.clone())?;
    let mut superblocks = frame::superblocks(disk.as_ref(), &looked.contents)?;
    // Opening a store makes its superblock copies equal, so that no stale one can win later.
    superblocks.iter_mut().for_each(|one| one.repaired = true);
    let mut store = Store::open(disk.clone(), partition.clone(), owner)?;
    store.contents.refuse_in_use("scrubbing").map_err(|error| error.on(store.disk.name()))?;
    let rolled_back = recover::recover(&mut store)?;
    let disk: Arc<dyn ReadDisk> = disk.clone();
    let contents = store.contents.clone();
    let found = [frame::tables(disk.as_ref(), request.table), superblocks].concat();
    let mut run = Run { contents: &contents, found, started };
    let (mut survey, read) = run.survey(&disk, Depth::Data, progress)?;
    if request.repair && !(survey.found.is_empty() && run.found.iter().all(|one| one.repaired)) {
        run.repair(&store, request, &mut survey, &disk)?;
    }
    run.found.extend(&survey.found);
    let report = run.report(survey.generations, read, rolled_back);
    record(&mut store, request.time, report.left)?;
    Ok(report)
}

/// One scrub on its way.
struct Run<'a> {
    contents: &'a Contents,
    found: Vec<Found>,
    started: Instant,
}

impl Run<'_> {
    /// Reads everything, or as far as `depth` says; and how many bytes that were.
    fn survey(
        &mut self,
        disk: &Arc<dyn ReadDisk>,
        depth: Depth,
        progress: &dyn Progress,
    ) -> Result<(Survey, Bytes)> {
        let contents = self.contents;
        let key = DigestKey::new(contents.index.secret);
        let mut disks = Disks::new();
        let id = disks.add_read(disk.clone());
        let engine = Engine::new(disks, Shape::default())?;
        let alive = contents.superblock.geometry.superblocks().map(|at| contents.base + at);
        let read = Bytes(2 * contents.superblock.index.len);
        let mut reader = Reader { engine, id, disk: disk.as_ref(), alive, progress, read };
        if depth == Depth::Data {
            self.found.extend(frame::index_blocks(disk.as_ref(), contents)?);
        }
        let survey = walk::walk(contents, &key, depth, &mut reader)?;
        refuse_silent(disk.as_ref(), contents)?;
        Ok((survey, reader.read))
    }

    fn repair(
        &mut self,
        store: &Store,
        request: &Request,
        survey: &mut Survey,
        disk: &Arc<dyn ReadDisk>,
    ) -> Result<()> {
        let key = DigestKey::new(self.contents.index.secret);
        self.found.append(&mut survey.found);
        repair::repair(
            store,
            &key,
            (request.primary.as_ref(), request.table),
            &mut self.found,
            &survey.unknown,
        )?;
        if self.found.iter().any(|one| one.what == What::DigestPage && one.repaired) {
            // Sums that could not be told while pages were damaged can be told now.
            let (after, _) = self.survey(disk, Depth::Digests, &Silent)?;
            let known = |one: &&Found| self.found.iter().any(|old| old.same_place(one));
            let news: Vec<Found> = after.found.iter().filter(|one| !known(one)).copied().collect();
            self.found.extend(news);
            let still = |one: &Found| after.found.iter().any(|new| new.same_place(one));
            for one in self.found.iter_mut().filter(|one| one.what == What::DigestPage && still(one)) {
                one.failed();
            }
        }
        Ok(())
    }

    fn report(&self, generations: u64, bytes_read: Bytes, rolled_back: Option<Generation>) -> Report {
        let found = self.found.len() as u64;
        let repaired = self.found.iter().filter(|one| one.repaired).count() as u64;
        Report {
            state: self.contents.superblock.state.word(),
            generation: self.contents.current(),
            complete: self.contents.current().is_some(),
            generations,
            damages: report::damages(self.found.clone(), self.contents),
            found,
            repaired,
            left: found - repaired,
            rolled_back,
            bytes_read,
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }
}

/// What a disk left unanswered reads as damage, and is none.
fn refuse_silent(disk: &dyn ReadDisk, contents: &Contents) -> Result<()> {
    let [first, ..] = contents.superblock.geometry.superblocks();
    match read_exact_at(
        disk,
        contents.base + first,
        &mut crate::store::contents::buffer(crate::format::superblock::SIZE)?,
    ) {
        Err(error) if error.is_unanswered() => Err(error),
        _ => Ok(()),
    }
}

fn record(store: &mut Store, time: u64, damaged: u64) -> Result<()> {
    let state = store.contents.superblock.state;
    if !matches!(state, State::Clean(_)) {
        return Ok(());
    }
    let index = Index { scrub: Scrub { time, damaged }, ..store.contents.index.clone() };
    store.change(state, index)
}
