// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading many chunks at disk speed and looking at each; one that cannot be read is damage, and no reason
//! to stop.

use crate::disk::ReadDisk;
use crate::disk::whole::read_exact_at;
use crate::engine::digest::CHUNK_LEN;
use crate::engine::{Batch, Engine, ReadId, Work};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::store::contents::buffer;
use crate::store::placement::Placement;
use crate::units::{Bytes, CHUNK};

/// Neighbouring chunks on the disk, numbered from `item` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) item: u64,
    pub(super) count: u64,
    pub(super) at: Bytes,
}

/// The pieces of `count` chunks of an object from its byte `start` on; what has no place is left out.
pub(super) fn pieces(placement: &Placement, start: Bytes, item: u64, count: u64) -> Vec<Piece> {
    let stretches = placement.stretches(start..Bytes(start.0 + count * CHUNK));
    let piece = |stretch: crate::store::placement::Stretch| {
        let item = item + (stretch.range.start - start).0 / CHUNK;
        let count = (stretch.range.end - stretch.range.start).0 / CHUNK;
        stretch.at.map(|at| Piece { item, count, at })
    };
    stretches.filter_map(piece).collect()
}

/// Looks at chunks in order; a chunk that cannot be read comes as `None`.
pub(super) trait Check {
    fn chunk(&mut self, item: u64, at: Bytes, bytes: Option<&[u8; CHUNK_LEN]>) -> Result<()>;
}

/// The disk a sweep reads, and the engine that does it.
pub(super) struct Reader<'a> {
    pub(super) engine: Engine,
    pub(super) id: ReadId,
    pub(super) disk: &'a dyn ReadDisk,
    /// Places of the superblock copies: where none can be read, the disk is gone.
    pub(super) alive: [Bytes; 3],
    pub(super) progress: &'a dyn Progress,
    pub(super) read: Bytes,
}

impl Reader<'_> {
    /// Shows every chunk of `pieces` to `check`.
    pub(super) fn sweep(&mut self, pieces: Vec<Piece>, check: &mut dyn Check) -> Result<()> {
        let (id, progress) = (self.id, self.progress);
        let mut sweep =
            Sweep { id, progress, pieces, planned: Cursor::default(), done: Cursor::default(), check };
        self.read += Bytes(sweep.pieces.iter().map(|piece| piece.count * CHUNK).sum());
        loop {
            match self.engine.run(&mut sweep) {
                Err(error) if error.kind() == Kind::Device && !error.is_unanswered() => {
                    self.still_there(error)?;
                    sweep.slowly(self.disk)?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Returns `error` if the disk does not answer at all any more.
    pub(super) fn still_there(&self, error: Error) -> Result<()> {
        let mut block = buffer(crate::format::superblock::SIZE)?;
        let there = self.alive.iter().any(|&at| read_exact_at(self.disk, at, &mut block).is_ok());
        if there { Ok(()) } else { Err(error) }
    }
}

/// A position in the pieces.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    piece: usize,
    offset: u64,
}

struct Sweep<'a> {
    id: ReadId,
    progress: &'a dyn Progress,
    pieces: Vec<Piece>,
    planned: Cursor,
    done: Cursor,
    check: &'a mut dyn Check,
}

impl Sweep<'_> {
    /// The next part of the pieces, of at most `most` chunks.
    fn take(&mut self, most: u64) -> Option<Piece> {
        let piece = self.pieces.get(self.planned.piece)?;
        let offset = self.planned.offset;
        let count = most.min(piece.count - offset);
        let part = Piece { item: piece.item + offset, count, at: piece.at + Bytes(offset * CHUNK) };
        self.planned.offset += count;
        if self.planned.offset == piece.count {
            self.planned = Cursor { piece: self.planned.piece + 1, offset: 0 };
        }
        Some(part)
    }

    /// After a failed read: goes through the next chunks one by one.
    fn slowly(&mut self, disk: &dyn ReadDisk) -> Result<()> {
        self.planned = self.done;
        let mut bytes = buffer(CHUNK_LEN)?;
        for _ in 0..16 {
            let Some(Piece { item, at, .. }) = self.take(1) else { break };
            let read = read_exact_at(disk, at, &mut bytes);
            let chunk = bytes.first_chunk().filter(|_| read.is_ok());
            self.check.chunk(item, at, chunk)?;
            self.progress.advance(Bytes(CHUNK));
        }
        self.done = self.planned;
        Ok(())
    }
}

impl Work for Sweep<'_> {
    type Tag = (Vec<Piece>, Cursor);

    fn next(&mut self, batch: &mut Batch) -> Result<Option<Self::Tag>> {
        let most = batch.bytes().len() as u64 / CHUNK;
        let (mut parts, mut filled) = (Vec::new(), 0);
        while filled < most
            && let Some(part) = self.take(most - filled)
        {
            let range = (filled * CHUNK) as usize..((filled + part.count) * CHUNK) as usize;
            batch.read(self.id, part.at, range);
            filled += part.count;
            parts.push(part);
        }
        Ok((filled > 0).then_some((parts, self.planned)))
    }

    fn process(&mut self, (parts, after): Self::Tag, batch: &mut Batch) -> Result<()> {
        let mut chunks = batch.bytes().as_chunks().0.iter();
        for part in parts {
            for i in 0..part.count {
                self.check.chunk(part.item + i, part.at + Bytes(i * CHUNK), chunks.next())?;
            }
            self.progress.advance(Bytes(part.count * CHUNK));
        }
        self.done = after;
        Ok(())
    }
}
