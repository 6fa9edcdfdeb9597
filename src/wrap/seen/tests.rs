// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::wrap::names::DiskId;

const RAW: DevNum = DevNum { major: 8, minor: 16 };
const OTHER: DevNum = DevNum { major: 8, minor: 32 };
const DISK: DevNum = dm(0);
const REAL: DevNum = dm(9);

const fn dm(minor: u64) -> DevNum {
    DevNum { major: 254, minor }
}

fn shape() -> Shape {
    let part = |number, start: u64, end: u64, left_out| Part {
        number,
        range: Bytes(start << 20)..Bytes(end << 20),
        left_out,
    };
    let parts = vec![part(1, 1, 10, false), part(2, 10, 20, true), part(5, 20, 30, false)];
    Shape { id: DiskId("9f2176b2-2214".to_owned()), raw: RAW, size: Bytes(32 << 20), parts }
}

fn device(uuid: String, number: DevNum, rows: Rows) -> Seen {
    Seen { uuid, number, rows }
}

/// As `dpsr wrap` leaves it.
fn whole(shape: &Shape) -> Vec<Seen> {
    let mut seen = vec![device(shape.id.disk().uuid, DISK, shape.disk_table().to_kernel())];
    for (minor, part) in (1..).zip(&shape.parts) {
        let rows = shape.part_table(part, DISK).to_kernel();
        seen.push(device(shape.id.partition(part.number).uuid, dm(minor), rows));
    }
    seen
}

fn found(shape: &Shape, seen: &[Seen]) -> Found {
    match recognize(shape, seen).unwrap() {
        State::Wrapped(found) => found,
        other => panic!("{other:?}"),
    }
}

fn row(sectors: u64, kind: &str, words: &str) -> Rows {
    vec![(0, sectors, kind.to_owned(), words.to_owned())]
}

#[test]
fn what_wrap_makes_is_recognized() {
    let shape = shape();
    let seen = whole(&shape);
    assert_eq!(seen[1].rows, row(9 << 11, "linear", "254:0 2048"));
    assert_eq!(seen[2].rows, row(10 << 11, "linear", "8:16 20480"));
    let found = found(&shape, &seen);
    assert_eq!((found.under, found.disk.number, found.differences), (Under::Raw, DISK, vec![]));
    let parts: Vec<_> = found.parts.iter().map(|(part, device)| (part.number, device.number)).collect();
    assert_eq!(parts, [(1, dm(1)), (2, dm(2)), (5, dm(3))]);
}

#[test]
fn nothing_and_half_of_it_are_told_apart() {
    let shape = shape();
    assert_eq!(recognize(&shape, &[]), Ok(State::Unwrapped));
    let other = device("DPSR-DISK-of-another".to_owned(), DISK, row(1, "linear", "8:32 0"));
    assert_eq!(recognize(&shape, &[other]), Ok(State::Unwrapped));
    let begun = device(shape.id.disk().uuid, DISK, vec![]);
    assert!(matches!(recognize(&shape, &[begun]), Ok(State::Begun(node)) if node.number == DISK));
    let orphan = &whole(&shape)[1..2];
    insta::assert_snapshot!(recognize(&shape, orphan).unwrap_err(), @"dpsr-9f2176b2-part1 is there without dpsr-9f2176b2");
}

#[test]
fn a_live_sync_under_the_disk_is_seen() {
    let shape = shape();
    let mut seen = whole(&shape);
    seen[0].rows = row(32 << 11, "snapshot-origin", "254:9");
    let unknown = recognize(&shape, &seen).unwrap_err();
    insta::assert_snapshot!(unknown, @"dpsr-9f2176b2 is the origin of snapshots over 254:9, which is not the raw disk");
    seen.push(device(shape.id.private("real").uuid, REAL, shape.disk_table().to_kernel()));
    let live = found(&shape, &seen);
    assert_eq!((live.under, live.differences), (Under::Origin(REAL), vec![]));
    seen[4].rows = row(32 << 11, "linear", "8:32 0");
    assert!(recognize(&shape, &seen).is_err());
}

#[test]
fn another_disk_or_another_table_is_no_wrap() {
    let shape = shape();
    let refused = |rows: Rows| {
        let mut seen = whole(&shape);
        seen[0].rows = rows;
        recognize(&shape, &seen).unwrap_err()
    };
    let other = refused(row(32 << 11, "linear", &format!("{OTHER} 0")));
    insta::assert_snapshot!(other, @"dpsr-9f2176b2 lies over another disk (8:32, not 8:16)");
    let shifted = refused(row(32 << 11, "linear", "8:16 8"));
    insta::assert_snapshot!(shifted, @"dpsr-9f2176b2 has the table '0 65536 linear 8:16 8'");
    let short = refused(row(31 << 11, "linear", "8:16 0"));
    insta::assert_snapshot!(short, @"dpsr-9f2176b2 has the table '0 63488 linear 8:16 0'");
    let mut two = row(16 << 11, "linear", "8:16 0");
    two.push((16 << 11, 16 << 11, "linear".to_owned(), "8:16 0".to_owned()));
    insta::assert_snapshot!(refused(two), @"dpsr-9f2176b2 is not one stretch of one device");
}

#[test]
fn partitions_that_came_went_or_moved_are_told() {
    let shape = shape();
    let mut seen = whole(&shape);
    seen.remove(1);
    seen[1].rows = row(10 << 11, "linear", "254:0 20480");
    seen.push(device(shape.id.partition(7).uuid, dm(7), row(8, "linear", "254:0 8")));
    let told: Vec<_> = found(&shape, &seen).differences.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "partition 1 has no node",
            "dpsr-9f2176b2-part2 is not where partition 2 lies now",
            "dpsr-9f2176b2-part7 is there, and there is no partition 7",
        ]
    );
}
