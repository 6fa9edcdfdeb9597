// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every case of one release, in as many machines as keep this one busy. A machine takes the next case when
//! it is done with the one before. A case that leaves its machine in doubt ends with a power cut, and the
//! next one begins with another boot.

use std::path::Path;
use std::sync::Mutex;
use std::thread;

use super::checks::CHECKS;
use super::image::Debian;
use super::lane::Lane;
use super::machine::Machine;
use super::story::{LONG, STORIES};
use super::suite::{Built, LIVE, LOOPDEV};
use crate::Result;

/// How many machines run side by side at most. An emulated machine with two processors mostly keeps one busy;
/// what is promised in seconds is measured in these, so that nothing is gained by more of them than there are
/// processors.
const MOST: usize = 2;

/// Which cases run.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Also the checks of the harness, the tests on loop devices, and the slow ones.
    pub all: bool,
    /// Where not empty: of all cases those whose name contains one of these. The tests on loop devices are
    /// among them only where one of these begins with `loopdev`.
    pub names: Vec<String>,
}

/// A name, and what is done with the machine under it.
pub type Steps = (&'static str, fn(&mut Machine) -> Result<()>);

/// What a case does with a machine.
pub enum Act<'a> {
    Test(&'a Built, &'a str),
    Steps(fn(&mut Machine) -> Result<()>),
}

/// Something that passes or fails.
pub struct Case<'a> {
    pub name: String,
    /// Whether it runs where nothing else was asked for.
    usual: bool,
    pub act: Act<'a>,
}

impl Choice {
    fn takes(&self, case: &Case) -> bool {
        if self.names.is_empty() {
            return self.all || case.usual;
        }
        self.names.iter().any(|name| case.name.contains(name))
    }

    fn takes_loopdev(&self) -> bool {
        if self.names.is_empty() {
            return self.all;
        }
        self.names.iter().any(|name| name.starts_with(LOOPDEV.name))
    }
}

/// The cases that no machine has taken yet; the last is taken next.
pub struct Queue<'a> {
    left: Mutex<Vec<&'a Case<'a>>>,
}

impl<'a> Queue<'a> {
    /// Takes a case.
    pub fn take(&self) -> Option<&'a Case<'a>> {
        self.left.lock().expect("nothing panics while it takes a case").pop()
    }
}

/// Runs the chosen cases in machines with their files below `folder`. Where any failed, or could not be run,
/// that is the error.
pub fn run(debian: Debian, choice: &Choice, folder: &Path) -> Result<()> {
    let live = LIVE.build(folder)?;
    let loopdev = match choice.takes_loopdev() {
        true => Some(LOOPDEV.build(folder)?),
        false => None,
    };
    let suites: Vec<&Built> = [Some(&live), loopdev.as_ref()].into_iter().flatten().collect();
    let mut cases = steps("harness", &CHECKS, false);
    // The longest come first, so that no machine is left with one of them while the others are done.
    cases.extend(steps("story", &STORIES, true));
    cases.extend(steps("story", &LONG, false));
    cases.extend(tests(&live, true));
    cases.extend(loopdev.iter().flat_map(|loopdev| tests(loopdev, false)));
    cases.retain(|case| choice.takes(case));
    if cases.is_empty() {
        return Err(format!("no case has a name with {}", choice.names.join(" or ")));
    }
    let machines = thread::available_parallelism().map_or(1, usize::from).min(MOST).min(cases.len());
    let queue = Queue { left: Mutex::new(cases.iter().rev().collect()) };
    let (queue, suites) = (&queue, &suites[..]);
    let lanes = thread::scope(|scope| {
        let lane = |number: usize| {
            let folder = folder.join(number.to_string());
            scope.spawn(move || Lane::run(number, debian, &folder, suites, queue))
        };
        let lanes: Vec<_> = (1..=machines).map(lane).collect();
        let joined = lanes.into_iter().map(|lane| lane.join());
        joined.map(|lane| lane.unwrap_or_else(|_| Lane::broken("it panicked"))).collect::<Vec<_>>()
    });
    ended(&cases, lanes)
}

/// What all machines together made of the cases.
fn ended(cases: &[Case], lanes: Vec<Lane>) -> Result<()> {
    let passed: usize = lanes.iter().map(|lane| lane.passed).sum();
    println!("{passed} of {} passed", cases.len());
    let failed: Vec<_> = lanes.iter().flat_map(|lane| &lane.failed).map(String::as_str).collect();
    let broken: Vec<_> = lanes.iter().filter_map(|lane| lane.broken.as_deref()).collect();
    match (failed.is_empty(), broken.is_empty()) {
        // A case that no machine came to is in no list.
        (true, true) if passed == cases.len() => Ok(()),
        (true, true) => Err("not every case was run".to_owned()),
        (true, false) => Err(broken.join("; ")),
        (false, true) => Err(format!("failed: {}", failed.join(", "))),
        (false, false) => Err(format!("failed: {}; {}", failed.join(", "), broken.join("; "))),
    }
}

fn steps(group: &str, all: &[Steps], usual: bool) -> Vec<Case<'static>> {
    let case =
        |(name, steps): &Steps| Case { name: format!("{group}::{name}"), usual, act: Act::Steps(*steps) };
    all.iter().map(case).collect()
}

fn tests(suite: &Built, usual: bool) -> impl Iterator<Item = Case<'_>> {
    suite.tests.iter().map(move |test| Case {
        name: format!("{}::{}", suite.name(), test.name),
        usual: usual && !test.slow,
        act: Act::Test(suite, &test.name),
    })
}
