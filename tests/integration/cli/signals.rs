// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wish to stop: at the prompt, and into a pipe that nobody reads.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::terminal::Terminal;
use super::{DISKS, Desk, MIB, command, words};

const PATIENCE: Duration = Duration::from_secs(20);

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

/// How it ended; one that does not end is killed.
fn end(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("it went on");
}

impl Desk {
    /// A run of dpsr that signals reach.
    pub(super) fn start(&self, line: &str) -> std::process::Command {
        let shown = self.0.path().to_str().unwrap();
        // Whoever runs the tests in the background of a script has them ignore SIGINT, and what they start, too.
        let mut command = command("env");
        command.args(["--default-signal=INT,TERM", env!("CARGO_BIN_EXE_dpsr")]);
        command.args(words(&format!("{line} --config-dir {shown}/pairs").replace("DIR", shown)));
        command
    }
}

/// Interrupts a verb that waits at its prompt, types the ID all the same, and expects that nothing changed.
fn interrupted_at_the_prompt(desk: &Desk, line: &str, id: u64) {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let before = desk.state();
        let mut terminal = Terminal::of(desk.start(line));
        terminal.shows("to go on: ");
        send(&terminal.child, signal);
        std::thread::sleep(Duration::from_millis(200));
        terminal.types(&format!("{id}\n"));
        let status = end(&mut terminal.child);
        assert!(status.signal() == Some(signal as i32) || status.code() == Some(8), "{status}");
        assert!(desk.state() == before, "{line}: something was written");
    }
}

#[test]
fn at_the_prompt_of_init() {
    interrupted_at_the_prompt(&Desk::new(), &format!("init {DISKS}"), 48 * MIB);
}

#[test]
fn at_the_prompt_of_restore() {
    let desk = Desk::synced();
    desk.blank("target", 8 * MIB);
    interrupted_at_the_prompt(&desk, "restore 1 --to DIR/target", 8 * MIB);
}

#[test]
fn into_a_pipe_that_nobody_reads() {
    let desk = Desk::synced();
    for more in ["", " --zstd"] {
        let mut child = desk.start(&format!("export 1 -{more}"));
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The pipe is full as soon as it holds 64 KiB, and then nothing moves any more.
        let full = Instant::now() + Duration::from_secs(1);
        while Instant::now() < full {
            std::thread::sleep(Duration::from_millis(50));
        }
        send(&child, Signal::SIGTERM);
        let status = end(&mut child);
        assert_eq!(status.code(), Some(8), "{more}: {status}");
    }
}

#[test]
fn into_a_pipe_whose_reader_went_away() {
    let desk = Desk::synced();
    for more in ["", " --zstd"] {
        let mut child = desk.start(&format!("export 1 -{more}"));
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(end(&mut child).code(), Some(7), "{more}");
    }
}
