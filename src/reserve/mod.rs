// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two disks of one size: a file on the primary that nobody needs makes room on the DPSR disk.
//!
//! The **reserve** is preallocated and immutable, so its bytes stay where they are and mean nothing; what lies
//! whole inside it is left out of the copy. Where it lies is recorded, and looked at again at each sync: a
//! reserve that has moved would leave out somebody's data.

mod file;
mod look;
mod new;
mod place;

pub use file::Reserve;
pub use look::{mounted, unmounted};
pub use new::{MadeReserve, NewReserve};

use std::ops::Range;

use crate::units::Bytes;

/// The name of the file, in the top directory of its filesystem.
pub const NAME: &str = ".dpsr-reserve";

/// The whole extents of `unit` bytes inside `ranges`, which are sorted and disjoint; neighbours joined.
pub fn whole_extents(ranges: &[Range<Bytes>], unit: Bytes) -> Vec<Range<Bytes>> {
    let mut joined: Vec<Range<Bytes>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range.clone()),
        }
    }
    let inner = joined.into_iter().map(|range| range.start.round_up(unit.0)..range.end.round_down(unit.0));
    inner.filter(|range| range.start < range.end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_extents_count_and_neighbours_are_one() {
        let range = |start, end| Bytes(start)..Bytes(end);
        let pieces = [range(5, 30), range(30, 50), range(60, 79), range(91, 120)];
        assert_eq!(whole_extents(&pieces, Bytes(20)), [range(20, 40), range(100, 120)]);
        assert_eq!(whole_extents(&pieces[..1], Bytes(40)), []);
    }
}
