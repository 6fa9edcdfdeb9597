// SPDX-License-Identifier: MIT OR Apache-2.0
//! From generations that are to go to the steps in which they go, and whether there is room for each.

use std::collections::BTreeSet;

use super::merge::{Outcome, Span};
use crate::error::Result;
use crate::format::geometry::Geometry;
use crate::format::index::{Index, Undo};
use crate::format::undo::Layout;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::free::Free;
use crate::store::room::take_undo;
use crate::units::{Bytes, Generation};

/// One run that goes.
#[derive(Clone, Debug)]
pub struct Step {
    /// The generation before it, which gets the merged undo store; none before the oldest.
    kept: Option<Generation>,
    /// The run, oldest first; never empty.
    gone: Vec<Generation>,
    outcome: Outcome,
}

/// A merged undo store does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What it takes.
    pub needed: Bytes,
    /// What is free when its turn comes.
    pub free: Bytes,
}

/// The steps in which `gone` goes, those that need least room first: each gives back at least what it took,
/// so that there is none that would have fitted in another order. Undo stores are read, nothing is written.
pub fn steps(store: &Store, gone: &BTreeSet<Generation>) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut kept, mut run) = (None, Vec::new());
    for record in &store.contents.index.generations {
        if gone.contains(&record.generation) {
            run.push(record.generation);
            continue;
        }
        if !run.is_empty() {
            steps.push(step(store, kept, std::mem::take(&mut run))?);
        }
        kept = Some(record.generation);
    }
    debug_assert!(run.is_empty(), "the newest never goes");
    steps.sort_by_key(Step::room);
    Ok(steps)
}

fn step(store: &Store, kept: Option<Generation>, gone: Vec<Generation>) -> Result<Step> {
    let outcome = match (kept, gone.last()) {
        (Some(kept), Some(&last)) => Span { kept, last }.outcome(&store.contents, store.reader())?,
        _ => Outcome::Nothing,
    };
    Ok(Step { kept, gone, outcome })
}

impl Step {
    /// Bytes it needs while the old undo stores are still there.
    fn room(&self) -> Bytes {
        match self.outcome {
            Outcome::New { entries, .. } => Layout { entries }.size(),
            Outcome::Nothing | Outcome::Same(_) => Bytes::ZERO,
        }
    }

    /// `index` without the run.
    fn applied(&self, index: &Index, undo: Option<Undo>) -> Index {
        let mut index = index.clone();
        index.generations.retain(|record| !self.gone.contains(&record.generation));
        let kept = index.generations.iter_mut().find(|record| Some(record.generation) == self.kept);
        if let Some(kept) = kept {
            kept.undo = undo;
        }
        let newest = index.generations.last().map_or(0, |record| record.map);
        index.drop_unused_maps(newest);
        index
    }
}

/// The index after `steps`; the room for each is taken as it will be. Undo stores that do not exist yet have
/// the nonce 0.
pub fn after(index: &Index, geometry: &Geometry, steps: &[Step]) -> Result<Index, Shortage> {
    let mut index = index.clone();
    for step in steps {
        let undo = match &step.outcome {
            Outcome::Nothing => None,
            Outcome::Same(undo) => Some(undo.clone()),
            &Outcome::New { entries, image_entries } => {
                let mut free = Free::of(&index, geometry);
                let count = free.count();
                let runs = take_undo(&mut free, geometry, entries).ok_or_else(|| Shortage {
                    needed: Bytes(geometry.extents_for(step.room()) * geometry.extent.0),
                    free: Bytes(count * geometry.extent.0),
                })?;
                Some(Undo { nonce: 0, entries, image_entries, runs })
            }
        };
        index = step.applied(&index, undo);
    }
    Ok(index)
}

/// Takes `steps`, each with a flip of its own; `done` grows by what has gone, also where a later one fails.
/// After an error in a flip the store must be opened anew.
pub fn take(
    store: &mut Store,
    steps: &[Step],
    done: &mut Vec<Generation>,
    progress: &dyn Progress,
) -> Result<()> {
    for step in steps {
        let undo = match (&step.outcome, step.kept, step.gone.last()) {
            (&Outcome::New { entries, image_entries }, Some(kept), Some(&last)) => {
                Some(Span { kept, last }.write(store, (entries, image_entries), progress)?)
            }
            (Outcome::Same(undo), ..) => Some(undo.clone()),
            _ => None,
        };
        let index = step.applied(&store.contents.index, undo);
        store.change(store.contents.superblock.state, index)?;
        done.extend(&step.gone);
        done.sort_unstable();
    }
    Ok(())
}
