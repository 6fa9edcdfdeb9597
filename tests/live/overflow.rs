// SPDX-License-Identifier: MIT OR Apache-2.0
//! More is overwritten on the primary than there is room for pre-images, at each stage of a sync: that costs
//! the sync, which is rolled back to the last byte, and nothing else.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::said::{PATIENCE, Said, waits_to_speak};
use crate::shell;
use crate::sync::{Attached, Live, clean, plain_again, quick};
use crate::world::{World, in_vm};
use crate::writer::Writer;

/// Where the test keeps what generation 1 read as.
const KEPT: &str = "/dev/shm/generation-1";

/// A stage of a sync, by what it says when it begins.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The moment has been taken, and nothing was read.
    BeforeTheFirstRead,
    /// In the middle of looking for changes, of saving what will change, of writing what changed.
    Amid(&'static str),
    /// Everything was written, and nothing says so yet.
    BeforeTheCommit,
}

const MOMENTS: [Moment; 5] = [
    Moment::BeforeTheFirstRead,
    Moment::Amid("looking for changes"),
    Moment::Amid("saving what will change"),
    Moment::Amid("writing what changed"),
    Moment::BeforeTheCommit,
];

/// One sync, with more overwritten than there is room for at `moment`; its exit code and last line.
fn overflown(world: &World, moment: Moment, overwrite: &str) -> (Option<i32>, String) {
    if matches!(moment, Moment::BeforeTheFirstRead) {
        world.hook("post-thaw", overwrite);
    }
    let mut said = Said::new();
    let mut child = world.command(&["sync"]).stderr(said.stderr()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    match moment {
        Moment::BeforeTheFirstRead => {}
        Moment::Amid(stage) => {
            said.wait_for(stage);
            kill(pid, Signal::SIGSTOP).unwrap();
            shell::ok(overwrite);
            kill(pid, Signal::SIGCONT).unwrap();
        }
        Moment::BeforeTheCommit => {
            said.wait_for("writing what changed");
            said.hold();
            shell::wait_for("everything written", PATIENCE, || waits_to_speak(child.id()));
            shell::ok(overwrite);
        }
    }
    let (code, text) = said.end(&mut child);
    if matches!(moment, Moment::BeforeTheFirstRead) {
        world.no_hooks();
    }
    (code, text.lines().last().unwrap_or_default().to_owned())
}

/// `dpsr status` in both forms.
fn status(world: &World) -> (Value, String) {
    (world.json(&["status"]), world.ok(&["status"]))
}

fn fill(file: &Path) -> String {
    format!(
        "dd if=/dev/urandom of={} bs=1M count=16 oflag=direct conv=notrunc,fsync status=none",
        file.display()
    )
}

/// Before anything was read, and once everything is written; two in a row make the status red.
#[test]
fn an_overflow_at_two_moments_costs_the_sync_and_nothing_else() {
    overflows(&[MOMENTS[0], MOMENTS[4]]);
}

#[test]
#[ignore = "slow: two minutes in emulation"]
fn an_overflow_at_any_of_five_moments_costs_the_sync_and_nothing_else() {
    overflows(&MOMENTS);
}

fn overflows(moments: &[Moment]) {
    in_vm(|world| {
        let live = Live::new(world, &[(128, "ext4")]);
        let (changing, noise) = (live.mounts[0].join("changing"), live.mounts[0].join("noise"));
        let (change, overwrite) = (fill(&changing), fill(&noise));
        shell::ok(&format!("{change}; {overwrite}"));
        assert_eq!(live.sync(&[])["generation"], 1);
        let export = format!("{:?}", world.command(&["export", "1", "-"])).replace('"', "'");
        shell::ok(&format!(
            "{export} 2>/dev/null | dd of={KEPT} bs=64k iflag=fullblock conv=sparse status=none"
        ));
        shell::ok(&format!("truncate -s $(blockdev --getsize64 {}) {KEPT}", world.primary.node));
        shell::ok(&change);
        quick(world, "cow_size = 4194304");
        let writer = Writer::start(&live.files());
        for (count, moment) in (1..).zip(moments.iter().copied()) {
            let before = Writer::number(&live.files()[0]);
            let (code, told) = overflown(world, moment, &overwrite);
            println!("{moment:?}: {told}");
            assert_eq!(code, Some(5), "{moment:?}: {told}");
            assert!(told.contains("all of the 4 MiB") && told.contains("were missing"), "{told}");
            assert!(told.contains("set cow_size to"), "{told}");
            assert!(told.contains("generation") && told.contains("intact"), "{moment:?}: {told}");
            plain_again(world);
            shell::wait_for("more writes", PATIENCE, || Writer::number(&live.files()[0]) > before);
            let (json, text) = status(world);
            assert_eq!((&json["state"], &json["generation"]), (&"clean".into(), &1.into()), "{json}");
            assert_eq!(json["failed"]["overflows"], count, "{json}");
            assert_eq!(json["red"].is_string(), count >= 2, "{json}");
            assert_eq!(text.starts_with("RED: "), count >= 2, "{text}");
            shell::ok(&format!("{export} 2>/dev/null | cmp - {KEPT}"));
        }
        println!("{:?}", writer.stop());
        quick(world, "");
        assert_eq!(live.sync(&[])["generation"], 2);
        let (json, text) = status(world);
        assert!(json["red"].is_null() && json["failed"].is_null() && !text.contains("RED"), "{text}");
        clean("ext4", Attached::new(world, &2.into()).part(1));
        world.ok(&["scrub"]);
        fs::remove_file(KEPT).unwrap();
    });
}
