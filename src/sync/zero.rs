// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zeroing what the image gets anew. A disk that does not do it by itself is written to, at its own pace: that may
//! take hours, and must be seen and stopped.

use std::ops::Range;

use crate::disk::WriteDisk;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::units::{Bytes, MIB};

/// As much as a slow disk writes in about a second, and enough at a time for one that only takes note of it.
const PIECE: Bytes = Bytes(16 * MIB);

/// Makes `ranges` of `disk` read as zeros, unless it is to `stop` meanwhile. Nothing may need them before they are
/// flushed.
pub(super) fn zero(
    disk: &dyn WriteDisk,
    ranges: &[Range<Bytes>],
    progress: &dyn Progress,
    stop: impl Fn() -> bool,
) -> Result<()> {
    progress.begin("zeroing new extents", ranges.iter().map(|range| range.end - range.start).sum());
    for piece in ranges.iter().flat_map(pieces) {
        if stop() {
            let why = "a signal asked to stop";
            return Err(Error::new(Kind::Interrupted, "zeroing new extents of", why).on(disk.name()));
        }
        let size = piece.end - piece.start;
        disk.zero(piece).map_err(|error| Error::device("zeroing new extents of", disk.name(), &error))?;
        progress.advance(size);
    }
    Ok(())
}

fn pieces(range: &Range<Bytes>) -> impl Iterator<Item = Range<Bytes>> + use<> {
    let Range { start, end } = range.clone();
    (start.0..end.0).step_by(PIECE.usize()).map(move |at| Bytes(at)..(Bytes(at) + PIECE).min(end))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Mutex;

    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::disk::recorded::{Event, Recorded};
    use crate::progress::Silent;

    #[derive(Default)]
    struct Seen(Mutex<Vec<u64>>);

    impl Progress for Seen {
        fn begin(&self, _: &str, total: Bytes) {
            self.0.lock().unwrap().push(total.0 / MIB);
        }
        fn advance(&self, bytes: Bytes) {
            self.0.lock().unwrap().push(bytes.0 / MIB);
        }
    }

    fn ranges() -> [Range<Bytes>; 2] {
        [Bytes(MIB)..Bytes(36 * MIB), Bytes(40 * MIB)..Bytes(41 * MIB)]
    }

    fn disk() -> Recorded<RamDisk> {
        Recorded::new(RamDisk::from_bytes("disk", vec![7; 48 * MIB as usize]))
    }

    #[test]
    fn new_extents_are_zeroed_in_pieces_that_are_told() {
        let (disk, seen) = (disk(), Seen::default());
        zero(&disk, &ranges(), &seen, || false).unwrap();
        assert_eq!(seen.0.into_inner().unwrap(), [36, 16, 16, 3, 1]);
        let bytes = disk.inner().contents();
        let zeroed = |at: u64| ranges().iter().any(|range| range.contains(&Bytes(at)));
        assert!(bytes.chunks(4096).zip((0..).step_by(4096)).all(|(page, at)| {
            let wanted = if zeroed(at) { 0 } else { 7 };
            page.iter().all(|byte| *byte == wanted)
        }));
    }

    #[test]
    fn a_signal_stops_it_between_two_pieces() {
        let (disk, asked) = (disk(), Cell::new(0));
        let stop = || asked.replace(asked.get() + 1) == 2;
        let error = zero(&disk, &ranges(), &Silent, stop).unwrap_err();
        insta::assert_snapshot!(error, @"zeroing new extents of disk: a signal asked to stop");
        assert_eq!(error.kind(), Kind::Interrupted);
        let zeroed = |event: &Event| matches!(event, Event::Zero(_));
        assert_eq!(disk.events().iter().filter(|event| zeroed(event)).count(), 2);
    }
}
