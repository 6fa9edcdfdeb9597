// SPDX-License-Identifier: MIT OR Apache-2.0
//! The digest table of one generation after the other, from the newest to the oldest: only what a
//! generation's undo store saved of it is read again, so that many generations do not mean many passes.

use std::ops::Range;

use crate::disk::ReadDisk;
use crate::disk::whole::read_exact_at;
use crate::engine::digest::{Digest, DigestKey, DigestRoot};
use crate::error::Result;
use crate::format::Parsed;
use crate::format::digests::{self, PER_CHUNK};
use crate::store::contents::buffer;
use crate::store::placement::Placement;
use crate::sys::buffer::Buffer;
use crate::units::{Bytes, CHUNK, Chunk, PAGE, PAGES_PER_CHUNK, PageMask};

/// One chunk of the table: where the current generation has it, and what its digests add up to.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    at: Option<Bytes>,
    sum: DigestRoot,
    bad: PageMask,
}

/// The digest table of the current generation.
pub(super) struct Tables<'a> {
    disk: &'a dyn ReadDisk,
    key: &'a DigestKey,
    /// Chunks in the image.
    chunks: u64,
    parts: Vec<Part>,
    total: DigestRoot,
    /// How many parts have bad pages.
    bad: u64,
    loaded: Option<u64>,
    bytes: Buffer,
    pub(super) read: Bytes,
}

impl<'a> Tables<'a> {
    /// The table at `table`, of an image of `chunks` chunks that lies at `image`: the newest generation's.
    pub(super) fn newest(
        disk: &'a dyn ReadDisk,
        key: &'a DigestKey,
        chunks: u64,
        table: &Placement,
        image: &Placement,
    ) -> Result<Self> {
        let parts = vec![Part::default(); chunks.div_ceil(PER_CHUNK) as usize];
        let (total, bytes) = (DigestRoot::default(), buffer(CHUNK as usize)?);
        let mut tables =
            Self { disk, key, chunks, parts, total, bad: 0, loaded: None, bytes, read: Bytes::ZERO };
        for number in 0..tables.len() {
            tables.put(number, table.chunk(Chunk(number)), image)?;
        }
        Ok(tables)
    }

    /// Chunks of the table.
    pub(super) fn len(&self) -> u64 {
        self.parts.len() as u64
    }

    /// From this generation on, chunk `number` of the table stands at `at` and the image lies at `image`.
    pub(super) fn put(&mut self, number: u64, at: Option<Bytes>, image: &Placement) -> Result<()> {
        let before = self.parts[number as usize];
        self.parts[number as usize].at = at;
        self.load(number);
        let bad = self.parts[number as usize].bad;
        let mut sum = DigestRoot::default();
        let covered = number * PER_CHUNK..((number + 1) * PER_CHUNK).min(self.chunks);
        for stretch in image.stretches(Chunk(covered.start).start()..Chunk(covered.end).start()) {
            let chunks = stretch.range.start.0 / CHUNK..stretch.range.end.0 / CHUNK;
            for chunk in chunks.filter(|_| stretch.at.is_some()).map(Chunk) {
                if let Some(digest) = self.get(chunk) {
                    sum.add(self.key, chunk, digest);
                }
            }
        }
        self.parts[number as usize].sum = sum;
        self.total.part(before.sum);
        self.total.join(sum);
        self.bad = self.bad + u64::from(bad.0 != 0) - u64::from(before.bad.0 != 0);
        Ok(())
    }

    /// The image lies at `image` from this generation on, and no more at `before`.
    pub(super) fn follow(&mut self, before: &Placement, image: &Placement) -> Result<()> {
        let mut next = 0;
        for (chunks, old, new) in differing(before, image, self.chunks) {
            if old.is_some() != new.is_some() {
                let numbers = (chunks.start / PER_CHUNK).max(next)..chunks.end.div_ceil(PER_CHUNK);
                next = numbers.end.max(next);
                for number in numbers {
                    self.put(number, self.parts[number as usize].at, image)?;
                }
            }
        }
        Ok(())
    }

    /// Which of its pages are bad.
    pub(super) fn bad_pages(&self, number: u64) -> PageMask {
        self.parts[number as usize].bad
    }

    /// What the whole table adds up to; `None` if part of it cannot be known.
    pub(super) fn sum(&self) -> Option<DigestRoot> {
        (self.bad == 0).then_some(self.total)
    }

    /// The digest of `chunk`; `None` if its page is bad.
    pub(super) fn get(&mut self, chunk: Chunk) -> Option<Digest> {
        let number = chunk.0 / PER_CHUNK;
        if self.loaded != Some(number) {
            self.load(number);
        }
        let page = digests::page_of(chunk) % PAGES_PER_CHUNK;
        if self.parts[number as usize].bad.0 & 1 << page != 0 {
            return None;
        }
        let page = &self.bytes[(page * PAGE) as usize..][..PAGE as usize];
        Some(Digest(page[digests::slot_of(chunk)].try_into().expect("a slot is one digest long")))
    }

    fn load(&mut self, number: u64) {
        let part = &mut self.parts[number as usize];
        let read = part.at.map(|at| read_exact_at(self.disk, at, &mut self.bytes));
        part.bad = if matches!(read, Some(Ok(()))) { bad_pages(&self.bytes, number) } else { PageMask::ALL };
        self.loaded = Some(number);
        self.read += Bytes(CHUNK);
    }
}

/// Which pages of chunk `number` of a digest table are not sound.
pub(super) fn bad_pages(bytes: &[u8], number: u64) -> PageMask {
    let pages = bytes.chunks(PAGE as usize).zip(number * PAGES_PER_CHUNK..).enumerate();
    PageMask(pages.fold(0, |mask, (i, (page, number))| match digests::check(page, number) {
        Parsed::Ours(()) => mask,
        Parsed::Damaged(_) | Parsed::NotOurs => mask | 1 << i,
    }))
}

/// The chunks of an image whose place differs between two placements, with both places of the first.
pub(super) fn differing(
    before: &Placement,
    after: &Placement,
    chunks: u64,
) -> Vec<(Range<u64>, Option<Bytes>, Option<Bytes>)> {
    let (mut at, mut found) = (0, Vec::new());
    while at < chunks {
        let (old, new) = (before.stretch(Chunk(at).start()), after.stretch(Chunk(at).start()));
        let end = (old.range.end.min(new.range.end).0 / CHUNK).min(chunks);
        if old.at != new.at {
            found.push((at..end, old.at, new.at));
        }
        at = end;
    }
    found
}
