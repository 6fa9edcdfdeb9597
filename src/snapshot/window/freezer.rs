// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process that does the steps of the window.

use std::env;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::{OwnedFd, RawFd};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use nix::libc::EIO;
use nix::sys::signal::SigSet;

use super::acts::{Calls, GLANCE, Kernel, take_back};
use super::board::Board;
use super::plan::Plan;
use super::steps::{Position, Step};
use crate::error::{Error, Kind, Result};
use crate::sys::{memory, process};

/// How long the watchdog may take to say that it watches.
const GO: Duration = Duration::from_secs(5);

/// For tests alone: how many milliseconds to wait after each step, so that a kill lands between two.
const TEST_DELAY: &str = "DPSR_TEST_FREEZE_DELAY_MS";

/// Does what the plan on standard input says, and notes it on the board behind descriptor `board`.
pub fn run(board: RawFd) -> Result<()> {
    let failed = |error: io::Error| Error::new(Kind::Internal, "holding a moment", error.to_string());
    let board = Board::of(File::from(process::taken_over(board).map_err(failed)?)).map_err(failed)?;
    let (plan, calls) = told().map_err(failed)?;
    let steps = plan.steps();
    let delay = env::var(TEST_DELAY).ok().and_then(|value| value.parse().ok()).map(Duration::from_millis);
    ready().map_err(failed)?;
    board.ready();
    let since = Instant::now();
    while !board.may_go() {
        if since.elapsed() > GO {
            return Err(Error::new(Kind::Internal, "holding a moment", "nobody watches"));
        }
        sleep(GLANCE);
    }
    window(&board, &calls, &steps, delay);
    Ok(())
}

/// What is waited for by a signal of a terminal or of a service manager must not end half-way.
pub fn deaf() -> io::Result<()> {
    Ok(SigSet::all().thread_block()?)
}

/// Makes this process one that can work while no disk answers.
pub fn ready() -> io::Result<()> {
    deaf()?;
    // Kernels before 5.6 do not know it; they may then wait for memory, which is what the watchdog is for.
    let _older_kernel = process::serve_io();
    // Without it the process is as likely to be killed for its memory as any other.
    let _unprotected = std::fs::write("/proc/self/oom_score_adj", "-1000");
    memory::lock_all()
}

fn told() -> io::Result<(Plan, Calls)> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let plan: Plan = serde_json::from_str(&line)?;
    let filesystems: io::Result<Vec<OwnedFd>> =
        plan.filesystems.iter().map(|descriptor| process::taken_over(*descriptor)).collect();
    let calls = Calls::new(&plan, filesystems?.into_iter().map(File::from).collect())?;
    Ok((plan, calls))
}

fn window(board: &Board, kernel: &dyn Kernel, steps: &[Step], delay: Option<Duration>) {
    for (number, step) in steps.iter().enumerate() {
        if !board.begin(number) {
            return;
        }
        if let Err(error) = kernel.act(*step) {
            board.fail(error.raw_os_error().unwrap_or(EIO));
            let so_far = Position { begun: number, done: number };
            take_back(kernel, steps, so_far, &mut || true);
            board.taken_back();
            return;
        }
        if *step == Step::SuspendDisk {
            board.at_moment(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
        }
        if !board.done(number) {
            return;
        }
        delay.into_iter().for_each(sleep);
    }
    board.end();
}
