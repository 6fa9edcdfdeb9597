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
            let Some(phase) = phase.as_mut().filter(|phase| phase.told.elapsed() >= BETWEEN_LINES) else {
                return;
            };
            phase.told = Instant::now();
            let rate = done as f64 / phase.started.elapsed().as_secs_f64();
            let left = phase.total.0.saturating_sub(done) as f64 / rate.max(1.0);
            let (what, total, rate) = (&phase.what, phase.total, Bytes(rate as u64));
            tell_aside(format_args!("{what}: {} of {total}, {rate}/s, {left:.0} s left", Bytes(done)));
        });
    }
}
