// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a source to its change set, by whichever way was asked for.

use std::ops::Range;

use crate::changes::scan::{CompareScan, DigestScan, Scan};
use crate::changes::set::ChangeSet;
use crate::changes::source::Source;
use crate::changes::walk::Walk;
use crate::disk::ReadDisk;
use crate::engine::digest::DigestKey;
use crate::engine::{Engine, ReadId};
use crate::error::Result;
use crate::progress::Progress;
use crate::store::space::Space;
use crate::store::table::TableReader;
use crate::units::{Bytes, CHUNK, Chunk};

/// How changes are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every chunk counts as changed.
    Full,
    /// By digest: reads the primary only.
    Digest,
    /// By comparing: reads both disks.
    Compare,
}

impl Mode {
    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Digest => "digest",
            Self::Compare => "compare",
        }
    }

    /// The number for it in the index.
    pub fn code(self) -> u8 {
        match self {
            Self::Full => 1,
            Self::Digest => 2,
            Self::Compare => 3,
        }
    }

    /// The word for a number from the index.
    pub fn word_of(code: u8) -> &'static str {
        let known = [Self::Full, Self::Digest, Self::Compare].into_iter().find(|mode| mode.code() == code);
        known.map_or("unknown", Self::word)
    }
}

/// Everything a search needs.
pub struct Search<'a> {
    /// What the next generation is made of.
    pub source: &'a Source,
    /// The primary.
    pub primary: &'a dyn ReadDisk,
    /// The DPSR disk.
    pub dpsr: &'a dyn ReadDisk,
    /// The same, in the engine.
    pub image_disk: ReadId,
    /// Which chunks the next generation's image has, fresh ones included.
    pub places: Vec<Range<u64>>,
    /// Where the table stands, and what the image keeps: fresh chunks need no place yet.
    pub space: Space,
    /// Chunks in the image.
    pub chunks: u64,
    /// New extents of the image, as chunks.
    pub fresh: Vec<Range<u64>>,
    /// Whether something of the copy is known to be damaged.
    pub damaged: bool,
    /// Computes digests.
    pub key: &'a DigestKey,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
}

/// What a search found.
pub struct Found {
    /// The chunks that changed.
    pub set: ChangeSet,
    /// Bytes read to find them.
    pub read: Bytes,
}

impl Search<'_> {
    /// Finds every chunk that changed.
    pub fn run(self, engine: &mut Engine, mode: Mode) -> Result<Found> {
        let total = self.places.iter().map(|place| Bytes((place.end - place.start) * CHUNK)).sum();
        self.progress.begin("looking for changes", total);
        let scan = Scan {
            source: self.source,
            walk: Walk::new(self.source, self.primary, self.places),
            fresh: self.fresh,
            set: ChangeSet::new(self.chunks),
            read: Bytes::ZERO,
            progress: self.progress,
        };
        let scan = match mode {
            Mode::Full => everything(scan)?,
            Mode::Digest => {
                let table = TableReader::new(self.space.table, self.chunks)?;
                let mut work = DigestScan { scan, key: self.key, table, table_disk: self.dpsr };
                engine.run(&mut work)?;
                work.scan
            }
            Mode::Compare => {
                let table = TableReader::new(self.space.table, self.chunks)?;
                let (image_disk, image, table_disk) = (self.image_disk, self.space.image, self.dpsr);
                let key = self.damaged.then_some(self.key);
                let mut work = CompareScan { scan, image_disk, image, table, table_disk, key };
                engine.run(&mut work)?;
                work.scan
            }
        };
        Ok(Found { set: scan.set, read: scan.read })
    }
}

fn everything(mut scan: Scan<'_>) -> Result<Scan<'_>> {
    while let Some(step) = scan.walk.next(u64::MAX, u64::MAX)? {
        step.chunks.for_each(|chunk| scan.set.insert(Chunk(chunk)));
    }
    Ok(scan)
}
