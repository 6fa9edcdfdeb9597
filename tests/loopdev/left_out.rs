// SPDX-License-Identifier: MIT OR Apache-2.0
//! Partitions that are left out, wherever they lie: borders inside sectors' neighbours, chunks and extents.

use std::process::Command;

use crate::loops::{Disks, on_both};
use crate::tables::{parts, sfdisk};
use crate::world::{World, same, stamped};

const SIZE: u64 = (24 << 20) + 512 * 77;

/// In sectors; a chunk has 128 of them, an extent 512. Nothing is aligned, neighbours touch.
const GPT: &str = "label: gpt\nfirst-lba: 34\n\
    start=34,    size=601\n\
    start=635,   size=1\n\
    start=636,   size=1\n\
    start=637,   size=1000\n\
    start=1637,  size=2500\n\
    start=4137,  size=3000\n\
    start=7137,  size=3\n\
    start=7140,  size=10\n\
    start=7150,  size=5000\n\
    start=20480, size=512\n\
    start=20992, size=1024\n\
    start=41000, size=8194\n";

fn world<'a>(disks: &'a Disks, out: &[&str]) -> World<'a> {
    let primary = disks.disk("primary", SIZE);
    primary.write(0, &stamped(SIZE, 11));
    sfdisk(&primary, &[], GPT);
    let all = parts(&primary, &[]);
    assert_eq!(all.len(), 12);
    World::paired(disks, primary, 72 << 20, all, out)
}

#[test]
fn loop_nothing_is_left_out() {
    on_both(|disks| world(disks, &[]).story(512));
}

/// At the start, single sectors, adjacent ones in the middle, some in one chunk with kept ones, on the
/// borders of extents, at the end.
#[test]
fn loop_left_out_everywhere() {
    on_both(|disks| world(disks, &["1", "3", "5", "6", "8", "11", "12"]).story(512));
}

#[test]
fn loop_left_out_the_other_way_round() {
    on_both(|disks| world(disks, &["2", "4", "7", "9", "10"]).story(512));
}

#[test]
fn loop_everything_is_left_out() {
    let all: Vec<_> = (1..=12).map(|number: u32| number.to_string()).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    on_both(|disks| world(disks, &all).story(512));
}

/// What changes only in what is left out is no change; what changes beside it, in the same chunk, is one.
#[test]
fn loop_a_chunk_shared_with_a_kept_partition() {
    on_both(|disks| {
        let mut world = world(disks, &["8"]);
        world.sync(&[]);
        let part = |world: &World<'_>, name: &str| {
            world.parts.iter().find(|part| part.name == name).unwrap().clone()
        };
        let (out, before, after) = (part(&world, "8"), part(&world, "7"), part(&world, "9"));
        world.primary.write(out.start, &stamped(out.size, 12));
        for options in [&[] as &[&str], &["--compare"]] {
            assert_eq!(world.sync(options)["bytes_changed"], 0);
        }
        world.primary.write(before.start + before.size - 512, &[7; 512]);
        world.primary.write(after.start, &[9; 512]);
        for (options, changed) in [(&[] as &[&str], 64 << 10), (&["--compare"], 0)] {
            assert_eq!(world.sync(options)["bytes_changed"], changed);
        }
        world.check();
    });
}

#[test]
fn loop_what_is_left_out_cannot_be_had() {
    on_both(|disks| {
        let mut world = world(disks, &["5"]);
        world.sync(&[]);
        let size = world.parts[4].size;
        let target = disks.disk("target", size);
        let (path, size) = (target.path.to_str().unwrap(), size.to_string());
        let options = ["restore", "1", "--volume", "5", "--to", path, "--confirm", &size];
        assert_eq!(
            world.refused(&options),
            (9, "dpsr: restoring volume 5: it is left out of the copy".into())
        );
        let file = disks.file("export");
        let options = ["export", "1", file.to_str().unwrap(), "--volume", "5"];
        assert_eq!(
            world.refused(&options),
            (9, "dpsr: exporting volume 5: it is left out of the copy".into())
        );
        assert!(!file.exists());
    });
}

fn swap(disks: &Disks, size: u64, label: &str) -> Vec<u8> {
    let file = disks.file(label);
    std::fs::File::create_new(&file).unwrap().set_len(size).unwrap();
    let run = Command::new("mkswap").args(["-L", label]).arg(&file).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    std::fs::read(&file).unwrap()
}

/// By its signature, whatever its type says; by its type where there is no signature. A type alone does not
/// make swap of something else.
#[test]
fn loop_swap_is_left_out_by_default() {
    on_both(|disks| {
        let primary = disks.disk("primary", SIZE);
        let script = "label: gpt\nfirst-lba: 34\n\
            start=2048,  size=2048\nstart=4099, size=2048\nstart=6200, size=2048, type=swap\n\
            start=9000, size=4096, type=swap\n";
        sfdisk(&primary, &[], script);
        let all = parts(&primary, &[]);
        for (number, part) in all.iter().enumerate().filter(|(number, _)| *number != 2) {
            primary.write(part.start, &stamped(part.size, number as u64));
        }
        let signed = swap(disks, all[1].size, "signed");
        primary.write(all[1].start, &signed);
        primary.write(all[2].start, &vec![0; all[2].size as usize]);
        let filesystem = disks.file("ext4");
        std::fs::File::create_new(&filesystem).unwrap().set_len(all[3].size).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&filesystem).status().unwrap();
        assert!(made.success());
        primary.write(all[3].start, &std::fs::read(&filesystem).unwrap());

        let mut world = World::paired(disks, primary, 48 << 20, all, &[]);
        let status = world.json(&["status"]);
        let out: Vec<_> =
            status["volumes"].as_array().unwrap().iter().filter(|v| v["left_out"] == true).collect();
        let out: Vec<_> = out.iter().map(|volume| volume["name"].as_str().unwrap()).collect();
        assert_eq!(out, ["2", "3"]);
        world.parts.iter_mut().for_each(|part| part.out = out.contains(&part.name.as_str()));
        world.sync(&[]);
        // A swap partition that is wiped, or used for something else, stays left out: its id decides.
        let (start, size) = (world.parts[1].start, world.parts[1].size);
        world.primary.write(start, &stamped(size, 13));
        assert_eq!(world.sync(&[])["bytes_changed"], 0);
        world.check();
    });
}

/// The target of a restore keeps what it holds where the copy has nothing.
#[test]
fn loop_a_restore_spares_what_is_left_out() {
    on_both(|disks| {
        let mut world = world(disks, &["1", "5", "12"]);
        world.sync(&[]);
        let before = world.primary.read();
        world.change(3);
        let wrecked = world.primary.read();
        let (path, size) = (world.primary.path.to_str().unwrap().to_owned(), SIZE.to_string());
        world.ok(&["restore", "1", "--to", &path, "--confirm", &size]);
        let mut wanted = before;
        for part in world.parts.iter().filter(|part| part.out) {
            wanted[part.range()].copy_from_slice(&wrecked[part.range()]);
        }
        same(&world.primary.read(), &wanted, "the primary, restored onto itself");
        assert_eq!(world.sync(&[])["bytes_changed"], 0);
        world.check();
    });
}
