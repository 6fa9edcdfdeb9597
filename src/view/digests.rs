// SPDX-License-Identifier: MIT OR Apache-2.0
//! The digest table of an older generation: the newest table with that generation's saved chunks over it.

use super::View;
use super::compose::{Exception, Exceptions, Part};
use crate::disk::ReadDisk;
use crate::engine::digest::{Digest, DigestKey, DigestRoot};
use crate::error::Result;
use crate::format::digests::{self, PER_CHUNK};
use crate::store::contents;
use crate::store::table::TableChunk;
use crate::units::Chunk;

/// Digests of one generation, in ascending order of chunks.
pub struct ViewDigests<'a> {
    view: &'a View<'a>,
    disk: &'a dyn ReadDisk,
    exceptions: Exceptions<'a>,
    ahead: Option<Exception>,
    chunk: TableChunk,
    loaded: bool,
}

impl<'a> ViewDigests<'a> {
    /// The digests of `view`.
    pub fn of(view: &'a View<'a>, disk: &'a dyn ReadDisk) -> Result<Self> {
        let mut exceptions = Exceptions::of(view, disk, Part::Table)?;
        let ahead = exceptions.advance()?;
        Ok(Self { view, disk, exceptions, ahead, chunk: TableChunk::blank(0)?, loaded: false })
    }

    /// The digest of `chunk`, which must not be before the last one asked for.
    pub fn get(&mut self, chunk: Chunk) -> Result<digests::Raw> {
        let number = chunk.0 / PER_CHUNK;
        if !self.loaded || self.chunk.number != number {
            self.load(number)?;
        }
        Ok(self.chunk.get(chunk))
    }

    fn load(&mut self, number: u64) -> Result<()> {
        self.loaded = false;
        while self.ahead.is_some_and(|exception| exception.chunk.0 < number) {
            self.ahead = self.exceptions.advance()?;
        }
        let saved = self.ahead.filter(|exception| exception.chunk.0 == number);
        let at = saved.map(|exception| exception.at).or_else(|| self.view.table.chunk(Chunk(number)));
        let at = at.ok_or_else(|| contents::damaged(self.disk, "part of the digest table has no place"))?;
        self.chunk.fill_from(self.disk, number, at)?;
        self.loaded = true;
        Ok(())
    }

    /// Whether the digests add up to what the generation's record says. Pages check out by themselves also where
    /// the disk has kept an older one in place of what was written; only the sum tells.
    pub fn add_up(self, key: &DigestKey) -> Result<bool> {
        let recorded = self.view.record.root;
        Ok(self.sum(key)?.to_bytes() == recorded)
    }

    /// Adds up the digests of every chunk that has a place; what the generation's record must say.
    pub fn sum(mut self, key: &DigestKey) -> Result<DigestRoot> {
        let mut root = DigestRoot::default();
        for chunk in self.view.image.placed(self.view.map.chunks()).flatten().map(Chunk) {
            root.add(key, chunk, Digest(self.get(chunk)?));
        }
        Ok(root)
    }
}
