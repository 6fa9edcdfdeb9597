// SPDX-License-Identifier: MIT OR Apache-2.0
//! Room for the next undo store: the oldest unpinned generations make way, behind pinned ones by merging;
//! never the newest, and never before it is certain that there will be enough. Where the oldest is pinned,
//! room for the next merge is kept free, too, as long as merging can make it. Where the undo store alone is
//! larger than history may be, dropping everything would not keep that limit, and so nothing is dropped.

use super::steps::{Step, after, steps, take};
use crate::error::{Error, Kind, Result};
use crate::format::index::{Index, extents};
use crate::format::superblock::State;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::free::Free;
use crate::store::room::{Need, history};
use crate::units::{Bytes, CHUNK, Generation};

/// Index bytes that must stay free for the generation being made: its record, a map, and its runs.
const INDEX_MARGIN: u64 = 64 * 1024;

/// How room can be made: nothing is written before it is certain that it will do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The generations that go, oldest first.
    pub dropped: Vec<Generation>,
    steps: Vec<Step>,
}

/// What is asked for, in extents and bytes of this store.
struct Search<'a> {
    store: &'a Store,
    need: Need,
    wanted: u64,
    /// Most bytes of the index.
    capacity: u64,
    /// Most extents of history.
    limit: u64,
    /// What may go, oldest first.
    candidates: Vec<Generation>,
}

/// What dropping some of the candidates leads to.
struct Outlook {
    plan: Plan,
    index: Index,
}

/// Finds room for `need`, and keeps history within `limit`, by leaving out as few of the oldest generations
/// as will do.
pub fn plan(store: &Store, need: Need, limit: Option<Bytes>) -> Result<Plan> {
    let geometry = store.contents.superblock.geometry;
    let wanted = need.extents(&geometry);
    let records = &store.contents.index.generations;
    let older = &records[..records.len().saturating_sub(1)];
    let search = Search {
        store,
        need,
        wanted,
        capacity: store.index_capacity().0.saturating_sub(INDEX_MARGIN + 12 * wanted),
        limit: limit.map_or(u64::MAX, |limit| limit.0 / geometry.extent.0),
        candidates: older.iter().filter(|record| !record.pinned).map(|record| record.generation).collect(),
    };
    let undo = Bytes(search.kept() * geometry.extent.0);
    // A limit that holds nothing means that nothing is to be kept.
    if let Some(limit) = limit.filter(|_| search.limit > 0 && search.kept() > search.limit) {
        return Err(search.beyond(undo, limit));
    }
    let unmerged = older.iter().take_while(|record| !record.pinned).count();
    search.run(unmerged)
}

impl Search<'_> {
    fn run(&self, unmerged: usize) -> Result<Plan> {
        let goes_on = |index: &Index| self.will_do(index) && self.can_go_on(index);
        if let Ok(best) = self.search(unmerged, goes_on)? {
            return Ok(best.plan);
        }
        // A limit is kept as far as it goes; it never stands in the way of the newest generation.
        let best = self.search(unmerged, |index| self.will_do(index))?.unwrap_or_else(|most| most);
        if self.fits(&best.index) { Ok(best.plan) } else { Err(self.too_small(&best.index)) }
    }

    /// The outlook on dropping as few candidates as make `enough` true; if none do, that on dropping as many
    /// as can go. The first `unmerged` go without merging, which needs nothing to be read; behind them every
    /// look costs a pass over the undo stores' metadata, so their number is searched by halves.
    fn search(&self, unmerged: usize, enough: impl Fn(&Index) -> bool) -> Result<Result<Outlook, Outlook>> {
        let mut best = Outlook { plan: Plan::default(), index: self.store.contents.index.clone() };
        for count in 1..=unmerged {
            if enough(&best.index) {
                return Ok(Ok(best));
            }
            best = self.outlook(count)?.expect("what is not merged needs no room");
        }
        if enough(&best.index) {
            return Ok(Ok(best));
        }
        // Below is not enough; above is, or needs more room for merging than there is.
        let (mut below, mut above) = (unmerged, self.candidates.len() + 1);
        let mut found = None;
        while above - below > 1 {
            let middle = below + (above - below) / 2;
            match self.outlook(middle)? {
                Some(outlook) if !enough(&outlook.index) => (below, best) = (middle, outlook),
                outlook => (above, found) = (middle, outlook),
            }
        }
        Ok(found.ok_or(best))
    }

    /// What dropping the first `count` candidates leads to; `None` if there is no room to merge what that
    /// takes.
    fn outlook(&self, count: usize) -> Result<Option<Outlook>> {
        let dropped = self.candidates[..count].to_vec();
        let steps = steps(self.store, &dropped.iter().copied().collect())?;
        let contents = &self.store.contents;
        let index = after(&contents.index, &contents.superblock.geometry, &steps).ok();
        Ok(index.map(|index| Outlook { plan: Plan { dropped, steps }, index }))
    }

    fn free(&self, index: &Index) -> u64 {
        Free::of(index, &self.store.contents.superblock.geometry).count()
    }

    fn fits(&self, index: &Index) -> bool {
        self.free(index) >= self.wanted && index.pack().len() as u64 <= self.capacity
    }

    fn will_do(&self, index: &Index) -> bool {
        self.fits(index) && history(index) + self.kept() <= self.limit
    }

    /// Extents of the undo store: what stays as history.
    fn kept(&self) -> u64 {
        self.wanted - self.need.fresh
    }

    /// Whether the next sync will find something that it can drop: behind a pinned generation that takes
    /// room of its own, and where only as much is free as a sync takes, there is none to merge in.
    fn can_go_on(&self, index: &Index) -> bool {
        let records = &index.generations;
        let taken = |i: usize| match &records[i].undo {
            _ if i + 1 == records.len() => self.kept(),
            undo => undo.as_ref().map_or(0, |undo| extents(&undo.runs)),
        };
        let behind = |i: &usize| records[i - 1].pinned && !records[*i].pinned;
        match (1..records.len()).find(behind) {
            Some(i) if records[0].pinned => self.free(index) >= self.wanted + taken(i - 1) + taken(i),
            _ => true,
        }
    }

    fn beyond(&self, undo: Bytes, limit: Bytes) -> Error {
        let changes = Bytes(self.need.entries * CHUNK);
        let why = format!("{changes} of changes take {undo} of history, and it may take {limit}");
        Error::new(Kind::NoRoom, "keeping the last generation on", why)
            .on(self.store.disk.name())
            .left("no generation was dropped and the last one is intact")
            .next("raise 'history' in the record of the pair, or give up all history with 'dpsr sync --full --no-undo'")
    }

    fn too_small(&self, emptied: &Index) -> Error {
        let extent = self.store.contents.superblock.geometry.extent.0;
        let kept = match self.need.fresh {
            0 => String::new(),
            fresh => {
                let size = Bytes(fresh * extent);
                format!(" and {size} newly kept, which count twice: as image and as what must be undone,")
            }
        };
        let why = format!(
            "{} of changes{kept} need {} of history room, and only {} can be had",
            Bytes(self.need.entries * CHUNK),
            Bytes(self.wanted * extent),
            Bytes(self.free(emptied) * extent)
        );
        let pinned = emptied.generations.iter().rev().skip(1).any(|record| record.pinned);
        let unpin = if pinned { "unpin what need not stay, " } else { "" };
        Error::new(Kind::NoRoom, "keeping the last generation on", why)
            .on(self.store.disk.name())
            .left("no generation was dropped and the last one is intact")
            .next(format!(
                "{unpin}use a larger DPSR disk, or give up all history with 'dpsr sync --full --no-undo'"
            ))
    }
}

impl Plan {
    /// Drops the generations, in flips of their own that are finished before their extents are reused.
    /// Returns the generations that went.
    pub fn make(self, store: &mut Store, progress: &dyn Progress) -> Result<Vec<Generation>> {
        debug_assert!(
            matches!(store.contents.superblock.state, State::Clean(_)),
            "generations are dropped from a clean store only"
        );
        let mut dropped = Vec::new();
        take(store, &self.steps, &mut dropped, progress)?;
        Ok(dropped)
    }
}
