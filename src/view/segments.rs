// SPDX-License-Identifier: MIT OR Apache-2.0
//! A generation from its first chunk to its last: holes, stretches of the image, saved chunks.

use std::ops::Range;

use super::View;
use super::compose::{Exception, Exceptions, Part};
use crate::disk::ReadDisk;
use crate::error::Result;
use crate::units::{Bytes, CHUNK, Chunk};

/// Neighbouring chunks that are read in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Their numbers.
    pub chunks: Range<u64>,
    /// Where they stand on the DPSR disk; `None` for zeros.
    pub at: Option<Bytes>,
    /// The checksum of a saved chunk; image chunks have their digest only.
    pub crc: Option<u32>,
}

/// The segments of a range of chunks, in order.
pub struct Segments<'a> {
    view: &'a View<'a>,
    exceptions: Exceptions<'a>,
    ahead: Option<Exception>,
    at: u64,
    end: u64,
}

impl<'a> Segments<'a> {
    /// The segments of `chunks` of `view`.
    pub fn of(view: &'a View<'a>, disk: &'a dyn ReadDisk, chunks: Range<u64>) -> Result<Self> {
        let mut exceptions = Exceptions::of(view, disk, Part::Image)?;
        let ahead = exceptions.advance()?;
        Ok(Self { view, exceptions, ahead, at: chunks.start, end: chunks.end })
    }

    /// The next segment, of at most `most` chunks unless it is zeros; `None` at the end.
    pub fn next(&mut self, most: u64) -> Result<Option<Segment>> {
        while self.ahead.is_some_and(|exception| exception.chunk.0 < self.at) {
            self.ahead = self.exceptions.advance()?;
        }
        if self.at >= self.end {
            return Ok(None);
        }
        let start = self.at;
        if let Some(exception) = self.ahead.filter(|exception| exception.chunk.0 == start) {
            self.at += 1;
            return Ok(Some(Segment {
                chunks: start..self.at,
                at: Some(exception.at),
                crc: Some(exception.crc),
            }));
        }
        let stretch = self.view.image.stretch(Chunk(start).start());
        let until = self.ahead.map_or(self.end, |exception| exception.chunk.0.min(self.end));
        let end = (stretch.range.end.0 / CHUNK).min(until);
        self.at = if stretch.at.is_some() { end.min(start.saturating_add(most)) } else { end };
        Ok(Some(Segment { chunks: start..self.at, at: stretch.at, crc: None }))
    }
}
