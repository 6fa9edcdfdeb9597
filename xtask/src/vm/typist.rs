// SPDX-License-Identifier: MIT OR Apache-2.0
//! Somebody at the console of a machine, who answers one kind of question, and does nothing else.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::process::output;

/// A question, and what is typed then.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Words of the question that nothing else says.
    pub question: &'static str,
    /// What is typed, before Enter.
    pub typed: &'static str,
    /// After how long.
    pub after: Duration,
}

impl Answer {
    pub const fn new(question: &'static str, typed: &'static str) -> Self {
        Self { question, typed, after: TYPING }
    }

    /// To what systemd asks with. (`src/cryptsetup/cryptsetup.c`)
    pub fn passphrase(typed: &'static str) -> Self {
        Self::new("enter passphrase", typed)
    }

    /// How often the console has asked so far.
    fn asked(self, console: &Path) -> usize {
        let said = fs::read(console).unwrap_or_default();
        String::from_utf8_lossy(&said).matches(self.question).count()
    }
}

/// How often the console is looked at, and how long somebody takes to type.
const GLANCE: Duration = Duration::from_millis(300);
const TYPING: Duration = Duration::from_secs(1);

/// The name of a pipe in the folder of a machine; QEMU reads what ends in `.in` and writes to what ends in `.out`.
const KEYBOARD: &str = "keyboard";

/// What QEMU is told of it: it is only read from, and what is written to it goes nowhere but into a log.
/// (`-chardev file` takes `input-path` from QEMU 8.1 on only.)
pub fn keyboard(folder: &str) -> String {
    format!("pipe,path={folder}/{KEYBOARD}")
}

/// Is gone when dropped.
pub struct Typist(Arc<AtomicBool>);

impl Typist {
    /// Sits down before a machine that is about to start with its files in `folder`.
    pub fn start(folder: &Path, console: PathBuf, answer: Answer) -> Result<Self> {
        let [path, nowhere] = ["in", "out"].map(|end| folder.join(format!("{KEYBOARD}.{end}")));
        if !nowhere.exists() {
            output(Command::new("mkfifo").arg(&path))?;
            let failed = |error| format!("creating {}: {error}", nowhere.display());
            symlink("/dev/null", &nowhere).map_err(failed)?;
        }
        // Opened for both, so that there is always somebody at the other end.
        let opened = File::options().read(true).write(true).open(&path);
        let mut keys = opened.map_err(|error| format!("opening {}: {error}", path.display()))?;
        let gone = Arc::new(AtomicBool::new(false));
        let leaves = Arc::clone(&gone);
        let mut answered = answer.asked(&console);
        thread::spawn(move || {
            while !leaves.load(Ordering::Relaxed) {
                if answer.asked(&console) > answered {
                    thread::sleep(answer.after);
                    // The question is drawn again for each key, which asks nothing anew.
                    let typed = keys.write_all(format!("{}\n", answer.typed).as_bytes());
                    if typed.is_err() {
                        return;
                    }
                    thread::sleep(TYPING);
                    answered = answer.asked(&console);
                }
                thread::sleep(GLANCE);
            }
        });
        Ok(Self(gone))
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
