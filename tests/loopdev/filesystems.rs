// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real filesystems in real partitions: what comes back is one of them, in order.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::loops::{Disks, on_both};
use crate::tables::{Part, parts, sfdisk};
use crate::world::{World, stamped};

const SIZE: u64 = 72 << 20;

const GPT: &str = "label: gpt\nfirst-lba: 34\n\
    start=2048,  size=40001, type=uefi\n\
    start=42049, size=60007\n\
    start=102060, size=16384, type=swap\n\
    start=118450, size=20480\n";

fn tool(name: &str, arguments: &[&str], file: &Path) {
    let run = Command::new(name).args(arguments).arg(file).output().unwrap();
    let told = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{name} {arguments:?}: {told}");
}

/// A filesystem made in a file of the size of `part`, and put into it.
fn put(world: &World<'_>, part: &Part, make: impl Fn(&Path)) {
    let file = world.disks.file("filesystem");
    File::create(&file).unwrap().set_len(part.size).unwrap();
    make(&file);
    world.primary.write(part.start, &fs::read(&file).unwrap());
}

/// Adds a file to the ext4 filesystem in `part`, as its driver would: in place.
fn add(world: &World<'_>, part: &Part, name: &str, seed: u64) {
    let (file, content) = (world.disks.file("filesystem"), world.disks.file("content"));
    fs::write(&content, stamped(300_000, seed)).unwrap();
    fs::write(&file, &world.primary.read()[part.range()]).unwrap();
    tool("debugfs", &["-w", "-R", &format!("write {} {name}", content.display())], &file);
    world.primary.write(part.start, &fs::read(&file).unwrap());
}

/// The content of a file of an exported ext4 filesystem.
fn cat(file: &Path, name: &str) -> Vec<u8> {
    Command::new("debugfs").args(["-R", &format!("cat {name}")]).arg(file).output().unwrap().stdout
}

fn world(disks: &Disks) -> World<'_> {
    let primary = disks.disk("primary", SIZE);
    sfdisk(&primary, &[], GPT);
    let all = parts(&primary, &[]);
    let dpsr = disks.disk("dpsr", 200 << 20);
    let mut world = World::new(disks, primary, dpsr, all);
    put(&world, &world.parts[0], |file| tool("mkfs.vfat", &["-n", "ESP"], file));
    put(&world, &world.parts[1], |file| tool("mkfs.ext4", &["-q", "-L", "rootfs"], file));
    put(&world, &world.parts[2], |file| tool("mkswap", &["-L", "swap"], file));
    put(&world, &world.parts[3], |file| tool("mkfs.ext4", &["-q", "-b", "1024", "-L", "data"], file));
    world.init(&[]);
    world.parts[2].out = true;
    world
}

#[test]
fn loop_filesystems_come_back_clean() {
    on_both(|disks| {
        let mut world = world(disks);
        let [esp, root, _, data] = &world.parts.clone()[..] else { panic!("four partitions") };
        for generation in 1..=3u64 {
            add(&world, root, &format!("file-{generation}"), generation);
            add(&world, data, "file", 10 + generation);
            let id = format!("{generation:08x}");
            put(&world, esp, |file| tool("mkfs.vfat", &["-n", "ESP", "-i", &id], file));
            world.sync(if generation == 3 { &["--compare"] } else { &[] });
            put(&world, data, |file| tool("mkfs.ext4", &["-q", "-b", "1024", "-L", "data"], file));
        }
        world.check();
        for generation in 1..=3u64 {
            let export = |name: &str| {
                let file = disks.file(&format!("volume-{name}-{generation}"));
                fs::write(&file, world.export(generation, &["--volume", name])).unwrap();
                file
            };
            let (root, data, esp) = (export("rootfs"), export("4"), export("1"));
            tool("fsck.ext4", &["-fn"], &root);
            tool("fsck.ext4", &["-fn"], &data);
            tool("fsck.vfat", &["-n"], &esp);
            for other in 1..=3 {
                let wanted = if other <= generation { stamped(300_000, other) } else { vec![] };
                assert!(cat(&root, &format!("file-{other}")) == wanted, "file-{other} in {generation}");
            }
            assert!(cat(&data, "file") == stamped(300_000, 10 + generation));
        }
    });
}

/// The label of a filesystem names its volume, in every verb and in every generation.
#[test]
fn loop_filesystem_labels_name_volumes() {
    on_both(|disks| {
        let mut world = world(disks);
        world.sync(&[]);
        let root = world.parts[1].clone();
        add(&world, &root, "late", 77);
        let report = world.json(&["sync", "--offline", "--volume", "rootfs"]);
        assert!(report["bytes_changed"].as_u64() > Some(300_000), "{report}");
        world
            .expected
            .insert(2, crate::world::Expected { bytes: world.visible(), parts: world.parts.clone() });
        crate::tables::delete(&world.primary, "4");
        world.parts.pop();
        world.sync(&[]);
        for generation in 1..=3 {
            let found = world.export(generation, &["--volume", "rootfs"]);
            assert!(found == world.expected[&generation].bytes[root.range()], "{generation}");
        }
    });
}
