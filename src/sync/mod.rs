// SPDX-License-Identifier: MIT OR Apache-2.0
//! THE PATH: from a pair of disks to a new generation.
//!
//! [`sync`] names every step once, in order; each step's result is the next one's argument. Before the flip
//! to `Updating` nothing the last generation needs is touched; after it, whatever goes wrong is rolled back.

mod ahead;
mod base;
mod first;
mod next;
mod pre_images;
pub mod report;
mod zero;

use std::ops::Range;
use std::sync::Arc;

use crate::changes::Mode;
use crate::changes::source::Moving;
use crate::disk::{ReadDisk, WriteDisk};
use crate::engine::digest::DigestKey;
use crate::error::{Error, Kind, Result};
use crate::failback::put_back;
use crate::format::index::Volume;
use crate::format::moment::Moment;
use crate::format::superblock::{Owner, State};
use crate::history;
use crate::keep::Rules;
use crate::progress::Progress;
use crate::store::{Store, recover};
use crate::swap::Swap;
use crate::units::{Bytes, Generation};
pub use ahead::{Ready, ahead};
pub use report::Report;

/// What is left where there is no generation yet.
pub(crate) const INCOMPLETE: &str =
    "the copy is not complete yet; the next sync goes on where this one stopped";

/// The moment that is copied: what the primary, or a snapshot of it, stands at.
pub trait Held: Send + Sync {
    /// Whether what was read up to now is the one moment, and how good a one; asked before each commit. An
    /// error where the moment was lost while it was read.
    fn moment(&self) -> Result<Moment>;
}

/// That of a primary nobody uses cannot be lost.
impl Held for Moment {
    fn moment(&self) -> Result<Moment> {
        Ok(*self)
    }
}

/// The two disks, proven to belong together, and who works on them.
#[derive(Clone)]
pub struct Disks {
    /// The primary, or a snapshot of it: nothing may write to it meanwhile.
    pub primary: Arc<dyn ReadDisk>,
    /// The primary's logical block size.
    pub block: Bytes,
    /// The primary's volumes as they are now.
    pub volumes: Vec<Volume>,
    /// Those of them that are swap space, and left out.
    pub swaps: Vec<Swap>,
    /// The DPSR disk.
    pub dpsr: Arc<dyn WriteDisk>,
    /// The store partition on it.
    pub partition: Range<Bytes>,
    /// Who is at work.
    pub owner: Owner,
    /// Bytes that history may take; all there is, if not given.
    pub history: Option<Bytes>,
    /// Which generations stay once the new one is there; all, if no rule is given.
    pub keep: Rules,
    /// How much of the DPSR disk is kept for the primary's pre-images while its snapshot is read.
    pub pre_images: Bytes,
}

/// What is asked for.
#[derive(Clone)]
pub struct Request {
    /// How changes are found.
    pub mode: Mode,
    /// Whether history may be given up: copies without undo.
    pub no_undo: bool,
    /// Which volumes move.
    pub moving: Moving,
    /// Whether to stop before anything is written.
    pub dry_run: bool,
    /// Seconds since 1970, UTC: the generation's time.
    pub time: u64,
    /// The moment the primary, or the snapshot of it, stands at.
    pub moment: Arc<dyn Held>,
}

/// Makes a new generation of the primary.
pub fn sync(disks: &Disks, request: &Request, progress: &dyn Progress) -> Result<Report> {
    let mut store = open(disks, request)?;
    let rolled_back = if request.no_undo { None } else { recover::recover(&mut store)? };
    let key = DigestKey::new(store.contents.index.secret);
    let mut session = Session { disks, request, store, key, progress };
    let outcome = match session.store.contents.superblock.state {
        State::Clean(from) if !request.no_undo => session.next(from),
        State::Filling { done } => session.first(done),
        State::NoValid { done, .. } => session.first(done),
        State::Clean(from) | State::Updating { from, .. } => session.afresh(from),
        State::Live(_) | State::LiveNoHistory(_) | State::Returning(_) | State::Aside(_) => {
            unreachable!("refused when the store was opened")
        }
    };
    match outcome {
        Ok(report) => Ok(session.prune(Report { rolled_back, ..report })),
        Err(error) => Err(session.undo(error)),
    }
}

/// One sync on its way.
struct Session<'a> {
    disks: &'a Disks,
    request: &'a Request,
    store: Store,
    key: DigestKey,
    progress: &'a dyn Progress,
}

fn open(disks: &Disks, request: &Request) -> Result<Store> {
    let (disk, partition, owner) = (disks.dpsr.clone(), disks.partition.clone(), disks.owner.clone());
    let mut store = if request.dry_run {
        Store::look(disk, partition, owner)?
    } else {
        Store::open(disk, partition, owner)?
    };
    match store.contents.superblock.state {
        // What was kept may never be read again; the primary, which was proven, holds what is newer.
        State::Returning(from) if request.no_undo && !request.dry_run => {
            let left = "the store is as it was, or has no generation any more";
            put_back::give_up(&mut store, from)
                .map_err(|error| error.replace_left(left).next("sync so again"))?;
        }
        _ => store.contents.refuse_in_use("syncing to").map_err(|error| error.on(disks.dpsr.name()))?,
    }
    if !request.dry_run {
        return Ok(store);
    }
    if matches!(store.contents.superblock.state, State::Updating { .. }) {
        let why = "an interrupted sync must be rolled back before changes can be counted";
        return Err(Error::new(Kind::Refused, "planning a sync to", why)
            .on(disks.dpsr.name())
            .left("nothing was written")
            .next("sync without --dry-run"));
    }
    Ok(store)
}

impl Session<'_> {
    /// After an error: opens the store anew, because only the disk knows how far it came, and rolls back.
    /// The first error is the one told.
    fn undo(&self, error: Error) -> Error {
        if self.request.dry_run {
            return error.replace_left("nothing was written");
        }
        if error.is_unanswered() {
            return self.leave(error);
        }
        let outcome = self.store.reopen().and_then(|mut store| {
            recover::recover(&mut store)?;
            Ok(store.contents.superblock.state)
        });
        match outcome {
            Ok(State::Clean(generation)) if error.kind() == Kind::Damaged => {
                error.replace_left(format!("the copy is still generation {generation}, with that damage"))
            }
            // What lies where the disk failed is not known.
            Ok(State::Clean(generation)) if error.is_of_device(self.disks.dpsr.name()) => {
                error.replace_left(format!("the copy is still generation {generation}"))
            }
            Ok(State::Clean(generation)) => {
                error.replace_left(format!("the copy is generation {generation}, intact"))
            }
            Ok(_) => error.replace_left(INCOMPLETE),
            Err(second) if second.kind() == Kind::Damaged => error.replace_left(format!(
                "the copy is damaged and it cannot be rolled back ({}): 'dpsr export N' still reads what is \
                 sound; 'dpsr sync --full --no-undo' starts afresh",
                second.cause()
            )),
            Err(second) => error.replace_left(format!(
                "the copy could not be rolled back now ({}); the next sync does so before anything else",
                second.cause()
            )),
        }
    }

    /// After a disk left what it was asked unanswered: whoever reads or writes it now would wait as well, and nobody would
    /// be told. What it was given last it may still take.
    fn leave(&self, error: Error) -> Error {
        let left = match self.store.contents.superblock.state {
            State::Clean(generation) if self.request.no_undo => {
                format!("the copy is generation {generation}, or none any more, as its history is given up")
            }
            State::Clean(generation) => format!("the copy is still generation {generation}"),
            State::Updating { from, .. } if !self.request.no_undo => format!(
                "this sync was not rolled back: the next one goes back to generation {from} before anything else"
            ),
            _ => INCOMPLETE.to_owned(),
        };
        error
            .replace_left(format!("{left}, unless the disk completed this sync by itself"))
            .or_next("then sync again")
    }

    /// Drops what the rules of the pair do not keep. The new generation is there already, whatever comes of
    /// this.
    fn prune(&mut self, report: Report) -> Report {
        if self.request.dry_run || self.disks.keep.is_empty() {
            return report;
        }
        match history::prune(&mut self.store, &self.disks.keep, self.progress) {
            Ok(pruned) => Report { pruned: pruned.dropped, ..report },
            Err(error) => {
                Report { not_pruned: Some(error.to_string()), silent: error.is_unanswered(), ..report }
            }
        }
    }

    /// The volumes' times when those that move stand at this sync's time.
    fn times(&self, volumes: &[Volume], from: Option<Generation>) -> Vec<u64> {
        let contents = &self.store.contents;
        let before = from.and_then(|from| contents.index.record(from));
        let old = |volume: &Volume| {
            let record = before?;
            let place = contents.map_of(record).volumes.iter().position(|other| other.id == volume.id)?;
            record.volume_times.get(place).copied()
        };
        let time = |volume: &Volume| {
            if self.request.moving.includes(volume) { None } else { old(volume) }.unwrap_or(self.request.time)
        };
        volumes.iter().map(time).collect()
    }
}

#[cfg(test)]
mod tests;
