// SPDX-License-Identifier: MIT OR Apache-2.0
//! A question to whoever sits at the console, while the disks are watched.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use super::told::{Level, say};
use crate::status::span;

/// The console that the kernel was told last.
const CONSOLE: &str = "/dev/console";

/// What starts the copy; one key that somebody leans on does not.
const YES: &str = "yes";

/// When the question is repeated.
const AGAIN: Duration = Duration::from_secs(5);

/// Whether to start the copy.
pub struct Question(Receiver<()>);

impl Question {
    /// Asks, and goes on.
    pub fn ask(why: &str, age: u64) -> Self {
        let text = format!("{why}; start its copy, which is {} old? Type {YES} and Enter", span(age));
        say(Level::Warning, &text);
        Self::at(Path::new(CONSOLE), &text)
    }

    fn at(console: &Path, text: &str) -> Self {
        let (tell, told) = mpsc::channel();
        let (console, text) = (console.to_owned(), text.to_owned());
        // It is left behind, and ends with the process, where the primary comes before an answer.
        thread::spawn(move || {
            while !said_yes(&console, &text) {
                // Somebody else has taken the console for a while, or ended what was typed.
                thread::sleep(AGAIN);
            }
            // Nobody listens any more where the primary has come.
            let _late = tell.send(());
        });
        Self(told)
    }

    /// Whether somebody has said yes.
    pub fn is_answered(&self) -> bool {
        self.0.try_recv().is_ok()
    }
}

/// Asks once, and reads until somebody says yes, or nothing more can be read.
fn said_yes(console: &Path, text: &str) -> bool {
    let ask = || {
        let mut line = OpenOptions::new().read(true).append(true).open(console)?;
        write!(line, "\r\ndpsr: {text}: ")?;
        Ok::<_, std::io::Error>(BufReader::new(line))
    };
    ask().is_ok_and(|answers| answers.lines().map_while(Result::ok).any(|answer| answer.trim() == YES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use nix::unistd::ttyname;
    use std::fs::File;
    use std::thread::sleep;
    use std::time::Instant;

    #[test]
    fn only_yes_is_yes() {
        let terminal = openpty(None, None).unwrap();
        let mut person = File::from(terminal.master);
        let question = Question::at(&ttyname(&terminal.slave).unwrap(), "start it?");
        person.write_all(b"\nno\nyesterday\n").unwrap();
        sleep(Duration::from_millis(200));
        assert!(!question.is_answered());
        person.write_all(b" yes\r\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !question.is_answered() {
            assert!(Instant::now() < deadline, "nobody heard yes");
            sleep(Duration::from_millis(10));
        }
    }
}
