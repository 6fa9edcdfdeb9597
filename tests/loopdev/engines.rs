// SPDX-License-Identifier: MIT OR Apache-2.0
//! io_uring and plain pread/pwrite make the same copy, and read each other's.

use std::process::{Command, Output};

use serde_json::Value;

use crate::loops::{Disks, on_both};
use crate::tables::{parts, sfdisk};
use crate::world::{World, same, stamped};

const SIZE: u64 = (16 << 20) + 512 * 13;

const GPT: &str = "label: gpt\nfirst-lba: 34\n\
    start=34, size=4001\nstart=4035, size=5000\nstart=9035, size=1\nstart=9036, size=20000\n";

/// The same history with one engine for each sync; what the syncs report, times aside.
fn history<'a>(disks: &'a Disks, name: &'static str, ios: [&'static str; 4]) -> (World<'a>, Vec<Value>) {
    let primary = disks.disk(&format!("primary-{name}"), SIZE);
    primary.write(0, &stamped(SIZE, 51));
    sfdisk(&primary, &[], GPT);
    let all = parts(&primary, &[]);
    let dpsr = disks.disk(&format!("dpsr-{name}"), 64 << 20);
    let mut world = World::new(disks, primary, dpsr, all).named(name);
    world.init(&["2"]);
    let mut reports = Vec::new();
    for (round, io) in ios.into_iter().enumerate() {
        world.io.set(Some(io));
        let options: &[&str] = [&[] as &[&str], &[], &["--compare"], &["--full"]][round];
        let mut report = world.sync(options);
        for volume in report["volumes"].as_array_mut().unwrap() {
            volume.as_object_mut().unwrap().retain(|key, _| !["time", "id"].contains(&key.as_str()));
        }
        report.as_object_mut().unwrap().remove("seconds");
        reports.push(report);
        world.change(60 + round as u64);
    }
    (world, reports)
}

#[test]
fn loop_both_engines_make_the_same_copy() {
    on_both(|disks| {
        let (uring, by_uring) = history(disks, "uring", ["uring"; 4]);
        let (posix, by_posix) = history(disks, "posix", ["posix"; 4]);
        let (mixed, by_both) = history(disks, "mixed", ["posix", "uring", "posix", "uring"]);
        assert_eq!(by_uring, by_posix);
        assert_eq!(by_uring, by_both);
        for world in [&uring, &posix, &mixed] {
            for io in ["uring", "posix"] {
                world.io.set(Some(io));
                world.check();
                world.check_restore(2, 512);
            }
        }
    });
}

#[test]
fn loop_an_unknown_engine_is_refused() {
    on_both(|disks| {
        let primary = disks.disk("primary", SIZE);
        primary.write(0, &stamped(SIZE, 52));
        let parts = vec![crate::tables::Part::whole(SIZE)];
        let world = World::paired(disks, primary, 64 << 20, parts, &[]);
        world.io.set(Some("telepathy"));
        let (code, text) = world.refused(&["sync", "--offline"]);
        assert!(code == 2 && text.contains("DPSR_IO"), "{text}");
    });
}

#[test]
fn loop_a_restore_without_an_engine_writes_nothing() {
    on_both(|disks| {
        let primary = disks.disk("primary", SIZE);
        primary.write(0, &stamped(SIZE, 53));
        let parts = vec![crate::tables::Part::whole(SIZE)];
        let mut world = World::paired(disks, primary, 64 << 20, parts, &[]);
        world.sync(&[]);
        let target = disks.disk("target", SIZE);
        target.write(0, &stamped(SIZE, 54));
        world.io.set(Some("telepathy"));
        let (to, confirm) = (target.path.to_str().unwrap(), SIZE.to_string());
        let (code, text) = world.refused(&["restore", "1", "--to", to, "--confirm", &confirm]);
        assert!(code == 2 && text.contains("nothing was written"), "{text}");
        same(&target.read(), &stamped(SIZE, 54), "the target");
    });
}

/// A sync that may have only `files` open at a time.
fn sync_within(world: &World<'_>, files: u32, io: Option<&str>) -> Output {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={files}")).arg(env!("CARGO_BIN_EXE_dpsr")).args(["sync", "--offline"]);
    command.arg("--config-dir").arg(world.config()).env_remove("DPSR_IO");
    command.env("DPSR_LOG", "debug");
    command.envs(io.map(|io| ("DPSR_IO", io))).output().unwrap()
}

/// A ring takes a file more than the disks do, so that there is a limit at which just the ring is refused.
#[test]
fn loop_without_io_uring_plain_calls_do() {
    on_both(|disks| {
        let primary = disks.disk("primary", SIZE);
        primary.write(0, &stamped(SIZE, 55));
        let parts = vec![crate::tables::Part::whole(SIZE)];
        let mut world = World::paired(disks, primary, 64 << 20, parts, &[]);
        world.sync(&[]);
        world.change(56);
        let refused = |files: &u32| {
            let output = sync_within(&world, *files, Some("uring"));
            output.status.code() == Some(3) && told(&output).contains("setting up io_uring")
        };
        let files = (8..64).find(refused).expect("a limit that leaves everything but the ring");
        let output = sync_within(&world, files, None);
        let told = told(&output);
        assert!(output.status.success() && told.contains("using pread and pwrite"), "{files} files: {told}");
        same(&world.export(2, &[]), &world.visible(), "the copy");
    });
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
