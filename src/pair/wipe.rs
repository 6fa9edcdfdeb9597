// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the DPSR disk opaque: no prober may find what was on it before.

use std::ops::Range;

use super::layout::DpsrLayout;
use crate::disk::WriteDisk;
use crate::error::{Error, Result};
use crate::units::{Bytes, MIB};

/// Signature probers look this far from the start and from the end.
const HEAD: Bytes = Bytes(8 * MIB);
const TAIL: Bytes = Bytes(4 * MIB);

/// Zeroes the head and the tail of the disk and of every new partition, and flushes.
pub fn wipe_signatures(disk: &dyn WriteDisk, layout: &DpsrLayout) -> Result<()> {
    let whole = Bytes::ZERO..disk.size();
    let mut ends = bands(&whole);
    ends.extend(layout.partitions().flat_map(|(_, range)| bands(range)));
    let done = ends.into_iter().try_for_each(|range| disk.zero(range)).and_then(|()| disk.flush());
    done.map_err(|error| Error::device("wiping old signatures from", disk.name(), &error))
}

fn bands(range: &Range<Bytes>) -> Vec<Range<Bytes>> {
    let head = range.start..range.end.min(range.start + HEAD);
    let tail = range.start.max(range.end.saturating_sub(TAIL))..range.end;
    vec![head, tail]
}

#[cfg(test)]
mod tests {
    use super::super::testing::Memory;
    use super::*;

    #[test]
    fn old_signatures_are_gone() {
        let disk = Memory::of(vec![0xa5; 64 << 20]);
        let layout = DpsrLayout { bios_boot: None, esp: None, store: Bytes(20 * MIB)..Bytes(60 * MIB) };
        wipe_signatures(&disk, &layout).unwrap();
        let data = disk.0.lock().unwrap();
        let zero = |mib: usize| data[mib << 20..][..1 << 20].iter().all(|byte| *byte == 0);
        let shown: Vec<_> = (0..64).filter(|mib| !zero(*mib)).collect();
        assert_eq!(shown, (8..20).chain(28..56).collect::<Vec<_>>());
    }
}
