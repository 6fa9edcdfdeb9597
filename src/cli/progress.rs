// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a run is: a bar with rate and time left on a terminal, a plain line now and then elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::tell_aside;
use crate::progress::{Progress, Silent};
use crate::units::Bytes;

/// Time between two plain lines.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// What suits standard error; nothing where a document is printed instead.
pub fn shown(quiet: bool) -> Box<dyn Progress> {
    match (quiet, stderr().is_terminal()) {
        (true, _) => Box::new(Silent),
        (false, true) => Box::new(Bar(Mutex::new(ProgressBar::hidden()))),
        (false, false) => Box::new(Lines::default()),
    }
}

struct Bar(Mutex<ProgressBar>);

impl Bar {
    fn with(&self, f: impl FnOnce(&mut ProgressBar)) {
        f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, total: Bytes) {
        let style = "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(style).expect("the template is well-formed");
        self.with(|bar| {
            bar.finish_and_clear();
            *bar = ProgressBar::new(total.0).with_style(style).with_message(what.to_owned());
        });
    }

    fn advance(&self, bytes: Bytes) {
        self.with(|bar| bar.inc(bytes.0));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.with(|bar| bar.finish_and_clear());
    }
}

#[derive(Default)]
struct Lines {
    done: AtomicU64,
    phase: Mutex<Option<Phase>>,
}

struct Phase {
    what: String,
    total: Bytes,
    started: Instant,
    told: Instant,
}

impl Lines {
    fn with(&self, f: impl FnOnce(&mut Option<Phase>)) {
        f(&mut self.phase.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Progress for Lines {
    fn begin(&self, what: &str, total: Bytes) {
        tell_aside(format_args!("{what}: {total}"));
        self.done.store(0, Ordering::Relaxed);
        let (what, now) = (what.to_owned(), Instant::now());
        self.with(|phase| *phase = Some(Phase { what, total, started: now, told: now }));
    }

    fn advance(&self, bytes: Bytes) {
        let done = self.done.fetch_add(bytes.0, Ordering::Relaxed) + bytes.0;
        self.with(|phase| {
            let line = phase.as_mut().and_then(|phase| phase.line(Bytes(done), Instant::now()));
            line.into_iter().for_each(tell_aside);
        });
    }
}

impl Phase {
    /// What is to be told at `now` of so many bytes that are done; nothing shortly after the last line.
    fn line(&mut self, done: Bytes, now: Instant) -> Option<String> {
        if now - self.told < BETWEEN_LINES {
            return None;
        }
        self.told = now;
        let rate = done.0 as f64 / (now - self.started).as_secs_f64();
        let left = self.total.saturating_sub(done).0 as f64 / rate.max(1.0);
        let (what, total, rate) = (&self.what, self.total, Bytes(rate as u64));
        Some(format!("{what}: {done} of {total}, {rate}/s, {left:.0} s left"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    #[test]
    fn a_plain_line_every_ten_seconds() {
        let started = Instant::now();
        let mut phase = Phase { what: "copying".into(), total: Bytes(40 * MIB), started, told: started };
        let mut line = |seconds, mib| phase.line(Bytes(mib * MIB), started + Duration::from_secs(seconds));
        assert_eq!(line(9, 5), None);
        assert_eq!(line(10, 5).unwrap(), "copying: 5 MiB of 40 MiB, 512 KiB/s, 70 s left");
        assert_eq!(line(19, 30), None);
        assert_eq!(line(20, 30).unwrap(), "copying: 30 MiB of 40 MiB, 1.5 MiB/s, 7 s left");
        // What is read again counts again.
        assert_eq!(line(41, 82).unwrap(), "copying: 82 MiB of 40 MiB, 2 MiB/s, 0 s left");
    }

    #[test]
    fn a_plain_line_of_a_disk_that_does_not_move() {
        let started = Instant::now();
        let mut phase = Phase { what: "copying".into(), total: Bytes(500), started, told: started };
        let line = phase.line(Bytes::ZERO, started + Duration::from_secs(60));
        assert_eq!(line.unwrap(), "copying: 0 B of 500 B, 0 B/s, 500 s left");
    }
}
