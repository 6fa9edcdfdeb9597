// SPDX-License-Identifier: MIT OR Apache-2.0
//! A question to whoever sits at the console, while the disks are watched.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::sys::termios::{FlushArg, tcflush};

use super::told::{Level, say};
use crate::status::span;
use crate::time::utc;
use crate::units::Generation;

/// The console that the kernel was told last.
const CONSOLE: &str = "/dev/console";

/// What starts the copy; one key that somebody leans on does not.
const YES: &str = "yes";

/// When the question is repeated.
const AGAIN: Duration = Duration::from_secs(5);

/// How many generations are shown, the newest ones; each can be named.
const SHOWN: usize = 40;

/// A question that was asked.
pub struct Question<T>(Receiver<T>);

/// Asks whether to start the copy, and goes on.
pub fn whether(why: &str, age: u64) -> Question<()> {
    let text = format!("{why}; start its copy, which is {} old? Type {YES} and Enter", span(age));
    say(Level::Warning, &text);
    Question::at(Path::new(CONSOLE), text, is_yes)
}

/// Asks which of the generations to start, each with the time it was taken: seconds since 1970, UTC.
pub fn which(generations: Vec<(Generation, u64)>) -> Question<Generation> {
    say(Level::Warning, "the console is asked which generation to start");
    let text = listed(&generations, "");
    Question::at(Path::new(CONSOLE), text, move |answer| named(&generations, answer))
}

/// Asks which of them to start instead of what ran from the copy, which is then `lost`; `None` is the primary, which is
/// offered where it is there.
pub fn instead(
    generations: Vec<(Generation, u64)>,
    primary: bool,
    lost: &str,
) -> Question<Option<Generation>> {
    say(Level::Warning, "the console is asked what to start instead of what ran from the copy");
    let zero = if primary { format!("\r\n  {:>6}  the primary, as it is", 0) } else { String::new() };
    let text = listed(&generations, &format!("{zero}\r\n{lost}"));
    Question::at(Path::new(CONSOLE), text, move |answer| chosen(&generations, primary, answer))
}

fn chosen(generations: &[(Generation, u64)], primary: bool, answer: &str) -> Option<Option<Generation>> {
    if primary && answer == "0" { Some(None) } else { named(generations, answer).map(Some) }
}

fn is_yes(answer: &str) -> Option<()> {
    (answer == YES).then_some(())
}

fn listed(generations: &[(Generation, u64)], more: &str) -> String {
    let shown = &generations[generations.len().saturating_sub(SHOWN)..];
    let lines: String =
        shown.iter().map(|(generation, time)| format!("\r\n  {generation:>6}  {}", utc(*time))).collect();
    format!("generations of this machine:{lines}{more}\r\nWhich one is to start? Type its number and Enter")
}

fn named(generations: &[(Generation, u64)], answer: &str) -> Option<Generation> {
    let number = Generation(answer.parse().ok()?);
    generations.iter().map(|(generation, _)| *generation).find(|generation| *generation == number)
}

impl<T: Send + 'static> Question<T> {
    /// Asks `text` until an answer is one that `accept` takes.
    fn at(console: &Path, text: String, accept: impl Fn(&str) -> Option<T> + Send + 'static) -> Self {
        let (tell, told) = mpsc::channel();
        let console = console.to_owned();
        // It is left behind, and ends with the process, where nobody waits for an answer any more.
        thread::spawn(move || {
            loop {
                if let Ok(Some(answer)) = answered(&console, &text, &accept) {
                    // Nobody listens where the primary has come.
                    let _late = tell.send(answer);
                    return;
                }
                // Somebody else has taken the console for a while, or ended what was typed.
                thread::sleep(AGAIN);
            }
        });
        Self(told)
    }

    /// What was answered so far.
    pub fn answer(&self) -> Option<T> {
        self.0.try_recv().ok()
    }

    /// What is answered within this time.
    pub fn within(&self, patience: Duration) -> Option<T> {
        self.0.recv_timeout(patience).ok()
    }
}

/// Asks, and after each line that is no answer again; `None` where nothing more can be read.
fn answered<T>(console: &Path, text: &str, accept: &impl Fn(&str) -> Option<T>) -> io::Result<Option<T>> {
    let mut lines = BufReader::new(OpenOptions::new().read(true).append(true).open(console)?);
    let ask = |console: &mut File| write!(console, "\r\ndpsr: {text}: ");
    // What was typed before is no answer: once a copy was started, it goes on.
    tcflush(lines.get_ref(), FlushArg::TCIFLUSH).unwrap_or_default();
    ask(lines.get_mut())?;
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        if let Some(answer) = accept(String::from_utf8_lossy(&line).trim()) {
            return Ok(Some(answer));
        }
        line.clear();
        ask(lines.get_mut())?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::{OpenptyResult, openpty};
    use nix::unistd::ttyname;
    use std::io::Read;
    use std::thread::sleep;

    #[test]
    fn the_primary_is_an_answer_where_it_is_there() {
        let all = [(Generation(3), 0), (Generation(7), 60)];
        assert_eq!(chosen(&all, true, "0"), Some(None));
        assert_eq!(chosen(&all, false, "0"), None);
        assert_eq!(chosen(&all, true, "7"), Some(Some(Generation(7))));
        assert_eq!(chosen(&all, true, ""), None);
        assert_eq!(chosen(&all, true, "4"), None);
    }

    /// A console that somebody sits at. It is one as long as its own end stays open.
    fn console() -> (File, OpenptyResult) {
        let terminal = openpty(None, None).unwrap();
        (File::from(terminal.master.try_clone().unwrap()), terminal)
    }

    /// Waits until the question is there to be read.
    fn read(person: &mut File, words: &str) {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(words) {
            let mut more = [0; 256];
            let read = person.read(&mut more).unwrap();
            said.extend(&more[..read]);
        }
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn only_yes_is_yes() {
        let (mut person, terminal) = console();
        person.write_all(b"yes\n").unwrap();
        let question = Question::at(&ttyname(&terminal.slave).unwrap(), "start it?".to_owned(), is_yes);
        read(&mut person, "start it?");
        person.write_all(b"\nno\nyesterday\n").unwrap();
        sleep(Duration::from_millis(200));
        assert_eq!(question.answer(), None);
        person.write_all(b" yes\r\n").unwrap();
        assert_eq!(question.within(PATIENCE), Some(()));
    }

    #[test]
    fn one_of_those_there_are() {
        let all = [(Generation(3), 1_763_500_000), (Generation(12), 1_763_600_000)];
        let (mut person, terminal) = console();
        person.write_all(b"12\n").unwrap();
        let question = Question::at(&ttyname(&terminal.slave).unwrap(), listed(&all, ""), move |answer| {
            named(&all, answer)
        });
        read(&mut person, "and Enter");
        person.write_all(b"\n4\n-3\nthree\n").unwrap();
        sleep(Duration::from_millis(200));
        assert_eq!(question.answer(), None);
        person.write_all(b"3\n").unwrap();
        assert_eq!(question.within(PATIENCE), Some(Generation(3)));
        insta::assert_snapshot!(listed(&all, "").replace('\r', ""), @r"
        generations of this machine:
               3  2025-11-18 21:06:40Z
              12  2025-11-20 00:53:20Z
        Which one is to start? Type its number and Enter
        ");
    }
}
