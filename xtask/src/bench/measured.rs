// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs one process to its end and says what it cost.
//!
//! GNU time reports the processor time and the peak memory of exactly that process; std alone cannot ask
//! the kernel for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::Result;
use crate::process::{checked, find, shown};

/// What a run cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub rss_kib: u64,
}

/// Runs `command`; its cost and what it printed. `folder` takes GNU time's report.
pub fn run(command: &Command, folder: &Path) -> Result<(Cost, String)> {
    Running::start(command, folder)?.finish()
}

/// A measured process under way.
pub struct Running {
    line: String,
    time: Child,
    start: Instant,
    report: PathBuf,
}

impl Running {
    pub fn start(command: &Command, folder: &Path) -> Result<Self> {
        let program = find("time").ok_or("GNU time (package `time`) is missing")?;
        let report = folder.join("time");
        let mut wrapped = Command::new(program);
        wrapped.arg("--quiet").arg("--format=%U %S %M").arg("--output").arg(&report).arg("--");
        wrapped.arg(command.get_program()).args(command.get_args());
        wrapped.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = shown(command);
        let start = Instant::now();
        let time = wrapped.spawn().map_err(|error| format!("starting `{line}`: {error}"))?;
        Ok(Self { line, time, start, report })
    }

    /// The number of GNU time's process, whose only child is the measured one.
    pub fn id(&self) -> u32 {
        self.time.id()
    }

    pub fn finish(self) -> Result<(Cost, String)> {
        let done =
            self.time.wait_with_output().map_err(|error| format!("running `{}`: {error}", self.line))?;
        let seconds = self.start.elapsed().as_secs_f64();
        let printed = checked(&self.line, done)?;
        let told = fs::read_to_string(&self.report);
        let told = told.map_err(|error| format!("reading the report of time: {error}"))?;
        let (cpu_seconds, rss_kib) = parse(&told).ok_or_else(|| format!("time reported {told:?}"))?;
        Ok((Cost { seconds, cpu_seconds, rss_kib }, printed))
    }
}

/// Kills what GNU time, process `time`, is measuring; it then ends by itself.
pub fn kill_child_of(time: u32) {
    let children = fs::read_to_string(format!("/proc/{time}/task/{time}/children")).unwrap_or_default();
    for child in children.split_whitespace() {
        let killed = Command::new("sh").args(["-c", "kill -KILL \"$1\"", "kill", child]).status();
        if let Err(error) = killed {
            eprintln!("killing process {child}: {error}, ignoring: it goes on until it is done");
        }
    }
}

/// User seconds, system seconds, peak resident KiB.
fn parse(told: &str) -> Option<(f64, u64)> {
    let mut words = told.split_whitespace();
    let user: f64 = words.next()?.parse().ok()?;
    let system: f64 = words.next()?.parse().ok()?;
    Some((user + system, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_time() {
        assert_eq!(parse("0.25 1.50 20480\n"), Some((1.75, 20480)));
        assert_eq!(parse("Command exited with non-zero status 1"), None);
    }
}
