// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be asked of generations that are there: pin, unpin, drop, prune.

use std::collections::BTreeSet;

use serde::Serialize;

use super::steps::{after, steps, take};
use crate::error::{Error, Kind, Result};
use crate::format::superblock::State;
use crate::keep::{Candidate, Rules, Verdict};
use crate::progress::Progress;
use crate::store::Store;
use crate::store::contents::Contents;
use crate::store::free::Free;
use crate::units::{Bytes, Generation, list};

/// What came of pinning or unpinning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pinned {
    /// The generation.
    pub generation: Generation,
    /// Whether it is pinned now.
    pub pinned: bool,
    /// Whether that is new.
    pub changed: bool,
}

/// What was dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The generations that went, oldest first.
    pub dropped: Vec<Generation>,
    /// Bytes that are free now and were not before.
    pub freed: Bytes,
}

/// Pins a generation, so that nothing drops it, or lets it go again.
pub fn pin(store: &mut Store, generation: Generation, pinned: bool) -> Result<Pinned> {
    complete(store)?;
    let changed = store.contents.record(generation)?.pinned != pinned;
    if changed {
        let mut index = store.contents.index.clone();
        let found = index.generations.iter_mut().find(|record| record.generation == generation);
        found.expect("looked up just now").pinned = pinned;
        store.change(store.contents.superblock.state, index)?;
    }
    Ok(Pinned { generation, pinned, changed })
}

/// Drops `generations`, all of them or, where one cannot go, none.
pub fn drop(store: &mut Store, generations: &[Generation], progress: &dyn Progress) -> Result<Dropped> {
    let newest = complete(store)?;
    for &generation in generations {
        let refused = |why| {
            Error::new(Kind::Refused, format!("dropping generation {generation} of"), why)
                .on(store.disk.name())
                .left(NOTHING)
        };
        let record = store.contents.record(generation).map_err(|error| error.left(NOTHING))?;
        if generation == newest {
            return Err(refused("it is the newest, which the image itself is"));
        }
        if record.pinned {
            return Err(refused("it is pinned").next(format!("'dpsr unpin {generation}' lets it go")));
        }
    }
    remove(store, &generations.iter().copied().collect(), progress)
}

/// What `rules` would do to the generations of a store.
pub fn simulate(contents: &Contents, rules: &Rules) -> Result<Vec<Verdict>> {
    if rules.is_empty() {
        let why = "no rule says what to keep, and nothing is dropped without one";
        return Err(Error::new(Kind::Usage, "pruning", why)
            .next("give one, like --keep-daily 7, or put rules into [keep] of the pair's record"));
    }
    let current = contents.current();
    let listed = contents.index.generations.iter();
    let listed = listed.filter(|record| current.is_some_and(|current| record.generation <= current));
    Ok(rules.judge(&listed.map(Candidate::from).collect::<Vec<_>>()))
}

/// Drops what no rule keeps.
pub fn prune(store: &mut Store, rules: &Rules, progress: &dyn Progress) -> Result<Dropped> {
    complete(store)?;
    let verdicts = simulate(&store.contents, rules)?;
    let gone = verdicts.iter().filter(|one| !one.kept()).map(|one| one.generation);
    remove(store, &gone.collect(), progress)
}

const NOTHING: &str = "no generation was dropped";

/// The newest generation of a store that is not amid a copy.
fn complete(store: &Store) -> Result<Generation> {
    store.contents.refuse_in_use("changing the generations of")?;
    match store.contents.superblock.state {
        State::Clean(generation) => Ok(generation),
        _ => Err(Error::new(Kind::Refused, "changing the generations of", "its copy is not complete")
            .on(store.disk.name())
            .left("nothing was written")
            .next("'dpsr sync' goes on with it")),
    }
}

fn remove(store: &mut Store, gone: &BTreeSet<Generation>, progress: &dyn Progress) -> Result<Dropped> {
    let geometry = store.contents.superblock.geometry;
    let before = Free::of(&store.contents.index, &geometry).count();
    let steps = steps(store, gone).map_err(|error| error.replace_left(NOTHING))?;
    after(&store.contents.index, &geometry, &steps).map_err(|shortage| {
        let why = format!(
            "putting the undo stores around them together takes {} beside the old ones, and only {} is free",
            shortage.needed, shortage.free
        );
        Error::new(Kind::NoRoom, "dropping generations of", why)
            .on(store.disk.name())
            .left(NOTHING)
            .next("drop the oldest ones first: that takes no room")
    })?;
    let mut dropped = Vec::new();
    let outcome = take(store, &steps, &mut dropped, progress);
    outcome.map_err(|error| left(error, &dropped))?;
    let after = Free::of(&store.contents.index, &geometry).count();
    Ok(Dropped { dropped, freed: Bytes((after - before) * geometry.extent.0) })
}

/// Says what a failure left: of what went before it is certain that it went.
fn left(error: Error, dropped: &[Generation]) -> Error {
    let left = match (error.kind(), dropped) {
        (Kind::Device, []) => "what was to go may have gone, all others are intact".to_owned(),
        (_, []) => NOTHING.to_owned(),
        (_, gone) => format!("of what was to go, {} went; all others are intact", list(gone)),
    };
    error.replace_left(left)
}
