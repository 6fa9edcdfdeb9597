// SPDX-License-Identifier: MIT OR Apache-2.0
//! MBR tables with logical partitions, and filesystems that need no table.

use std::fs;
use std::process::Command;

use crate::loops::{Disks, on_both};
use crate::tables::{Part, delete, parts, sfdisk};
use crate::world::{World, stamped};

const SIZE: u64 = (24 << 20) + 512;

const MBR: &str = "label: dos\nunit: sectors\n\
    /p1 : start=63,    size=2000, type=83, bootable\n\
    /p2 : start=2063,  size=1,    type=83\n\
    /p3 : start=3000,  size=30000, type=f\n\
    /p4 : start=33000, size=16152, type=83\n\
    /p5 : start=3063,  size=4000, type=83\n\
    /p6 : start=7100,  size=5000, type=83\n\
    /p7 : start=12200, size=1,    type=83\n\
    /p8 : start=12300, size=8000, type=82\n";

fn world<'a>(disks: &'a Disks, out: &[&str]) -> World<'a> {
    let primary = disks.disk("primary", SIZE);
    primary.write(0, &stamped(SIZE, 21));
    // What was there must not look like a table.
    primary.write(0, &[0; 512]);
    sfdisk(&primary, &[], MBR);
    let all = parts(&primary, &[]);
    let names: Vec<_> = all.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["1", "2", "4", "5", "6", "7", "8"]);
    World::paired(disks, primary, 72 << 20, all, out)
}

#[test]
fn loop_logical_partitions() {
    on_both(|disks| {
        // Number 8 has no signature, and the type of swap.
        let mut world = world(disks, &[]);
        world.parts.last_mut().unwrap().out = true;
        world.story(512);
    });
}

#[test]
fn loop_logical_partitions_left_out() {
    on_both(|disks| world(disks, &["2", "5", "7", "8", "4"]).story(512));
}

/// The boot records between the logical partitions belong to no partition, and are copied.
#[test]
fn loop_boot_records_between_them_are_followed() {
    on_both(|disks| {
        let mut world = world(disks, &["8"]);
        world.sync(&[]);
        delete(&world.primary, "8");
        world.parts = parts(&world.primary, &[]);
        world.sync(&[]);
        world.change(4);
        world.sync(&["--compare"]);
        world.check();
        world.check_restore(1, 512);
        world.check_restore(3, 512);
        let restored = world.export(3, &[]);
        let file = disks.disk("as-exported", SIZE);
        file.write(0, &restored);
        assert_eq!(parts(&file, &[]), world.parts);
    });
}

/// Deleting number 5 makes 6, which is left out, of what was 7, and is not.
#[test]
fn loop_a_partition_that_gets_the_number_of_one_left_out() {
    on_both(|disks| {
        let mut world = world(disks, &["6"]);
        world.parts.last_mut().unwrap().out = true;
        world.sync(&[]);
        delete(&world.primary, "5");
        let before = world.dpsr.read();
        let (code, told) = world.refused(&["sync", "--offline"]);
        assert_eq!(code, 3, "{told}");
        assert!(told.contains("leaving out volume 6 of"), "{told}");
        let record = world.config().join("system.toml");
        assert!(told.contains(&format!("correct leave_out in {}", record.display())), "{told}");
        assert!(world.dpsr.read() == before, "it was written to");
        // Number 6 is 5 now, and 8, the swap, is 7.
        let text = fs::read_to_string(&record).unwrap();
        fs::write(&record, text.replace("-06\"", "-05\"").replace("-08\"", "-07\"")).unwrap();
        world.parts = parts(&world.primary, &["5", "7"]);
        world.sync(&[]);
        world.check();
    });
}

#[test]
fn loop_a_filesystem_on_the_whole_device() {
    on_both(|disks| {
        let primary = disks.disk("primary", SIZE);
        let made = Command::new("mkfs.ext4").args(["-q", "-L", "whole"]).arg(&primary.path).status().unwrap();
        assert!(made.success());
        let mut world = World::paired(disks, primary, 72 << 20, vec![Part::whole(SIZE)], &[]);
        world.sync(&[]);
        let note = disks.file("note");
        fs::write(&note, stamped(100_000, 1)).unwrap();
        let request = format!("write {} note", note.display());
        let run =
            Command::new("debugfs").args(["-w", "-R", &request]).arg(&world.primary.path).output().unwrap();
        assert!(run.status.success());
        let changed = world.sync(&[])["bytes_changed"].as_u64().unwrap();
        assert!((100_000..2 << 20).contains(&changed), "{changed}");
        world.check();
        for generation in [1, 2] {
            let file = disks.file(&format!("clean-{generation}"));
            fs::write(&file, world.export(generation, &["--volume", "disk"])).unwrap();
            assert!(Command::new("fsck.ext4").arg("-fn").arg(&file).output().unwrap().status.success());
        }
        world.check_restore(1, 512);
    });
}
