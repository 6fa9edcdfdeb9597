// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the bytes of an object lie on the DPSR disk.

use std::ops::Range;

use crate::format::geometry::Geometry;
use crate::format::index::Run;
use crate::units::{Bytes, CHUNK, Chunk};

/// The runs of one object together with what turns extents into offsets on the disk.
#[derive(Clone, Debug)]
pub struct Placement {
    runs: Vec<Run>,
    geometry: Geometry,
    base: Bytes,
}

/// A part of an object that is contiguous on the disk, or a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Bytes of the object.
    pub range: Range<Bytes>,
    /// Where they stand on the disk; `None` in a hole.
    pub at: Option<Bytes>,
}

impl Placement {
    /// The placement of an object with these runs, in a store that starts at `base` of its disk.
    pub fn new(runs: &[Run], geometry: Geometry, base: Bytes) -> Self {
        Self { runs: runs.to_vec(), geometry, base }
    }

    /// The longest stretch from `at` on.
    pub fn stretch(&self, at: Bytes) -> Stretch {
        let extent = self.geometry.extent.0;
        let number = u32::try_from(at.0 / extent).unwrap_or(u32::MAX);
        let next = self.runs.partition_point(|run| run.at <= number);
        if let Some(run) = next.checked_sub(1).map(|i| self.runs[i])
            && number - run.at < run.count
        {
            let start = Bytes(u64::from(run.at) * extent);
            let end = Bytes((u64::from(run.at) + u64::from(run.count)) * extent);
            let there = self.base + self.geometry.bytes_of(run.extent).start;
            return Stretch { range: at..end, at: Some(there + (at - start)) };
        }
        let end = self.runs.get(next).map_or(Bytes(u64::MAX), |run| Bytes(u64::from(run.at) * extent));
        Stretch { range: at..end, at: None }
    }

    /// The stretches that make up `range`, in order.
    pub fn stretches(&self, range: Range<Bytes>) -> impl Iterator<Item = Stretch> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            (at < range.end).then(|| {
                let mut stretch = self.stretch(at);
                stretch.range.end = stretch.range.end.min(range.end);
                at = stretch.range.end;
                stretch
            })
        })
    }

    /// Where `chunk` stands on the disk; chunks never cross extents.
    pub fn chunk(&self, chunk: Chunk) -> Option<Bytes> {
        self.stretch(chunk.start()).at
    }

    /// The chunks that have a place, as ranges of chunk numbers, clipped to the first `chunks`.
    pub fn placed(&self, chunks: u64) -> impl Iterator<Item = Range<u64>> {
        let per = self.geometry.extent.0 / CHUNK;
        self.runs.iter().filter_map(move |run| {
            let start = (u64::from(run.at) * per).min(chunks);
            let end = ((u64::from(run.at) + u64::from(run.count)) * per).min(chunks);
            (start < end).then_some(start..end)
        })
    }

    /// Bytes that have a place.
    pub fn size(&self) -> Bytes {
        Bytes(self.runs.iter().map(|run| u64::from(run.count) * self.geometry.extent.0).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Extent, MIB};

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list that happens to have one range")]
    fn runs_and_holes() {
        let geometry = Geometry::choose(Bytes(64 * MIB)).unwrap();
        let extent = geometry.extent.0;
        let run = |at, extent, count| Run { at, extent: Extent(extent), count };
        let placement = Placement::new(&[run(1, 10, 2), run(3, 40, 1)], geometry, Bytes(MIB));
        let place = |number| Bytes(MIB) + geometry.bytes_of(Extent(number)).start;
        let seen: Vec<_> = placement.stretches(Bytes(0)..Bytes(5 * extent)).collect();
        let expected = [
            (0..extent, None),
            (extent..3 * extent, Some(place(10))),
            (3 * extent..4 * extent, Some(place(40))),
            (4 * extent..5 * extent, None),
        ];
        assert_eq!(seen.len(), expected.len());
        for (stretch, (range, at)) in seen.iter().zip(expected) {
            assert_eq!((stretch.range.start.0..stretch.range.end.0, stretch.at), (range, at));
        }
        assert_eq!(placement.chunk(Chunk(extent / CHUNK + 1)), Some(place(10) + Bytes(CHUNK)));
        let per = extent / CHUNK;
        assert_eq!(placement.placed(3 * per - 1).collect::<Vec<_>>(), [per..3 * per - 1]);
    }
}
