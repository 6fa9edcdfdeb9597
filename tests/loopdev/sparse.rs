// SPDX-License-Identifier: MIT OR Apache-2.0
//! Large and mostly empty: time and room go by what is there, not by how far it reaches.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::loops::with_files;
use crate::tables::Part;
use crate::world::{World, same, stamped};

const SIZE: u64 = 20 << 30;
const MIB: u64 = 1 << 20;

fn allocated(file: &Path) -> u64 {
    fs::metadata(file).unwrap().blocks() * 512
}

/// Where the data is: 50 pieces of 1 MiB, none of them aligned.
fn places() -> impl Iterator<Item = u64> {
    (0..50).map(|i| i * (SIZE / 50) / 4096 * 4096 + i * 8192 + 512)
}

#[test]
fn loop_a_sparse_image_stays_sparse() {
    with_files(|disks| {
        let primary = disks.disk("primary", SIZE);
        places().for_each(|at| primary.write(at, &stamped(MIB, at)));
        let world = World::paired(disks, primary, SIZE + (1 << 30), vec![Part::whole(SIZE)], &[]);
        let begun = Instant::now();
        let first = world.json(&["sync", "--offline"]);
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(first["bytes_read"].as_u64() < Some(80 * MIB), "{first}");
        assert!(allocated(&world.dpsr.file) < 120 * MIB, "{} MiB", allocated(&world.dpsr.file) / MIB);

        let changed = places().nth(7).unwrap();
        world.primary.write(changed, &stamped(MIB, 1));
        world.primary.write(changed + 100 * MIB, &stamped(5000, 2));
        let begun = Instant::now();
        let second = world.json(&["sync", "--offline"]);
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(second["bytes_written_image"].as_u64() < Some(2 * MIB), "{second}");
        assert!(allocated(&world.dpsr.file) < 140 * MIB, "{} MiB", allocated(&world.dpsr.file) / MIB);

        for (generation, seed) in [("1", changed), ("2", 1)] {
            let file = disks.file("export");
            world.ok(&["export", generation, file.to_str().unwrap()]);
            assert_eq!(fs::metadata(&file).unwrap().len(), SIZE);
            assert!(allocated(&file) < 80 * MIB, "{} MiB", allocated(&file) / MIB);
            let exported = crate::loops::Disk { path: file.clone(), file: file.clone() };
            for at in places() {
                let seed = if at == changed { seed } else { at };
                same(&exported.read_at(at, MIB), &stamped(MIB, seed), &format!("piece at {at}"));
            }
            let late = exported.read_at(changed + 100 * MIB, 5000);
            assert_eq!(late == stamped(5000, 2), generation == "2");
            fs::remove_file(&file).unwrap();
        }
    });
}

/// A restore onto a sparse file makes it no fuller than the copy is.
#[test]
fn loop_a_restore_stays_sparse() {
    with_files(|disks| {
        let primary = disks.disk("primary", SIZE);
        places().take(5).for_each(|at| primary.write(at, &stamped(MIB, at)));
        let world = World::paired(disks, primary, SIZE + (1 << 30), vec![Part::whole(SIZE)], &[]);
        world.json(&["sync", "--offline"]);
        let target = disks.disk("target", SIZE);
        let stale = places().nth(9).unwrap();
        target.write(stale, &stamped(MIB, 3));
        let path = target.path.to_str().unwrap();
        world.ok(&["restore", "1", "--to", path, "--confirm", &SIZE.to_string()]);
        for at in places().take(5) {
            same(&target.read_at(at, MIB), &stamped(MIB, at), &format!("piece at {at}"));
        }
        assert!(target.read_at(stale, MIB).iter().all(|byte| *byte == 0));
        assert!(allocated(&target.file) < 20 * MIB, "{} MiB", allocated(&target.file) / MIB);
    });
}
