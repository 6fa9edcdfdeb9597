// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the next generation is made of, byte by byte: the primary, where a volume moves; the image as it
//! is, where a volume stays at its time; zeros, where it is left out or the disk has ended.

use std::ops::Range;

use crate::engine::{Batch, ReadId};
use crate::format::index::{Map, Volume};
use crate::store::map::left_out;
use crate::store::placement::Placement;
use crate::units::{Bytes, CHUNK, Chunk, SECTOR};

/// Where a byte of the next generation comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Read from the primary.
    Primary,
    /// Stays as it is in the image.
    Image,
    /// Reads as zero.
    Zero,
}

/// A stretch of bytes of one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the image.
    pub range: Range<Bytes>,
    /// Where they come from.
    pub origin: Origin,
}

/// Which volumes move to the present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moving {
    /// All that are not left out.
    All,
    /// Those with these ids; everything else stays.
    Only(Vec<String>),
}

impl Moving {
    /// Whether `volume` moves.
    pub fn includes(&self, volume: &Volume) -> bool {
        match self {
            Self::All => true,
            Self::Only(ids) => ids.contains(&volume.id),
        }
    }
}

/// The primary as the next generation will see it.
#[derive(Clone, Debug)]
pub struct Source {
    primary: ReadId,
    image_disk: ReadId,
    image: Placement,
    pieces: Vec<Piece>,
}

impl Source {
    /// The source for `map`, with the volumes that `moving` names taken from the primary.
    pub fn new(map: &Map, moving: &Moving, primary: ReadId, image_disk: ReadId, image: Placement) -> Self {
        Self { primary, image_disk, image, pieces: pieces(map, moving) }
    }

    /// The piece that holds `at`.
    pub fn piece(&self, at: Bytes) -> &Piece {
        let next = self.pieces.partition_point(|piece| piece.range.start <= at);
        &self.pieces[next.saturating_sub(1)]
    }

    /// The pieces that make up the bytes of `chunks`.
    pub fn pieces(&self, chunks: Range<u64>) -> impl Iterator<Item = Piece> {
        let end = Bytes(chunks.end * CHUNK);
        let mut at = Bytes(chunks.start * CHUNK);
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let piece = self.piece(at);
                let range = at..if piece.range.end > at { piece.range.end.min(end) } else { end };
                at = range.end;
                Piece { range, origin: piece.origin }
            })
        })
    }

    /// Asks `batch` to read `chunks` into its buffer from `offset` on. [`Self::blank`] completes them.
    pub fn read(&self, batch: &mut Batch, chunks: Range<u64>, offset: usize) {
        let start = Bytes(chunks.start * CHUNK);
        for piece in self.pieces(chunks) {
            let into = |range: &Range<Bytes>| {
                offset + (range.start - start).usize()..offset + (range.end - start).usize()
            };
            match piece.origin {
                Origin::Primary => batch.read(self.primary, piece.range.start, into(&piece.range)),
                Origin::Image => {
                    for stretch in self.image.stretches(piece.range) {
                        if let Some(at) = stretch.at {
                            batch.read(self.image_disk, at, into(&stretch.range));
                        }
                    }
                }
                Origin::Zero => {}
            }
        }
    }

    /// The chunks in which a stretch that stays in the image begins or ends, in ascending order: all that have a part
    /// that stays and another that does not are among them.
    pub fn ends_of_kept(&self) -> impl Iterator<Item = Chunk> {
        let kept = self.pieces.iter().filter(|piece| piece.origin == Origin::Image);
        kept.flat_map(|piece| [piece.range.start.0 / CHUNK, (piece.range.end.0 - 1) / CHUNK]).map(Chunk)
    }

    /// Whether part of `chunk` stays in the image.
    pub fn keeps_part_of(&self, chunk: Chunk) -> bool {
        self.pieces(chunk.0..chunk.0 + 1).any(|piece| piece.origin == Origin::Image)
    }

    /// Takes over from `old` what stays in the image; `old` and `new` hold `chunks`.
    pub fn keep(&self, chunks: Range<u64>, old: &[u8], new: &mut [u8]) {
        let start = Bytes(chunks.start * CHUNK);
        for piece in self.pieces(chunks).filter(|piece| piece.origin == Origin::Image) {
            let range = (piece.range.start - start).usize()..(piece.range.end - start).usize();
            new[range.clone()].copy_from_slice(&old[range]);
        }
    }

    /// Zeroes in `bytes`, which hold `chunks`, whatever must read as zero.
    pub fn blank(&self, chunks: Range<u64>, bytes: &mut [u8]) {
        let start = Bytes(chunks.start * CHUNK);
        for piece in self.pieces(chunks) {
            if piece.origin == Origin::Zero {
                bytes[(piece.range.start - start).usize()..(piece.range.end - start).usize()].fill(0);
            }
        }
    }
}

/// The pieces of the whole image, to the end of its last chunk, sorted and without gaps.
fn pieces(map: &Map, moving: &Moving) -> Vec<Piece> {
    // A file may end inside a sector; the engine reads the sector and fills what is missing with zeros.
    let end = map.disk.round_up(SECTOR);
    let table_moves = map.volumes.iter().filter(|v| v.size == Bytes::ZERO).all(|v| moving.includes(v));
    let base = if table_moves { Origin::Primary } else { Origin::Image };
    let mut marks = vec![(Bytes::ZERO..end, base)];
    for volume in map.volumes.iter().filter(|volume| volume.size > Bytes::ZERO) {
        let origin = if moving.includes(volume) { Origin::Primary } else { Origin::Image };
        marks.push((volume.start..(volume.start + volume.size).min(end), origin));
    }
    marks.extend(left_out(&map.volumes, end).into_iter().map(|range| (range, Origin::Zero)));
    marks.push((end..end.round_up(CHUNK), Origin::Zero));
    painted(marks)
}

/// Paints each range over those before it and joins neighbours of one origin.
fn painted(marks: Vec<(Range<Bytes>, Origin)>) -> Vec<Piece> {
    let mut edges: Vec<Bytes> = marks.iter().flat_map(|(range, _)| [range.start, range.end]).collect();
    edges.sort();
    edges.dedup();
    let mut pieces: Vec<Piece> = Vec::new();
    for edge in edges.windows(2) {
        let top = marks.iter().rev().find(|(range, _)| range.contains(&edge[0]));
        let origin = top.map_or(Origin::Zero, |(_, origin)| *origin);
        match pieces.last_mut() {
            Some(last) if last.origin == origin => last.range.end = edge[1],
            _ => pieces.push(Piece { range: edge[0]..edge[1], origin }),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::KIB;

    fn volume(id: &str, start: u64, end: u64, left_out: bool) -> Volume {
        let (start, size) = (Bytes(start), Bytes(end - start));
        Volume { id: id.into(), name: id.into(), label: String::new(), start, size, left_out, group: false }
    }

    fn map() -> Map {
        let volumes = vec![
            Volume { size: Bytes::ZERO, ..volume("table", 0, 0, false) },
            volume("1", 1024, 100 * KIB, false),
            volume("2", 100 * KIB, 150 * KIB, true),
            volume("3", 150 * KIB, 151 * KIB, false),
        ];
        Map { id: 1, disk: Bytes(200 * KIB + 100), block: Bytes(512), volumes, runs: vec![] }
    }

    fn shown(moving: &Moving) -> Vec<(u64, u64, Origin)> {
        let tell = |piece: Piece| (piece.range.start.0, piece.range.end.0, piece.origin);
        pieces(&map(), moving).into_iter().map(tell).collect()
    }

    #[test]
    fn all_but_what_is_left_out_moves() {
        use Origin::{Primary, Zero};
        let end = 200 * KIB + 512;
        assert_eq!(
            shown(&Moving::All),
            [
                (0, 100 * KIB, Primary),
                (100 * KIB, 150 * KIB, Zero),
                (150 * KIB, end, Primary),
                (end, 256 * KIB, Zero)
            ]
        );
    }

    #[test]
    fn one_volume_moves_and_its_neighbours_stay() {
        use Origin::{Image, Primary, Zero};
        let end = 200 * KIB + 512;
        assert_eq!(
            shown(&Moving::Only(vec!["3".into()])),
            [
                (0, 100 * KIB, Image),
                (100 * KIB, 150 * KIB, Zero),
                (150 * KIB, 151 * KIB, Primary),
                (151 * KIB, end, Image),
                (end, 256 * KIB, Zero)
            ]
        );
    }
}
