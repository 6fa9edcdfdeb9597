// SPDX-License-Identifier: MIT OR Apache-2.0
//! Merging sorted exception lists: of all undo stores that saved a chunk since a generation, the oldest has
//! that generation's bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::View;
use crate::disk::ReadDisk;
use crate::error::Result;
use crate::format::digests;
use crate::format::undo::{Layout, PER_AREA};
use crate::units::{Bytes, Chunk};

/// Which part of the protected address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The image.
    Image,
    /// The digest table; chunks count from its start.
    Table,
}

/// One chunk of a generation that stands in an undo store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Which chunk.
    pub chunk: Chunk,
    /// Where it stands on the DPSR disk.
    pub at: Bytes,
    /// CRC-32C it must have.
    pub crc: u32,
    /// Which of the view's undo stores saved it, the oldest first.
    pub layer: usize,
}

/// The exceptions of a view in ascending order, read as they are needed: memory is bounded by one area for
/// each generation in between.
pub struct Exceptions<'a> {
    view: &'a View<'a>,
    disk: &'a dyn ReadDisk,
    part: Part,
    cursors: Vec<Cursor>,
    heap: BinaryHeap<Reverse<(Chunk, usize)>>,
    last: Option<Chunk>,
}

/// Where the merge stands in one undo store.
struct Cursor {
    entry: u64,
    end: u64,
    area: u64,
    loaded: std::vec::IntoIter<(Chunk, u32)>,
    head_crc: u32,
}

impl<'a> Exceptions<'a> {
    /// The exceptions of `part` of `view`.
    pub fn of(view: &'a View<'a>, disk: &'a dyn ReadDisk, part: Part) -> Result<Self> {
        let cursors = view.layers.iter().map(|layer| {
            let (entry, end) = match part {
                Part::Image => (0, layer.image_entries),
                Part::Table => (layer.image_entries, layer.reader.layout.entries),
            };
            Cursor { entry, end, area: u64::MAX, loaded: Vec::new().into_iter(), head_crc: 0 }
        });
        let cursors = cursors.collect();
        let mut merged = Self { view, disk, part, cursors, heap: BinaryHeap::new(), last: None };
        (0..merged.cursors.len()).try_for_each(|layer| merged.refill(layer))?;
        Ok(merged)
    }

    /// The next exception; `None` at the end.
    pub fn advance(&mut self) -> Result<Option<Exception>> {
        while let Some(Reverse((chunk, layer))) = self.heap.pop() {
            let cursor = &self.cursors[layer];
            let (entry, crc) = (cursor.entry - 1, cursor.head_crc);
            self.refill(layer)?;
            if self.last == Some(chunk) {
                continue;
            }
            self.last = Some(chunk);
            if self.part == Part::Image
                && (self.view.image.chunk(chunk).is_none() || !self.view.is_continuous(layer, chunk))
            {
                continue;
            }
            let reader = &self.view.layers[layer].reader;
            let at = reader.placement.stretch(Layout::data(entry)).at;
            let at = at.ok_or_else(|| reader.damaged(self.disk, "part of it has no place"))?;
            return Ok(Some(Exception { chunk, at, crc, layer }));
        }
        Ok(None)
    }

    /// Puts the next exception of `layer` on the heap.
    fn refill(&mut self, layer: usize) -> Result<()> {
        let cursor = &mut self.cursors[layer];
        if cursor.entry == cursor.end {
            return Ok(());
        }
        let area = cursor.entry / PER_AREA;
        if cursor.area != area {
            let found = self.view.layers[layer].reader.area(self.disk, area)?;
            let skip = (cursor.entry - found.first) as usize;
            let short = found.entries[skip..].iter().map(|(chunk, record)| (*chunk, record.old_crc));
            cursor.loaded = short.collect::<Vec<_>>().into_iter();
            cursor.area = area;
        }
        let (chunk, crc) = cursor.loaded.next().expect("an area holds the exceptions its number says");
        cursor.entry += 1;
        cursor.head_crc = crc;
        let base = if self.part == Part::Table { digests::BASE.0 } else { 0 };
        let chunk = chunk.0.checked_sub(base).map(Chunk);
        let chunk = chunk.ok_or_else(|| {
            self.view.layers[layer].reader.damaged(self.disk, "an exception is out of place")
        })?;
        self.heap.push(Reverse((chunk, layer)));
        Ok(())
    }
}
