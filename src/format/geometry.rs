// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things stand in the store partition, as named sums.
//!
//! ```text
//! 0           head guard band, 8 MiB: superblock copies 0 (at 1 MiB) and 1 (at 4 MiB)
//! 8 MiB       index slot 0, slot 1 (first copies)
//! …           extents
//! …           index slot 0, slot 1 (second copies)
//! end - 4 MiB tail guard band: superblock copy 2 (at end - 2 MiB)
//! ```
//!
//! Signature probers look into the guard bands, so no image, undo or COW byte ever stands there.

use std::ops::Range;

use crate::units::{Bytes, CHUNK, Extent, KIB, MIB, PAGE};

/// Bytes at the head that never hold data.
pub const HEAD_BAND: Bytes = Bytes(8 * MIB);
/// Bytes at the tail that never hold data.
pub const TAIL_BAND: Bytes = Bytes(4 * MIB);
/// The largest, and default, extent.
pub const EXTENT_MAX: Bytes = Bytes(16 * MIB);
/// The smallest extent.
pub const EXTENT_MIN: Bytes = Bytes(256 * KIB);
/// Small stores get smaller extents, so that there are at least about this many.
const EXTENTS_WANTED: u64 = 1024;
/// The index has room for this much, and [`INDEX_PER_EXTENT`] more for each extent.
const INDEX_BASE: u64 = 256 * KIB;
const INDEX_PER_EXTENT: u64 = 32;

/// The sizes that fix every location in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the store partition.
    pub store: Bytes,
    /// Size of an extent: a power of two, at least [`EXTENT_MIN`].
    pub extent: Bytes,
    /// Size of one index slot.
    pub index_slot: Bytes,
}

impl Geometry {
    /// The geometry `init` chooses for a store partition of `store` bytes; `None` if that is too small
    /// to hold a single extent.
    pub fn choose(store: Bytes) -> Option<Self> {
        let store = store.round_down(PAGE);
        let wanted = (store.0 / EXTENTS_WANTED).max(1).next_power_of_two();
        let extent = Bytes(wanted.clamp(EXTENT_MIN.0, EXTENT_MAX.0));
        let slot = INDEX_BASE + INDEX_PER_EXTENT * (store.0 / extent.0);
        let chosen = Self { store, extent, index_slot: Bytes(slot).round_up(CHUNK) };
        (chosen.extents() > 0).then_some(chosen)
    }

    /// Whether the sizes make sense together; checked before anything read from a disk is believed.
    pub fn is_sound(&self) -> bool {
        self.extent.0.is_power_of_two()
            && (EXTENT_MIN..=EXTENT_MAX).contains(&self.extent)
            && self.index_slot.0 > 0
            && self.index_slot.is_multiple_of(CHUNK)
            && self.index_slot.0 <= self.store.0 / 8
            && self.store.is_multiple_of(PAGE)
            && self.extents() > 0
    }

    /// Where the three superblock copies stand.
    pub fn superblocks(&self) -> [Bytes; 3] {
        Self::superblocks_in(self.store)
    }

    /// Where the three superblock copies stand in a store of `store` bytes.
    pub fn superblocks_in(store: Bytes) -> [Bytes; 3] {
        let store = store.round_down(PAGE);
        [Bytes(MIB), Bytes(4 * MIB), store.saturating_sub(Bytes(2 * MIB)).round_down(PAGE)]
    }

    /// Where copy `copy` (0 or 1) of index slot `slot` (0 or 1) stands.
    pub fn index(&self, slot: u32, copy: usize) -> Bytes {
        let base = if copy == 0 { HEAD_BAND } else { self.extents_end() };
        Bytes(base.0 + u64::from(slot) * self.index_slot.0)
    }

    /// Where extent 0 starts: behind the head band and both first index copies, on an extent-size grid
    /// as far as 1 MiB so that image bytes are aligned for every disk.
    pub fn extents_start(&self) -> Bytes {
        Bytes(HEAD_BAND.0 + 2 * self.index_slot.0).round_up(MIB)
    }

    /// How many extents there are.
    pub fn extents(&self) -> u32 {
        let taken = self.extents_start().0 + 2 * self.index_slot.0 + TAIL_BAND.0;
        u32::try_from(self.store.0.saturating_sub(taken) / self.extent.0).unwrap_or(u32::MAX)
    }

    /// Where the last extent ends.
    pub fn extents_end(&self) -> Bytes {
        Bytes(self.extents_start().0 + u64::from(self.extents()) * self.extent.0)
    }

    /// The bytes of `extent`.
    pub fn bytes_of(&self, extent: Extent) -> Range<Bytes> {
        let start = Bytes(self.extents_start().0 + u64::from(extent.0) * self.extent.0);
        start..start + self.extent
    }

    /// The extent that holds byte `at` of the store; `None` outside the extents.
    pub fn extent_at(&self, at: Bytes) -> Option<Extent> {
        let within = at.0.checked_sub(self.extents_start().0)?;
        let number = u32::try_from(within / self.extent.0).ok()?;
        (number < self.extents()).then_some(Extent(number))
    }

    /// Chunks in one extent.
    pub fn chunks_per_extent(&self) -> u64 {
        self.extent.0 / CHUNK
    }

    /// How many extents hold `size` bytes.
    pub fn extents_for(&self, size: Bytes) -> u64 {
        size.div_ceil(self.extent.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::GIB;

    #[test]
    fn regions_never_overlap() {
        for store in [40 * MIB, 64 * MIB, GIB, 100 * GIB + 4096, 10 << 40, 100 << 40] {
            let g = Geometry::choose(Bytes(store)).unwrap();
            assert!(g.is_sound(), "{store}");
            let [first, second, third] = g.superblocks();
            assert!(second + Bytes(PAGE) <= HEAD_BAND && first < second);
            assert!(g.index(1, 0) + g.index_slot <= g.extents_start());
            assert!(g.extents_end() == g.index(0, 1));
            assert!(g.index(1, 1) + g.index_slot + TAIL_BAND <= g.store);
            assert!(third >= g.store - TAIL_BAND && third + Bytes(PAGE) <= g.store);
            assert!(g.extents_start().is_multiple_of(MIB));
        }
        assert_eq!(Geometry::choose(Bytes(12 * MIB)), None);
    }

    #[test]
    fn large_disks_get_large_extents() {
        assert_eq!(Geometry::choose(Bytes(100 * GIB)).unwrap().extent, EXTENT_MAX);
        assert_eq!(Geometry::choose(Bytes(64 * MIB)).unwrap().extent, EXTENT_MIN);
    }
}
