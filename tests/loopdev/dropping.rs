// SPDX-License-Identifier: MIT OR Apache-2.0
//! Generations dropped from the middle, on devices and on files: what is left exports as before.

use crate::loops::{Disks, on_both};
use crate::tables::{parts, sfdisk};
use crate::world::{World, stamped};

const SIZE: u64 = 12 << 20;

const GPT: &str = "label: gpt\nfirst-lba: 34\n\
    start=2048,  size=4000\n\
    start=6100,  size=7001\n";

fn world(disks: &Disks) -> World<'_> {
    let primary = disks.disk("primary", SIZE);
    primary.write(0, &stamped(SIZE, 41));
    sfdisk(&primary, &[], GPT);
    let all = parts(&primary, &[]);
    World::paired(disks, primary, 64 << 20, all, &[])
}

#[test]
fn loop_generations_are_pinned_dropped_and_pruned() {
    on_both(|disks| {
        let mut world = world(disks);
        for round in 0..7 {
            world.change(round);
            world.sync(&[]);
        }
        world.json(&["pin", "2"]);
        assert_eq!(world.refused(&["drop", "2"]).0, 3);
        assert_eq!(world.refused(&["drop", "7"]).0, 3);
        world.json(&["drop", "4", "3"]);
        [3, 4].iter().for_each(|generation| drop(world.expected.remove(generation)));
        world.check();
        let pruned = world.json(&["prune", "--keep-last", "2"]);
        assert_eq!(pruned["dropped"], serde_json::json!([1, 5]));
        [1, 5].iter().for_each(|generation| drop(world.expected.remove(generation)));
        world.check();
        world.change(9);
        world.sync(&["--compare"]);
        world.check();
        world.ok(&["scrub"]);
    });
}
