// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set of chunks: one bit each, in pages that exist only where something changed, and something did not.

use std::ops::Range;

use crate::units::Chunk;

const WORDS: usize = 512;
const PER_PAGE: u64 = WORDS as u64 * 64;

/// Chunks, iterated in ascending order. At most 2 MiB of memory for each TiB of disk that has changes in
/// every 2 GiB; none for what changed as a whole.
#[derive(Clone, Debug)]
pub struct ChangeSet {
    pages: Vec<Page>,
    count: u64,
}

/// The bits of 32768 chunks, 2 GiB.
#[derive(Clone, Debug)]
enum Page {
    None,
    Some(Box<Bits>),
    All,
}

#[derive(Clone, Debug)]
struct Bits {
    words: [u64; WORDS],
    /// How many are set.
    count: u32,
}

impl Page {
    /// Sets a bit; whether it was not set before.
    fn set(&mut self, bit: u64) -> bool {
        if matches!(self, Self::None) {
            *self = Self::Some(Box::new(Bits { words: [0; WORDS], count: 0 }));
        }
        let Self::Some(bits) = self else { return false };
        let word = &mut bits.words[(bit / 64) as usize];
        let new = *word & 1 << (bit % 64) == 0;
        *word |= 1 << (bit % 64);
        bits.count += u32::from(new);
        if u64::from(bits.count) == PER_PAGE {
            *self = Self::All;
        }
        new
    }

    /// The 64 bits from `word` on; `None` where there are no more in the page.
    fn word(&self, word: u64) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Some(bits) => Some(bits.words[word as usize]),
            Self::All => Some(u64::MAX),
        }
    }
}

impl ChangeSet {
    /// The empty set, for an image of `chunks` chunks.
    pub fn new(chunks: u64) -> Self {
        let pages = usize::try_from(chunks.div_ceil(PER_PAGE)).expect("an image fits in the address space");
        Self { pages: vec![Page::None; pages], count: 0 }
    }

    /// Adds `chunk`, which must be inside the image.
    pub fn insert(&mut self, chunk: Chunk) {
        let page = &mut self.pages[(chunk.0 / PER_PAGE) as usize];
        self.count += u64::from(page.set(chunk.0 % PER_PAGE));
    }

    /// How many chunks are in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether `chunk` is in the set.
    pub fn contains(&self, chunk: Chunk) -> bool {
        self.iter_from(chunk).next() == Some(chunk)
    }

    /// The chunks in ascending order.
    pub fn iter(&self) -> Iter<'_> {
        self.iter_from(Chunk(0))
    }

    /// The chunks from `start` on, in ascending order.
    pub fn iter_from(&self, start: Chunk) -> Iter<'_> {
        Iter { set: self, next: start.0, end: u64::MAX }
    }

    /// The chunks in `range`.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Chunk> {
        Iter { set: self, next: range.start, end: range.end }
    }
}

/// Iterates over a [`ChangeSet`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    set: &'a ChangeSet,
    next: u64,
    /// Behind the last one that is looked at.
    end: u64,
}

impl Iterator for Iter<'_> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        while self.next < self.end
            && let Some(page) = self.set.pages.get((self.next / PER_PAGE) as usize)
        {
            let base = self.next / PER_PAGE * PER_PAGE;
            let bit = self.next - base;
            let Some(word) = page.word(bit / 64) else {
                self.next = base + PER_PAGE;
                continue;
            };
            let word = word >> (bit % 64);
            if word != 0 {
                let found = self.next + u64::from(word.trailing_zeros());
                self.next = found + 1;
                return (found < self.end).then_some(Chunk(found));
            }
            self.next = base + (bit / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_changed_as_a_whole_takes_no_memory() {
        let chunks = 3 * PER_PAGE + 100;
        let mut set = ChangeSet::new(chunks);
        (0..chunks).rev().for_each(|chunk| set.insert(Chunk(chunk)));
        assert!(matches!(set.pages[..], [Page::All, Page::All, Page::All, Page::Some(_)]));
        set.insert(Chunk(7));
        assert_eq!(set.count(), chunks);
        assert!(set.iter().eq((0..chunks).map(Chunk)));
        assert!(set.within(PER_PAGE - 2..PER_PAGE + 2).eq((PER_PAGE - 2..PER_PAGE + 2).map(Chunk)));
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_set(chunks in prop::collection::vec(0u64..100_000, 0..300), from in 0u64..100_000) {
            let mut set = ChangeSet::new(100_000);
            let mut model = BTreeSet::new();
            for chunk in chunks {
                set.insert(Chunk(chunk));
                model.insert(Chunk(chunk));
            }
            prop_assert_eq!(set.count(), model.len() as u64);
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert!(set.within(from..from + 999).eq(model.range(Chunk(from)..Chunk(from + 999)).copied()));
            prop_assert_eq!(set.contains(Chunk(from)), model.contains(&Chunk(from)));
        }
    }
}
