// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two disks of one size: a file that nobody needs makes the room, and is watched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::loops::{Disk, Disks, with_loops};
use crate::world::{World, same, stamped};

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The primary, mounted for as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn of(disks: &Disks, primary: &Disk) -> Self {
        let dir = disks.file("mounted");
        fs::create_dir_all(&dir).unwrap();
        run(Command::new("mount").arg(&primary.path).arg(&dir));
        Self(dir)
    }

    fn reserve(&self) -> PathBuf {
        self.0.join(".dpsr-reserve")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A reserve holds nobody's data: what a failed test leaves must not keep the next one from cleaning up.
        let down = Command::new("umount").arg(&self.0).status().is_ok_and(|status| status.success());
        if !down {
            eprintln!("stays mounted: {}", self.0.display());
        }
    }
}

fn world<'a>(disks: &'a Disks, size: u64, make: &str) -> World<'a> {
    let (primary, dpsr) = (disks.disk("primary", size), disks.disk("dpsr", size));
    run(Command::new("sh").arg("-c").arg(format!("{make} -q {}", primary.path.display())));
    World::new(disks, primary, dpsr, vec![])
}

fn init(world: &World<'_>, options: &[&str]) -> Vec<String> {
    let (primary, dpsr) = (world.primary.path.to_str().unwrap(), world.dpsr.path.to_str().unwrap());
    let confirm = world.dpsr.size().to_string();
    let words = ["init", "--no-boot", "--primary", primary, "--dpsr", dpsr, "--confirm", &confirm];
    words.iter().chain(options).map(|word| (*word).to_owned()).collect()
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// What the record says is left out, as start and end.
fn left_out(world: &World<'_>) -> Vec<(usize, usize)> {
    let text = fs::read_to_string(world.config().join("system.toml")).unwrap();
    let record: toml::Table = text.parse().unwrap();
    let number = |value: &toml::Value| usize::try_from(value.as_integer().unwrap()).unwrap();
    let ranges = record["reserve"]["left_out"].as_array().unwrap();
    ranges.iter().map(|range| (number(&range[0]), number(&range[1]))).collect()
}

fn story(make: &str, size: u64, reserve: &str) {
    with_loops(|disks| {
        let world = world(disks, size, make);
        let (code, told) = world.refused(&words(&init(&world, &[])));
        assert_eq!(code, 5, "{told}");
        assert!(told.contains("make room with --reserve "), "{told}");

        let mounted = Mounted::of(disks, &world.primary);
        fs::write(mounted.0.join("before"), stamped(3_000_000, 1)).unwrap();
        let shown = world.run(&words(&init(&world, &["--reserve", reserve, "--dry-run"])));
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains(&format!("in {}, made immutable", mounted.reserve().display())), "{shown}");
        assert!(!mounted.reserve().exists());
        world.ok(&words(&init(&world, &["--reserve", reserve])));
        assert!(fs::remove_file(mounted.reserve()).is_err(), "it is not immutable");
        fs::write(mounted.0.join("after"), stamped(3_000_000, 2)).unwrap();
        drop(mounted);

        let ranges = left_out(&world);
        assert!(ranges.iter().map(|(start, end)| end - start).sum::<usize>() > 20 << 20, "{ranges:?}");
        let report: Value = world.json(&["sync", "--offline"]);
        assert_eq!(report["generation"], 1);
        exact(&world, 1, &ranges);

        let mounted = Mounted::of(disks, &world.primary);
        fs::write(mounted.0.join("later"), stamped(500_000, 3)).unwrap();
        drop(mounted);
        world.ok(&["sync", "--offline"]);
        exact(&world, 2, &ranges);

        replayed(disks, &world);
        moved(disks, &world);
    });
}

/// A generation is the primary as it is now, but for what is left out.
fn exact(world: &World<'_>, generation: u64, left_out: &[(usize, usize)]) {
    let mut expected = world.primary.read();
    left_out.iter().for_each(|&(start, end)| expected[start..end].fill(0));
    same(&world.export(generation, &[]), &expected, &format!("generation {generation}"));
}

/// A filesystem whose journal has to be replayed may tell of a file that is long gone.
fn replayed(disks: &Disks, world: &World<'_>) {
    let mounted = Mounted::of(disks, &world.primary);
    fs::write(mounted.0.join("unreplayed"), stamped(100_000, 4)).unwrap();
    run(Command::new("sync").arg("--file-system").arg(&mounted.0));
    let crashed = world.primary.read();
    drop(mounted);
    world.primary.write(0, &crashed);
    let (code, told) = world.refused(&["sync", "--offline"]);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("has to be replayed") && told.contains("mount and unmount it once"), "{told}");
    assert!(world.primary.read() == crashed, "the primary was written to");
    drop(Mounted::of(disks, &world.primary));
}

/// A reserve that is not where it was makes every sync refuse, and nothing is lost.
fn moved(disks: &Disks, world: &World<'_>) {
    let before = world.export(2, &[]);
    let refused = |why: &str| {
        let (code, told) = world.refused(&["sync", "--offline"]);
        assert_eq!(code, 3, "{told}");
        assert!(told.contains(why) && told.contains("intact"), "{why}: {told}");
    };
    let mounted = Mounted::of(disks, &world.primary);
    run(Command::new("chattr").arg("-i").arg(mounted.reserve()));
    drop(mounted);
    refused("it is not immutable any more");

    let mounted = Mounted::of(disks, &world.primary);
    let file = mounted.reserve();
    // Another piece at its end: the same file, elsewhere too.
    run(Command::new("fallocate").args(["--offset", "400MiB", "--length", "64KiB"]).arg(&file));
    run(Command::new("chattr").arg("+i").arg(&file));
    drop(mounted);
    refused("it has moved on its disk");

    let mounted = Mounted::of(disks, &world.primary);
    let file = mounted.reserve();
    run(Command::new("chattr").arg("-i").arg(&file));
    fs::rename(&file, mounted.0.join("another")).unwrap();
    fs::write(&file, b"").unwrap();
    drop(mounted);
    refused("it is another file");
    assert_eq!(world.json(&["generations"])["generations"].as_array().unwrap().len(), 2);
    same(&world.export(2, &[]), &before, "generation 2 after refusals");
}

#[test]
fn loop_a_reserve_on_ext4_makes_the_room() {
    story("mkfs.ext4", 256 << 20, "96M");
}

#[test]
fn loop_a_reserve_on_xfs_makes_the_room() {
    // It wants 300 MiB at least, and the whole disk is read into memory.
    story("mkfs.xfs --unsupported", 256 << 20, "96M");
}

#[test]
fn loop_a_reserve_that_does_not_fit_leaves_nothing() {
    with_loops(|disks| {
        let world = world(disks, 128 << 20, "mkfs.ext4");
        let (_, unmounted) = world.refused(&words(&init(&world, &["--reserve", "64M"])));
        assert!(unmounted.contains("is mounted"), "{unmounted}");
        let mounted = Mounted::of(disks, &world.primary);
        for (size, why) in [("4G", "has only"), ("400K", "less than two extents")] {
            let (_, told) = world.refused(&words(&init(&world, &["--reserve", size])));
            assert!(told.contains(why) && told.contains("nothing was written"), "{told}");
            assert!(!mounted.reserve().exists());
        }
        // Too small to make the room that is missing.
        let (code, told) = world.refused(&words(&init(&world, &["--reserve", "2M"])));
        assert_eq!(code, 5, "{told}");
        assert!(!mounted.reserve().exists() && !Path::new(&world.config()).join("system.toml").exists());
    });
}
