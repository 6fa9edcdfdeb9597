// SPDX-License-Identifier: MIT OR Apache-2.0
//! A chunk of the image rots on the DPSR disk: it comes back from the primary, as long as that still has it.

use serde_json::Value;

use crate::loops::{Disks, on_both};
use crate::tables::{parts, sfdisk};
use crate::world::{World, same, stamped};

const SIZE: u64 = 12 << 20;
const CHUNK: u64 = 64 << 10;
/// A byte of the volume that rots, somewhere inside of a chunk.
const WITHIN: u64 = 5 * CHUNK + 1234;

/// A pair with two generations, of which a byte of the newest rots in the second of its two partitions; where that
/// stands on the DPSR disk.
fn rotten(disks: &Disks) -> (World<'_>, u64) {
    let primary = disks.disk("primary", SIZE);
    primary.write(0, &stamped(SIZE, 5));
    sfdisk(&primary, &[], "label: gpt\nstart=2048, size=4000\nstart=8192, size=9001\n");
    let all = parts(&primary, &[]);
    let mut world = World::paired(disks, primary, 64 << 20, all, &[]);
    world.sync(&[]);
    world.change(1);
    world.sync(&[]);
    let status = world.json(&["status"]);
    let volume = status["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "2").unwrap();
    let at = volume["offset"].as_u64().unwrap() + WITHIN;
    let byte = world.dpsr.read_at(at, 1)[0];
    world.dpsr.write(at, &[byte ^ 0x10]);
    (world, at)
}

/// The one damage of a scrub that leaves it.
fn damage(world: &World<'_>, arguments: &[&str]) -> Value {
    let output = world.run(&[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = ["found", "repaired", "left"].map(|key| report[key].as_u64());
    assert_eq!(counts, [Some(1), Some(0), Some(1)], "{report}");
    let damage = report["damages"][0].clone();
    assert_eq!((damage["what"].as_str(), damage["volumes"][0].as_str()), (Some("image"), Some("2")));
    let (start, bytes) = (world.parts[1].start + WITHIN, &damage["bytes"]);
    assert_eq!(bytes["start"].as_u64(), Some(start / CHUNK * CHUNK), "{damage}");
    damage
}

#[test]
fn loop_a_chunk_of_the_image_is_mended_from_the_primary() {
    on_both(|disks| {
        let (world, _) = rotten(disks);
        let told = damage(&world, &["scrub"]);
        assert_eq!(told["remedy"], "'dpsr scrub --repair' replaces it where the primary still has it");
        let primary = world.primary.read();
        let report = world.json(&["scrub", "--repair"]);
        let counts = ["found", "repaired", "left"].map(|key| report[key].as_u64());
        assert_eq!(counts, [Some(1), Some(1), Some(0)], "{report}");
        world.ok(&["scrub"]);
        world.check();
        assert!(world.primary.read() == primary, "the primary was written to");
    });
}

#[test]
fn loop_a_chunk_that_the_primary_has_no_more_stays_damaged() {
    on_both(|disks| {
        let (mut world, at) = rotten(disks);
        // Another block of the same chunk.
        world.primary.write(world.parts[1].start + WITHIN + 8192, b"moved on");
        let before = world.dpsr.read_at(at - WITHIN % CHUNK, CHUNK);
        // The second time it is no news, and is told all the same.
        for _ in 0..2 {
            let told = damage(&world, &["scrub", "--repair"]);
            let remedy = "the next 'dpsr sync --compare' replaces it; older generations keep the damage";
            assert_eq!(told["remedy"], remedy);
        }
        let (code, told) = world.refused(&["scrub", "--repair"]);
        assert!(code == 6 && told.contains("do what is said of each above"), "{code} {told}");
        assert!(
            world.dpsr.read_at(at - WITHIN % CHUNK, CHUNK) == before,
            "it was overwritten with something else"
        );
        let report = world.sync(&["--compare"]);
        assert_eq!(report["rotten_chunks"], 1, "{report}");
        same(&world.export(3, &[]), &world.expected[&3].bytes, "generation 3");
        let (code, told) = world.refused(&["export", "2", disks.file("two").to_str().unwrap()]);
        assert!(code == 6 && told.contains("1 of its 64 KiB chunks are damaged"), "{code} {told}");
    });
}
