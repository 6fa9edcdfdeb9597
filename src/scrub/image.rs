// SPDX-License-Identifier: MIT OR Apache-2.0
//! The image against its digests.

use std::ops::Range;

use super::found::{Place, UNREADABLE};
use super::sweep::Check;
use super::walk::Walk;
use crate::engine::digest::{CHUNK_LEN, Digest};
use crate::error::Result;
use crate::units::{Bytes, Chunk};

/// Checks chunks of the image of the walk's generation.
pub(super) struct ImageCheck<'a, 'b> {
    pub(super) walk: &'a mut Walk<'b>,
    /// Number of the map they are of.
    pub(super) map: u32,
    /// What must read as zeros, whatever its digest says.
    pub(super) left_out: Vec<Range<Bytes>>,
}

impl ImageCheck<'_, '_> {
    /// What `chunk` must have; `None` if its digest page is bad.
    fn wanted(&mut self, chunk: Chunk) -> Option<Digest> {
        let (start, end) = (chunk.start(), Chunk(chunk.0 + 1).start());
        let next = self.left_out.partition_point(|range| range.end < end);
        match self.left_out.get(next) {
            Some(range) if range.start <= start => Some(Digest::ZERO),
            _ => self.walk.tables.get(chunk),
        }
    }
}

impl Check for ImageCheck<'_, '_> {
    fn chunk(&mut self, item: u64, at: Bytes, bytes: Option<&[u8; CHUNK_LEN]>) -> Result<()> {
        let wanted = self.wanted(Chunk(item));
        let seen = bytes.map(|bytes| self.walk.key.digest(bytes));
        match (wanted, seen) {
            (Some(digest), Some(seen)) if digest == seen => {}
            (Some(digest), seen) => {
                let place = Place { at, digest: Some(digest) };
                let read = seen.is_some();
                let why = if read { "it does not match its digest" } else { UNREADABLE };
                self.walk.note_image(self.map, item, place, why);
            }
            (None, Some(seen)) => {
                self.walk.survey.unknown.entry(item).or_insert(seen);
            }
            // Nothing is known of it any more: its page stays damaged, and this says why.
            (None, None) => {
                let place = Place { at, digest: None };
                self.walk.note_image(self.map, item, place, "neither it nor its digest can be read");
            }
        }
        Ok(())
    }
}
