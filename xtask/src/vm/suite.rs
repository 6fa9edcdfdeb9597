// SPDX-License-Identifier: MIT OR Apache-2.0
//! A test binary of this workspace inside a guest: carried there once, its tests run one by one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::guest::{Done, Guest};
use crate::Result;
use crate::cargo;
use crate::dpsr::text;
use crate::process::output;

/// How much longer than a test's own deadline its being killed may take.
const KILLING: Duration = Duration::from_secs(60);

/// Where the binaries are in the guest. A power cut leaves them there, unlike what is below `/tmp`.
const FOLDER: &str = "/opt/dpsr-test";

/// An integration test of this workspace that runs in the guest.
pub struct Suite {
    /// Its name, which is the first part of the names of its tests.
    pub name: &'static str,
    /// The setting that tells its tests to run or to fail.
    demand: &'static str,
    /// How long one of its tests may take in emulation.
    deadline: Duration,
}

/// What needs device-mapper, udev, real disks.
pub const LIVE: Suite =
    Suite { name: "live", demand: "DPSR_TEST_LIVE=1", deadline: Duration::from_secs(600) };

/// What also the host runs, here beside device-mapper, udev and partition nodes.
pub const LOOPDEV: Suite =
    Suite { name: "loopdev", demand: "DPSR_TEST_LOOP=1", deadline: Duration::from_secs(900) };

/// A suite that was built.
pub struct Built {
    suite: &'static Suite,
    binary: Vec<u8>,
    dpsr: Vec<u8>,
    /// Where dpsr was built, and the tests look for it.
    path: String,
    /// Its tests.
    pub tests: Vec<Test>,
}

/// A test of a suite.
pub struct Test {
    /// Its name in the suite.
    pub name: String,
    /// Whether it is one of those (`#[ignore]`) that only run when asked for.
    pub slow: bool,
}

/// How a test ended.
pub enum Ended {
    /// The rows of the tables it printed.
    Passed(Vec<String>),
    /// What it printed.
    Failed(String),
    /// What is known of it. The guest is of no use any more.
    TimedOut(String),
}

impl Suite {
    /// Builds the suite and dpsr; files of no further use go to `scratch`.
    pub fn build(&'static self, scratch: &Path) -> Result<Built> {
        let built = cargo::test_binaries(self.name)?;
        let list = |more: &[&str]| {
            let mut list = Command::new(&built.test);
            output(list.args(["--list", "--format", "terse"]).args(more))
                .map(|printed: String| listed(&printed))
        };
        let slow = list(&["--ignored"])?;
        let tests = list(&[])?.into_iter().map(|name| Test { slow: slow.contains(&name), name });
        Ok(Built {
            suite: self,
            binary: stripped(&built.test, scratch)?,
            dpsr: stripped(&built.dpsr, scratch)?,
            path: text(&built.dpsr)?.to_owned(),
            tests: tests.collect(),
        })
    }
}

impl Built {
    /// The name of the suite.
    pub fn name(&self) -> &'static str {
        self.suite.name
    }

    /// Carries it into the guest with dpsr, which is on the `PATH` there.
    pub fn install(&self, guest: &mut Guest) -> Result<()> {
        guest.put(&self.binary, &self.at())?;
        guest.put(&self.dpsr, &format!("{FOLDER}/dpsr"))?;
        guest.ok(&format!("ln -sf {FOLDER}/dpsr /usr/local/bin/dpsr; sync")).map(drop)
    }

    /// Where the guest has the tests.
    fn at(&self) -> String {
        format!("{FOLDER}/{}", self.suite.name)
    }

    /// Runs one test by its exact name.
    pub fn run(&self, guest: &mut Guest, test: &str) -> Ended {
        let Suite { demand, deadline, .. } = self.suite;
        let (binary, path, seconds) = (self.at(), &self.path, deadline.as_secs());
        // A power cut takes what is below `/tmp`, where dpsr may have been built.
        let link = format!("mkdir -p \"$(dirname '{path}')\" && ln -sf {FOLDER}/dpsr '{path}'");
        let limit = format!("timeout --kill-after=10 {seconds}");
        let words = "--include-ignored --nocapture --test-threads=1";
        let run = format!("TMPDIR=/var/tmp {demand} {limit} {binary} --exact '{test}' {words}");
        match guest.run_within(*deadline + KILLING, &format!("dmesg --clear; {link} && {run}")) {
            Ok(Done { code: 0, output }) if one_passed(&output) => Ended::Passed(rows(&output)),
            // What timeout(1) exits with when it ended the test, and when it had to kill it.
            Ok(Done { code: 124 | 137, output }) => {
                Ended::TimedOut(format!("it did not end within {seconds} s\n{output}"))
            }
            Ok(Done { code, output }) => Ended::Failed(format!("exit code {code}\n{output}")),
            Err(why) => Ended::TimedOut(why),
        }
    }
}

/// A name that is no test's any more would run none, and pass.
fn one_passed(output: &str) -> bool {
    output.lines().any(|line| line.starts_with("test result: ok. 1 passed;"))
}

/// What a test measured and wants to be seen: lines that are rows of a table.
fn rows(output: &str) -> Vec<String> {
    output.lines().filter(|line| line.starts_with("| ")).map(str::to_owned).collect()
}

/// The names in what `--list --format terse` prints.
fn listed(printed: &str) -> Vec<String> {
    printed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

fn stripped(binary: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let small = scratch.join("stripped");
    cargo::strip(binary, &small)?;
    fs::read(&small).map_err(|error| format!("reading {}: {error}", small.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_from_other_lines() {
        assert_eq!(listed("a::b: test\nc: benchmark\n\nd: test\n"), ["a::b", "d"]);
    }

    #[test]
    fn rows_are_told_from_other_lines() {
        assert_eq!(rows("x\n| a | b |\n|| c\ntest result: ok\n| - |\n"), ["| a | b |", "| - |"]);
    }

    #[test]
    fn no_test_is_not_a_pass() {
        assert!(one_passed("\ntest result: ok. 1 passed; 0 failed; 0 ignored\n"));
        assert!(!one_passed("test result: ok. 0 passed; 0 failed; 0 ignored\n"));
    }
}
