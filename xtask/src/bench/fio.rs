// SPDX-License-Identifier: MIT OR Apache-2.0
//! The yardstick: the best fio reaches over a sweep of request size and depth. One fixed setting would not
//! do, since which one is fastest differs between memory and disks by a factor.

use std::fmt;
use std::process::Command;

use super::rig::Rig;
use crate::Result;
use crate::process::output;

const SIZES: [&str; 4] = ["64k", "256k", "1m", "4m"];
const DEPTHS: [u32; 3] = [4, 8, 32];

/// What is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The source is read.
    Source,
    /// Source and destination are read at once.
    Both,
    /// The source is read while the destination is written.
    Copy,
}

impl Pattern {
    pub fn name(self) -> &'static str {
        match self {
            Pattern::Source => "fio: read source",
            Pattern::Both => "fio: read both",
            Pattern::Copy => "fio: read source, write destination",
        }
    }
}

/// How fio asks: the size of a request, and how many are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    size: &'static str,
    depth: u32,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.size, self.depth)
    }
}

impl Setting {
    /// Moves `pattern` once; seconds.
    pub fn run(self, rig: &Rig, pattern: Pattern) -> Result<f64> {
        let Self { size, depth } = self;
        let mut fio = Command::new("fio");
        fio.args(["--output-format=terse", "--terse-version=3"]);
        let mut job = |name: &str, device: &str, mode: &str| {
            fio.arg(format!("--name={name}")).arg(format!("--filename={device}")).arg(format!("--rw={mode}"));
            fio.arg(format!("--bs={size}")).arg(format!("--iodepth={depth}"));
            // A copy is one only once it is durable.
            fio.args(["--ioengine=io_uring", "--direct=1", "--end_fsync=1"]);
        };
        job("source", rig.source.name(), "read");
        match pattern {
            Pattern::Source => {}
            Pattern::Both => job("destination", rig.peer.name(), "read"),
            Pattern::Copy => job("destination", rig.peer.name(), "write"),
        }
        let jobs = if pattern == Pattern::Source { 1 } else { 2 };
        slowest(&output(&mut fio)?, jobs, rig.size)
    }
}

/// The fastest setting of a sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    pub seconds: f64,
    pub setting: Setting,
}

/// The bests of one round.
pub struct Limits {
    pub source: Best,
    pub both: Best,
    pub copy: Best,
}

impl Limits {
    pub fn measure(rig: &Rig) -> Result<Self> {
        let best = |pattern| sweep(rig, pattern);
        Ok(Self { source: best(Pattern::Source)?, both: best(Pattern::Both)?, copy: best(Pattern::Copy)? })
    }

    pub fn of(&self, pattern: Pattern) -> &Best {
        match pattern {
            Pattern::Source => &self.source,
            Pattern::Both => &self.both,
            Pattern::Copy => &self.copy,
        }
    }
}

fn sweep(rig: &Rig, pattern: Pattern) -> Result<Best> {
    let mut best: Option<Best> = None;
    for size in SIZES {
        for depth in DEPTHS {
            let setting = Setting { size, depth };
            let seconds = setting.run(rig, pattern)?;
            if best.is_none_or(|best| seconds < best.seconds) {
                best = Some(Best { seconds, setting });
            }
        }
    }
    best.ok_or_else(|| "fio measured nothing".to_owned())
}

/// The run time in seconds of the slower of `jobs` jobs, each of which must have moved `size` bytes.
///
/// Terse version 3 (fio(1), TERSE OUTPUT): one line a job, semicolons; field 4 is the error, the read
/// status starts at field 5 and the write status at field 46, both with KiB moved, KiB/s, requests/s and
/// run time in ms.
fn slowest(terse: &str, jobs: usize, size: u64) -> Result<f64> {
    let mut slowest = 0.0f64;
    let lines: Vec<&str> = terse.lines().filter(|line| line.starts_with("3;")).collect();
    if lines.len() != jobs {
        return Err(format!("fio reported {} jobs of {jobs}: {terse}", lines.len()));
    }
    for line in lines {
        let fields: Vec<&str> = line.split(';').collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        let moved = number(5).zip(number(46)).map(|(read, written)| (read + written) * 1024);
        let run = number(8).zip(number(49)).map(|(read, written)| read.max(written));
        match (number(4), moved, run) {
            (Some(0), Some(moved), Some(run)) if moved == size && run > 0 => {
                slowest = slowest.max(run as f64 / 1e3);
            }
            _ => return Err(format!("fio reported no complete run: {line}")),
        }
    }
    Ok(slowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as fio prints it, with the fields used here and zeros elsewhere.
    fn line(error: u64, read: [u64; 4], write: [u64; 4]) -> String {
        let mut fields = vec![0; 130];
        fields[4] = error;
        fields[5..9].copy_from_slice(&read);
        fields[46..50].copy_from_slice(&write);
        let rest: Vec<String> = fields[3..].iter().map(u64::to_string).collect();
        format!("3;fio-3.33;job;{}\n", rest.join(";"))
    }

    #[test]
    fn the_slower_job_counts() {
        let text =
            line(0, [65536, 1_024_000, 4000, 64], [0; 4]) + &line(0, [0; 4], [65536, 910_222, 3555, 72]);
        assert_eq!(slowest(&text, 2, 64 << 20), Ok(0.072));
        assert_eq!(slowest(&format!("fio: a note\n{text}"), 2, 64 << 20), Ok(0.072));
    }

    #[test]
    fn an_incomplete_run_is_no_figure() {
        let good = line(0, [65536, 1_024_000, 4000, 64], [0; 4]);
        assert!(slowest(&good, 2, 64 << 20).is_err(), "a job is missing");
        assert!(slowest(&good, 1, 65 << 20).is_err(), "too little moved");
        assert!(slowest(&line(5, [65536, 1, 1, 64], [0; 4]), 1, 64 << 20).is_err(), "fio told an error");
        assert!(slowest("3;short\n", 1, 64 << 20).is_err());
    }
}
