// SPDX-License-Identifier: MIT OR Apache-2.0
//! The order in which the chunks of the next generation are visited: ascending, in steps of one kind.

use std::ops::Range;

use crate::changes::source::{Origin, Source};
use crate::disk::ReadDisk;
use crate::error::{Error, Result};
use crate::units::{Bytes, CHUNK, Chunk};

/// Some neighbouring chunks to visit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Their numbers.
    pub chunks: Range<u64>,
    /// Whether they are known to be all zeros without reading.
    pub zeros: bool,
}

/// Visits every chunk that has a place in the image and may have changed.
pub struct Walk<'a> {
    source: &'a Source,
    primary: &'a dyn ReadDisk,
    places: Vec<Range<u64>>,
    place: usize,
    at: u64,
    /// The last answer of the primary to "where is your next data": from .0 on, it is .1.
    data: Option<(Bytes, Range<Bytes>)>,
}

impl<'a> Walk<'a> {
    /// A walk over `places`, sorted ranges of chunks that have a place in the image.
    pub fn new(source: &'a Source, primary: &'a dyn ReadDisk, places: Vec<Range<u64>>) -> Self {
        let at = places.first().map_or(0, |range| range.start);
        Self { source, primary, places, place: 0, at, data: None }
    }

    /// The next step, of at most `most` chunks, or `most_zeros` known to be zeros; `None` at the end.
    pub fn next(&mut self, most: u64, most_zeros: u64) -> Result<Option<Step>> {
        loop {
            let Some(place) = self.places.get(self.place) else { return Ok(None) };
            if self.at >= place.end {
                self.place += 1;
                self.at = self.places.get(self.place).map_or(self.at, |range| range.start);
                continue;
            }
            let (start, limit) = (self.at, place.end);
            let piece = self.source.piece(Chunk(start).start());
            let whole = (piece.range.end.0 / CHUNK).min(limit);
            let (end, zeros, visit) = if whole <= start {
                // Pieces meet inside this chunk: it is visited on its own.
                (start + 1, false, !self.stays(start))
            } else {
                match piece.origin {
                    Origin::Zero => (whole.min(start.saturating_add(most_zeros)), true, true),
                    Origin::Image => (whole, false, false),
                    Origin::Primary => {
                        let (end, zeros) = self.data_or_hole(start, whole)?;
                        let most = if zeros { most_zeros } else { most };
                        (end.min(start.saturating_add(most)), zeros, true)
                    }
                }
            };
            self.at = end;
            if visit {
                return Ok(Some(Step { chunks: start..end, zeros }));
            }
        }
    }

    /// Whether nothing in `chunk` comes from the primary, nor has become zero.
    fn stays(&self, chunk: u64) -> bool {
        let mut pieces = self.source.pieces(chunk..chunk + 1);
        pieces.all(|piece| piece.origin == Origin::Image)
    }

    /// Whether the chunks from `start` on are data or a hole of the primary, and where that ends.
    fn data_or_hole(&mut self, start: u64, end: u64) -> Result<(u64, bool)> {
        let at = Chunk(start).start();
        if !self.data.as_ref().is_some_and(|(asked, data)| *asked <= at && at < data.end) {
            let found = self.primary.next_data(at).map_err(|error| {
                Error::device(format!("looking for data at {} of", at.0), self.primary.name(), &error)
            })?;
            self.data = Some((at, found.unwrap_or(Bytes(u64::MAX - 1)..Bytes(u64::MAX))));
        }
        let (_, data) = self.data.as_ref().expect("just set");
        let first = data.start.0 / CHUNK;
        Ok(if first > start { (first.min(end), true) } else { (data.end.div_ceil(CHUNK).min(end), false) })
    }
}
