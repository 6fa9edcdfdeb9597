// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a scrub found, for people and for scripts: neighbours of one kind are told as one.

use std::fmt;

use serde::Serialize;

use super::found::{Found, What};
use crate::store::Contents;
use crate::units::{Bytes, CHUNK, Generation};

/// What a scrub did and found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The state of the store: `clean`, `filling` or `no-valid-generation`.
    pub state: &'static str,
    /// The newest generation.
    pub generation: Option<Generation>,
    /// Whether image and history were checked; where there is no generation yet, only metadata can be.
    pub complete: bool,
    /// How many generations were checked.
    pub generations: u64,
    /// Everything that is or was damaged.
    pub damages: Vec<Damage>,
    /// Chunks, pages and blocks found damaged.
    pub found: u64,
    /// How many of them were repaired.
    pub repaired: u64,
    /// How many of them are still damaged.
    pub left: u64,
    /// The generation an interrupted sync was rolled back to before anything was checked.
    pub rolled_back: Option<Generation>,
    /// Bytes read from the DPSR disk.
    pub bytes_read: Bytes,
    /// How long it took.
    pub seconds: f64,
}

/// Neighbouring chunks, pages or blocks that are damaged in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What it is.
    pub what: What,
    /// Whose undo store or digests it is part of.
    pub generation: Option<Generation>,
    /// Which copy it is, where there are several, from 0; of the partition table 0 is the first one and 1 the last.
    pub copy: Option<u32>,
    /// Number of the first chunk, page or block.
    pub first: u64,
    /// How many of them.
    pub count: u64,
    /// Bytes of the image that are damaged, or were saved and are damaged.
    pub bytes: Option<Stretch>,
    /// Names of the volumes those bytes belong to.
    pub volumes: Vec<String>,
    /// Which generations cannot be read back exactly because of it.
    pub affected: Option<Affected>,
    /// What is wrong with it.
    pub why: &'static str,
    /// Whether it is in order again.
    pub repaired: bool,
    /// What to do about it, where it is not, or not wholly.
    pub remedy: Option<String>,
}

/// Bytes of the image from `start` to before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// The first byte.
    pub start: Bytes,
    /// The first byte behind it.
    pub end: Bytes,
}

/// Generations from `oldest` to `newest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// The oldest.
    pub oldest: Generation,
    /// The newest.
    pub newest: Generation,
}

impl fmt::Display for Affected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            return write!(f, "generation {}", self.newest);
        }
        write!(f, "generations {} to {}", self.oldest, self.newest)
    }
}

/// Joins what was found to damages, told against what the store says about itself.
pub(super) fn damages(mut found: Vec<Found>, contents: &Contents) -> Vec<Damage> {
    found.sort_by_key(|one| (one.what, one.owner, one.number));
    let mut damages: Vec<Damage> = Vec::new();
    let mut last: Option<&Found> = None;
    for one in &found {
        match damages.last_mut() {
            Some(open) if last.is_some_and(|last| last.continues(one)) => open.count += 1,
            _ => damages.push(begin(one)),
        }
        last = Some(one);
        let open = damages.last_mut().expect("just put there");
        place(open, one, contents);
    }
    damages
}

fn begin(one: &Found) -> Damage {
    Damage {
        what: one.what,
        generation: one.what.is_of_generation().then_some(Generation(one.owner)),
        copy: matches!(one.what, What::PartitionTable | What::Superblock | What::IndexBlock)
            .then_some(one.owner as u32),
        first: one.number,
        count: 1,
        bytes: None,
        volumes: vec![],
        affected: one.affected,
        why: one.why,
        repaired: one.repaired,
        remedy: one.remedy(),
    }
}

/// Says which bytes of the image `damage` covers, and whose they are.
fn place(damage: &mut Damage, one: &Found, contents: &Contents) {
    let map = match one.what {
        What::Image => contents.index.maps.iter().find(|map| u64::from(map.id) == one.owner),
        What::UndoImage => {
            let record = contents.index.record(Generation(one.owner));
            record.map(|record| contents.map_of(record))
        }
        _ => None,
    };
    let Some(map) = map else { return };
    let start = Bytes(damage.first * CHUNK);
    let end = Bytes((damage.first + damage.count) * CHUNK).min(map.disk);
    damage.bytes = Some(Stretch { start, end });
    let inside = map.volumes.iter().filter(|volume| {
        volume.size > Bytes::ZERO && volume.start < end && volume.start + volume.size > start
    });
    damage.volumes = inside.map(|volume| volume.name.clone()).collect();
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.count, self.bytes) {
            (_, Some(Stretch { start, end })) => write!(f, "{}, {} at {}", self.what, end - start, start.0)?,
            (_, None) if self.what.is_one() => write!(f, "{}", self.what)?,
            (_, None) if self.what == What::PartitionTable => {
                let which = if self.copy == Some(0) { "first" } else { "last" };
                write!(f, "{which} copy of the {}", self.what)?;
            }
            (1, None) => write!(f, "{} {}", self.what, self.first)?,
            (count, None) => write!(f, "{} {} to {}", self.what, self.first, self.first + count - 1)?,
        }
        match (self.copy, self.generation) {
            (Some(copy), _) if self.what == What::IndexBlock => write!(f, " of copy {copy}")?,
            (_, Some(generation)) => write!(f, " of generation {generation}")?,
            _ => {}
        }
        if !self.volumes.is_empty() {
            write!(f, " (volume {})", self.volumes.join(", "))?;
        }
        write!(f, ": {}", self.why)?;
        if let Some(affected) = self.affected {
            write!(f, "; {affected}")?;
        }
        if self.repaired {
            f.write_str("; repaired")?;
        }
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for damage in &self.damages {
            writeln!(f, "{damage}")?;
        }
        if !self.complete {
            writeln!(f, "only metadata was checked: the store is {}, it has no generation yet", self.state)?;
        }
        write!(f, "{} read, {} damaged", self.bytes_read, self.found)?;
        if self.repaired > 0 {
            write!(f, ", {} repaired", self.repaired)?;
        }
        Ok(())
    }
}
