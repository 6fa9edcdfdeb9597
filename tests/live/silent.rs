// SPDX-License-Identifier: MIT OR Apache-2.0
//! A DPSR disk that falls silent, at each stage of a sync: it is told, named, and nothing is lost.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use dpsr::config;
use dpsr::failover::presence::{self, Presence};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::said::{PATIENCE, Said, waits_to_speak};
use crate::shell;
use crate::world::{World, in_vm};

/// The DPSR disk, behind a table that can be suspended.
const NODE: &str = "/dev/mapper/silent";
/// Seconds after which silence is told: `DPSR_DEADLINE`.
const DEADLINE: &str = "6";

/// When the disk falls silent: before the sync begins, when it says so, or with nothing but the commit left.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Before,
    Amid(&'static str),
    BeforeTheCommit,
}

const MOMENTS: [Moment; 4] = [
    Moment::Before,
    Moment::Amid("looking for changes"),
    Moment::Amid("writing what changed"),
    Moment::BeforeTheCommit,
];

/// One sync with a disk that falls silent at `moment`, and speaks again once that was told; its exit code and last line.
fn sync(world: &World, io: &str, moment: Moment) -> (Option<i32>, String) {
    let fall_silent = || shell::ok("dmsetup suspend --noflush --nolockfs silent");
    let mut said = Said::new();
    if matches!(moment, Moment::Before) {
        fall_silent();
    }
    let mut command = world.command(&["sync", "--offline"]);
    command.env("DPSR_IO", io).env("DPSR_DEADLINE", DEADLINE);
    let mut child = command.stderr(said.stderr()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    match moment {
        Moment::Before => {}
        Moment::Amid(stage) => {
            said.wait_for(stage);
            kill(pid, Signal::SIGSTOP).unwrap();
            fall_silent();
            kill(pid, Signal::SIGCONT).unwrap();
        }
        Moment::BeforeTheCommit => {
            said.wait_for("writing what changed");
            said.hold();
            shell::wait_for("everything written", PATIENCE, || waits_to_speak(child.id()));
            fall_silent();
        }
    }
    said.wait_for("no answer for 6 seconds");
    shell::ok("dmsetup resume silent");
    let (code, text) = said.end(&mut child);
    (code, text.lines().last().unwrap_or_default().to_owned())
}

/// Puts `size` bytes of the DPSR disk behind [`NODE`], and pairs them.
fn paired(world: &World, size: u64) {
    shell::ok(&format!("dmsetup create silent --table '0 {} linear {} 0'", size / 512, world.dpsr.node));
    let (primary, size) = (world.primary.link(), size.to_string());
    world.ok(&["init", "--no-boot", "--primary", &primary, "--dpsr", NODE, "--confirm", &size]);
}

#[test]
fn a_dpsr_disk_that_falls_silent_is_told_and_costs_at_most_this_sync() {
    in_vm(|world| {
        let sectors = shell::ok(&format!("blockdev --getsz {}", world.dpsr.node));
        // Not all of it: the disk below is not to be taken for it.
        paired(world, (sectors.trim().parse::<u64>().unwrap() - 2048) * 512);
        let write = |at: u64| {
            let disk = std::fs::File::options().write(true).open(&world.primary.node).unwrap();
            let noise: Vec<u8> = (0..4 << 20).map(|byte: u32| (byte ^ byte >> 9) as u8 ^ at as u8).collect();
            disk.write_all_at(&noise, at << 20).unwrap();
            disk.sync_all().unwrap();
        };
        write(1);
        let mut generation = world.json(&["sync", "--offline"])["generation"].as_u64().unwrap();
        let with_threads = ("posix", Moment::Amid("writing what changed"));
        let all = MOMENTS.map(|moment| ("uring", moment)).into_iter().chain([with_threads]);
        for (number, (io, moment)) in (2..).zip(all) {
            write(number * 8);
            let (code, told) = sync(world, io, moment);
            println!("{io}, {moment:?}: {told}");
            assert_eq!(code, Some(7), "{io}, {moment:?}: {told}");
            assert!(told.contains("silent: ") && told.contains("no answer for 6 seconds"), "{told}");
            assert!(told.contains("check its cable and power"), "{told}");
            assert!(!told.contains("intact"), "{told}");
            generation += 1;
            assert_eq!(world.json(&["sync", "--offline"])["generation"], generation, "{io}, {moment:?}");
            world.generation_is_the_primary(generation);
        }
        world.ok(&["scrub"]);
    });
}

#[test]
fn a_clone_does_not_pass_for_a_disk_that_is_silent_under_another_name() {
    in_vm(|world| {
        let size = 512 << 20;
        paired(world, size);
        world.ok(&["sync", "--offline"]);
        let clone = world.config().join("clone").display().to_string();
        shell::ok(&format!("cp --sparse=always {NODE} {clone} && sync"));
        shell::ok(&format!("losetup --find {clone} && dmsetup rename silent other && udevadm settle"));
        let before = shell::ok(&format!("sha256sum {clone}"));

        let (code, told) = while_silent(world, "other");
        assert_eq!(code, Some(7), "{told}");
        assert!(told.contains("opening the DPSR disk /dev/mapper/other: "), "{told}");

        let (code, told) = world.refused(&["sync", "--offline"]);
        assert!(code == 3 && told.contains("both carry its identity"), "{told}");
        shell::ok("losetup --detach-all && udevadm settle");
        assert_eq!(shell::ok(&format!("sha256sum {clone}")), before, "nothing was written to it");
        assert_eq!(world.json(&["sync", "--offline"])["generation"], 2);

        // Nor is one that may be a clone left out of account where the disk itself is where it was.
        shell::ok("dmsetup rename other silent && udevadm settle");
        let longer = format!("truncate --size +1M {clone} && losetup --find --show {clone}");
        let table = format!("echo 0 {} linear $({longer}) 0", size / 512);
        shell::ok(&format!("{table} | dmsetup create twin && udevadm settle"));
        let (code, told) = while_silent(world, "twin");
        assert_eq!(code, Some(7), "{told}");
        assert!(told.contains("/dev/mapper/twin: ") && told.contains("or detach it"), "{told}");
        shell::ok("dmsetup remove twin");
        assert_eq!(world.json(&["sync", "--offline"])["generation"], 3);
    });
}

/// Who decides in an initramfs whether the primary is there takes no other disk's silence for its absence, wrapped or not.
#[test]
fn a_third_disk_that_is_silent_makes_no_primary_missing() {
    in_vm(|world| {
        // By a table it is told from others; only a disk without one is known by its names alone.
        shell::ok(&format!("sgdisk --new=1:0:0 {} && udevadm settle", world.primary.node));
        world.init(&[]);
        let config = config::load(world.config(), "system").unwrap();
        let third = world.config().join("third").display().to_string();
        let sectors = shell::ok(&format!("blockdev --getsz {}", world.primary.node));
        let sectors = sectors.trim();
        let node = shell::ok(&format!("truncate --size 300M {third} && losetup --find --show {third}"));
        shell::ok(&format!("dmsetup create third --table '0 {sectors} linear {} 0'", node.trim()));
        for wrapped in [false, true] {
            if wrapped {
                world.ok(&["wrap"]);
            }
            shell::ok("udevadm settle && dmsetup suspend --noflush --nolockfs third");
            let begun = Instant::now();
            let found = presence::primary(&config, None);
            assert!(begun.elapsed() > Duration::from_secs(10), "it was not asked");
            shell::ok("dmsetup resume third");
            assert_eq!(found, Presence::There, "wrapped: {wrapped}");
        }
        world.ok(&["unwrap"]);
    });
}

/// What a sync says while the device-mapper device `name` does not answer.
fn while_silent(world: &World, name: &str) -> (Option<i32>, String) {
    shell::ok(&format!("dmsetup suspend --noflush --nolockfs {name}"));
    let mut said = Said::new();
    let mut command = world.command(&["sync", "--offline"]);
    let mut child = command.env("DPSR_DEADLINE", DEADLINE).stderr(said.stderr()).spawn().unwrap();
    said.wait_for("no answer for 6 seconds");
    shell::ok(&format!("dmsetup resume {name}"));
    said.end(&mut child)
}
