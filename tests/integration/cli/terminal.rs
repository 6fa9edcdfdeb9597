// SPDX-License-Identifier: MIT OR Apache-2.0
//! On a terminal: what is typed at a prompt, and how far a run is.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use super::{DISKS, Desk, MIB};

/// A run of dpsr on a terminal of its own.
pub(super) struct Terminal {
    pub child: Child,
    /// The side of whoever sits there.
    master: File,
    /// Held, so that typing fails for nobody who has ended meanwhile.
    slave: OwnedFd,
    seen: String,
}

impl Terminal {
    pub fn of(mut command: Command) -> Self {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let side = || Stdio::from(terminal.slave.try_clone().unwrap());
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        Self { child, master: terminal.master.into(), slave: terminal.slave, seen: String::new() }
    }

    /// Waits until it shows `words`.
    pub fn shows(&mut self, words: &str) {
        while !self.seen.contains(words) {
            assert!(read(&mut self.master, &mut self.seen), "no '{words}' in: {}", self.seen);
        }
    }

    pub fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Lets it end: its exit code, and all that it showed.
    fn ended(self) -> (Option<i32>, String) {
        let Self { mut child, mut master, slave, mut seen } = self;
        drop(slave);
        while read(&mut master, &mut seen) {}
        (child.wait().unwrap().code(), seen)
    }
}

/// Takes more of what is shown; false where nobody is left who would show anything.
fn read(master: &mut File, seen: &mut String) -> bool {
    let mut buffer = [0; 4096];
    let read = master.read(&mut buffer).unwrap_or(0);
    seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    read > 0
}

/// `dpsr init`, asked for the ID of the DPSR disk and told `typed`.
fn init(desk: &Desk, typed: &str) -> (Option<i32>, String) {
    let mut terminal = Terminal::of(desk.start(&format!("init {DISKS}")));
    terminal.shows("Type the size in bytes to go on: ");
    terminal.types(typed);
    terminal.ended()
}

#[test]
fn init_goes_on_once_the_id_is_typed() {
    let desk = Desk::new();
    let (code, text) = init(&desk, &format!("{}\n", 48 * MIB));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("The pair system is recorded"), "{text}");
    let status = desk.run("status");
    assert!(status.starts_with("exit code 0") && status.contains("state filling"), "{status}");
}

/// The wrong ID, the beginning of the right one, that of the other disk, a word, nothing, and the end of the input.
#[test]
fn init_writes_nothing_where_something_else_is_typed() {
    let desk = Desk::new();
    let before = desk.state();
    for typed in ["50331649\n", "5033164\n", "8388608\n", "yes\n", "\n", "\u{4}"] {
        let (code, text) = init(&desk, typed);
        assert_eq!(code, Some(3), "{typed:?}: {text}");
        assert!(text.contains("dpsr: ") && text.contains("nothing was written"), "{typed:?}: {text}");
        assert!(desk.state() == before, "{typed:?}: something was written");
    }
}

#[test]
fn a_sync_draws_a_bar() {
    let desk = Desk::paired();
    let (code, text) = Terminal::of(desk.start("sync --offline")).ended();
    assert_eq!(code, Some(0), "{text}");
    let drawn = text.split("copying [").nth(1).unwrap_or_else(|| panic!("no bar in {text:?}"));
    let (_done, left) = drawn.split_once("/6.25 MiB ").unwrap_or_else(|| panic!("no size in {text:?}"));
    let (rate, left) = left.split_once("/s ").unwrap_or_else(|| panic!("no rate in {text:?}"));
    assert!(rate.starts_with(|first: char| first.is_ascii_digit()), "{text:?}");
    let until = left.split(|part: char| !part.is_ascii_alphanumeric()).next().unwrap_or_default();
    assert!(until.ends_with('s') && until.starts_with(|first: char| first.is_ascii_digit()), "{text:?}");
    assert!(!text.contains("copying: "), "a plain line: {text:?}");
    assert!(text.contains("\r\u{1b}[2KGeneration 1 (full): "), "the bar stays: {text:?}");
}
