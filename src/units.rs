// SPDX-License-Identifier: MIT OR Apache-2.0
//! Units that do not mix: a byte offset is not a chunk number is not an extent number.
//!
//! * **sector**: always 512 bytes, whatever the device's logical block size is.
//! * **page**: 4 KiB, the unit to which writes are narrowed.
//! * **chunk**: 64 KiB, the unit of change detection and of kernel dm-snapshot exceptions.
//! * **extent**: the unit of allocation in the store; its size is a power of two fixed at `init`.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Range, Sub};

use serde::{Deserialize, Serialize};

/// Bytes in a sector.
pub const SECTOR: u64 = 512;
/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Bytes in a chunk.
pub const CHUNK: u64 = 64 * 1024;
/// Pages in a chunk; one bit each in a [`PageMask`].
pub const PAGES_PER_CHUNK: u64 = CHUNK / PAGE;
/// One kibibyte.
pub const KIB: u64 = 1 << 10;
/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;

/// A byte offset or a byte count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// As an index into memory; a buffer length or an offset inside one, so it fits.
    pub fn usize(self) -> usize {
        usize::try_from(self.0).expect("buffer offsets fit in memory")
    }

    /// How many units of `unit` bytes cover this many bytes.
    pub fn div_ceil(self, unit: u64) -> u64 {
        self.0.div_ceil(unit)
    }

    /// The next multiple of `unit`.
    pub fn round_up(self, unit: u64) -> Self {
        Self(self.0.div_ceil(unit) * unit)
    }

    /// The previous multiple of `unit`.
    pub fn round_down(self, unit: u64) -> Self {
        Self(self.0 / unit * unit)
    }

    /// Whether this is a multiple of `unit`.
    pub fn is_multiple_of(self, unit: u64) -> bool {
        self.0.is_multiple_of(unit)
    }

    /// `self - other`, or zero where `other` is larger.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sub for Bytes {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let text =
            if unit == 0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") };
        f.pad(&format!("{text} {}", UNITS[unit]))
    }
}

/// The number of a chunk, counted from the start of the address space it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chunk(pub u64);

impl Chunk {
    /// The chunk that holds byte `at`.
    pub fn at(at: Bytes) -> Self {
        Self(at.0 / CHUNK)
    }

    /// Where the chunk starts.
    pub fn start(self) -> Bytes {
        // A chunk number from a disk may be anything; past the end of all disks nothing has a place.
        Bytes(self.0.saturating_mul(CHUNK))
    }

    /// The chunks that cover `range`.
    pub fn covering(range: &Range<Bytes>) -> Range<u64> {
        range.start.0 / CHUNK..range.end.div_ceil(CHUNK)
    }
}

/// The number of an extent of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent(pub u32);

/// The number of a generation; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Generations by number, neighbours as one: `generations 1, 2, 4 to 6`.
pub fn list(generations: &[Generation]) -> String {
    let runs = generations.chunk_by(|a, b| a.next() == *b).map(|run| match run {
        [one, .., last] if run.len() > 2 => format!("{one} to {last}"),
        run => run.iter().map(Generation::to_string).collect::<Vec<_>>().join(", "),
    });
    let word = if generations.len() == 1 { "generation" } else { "generations" };
    format!("{word} {}", runs.collect::<Vec<_>>().join(", "))
}

/// Which pages of a chunk: bit `i` stands for the page at `i * 4096`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageMask(pub u16);

impl PageMask {
    /// Every page.
    pub const ALL: Self = Self(u16::MAX);

    /// The pages in which two chunks of equal length differ.
    pub fn differing(old: &[u8], new: &[u8]) -> Self {
        let pages = old.chunks(PAGE as usize).zip(new.chunks(PAGE as usize)).enumerate();
        Self(pages.fold(0, |mask, (i, (a, b))| if a == b { mask } else { mask | 1 << i }))
    }

    /// The set pages as runs of neighbours, in bytes from the start of the chunk.
    pub fn runs(self) -> impl Iterator<Item = Range<usize>> {
        let mut page = 0u64;
        std::iter::from_fn(move || {
            while page < PAGES_PER_CHUNK && self.0 & 1 << page == 0 {
                page += 1;
            }
            let start = page;
            while page < PAGES_PER_CHUNK && self.0 & 1 << page != 0 {
                page += 1;
            }
            (start < page).then(|| (start * PAGE) as usize..(page * PAGE) as usize)
        })
    }

    /// How many pages are set.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_runs_join_neighbours() {
        let runs: Vec<_> = PageMask(0b1000_0000_0000_0110).runs().collect();
        assert_eq!(runs, [4096..12288, 61440..65536]);
        assert_eq!(PageMask(0).runs().count(), 0);
        assert!(PageMask::ALL.runs().eq(std::iter::once(0..65536)));
    }

    #[test]
    fn neighbours_are_listed_together() {
        let of = |numbers: &[u64]| list(&numbers.iter().copied().map(Generation).collect::<Vec<_>>());
        assert_eq!(of(&[3]), "generation 3");
        assert_eq!(of(&[1, 2, 4, 5, 6, 9]), "generations 1, 2, 4 to 6, 9");
    }

    #[test]
    fn sizes_read_well() {
        let shown: Vec<_> = [0, 512, 1536, 3 << 20, 10 << 40].map(|n| Bytes(n).to_string()).into();
        assert_eq!(shown, ["0 B", "512 B", "1.5 KiB", "3 MiB", "10 TiB"]);
    }
}
