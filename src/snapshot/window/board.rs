// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words that the freezer and its watchdog share. Looking at them, and changing them, takes no call to
//! the kernel that could wait for memory or for a disk.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::steps::Position;
use crate::sys::memory::{self, Shared};

/// The position after which nobody may begin another step.
const ABORTED: u64 = u64::MAX;

const POSITION: usize = 0;
const READY: usize = 1;
const GO: usize = 2;
const FAILED: usize = 3;
const BACK: usize = 4;
const BEGAN: usize = 5;
const ENDED: usize = 6;
const MOMENT: usize = 7;
const WORDS: usize = 8;

/// The board, in the memory of this process.
pub struct Board {
    words: Shared<WORDS>,
    file: File,
}

impl Board {
    /// A new one.
    pub fn new() -> io::Result<Self> {
        Self::of(memory::file("dpsr-board")?)
    }

    /// One that another process made.
    pub fn of(file: File) -> io::Result<Self> {
        Ok(Self { words: Shared::of(&file)?, file })
    }

    /// To be handed over.
    pub fn file(&self) -> impl AsFd {
        self.file.as_fd()
    }

    fn word(&self, place: usize) -> &AtomicU64 {
        &self.words.words()[place]
    }

    fn note(&self, place: usize, value: u64) {
        self.word(place).store(value, Ordering::SeqCst);
    }

    fn noted(&self, place: usize) -> u64 {
        self.word(place).load(Ordering::SeqCst)
    }

    /// The freezer has all it needs.
    pub fn ready(&self) {
        self.note(READY, 1);
    }

    /// Whether it has.
    pub fn is_ready(&self) -> bool {
        self.noted(READY) != 0
    }

    /// Somebody watches; the freezer may begin.
    pub fn go(&self) {
        self.note(GO, 1);
    }

    /// Whether it may.
    pub fn may_go(&self) -> bool {
        self.noted(GO) != 0
    }

    /// Begins the next step, unless the window was given up; true where it may be done.
    pub fn begin(&self, step: usize) -> bool {
        if step == 0 {
            self.note(BEGAN, since_boot());
        }
        self.pass(Position { begun: step, done: step }, Position { begun: step + 1, done: step })
    }

    /// The step that was begun is done; false where the window was given up meanwhile.
    pub fn done(&self, step: usize) -> bool {
        self.pass(Position { begun: step + 1, done: step }, Position { begun: step + 1, done: step + 1 })
    }

    fn pass(&self, from: Position, to: Position) -> bool {
        let word = self.word(POSITION);
        word.compare_exchange(from.to_word(), to.to_word(), Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Gives the window up: from now on no step begins. How far it had come.
    pub fn abort(&self) -> Position {
        Position::of_word(self.word(POSITION).swap(ABORTED, Ordering::SeqCst))
    }

    /// The step that was begun failed; the freezer takes everything back itself.
    pub fn fail(&self, errno: i32) {
        self.note(FAILED, u64::from(errno.unsigned_abs()).max(1));
    }

    /// The error number of the step that failed.
    pub fn failed(&self) -> Option<i32> {
        i32::try_from(self.noted(FAILED)).ok().filter(|errno| *errno != 0)
    }

    /// After a failure everything was taken back.
    pub fn taken_back(&self) {
        self.note(BACK, 1);
    }

    /// Whether it was.
    pub fn is_taken_back(&self) -> bool {
        self.noted(BACK) != 0
    }

    /// Nothing is on its way to the disk now: this is the moment.
    pub fn at_moment(&self, since_1970: Duration) {
        self.note(MOMENT, nanoseconds(since_1970));
    }

    /// The last step is done.
    pub fn end(&self) {
        self.note(ENDED, since_boot());
    }

    /// The moment since 1970, and how long the window was; `None` before its end.
    pub fn ended(&self) -> Option<(Duration, Duration)> {
        let ended = Some(self.noted(ENDED)).filter(|end| *end != 0)?;
        let pause = ended.saturating_sub(self.noted(BEGAN));
        Some((Duration::from_nanos(self.noted(MOMENT)), Duration::from_nanos(pause)))
    }

    /// How long ago the first step was begun.
    pub fn running(&self) -> Option<Duration> {
        let began = Some(self.noted(BEGAN)).filter(|began| *began != 0)?;
        Some(Duration::from_nanos(since_boot().saturating_sub(began)))
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which all processes share; read without entering the kernel.
fn since_boot() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(1, |now| nanoseconds(now.into())).max(1)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_giving_up_no_step_begins() {
        let board = Board::new().unwrap();
        assert!(board.begin(0) && board.done(0) && board.begin(1));
        assert!(board.running().is_some());
        assert_eq!(board.abort(), Position { begun: 2, done: 1 });
        assert!(!board.done(1) && !board.begin(2));
    }

    #[test]
    fn steps_come_one_by_one() {
        let board = Board::new().unwrap();
        assert!(!board.begin(1) && board.begin(0) && !board.begin(0) && !board.begin(1));
        assert_eq!((board.failed(), board.ended()), (None, None));
        board.fail(5);
        assert_eq!(board.failed(), Some(5));
        assert_eq!(board.abort(), Position { begun: 1, done: 0 });
    }
}
