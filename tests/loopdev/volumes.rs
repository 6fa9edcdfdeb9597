// SPDX-License-Identifier: MIT OR Apache-2.0
//! Single volumes: to sync, to export, to put back into the partition they came from.

use crate::loops::{Disks, on_both};
use crate::tables::{parts, sfdisk};
use crate::world::{World, same, stamped};

const SIZE: u64 = 24 << 20;

const GPT: &str = "label: gpt\nfirst-lba: 34\n\
    start=2048,  size=3001, type=uefi, name=esp\n\
    start=5049,  size=2000, type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709, name=root\n\
    start=7049,  size=9001, name=home\n\
    start=16050, size=1,    name=dot\n\
    start=16051, size=9000, name=\"2\"\n";

fn world(disks: &Disks) -> World<'_> {
    let primary = disks.disk("primary", SIZE);
    primary.write(0, &stamped(SIZE, 41));
    sfdisk(&primary, &[], GPT);
    let all = parts(&primary, &[]);
    World::paired(disks, primary, 96 << 20, all, &[])
}

/// The volumes named are at the present, all else is as it was.
fn partly(world: &mut World<'_>, generation: u64, moved: &[usize]) {
    let last = &world.expected[&(generation - 1)];
    let (mut bytes, parts) = (last.bytes.clone(), last.parts.clone());
    let present = world.primary.read();
    for &number in moved {
        let range = world.parts[number - 1].range();
        bytes[range.clone()].copy_from_slice(&present[range]);
    }
    world.expected.insert(generation, crate::world::Expected { bytes, parts });
}

#[test]
fn loop_one_volume_moves() {
    on_both(|disks| {
        let mut world = world(disks);
        world.sync(&[]);
        world.change(5);
        world.json(&["sync", "--offline", "--volume", "home", "--volume", "4"]);
        partly(&mut world, 2, &[3, 4]);
        world.check();
        world.change(6);
        world.json(&["sync", "--offline", "--compare", "--volume", "5"]);
        partly(&mut world, 3, &[5]);
        world.check();
        world.sync(&[]);
        world.check();
        world.check_volumes();
        world.check_restore(2, 512);
    });
}

/// The system never stands at two points in time.
#[test]
fn loop_the_group_moves_together() {
    on_both(|disks| {
        let mut world = world(disks);
        world.sync(&[]);
        world.change(7);
        let report = world.json(&["sync", "--offline", "--volume", "root"]);
        partly(&mut world, 2, &[1, 2]);
        world.check();
        let volumes = report["volumes"].as_array().unwrap();
        let moved = |name: &str| {
            volumes.iter().find(|volume| volume["name"] == name).unwrap()["bytes_changed"].as_u64() > Some(0)
        };
        assert!(moved("1") && moved("2"));
    });
}

#[test]
fn loop_every_name_of_a_volume() {
    on_both(|disks| {
        let mut world = world(disks);
        world.sync(&[]);
        let status = world.json(&["status"]);
        let id = status["volumes"][3]["id"].as_str().unwrap().to_owned();
        let home = world.export(1, &["--volume", "3"]);
        for name in ["home", &id, &id.to_uppercase()] {
            assert!(world.export(1, &["--volume", name]) == home, "{name}");
        }
        // A number is a number, even where another volume has it as its label.
        same(&world.export(1, &["--volume", "2"]), &world.expected[&1].bytes[world.parts[1].range()], "2");
        let (code, text) = world.refused(&["export", "1", "/nonexistent/file", "--volume", "table"]);
        assert_eq!(code, 9, "{text}");
    });
}

/// Into the partition with the same identity, wherever it lies now, and nowhere else.
#[test]
fn loop_a_volume_goes_back_into_its_partition() {
    on_both(|disks| {
        let mut world = world(disks);
        world.sync(&[]);
        world.change(8);
        let wrecked = world.primary.read();
        let path = world.primary.path.to_str().unwrap().to_owned();
        let confirm = SIZE.to_string();
        for number in [2, 4] {
            let name = number.to_string();
            world.ok(&["restore", "1", "--volume", &name, "--to", &path, "--confirm", &confirm]);
        }
        let mut wanted = wrecked;
        for number in [2, 4] {
            let range = world.parts[number - 1].range();
            wanted[range.clone()].copy_from_slice(&world.expected[&1].bytes[range]);
        }
        same(&world.primary.read(), &wanted, "the primary");

        let stranger = disks.disk("stranger", SIZE);
        sfdisk(&stranger, &[], GPT);
        let before = stranger.read();
        let path = stranger.path.to_str().unwrap();
        let (code, text) =
            world.refused(&["restore", "1", "--volume", "2", "--to", path, "--confirm", &confirm]);
        assert!(code == 3 && text.contains("but no partition with the ID"), "{text}");
        assert!(stranger.read() == before);
    });
}
