// SPDX-License-Identifier: MIT OR Apache-2.0
//! One machine that takes one case after the other, and tells how each ended.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::image::Debian;
use super::machine::Machine;
use super::off;
use super::runner::{Act, Case, Queue};
use super::suite::{Built, Ended};
use crate::Result;

/// What became of the cases that one machine took.
#[derive(Debug, Default)]
pub struct Lane {
    /// How many passed.
    pub passed: usize,
    /// The names of those that failed.
    pub failed: Vec<String>,
    /// Why it took no more of them, where that was before they ran out.
    pub broken: Option<String>,
}

impl Lane {
    /// Boots machine `number` with its files in `folder`, and runs cases in it until none is left. A machine
    /// belongs on the thread that boots it.
    pub fn run(number: usize, debian: Debian, folder: &Path, suites: &[&Built], queue: &Queue) -> Self {
        let mut lane = Self::default();
        lane.broken = lane.cases(number, debian, folder, suites, queue).err();
        lane
    }

    /// One that took none.
    pub fn broken(why: &str) -> Self {
        Self { broken: Some(why.to_owned()), ..Self::default() }
    }

    fn cases(
        &mut self,
        number: usize,
        debian: Debian,
        folder: &Path,
        suites: &[&Built],
        queue: &Queue,
    ) -> Result<()> {
        fs::create_dir_all(folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
        let mut machine = off(debian, folder)?;
        let seconds = first_boot(number, &mut machine)?.as_secs_f64();
        println!("[{number}] Debian {} booted in {seconds:.1} s", debian.number());
        for suite in suites {
            suite.install(machine.guest()?)?;
        }
        while let Some(case) = queue.take() {
            // Said before it begins, so that it is known what a run that was interrupted hung in.
            println!("[{number}] {} …", case.name);
            // Until it ended, it has failed: the machine may not boot.
            self.failed.push(case.name.clone());
            if told(number, &mut machine, case)? {
                self.failed.pop();
                self.passed += 1;
            }
        }
        let console = fs::metadata(machine.console()).map_or(0, |file| file.len());
        println!("[{number}] off, {console} bytes of console");
        Ok(())
    }
}

/// A guest in emulation has been seen to stop in its first start, when nothing of dpsr is in it yet. That is told, and it
/// is switched off and on once.
fn first_boot(number: usize, machine: &mut Machine) -> Result<Duration> {
    machine.boot().or_else(|why| {
        println!("[{number}] {why}\n[{number}] the machine is switched off and on");
        machine.power_cut();
        machine.boot()
    })
}

/// Runs one case and says how it went. Only a machine that does not boot is an error.
fn told(number: usize, machine: &mut Machine, case: &Case) -> Result<bool> {
    if !machine.is_on() {
        machine.boot()?;
    }
    let start = Instant::now();
    let outcome = act(machine, &case.act);
    let (name, seconds) = (&case.name, start.elapsed().as_secs_f64());
    match &outcome {
        Ok(()) => println!("[{number}] {name:<64} ok     {seconds:6.1} s"),
        Err(why) => {
            let why = why.trim_end().replace('\n', "\n    ");
            println!("[{number}] {name:<64} FAILED {seconds:6.1} s\n    {why}\n");
        }
    }
    Ok(outcome.is_ok())
}

fn act(machine: &mut Machine, act: &Act) -> Result<()> {
    match act {
        Act::Steps(steps) => steps(machine).map_err(|why| in_doubt(machine, why)),
        Act::Test(suite, test) => match suite.run(machine.guest()?, test) {
            Ended::Passed(rows) => {
                rows.iter().for_each(|row| println!("    {row}"));
                Ok(())
            }
            Ended::Failed(said) => {
                let kernel = machine.guest()?.ok("dmesg | tail -n 25");
                Err(format!("{said}\nthe kernel said:\n{}", kernel.unwrap_or_else(|why| why)))
            }
            Ended::TimedOut(said) => {
                let tasks = machine.tasks();
                Err(in_doubt(machine, format!("{said}\n{tasks}")))
            }
        },
    }
}

/// Cuts the power of a machine of which nobody knows what state it is in.
fn in_doubt(machine: &mut Machine, why: String) -> String {
    let console = machine.last_words();
    machine.power_cut();
    format!("{why}\nthe machine was switched off; the end of its console:\n{console}")
}
