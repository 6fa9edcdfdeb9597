// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts the freezer and watches it: whatever happens to it, nothing waits for longer than the limit.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::acts::{Calls, GLANCE, take_back};
use super::board::Board;
use super::freezer::ready;
use super::plan::{Outcome, Plan, Why};
use super::steps::Step;
use crate::sys::{memory, process};

/// From the first step on, after which everything is taken back. Taking back is part of the two seconds that
/// a disk may wait, and takes its time on a machine that is busy.
const LIMIT: Duration = Duration::from_millis(1200);

/// How long the freezer may take to get ready; nothing waits meanwhile.
const START: Duration = Duration::from_secs(20);

/// Holds the moment. `filesystems` are those of the plan, `program` is the dpsr command.
pub fn hold(program: &str, plan: &Plan, filesystems: Vec<File>) -> Outcome {
    match start(program, plan, filesystems) {
        Ok(mut watched) => {
            let outcome = watched.watch();
            let _nothing_locked = memory::unlock_all();
            outcome
        }
        Err(error) => {
            tracing::warn!("starting the process that holds a moment: {error}");
            Outcome::GivenUp { at: None, why: Why::NotStarted, stuck: 0 }
        }
    }
}

struct Watched {
    board: Board,
    calls: Calls,
    steps: Vec<Step>,
    freezer: Child,
}

fn start(program: &str, plan: &Plan, filesystems: Vec<File>) -> io::Result<Watched> {
    let board = Board::new()?;
    let mut handed: Vec<RawFd> = filesystems.iter().map(AsRawFd::as_raw_fd).collect();
    let told = Plan { filesystems: handed.clone(), ..plan.clone() };
    let number = board.file().as_fd().as_raw_fd();
    handed.push(number);
    let mut command = Command::new(program);
    command.args(["internal", "freeze", &number.to_string()]).stdin(Stdio::piped()).stdout(Stdio::null());
    process::hand_over(&mut command, handed);
    let mut freezer = command.spawn()?;
    let sent = send(&mut freezer, &told);
    let calls = sent.and_then(|()| Calls::new(plan, filesystems));
    match calls {
        Ok(calls) => Ok(Watched { board, calls, steps: plan.steps(), freezer }),
        Err(error) => {
            freezer.kill()?;
            freezer.wait()?;
            Err(error)
        }
    }
}

fn send(freezer: &mut Child, plan: &Plan) -> io::Result<()> {
    let mut pipe = freezer.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    pipe.write_all(format!("{}\n", serde_json::to_string(plan)?).as_bytes())
}

impl Watched {
    fn watch(&mut self) -> Outcome {
        let since = Instant::now();
        while !self.board.is_ready() {
            if self.is_gone() || since.elapsed() > START {
                return self.give_up(Why::NotStarted);
            }
            sleep(GLANCE);
        }
        if let Err(error) = ready() {
            tracing::warn!("locking the memory of the watchdog: {error}");
            return self.give_up(Why::NotStarted);
        }
        let since = Instant::now();
        self.board.go();
        // From here to the end nothing is allocated, logged or opened.
        loop {
            if let Some((moment, pause)) = self.board.ended() {
                self.reap();
                return Outcome::Held { moment, pause };
            }
            if self.board.is_taken_back() {
                let errno = self.board.failed().unwrap_or_default();
                return self.give_up(Why::Failed(errno));
            }
            // Looked at before the board is, so that one that ended in order is not taken for dead.
            if self.is_gone() && self.board.ended().is_none() && !self.board.is_taken_back() {
                return self.give_up(Why::Died);
            }
            if self.board.running().unwrap_or_else(|| since.elapsed()) > LIMIT {
                return self.give_up(Why::Late);
            }
            sleep(GLANCE);
        }
    }

    /// From here on the freezer begins no step, and it is killed: a suspending that waits for a disk that
    /// does not answer ends with the process.
    fn give_up(&mut self, why: Why) -> Outcome {
        let mut position = self.board.abort();
        let at = position.begun.checked_sub(1).and_then(|last| self.steps.get(last).copied());
        if self.board.failed().is_some() {
            // The step that failed changed nothing; what somebody else froze must not thaw.
            position.begun = position.done;
        }
        let _gone_already = self.freezer.kill();
        let freezer = &mut self.freezer;
        let stuck = take_back(&self.calls, &self.steps, position, &mut || gone(freezer));
        self.reap();
        Outcome::GivenUp { at, why, stuck }
    }

    fn is_gone(&mut self) -> bool {
        gone(&mut self.freezer)
    }

    /// It has nothing left to do, or was killed and is known to be out of the kernel.
    fn reap(&mut self) {
        let since = Instant::now();
        while !self.is_gone() && since.elapsed() < LIMIT {
            sleep(GLANCE);
        }
    }
}

fn gone(freezer: &mut Child) -> bool {
    !matches!(freezer.try_wait(), Ok(None))
}
