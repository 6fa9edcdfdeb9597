// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process beside the one that reads the snapshot: the window's watchdog, and afterwards the one that
//! takes the snapshot down should the reader be killed.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use super::freezer::deaf;
use super::plan::{Ask, Outcome, Plan, Why};
use super::watchdog;
use crate::dm::Mapper;
use crate::error::{Error, Kind, Result};
use crate::snapshot::stack;
use crate::sys::process;
use crate::wrap::Wrapped;

/// The command this process runs, whatever happened to its file since.
const ITSELF: &str = "/proc/self/exe";

/// Does what is asked on standard input, until that ends. `lock` is the descriptor of the held lock: it is
/// let go with this process, and so no other snapshot is made while this one may still take one down.
pub fn run(lock: RawFd) -> Result<()> {
    let failed = |error: io::Error| Error::new(Kind::Internal, "keeping a snapshot", error.to_string());
    let _lock: OwnedFd = process::taken_over(lock).map_err(failed)?;
    deaf().map_err(failed)?;
    let mapper = Mapper::open()?;
    let mut kept: Option<Wrapped> = None;
    for line in io::stdin().lock().lines() {
        // A parent that cannot be read is as good as gone.
        let Ok(ask) = line.and_then(|line| Ok(serde_json::from_str(&line)?)) else { break };
        match ask {
            Ask::Keep(told) => kept = Some(told.wrapped()),
            Ask::Hold(plan, parent) => answer(&held(plan, parent)),
        }
    }
    match kept {
        Some(wrapped) => stack::tear_down(&mapper, &wrapped).map(drop),
        None => Ok(()),
    }
}

fn held(plan: Plan, parent: u32) -> Outcome {
    let open = |number: &RawFd| File::open(PathBuf::from(format!("/proc/{parent}/fd/{number}")));
    match plan.filesystems.iter().map(open).collect::<io::Result<Vec<_>>>() {
        Ok(filesystems) => watchdog::hold(ITSELF, &plan, filesystems),
        Err(error) => {
            tracing::warn!("opening the filesystems to be frozen: {error}");
            Outcome::GivenUp { at: None, why: Why::NotStarted, stuck: 0 }
        }
    }
}

/// A parent that does not listen any more is noticed at its end of standard input.
fn answer(outcome: &Outcome) {
    let line = serde_json::to_string(outcome).unwrap_or_default();
    let mut out = io::stdout().lock();
    let _nobody_listens = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}
