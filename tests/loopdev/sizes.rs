// SPDX-License-Identifier: MIT OR Apache-2.0
//! Primaries whose size is a multiple of nothing.

use crate::loops::{Disks, On, on_both, with_files};
use crate::tables::Part;
use crate::world::{World, stamped};

const CHUNK: u64 = 64 << 10;
/// Of a store as small as these.
const EXTENT: u64 = 256 << 10;

fn story(disks: &Disks, size: u64) {
    let primary = disks.disk("primary", size);
    primary.write(0, &stamped(primary.size(), 3));
    let parts = vec![Part::whole(primary.size())];
    World::paired(disks, primary, 48 << 20, parts, &[]).story(512);
}

#[test]
fn loop_a_prime_number_of_sectors() {
    on_both(|disks| story(disks, 512 * 12_007));
}

#[test]
fn loop_a_sector_more_or_less_than_a_chunk() {
    for size in [40 * CHUNK + 512, 41 * CHUNK - 512] {
        on_both(|disks| story(disks, size));
    }
}

#[test]
fn loop_a_sector_more_or_less_than_an_extent() {
    for size in [12 * EXTENT + 512, 13 * EXTENT - 512, 13 * EXTENT] {
        on_both(|disks| story(disks, size));
    }
}

#[test]
fn loop_the_smallest_disks() {
    on_both(|disks| story(disks, 512));
    on_both(|disks| story(disks, 4096 + 512));
}

/// Only a file may end inside a sector.
#[test]
fn loop_files_that_end_inside_a_sector() {
    for size in [1, 511, 513, 5_000_001, 30 * CHUNK - 1, 30 * CHUNK + 1, 9 * EXTENT - 1] {
        with_files(|disks| story(disks, size));
    }
}

/// A loop device over such a file ends at its last whole sector, and so does the copy.
#[test]
fn loop_a_device_over_a_file_that_ends_inside_a_sector() {
    on_both(|disks| {
        if disks.on() == On::Loops {
            story(disks, 3_000_001);
        }
    });
}
