// SPDX-License-Identifier: MIT OR Apache-2.0
//! More is overwritten on the primary than there is room for pre-images, at each stage of a sync: that costs
//! the sync, which is rolled back to the last byte, and nothing else.

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::shell;
use crate::sync::{Attached, Live, clean, plain_again, quick};
use crate::world::{World, in_vm};
use crate::writer::Writer;

/// How long anything may take in emulation, on a machine that is busy with other things too.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// What `dpsr sync` says, as it says it. It can be made to wait with its next word.
struct Said {
    reader: PipeReader,
    writer: Option<PipeWriter>,
    text: String,
}

impl Said {
    fn new() -> Self {
        let (reader, writer) = pipe().unwrap();
        // One page, so that a page fills it.
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        Self { reader, writer: Some(writer), text: String::new() }
    }

    /// From now on, whoever says something waits until this is read.
    fn hold(&mut self) {
        // Opened once more, so that it is not dpsr's end that would rather fail than wait.
        let writer = format!("/proc/self/fd/{}", self.writer.as_ref().unwrap().as_raw_fd());
        let writer = File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(writer);
        writer.unwrap().write_all(&[b'\n'; 4096]).unwrap();
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(got) = self.reader.read(&mut bytes) {
            self.text.push_str(&String::from_utf8_lossy(&bytes[..got]));
            if got == 0 {
                break;
            }
        }
    }

    fn wait_for(&mut self, words: &str) {
        shell::wait_for(words, PATIENCE, || {
            self.read();
            self.text.contains(words)
        });
    }

    /// Everything, once it has ended.
    fn end(mut self, child: &mut Child) -> (Option<i32>, String) {
        drop(self.writer.take());
        let mut code = None;
        shell::wait_for("the end of the sync", PATIENCE, || {
            self.read();
            code = child.try_wait().unwrap();
            code.is_some()
        });
        self.read();
        (code.unwrap().code(), self.text)
    }
}

/// Whether a process waits in a write to its standard error: system call 1, descriptor 2.
fn waits_to_speak(pid: u32) -> bool {
    let calls = fs::read_to_string(format!("/proc/{pid}/syscall"));
    calls.is_ok_and(|calls| calls.starts_with("1 0x2 "))
}

/// One sync, with more overwritten than there is room for at `moment`; its exit code and last line.
fn overflown(world: &World, moment: Moment, overwrite: &str) -> (Option<i32>, String) {
    if matches!(moment, Moment::BeforeTheFirstRead) {
        world.hook("post-thaw", overwrite);
    }
    let mut said = Said::new();
    let stderr = Stdio::from(said.writer.as_ref().unwrap().try_clone().unwrap());
    let mut child = world.command(&["sync"]).stderr(stderr).spawn().unwrap();
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
