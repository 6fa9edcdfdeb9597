// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that holds a snapshot, so that it can be killed: this test binary, started once more. It says
//! one line for each it reads.

use std::env;
use std::io::Write;
use std::io::{BufRead, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dpsr::dm::Mapper;
use dpsr::error::Result;
use dpsr::pair::sysfs::{DevNum, Roots};
use dpsr::snapshot::{Cow, Settings, Snapshot, take};
use dpsr::units::{Bytes, MIB};

use crate::world::{LATE, TRIES};
use crate::wrapped;

/// The command under test.
const DPSR: &str = env!("CARGO_BIN_EXE_dpsr");

/// What the process is told: where pre-images go, and milliseconds for a quiet moment and its limit.
const TOLD: &str = "DPSR_TEST_HOLD";

/// Begins every line that is meant for the other side.
const MARK: &str = "HOLD ";

/// The process, from outside.
pub struct Holder {
    pub child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Where pre-images go, in words.
pub fn memory(mib: u64) -> String {
    format!("memory {}", mib * MIB)
}

impl Holder {
    /// Starts it; `delay` is how long the window waits after each step.
    pub fn start(cow: &str, quiet: Duration, limit: Duration, delay: Duration) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "holder::process", "--include-ignored", "--nocapture"]);
        command.env(TOLD, format!("{} {} {cow}", quiet.as_millis(), limit.as_millis()));
        command.env("DPSR_TEST_FREEZE_DELAY_MS", delay.as_millis().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, stdin, lines: BufReader::new(stdout).lines() }
    }

    /// Starts it without waiting for anything, and returns once it holds; with the answer. One that came too
    /// late for its moment is started again.
    pub fn holding(cow: &str) -> (Self, Held) {
        let brief = Duration::from_millis(300);
        for again in 1..=TRIES {
            let mut holder = Self::start(cow, brief, 2 * brief, Duration::ZERO);
            match holder.held() {
                Ok(held) => return (holder, held),
                Err(why) => assert!(why.contains(LATE) && again < TRIES, "{why}"),
            }
            assert!(holder.child.wait().unwrap().success());
        }
        unreachable!("the last try returns or panics");
    }

    /// How the taking ended.
    pub fn held(&mut self) -> Result<Held, String> {
        let words = self.answer()?;
        let mut words = words.split(' ');
        let mut next = || words.next().unwrap().to_owned();
        Ok(Held {
            node: next().into(),
            quiet: next() == "true",
            pause: Duration::from_micros(next().parse().unwrap()),
        })
    }

    /// Asks something.
    pub fn ask(&mut self, what: &str) -> Result<String, String> {
        writeln!(self.stdin, "{what}").unwrap();
        self.answer()
    }

    /// The next answer; an error where it says one, or is gone.
    fn answer(&mut self) -> Result<String, String> {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            // The harness of the tests ends its own last line only when the test has ended.
            let Some((_, said)) = line.split_once(MARK) else { continue };
            return match said.split_once(' ') {
                Some(("ok", words)) => Ok(words.to_owned()),
                Some(("err", words)) => Err(words.to_owned()),
                _ => panic!("it says {line:?}"),
            };
        }
        Err("it is gone".to_owned())
    }

    /// Has it release the snapshot, and end.
    pub fn release(mut self) {
        self.ask("release").unwrap();
        drop(self.stdin);
        assert!(self.child.wait().unwrap().success());
    }
}

/// A snapshot that stands.
#[derive(Clone, Debug)]
pub struct Held {
    pub node: PathBuf,
    pub quiet: bool,
    pub pause: Duration,
}

#[test]
#[ignore = "it is what other tests start, and does nothing by itself"]
fn process() {
    let Ok(told) = env::var(TOLD) else { return };
    let mapper = Arc::new(Mapper::open().unwrap());
    let taken = take(&mapper, &Roots::default(), &wrapped::found(), &settings(&told));
    let snapshot = match taken {
        Ok(snapshot) => snapshot,
        Err(error) => return say(Err(error)),
    };
    let moment = snapshot.moment();
    let node = snapshot.device().node();
    say(Ok(format!("{} {} {}", node.display(), moment.quiet, moment.pause.as_micros())));
    for line in std::io::stdin().lines() {
        match line.unwrap().as_str() {
            "release" => return say(snapshot.release().map(|()| "released".to_owned())),
            question => say(answered(&snapshot, question)),
        }
    }
}

fn answered(snapshot: &Snapshot, question: &str) -> Result<String> {
    match question {
        "check" => snapshot.check().map(|taken| taken.used.0.to_string()),
        "bypassed" => snapshot.bypassed().map(|bypassed| bypassed.to_string()),
        _ => panic!("{question}"),
    }
}

fn settings(told: &str) -> Settings {
    let words: Vec<_> = told.split(' ').collect();
    let number = |word: &str| word.parse::<u64>().unwrap();
    let cow = match words[2..] {
        ["memory", size] => Cow::Memory(Bytes(number(size))),
        ["device", device, size] => {
            let all = Bytes::ZERO..Bytes(number(size));
            Cow::Device(DevNum::parse(device).unwrap(), vec![all])
        }
        ["path", path, size] => Cow::Path(path.into(), Bytes(number(size))),
        _ => panic!("{told}"),
    };
    let millis = |word: &str| Duration::from_millis(number(word));
    let (quiet_for, quiet_limit) = (millis(words[0]), millis(words[1]));
    Settings { quiet_for, quiet_limit, program: DPSR.into(), ..Settings::new(cow) }
}

fn say(answer: Result<String>) {
    match answer {
        Ok(words) => println!("{MARK}ok {words}"),
        Err(error) => println!("{MARK}err {error}"),
    }
}
