// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much is in flight: found out by trying, because it depends on the disks. One that takes its time to answer
//! wants many transfers at once; where an answer is a copy by a processor, few of them, which stay in its cache, are
//! faster.

use std::time::{Duration, Instant};

use super::Shape;
use crate::units::MIB;

/// A rate counts once so many bytes were moved, or so much time has passed.
const WINDOW: u64 = 64 * MIB;
const LONGEST: Duration = Duration::from_secs(1);
/// After so many windows the neighbours are tried again; twice as many each time nothing came of it, up to the most.
const LEAST: u32 = 16;
const MOST: u32 = 256;
/// How much faster something else must be to be taken, and how slow a window must be to look for it at once.
const BETTER: f64 = 1.05;
const WORSE: f64 = 0.7;
/// What is so slow that the next one in the same direction is not tried.
const HOPELESS: f64 = 0.9;

/// How many batches may be on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Up to how many are read or written at a time before another one is begun.
    pub(super) flying: usize,
    /// The same, together with those that were read and wait for their turn.
    pub(super) planned: usize,
}

/// The limits in use, and what is known of others.
pub(super) struct Pace {
    rungs: Vec<Limits>,
    /// Bytes per second at each, where it is known.
    rates: Vec<Option<f64>>,
    /// The best that is known, and the one in use: the same but for a trial.
    home: usize,
    at: usize,
    /// What is still to be tried, last first. Then what was in use before is measured once more: the disks may have
    /// become slower or faster for all of them meanwhile.
    trial: Vec<usize>,
    trying: bool,
    /// Windows between two trials, and until the next.
    patience: u32,
    wait: u32,
    window: Window,
}

/// What is being measured.
#[derive(Default)]
struct Window {
    began: Option<Instant>,
    bytes: u64,
    /// How many batches are still to come that were planned under other limits.
    skip: usize,
}

impl Pace {
    /// Begins with what `shape` says, and will try less and more.
    pub(super) fn new(shape: &Shape) -> Self {
        let depth = shape.depth.max(1);
        let planned = depth + shape.spare;
        let mut rungs: Vec<Limits> = [2, 4].map(|few| Limits { flying: few, planned: few }).into();
        rungs.retain(|few| few.flying < depth);
        let home = rungs.len();
        rungs.push(Limits { flying: depth, planned });
        if depth * 2 <= planned {
            rungs.push(Limits { flying: depth * 2, planned });
        }
        let trial: Vec<usize> = (0..rungs.len()).filter(|&rung| rung != home).collect();
        let trying = !trial.is_empty();
        let rates = vec![None; rungs.len()];
        Self {
            rungs,
            rates,
            home,
            at: home,
            trial,
            trying,
            patience: LEAST,
            wait: LEAST,
            window: Window::default(),
        }
    }

    /// The limits to keep to now.
    pub(super) fn limits(&self) -> Limits {
        self.rungs[self.at]
    }

    /// A run begins: the time since the last one does not count.
    pub(super) fn begin(&mut self) {
        self.window = Window::default();
    }

    /// A batch is done that moved `bytes`.
    pub(super) fn moved(&mut self, bytes: u64, now: Instant) {
        let window = &mut self.window;
        if window.skip > 0 {
            window.skip -= 1;
            return;
        }
        let Some(began) = window.began else {
            window.began = Some(now);
            return;
        };
        window.bytes += bytes;
        let (bytes, taken) = (window.bytes, now.duration_since(began));
        if bytes >= WINDOW || taken >= LONGEST {
            self.window = Window { began: Some(now), ..Window::default() };
            self.measured(bytes as f64 / taken.as_secs_f64().max(f64::MIN_POSITIVE));
        }
    }

    fn measured(&mut self, rate: f64) {
        let known = self.rates[self.at];
        if self.rates[self.home].is_some_and(|home| rate < home * HOPELESS) {
            let (at, home) = (self.at, self.home);
            self.trial.retain(|&next| at == home || (next < home) != (at < home));
        }
        if let Some(next) = self.trial.pop() {
            self.rates[self.at] = Some(rate);
            self.use_limits(next);
        } else if self.at != self.home {
            self.rates[self.at] = Some(rate);
            self.use_limits(self.home);
        } else if self.trying {
            self.rates[self.at] = Some(known.map_or(rate, |known| known.max(rate)));
            self.settle();
        } else {
            self.rates[self.at] = Some(rate);
            self.wait -= 1;
            if self.wait == 0 || known.is_some_and(|known| rate < known * WORSE) {
                self.try_neighbours();
            }
        }
    }

    fn use_limits(&mut self, rung: usize) {
        self.window = Window { skip: self.limits().planned, ..Window::default() };
        self.at = rung;
    }

    fn try_neighbours(&mut self) {
        self.trial = [self.home + 1, self.home.wrapping_sub(1)].into();
        self.trial.retain(|&rung| rung < self.rungs.len());
        self.rates
            .iter_mut()
            .enumerate()
            .filter(|&(rung, _)| rung != self.home)
            .for_each(|(_, rate)| *rate = None);
        self.trying = true;
        match self.trial.pop() {
            Some(next) => self.use_limits(next),
            None => self.settle(),
        }
    }

    /// Ends a trial: the fastest stays.
    fn settle(&mut self) {
        let rate = |rung: usize| self.rates[rung].unwrap_or(0.0);
        let fastest = (0..self.rungs.len()).max_by(|&a, &b| rate(a).total_cmp(&rate(b))).unwrap_or(self.home);
        if rate(fastest) > rate(self.home) * BETTER {
            tracing::trace!(
                "{:?} is faster than {:?}: {:?}",
                self.rungs[fastest],
                self.rungs[self.home],
                self.rates
            );
            (self.home, self.patience) = (fastest, LEAST);
        } else {
            self.patience = (self.patience * 2).min(MOST);
        }
        (self.wait, self.trying) = (self.patience, false);
        self.use_limits(self.home);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;

    const SHAPE: Shape = Shape { buffer: Bytes(MIB), depth: 8, spare: 16 };

    /// A pace, a clock, and how much was moved under which limits.
    struct Run {
        pace: Pace,
        now: Instant,
        moved: Vec<(usize, u64)>,
    }

    impl Run {
        fn new() -> Self {
            Self { pace: Pace::new(&SHAPE), now: Instant::now(), moved: Vec::new() }
        }

        /// Moves `gib` GiB on disks that reach so many MiB per second with so many batches in flight.
        fn go(&mut self, gib: u64, mut rate: impl FnMut(usize) -> f64) {
            for _ in 0..gib * 1024 {
                let flying = self.pace.limits().flying;
                self.now += Duration::from_secs_f64(1.0 / rate(flying));
                self.pace.moved(MIB, self.now);
                match self.moved.iter_mut().find(|(limits, _)| *limits == flying) {
                    Some((_, moved)) => *moved += MIB,
                    None => self.moved.push((flying, MIB)),
                }
            }
        }

        /// The share of everything since the last call that was moved with so many in flight.
        fn share(&mut self, flying: usize) -> f64 {
            let moved = std::mem::take(&mut self.moved);
            let all: u64 = moved.iter().map(|(_, moved)| moved).sum();
            let these: u64 =
                moved.iter().filter(|(limits, _)| *limits == flying).map(|(_, moved)| moved).sum();
            these as f64 / all as f64
        }
    }

    fn cache(flying: usize) -> f64 {
        8000.0 / (flying as f64).sqrt()
    }

    fn latency(flying: usize) -> f64 {
        100.0 * flying as f64
    }

    #[test]
    fn what_is_fastest_is_found_and_kept() {
        for (disks, flying) in [(cache as fn(usize) -> f64, 2), (latency, 16)] {
            let mut run = Run::new();
            run.go(4, disks);
            assert!(run.share(flying) > 0.85, "of the first 4 GiB");
            run.go(64, disks);
            assert!(run.share(flying) > 0.97, "of the next 64 GiB");
        }
    }

    #[test]
    fn what_can_only_be_worse_is_not_tried() {
        let mut run = Run::new();
        run.go(4, latency);
        assert_eq!(run.share(2), 0.0);
    }

    #[test]
    fn disks_that_change_are_followed() {
        let mut run = Run::new();
        run.go(64, cache);
        run.share(2);
        run.go(8, latency);
        assert_eq!(run.pace.limits().flying, 16);
        run.go(64, cache);
        assert!(run.share(2) > 0.8);
    }

    #[test]
    fn where_nothing_is_faster_nothing_changes() {
        let mut run = Run::new();
        run.go(4, |_| 500.0);
        run.share(8);
        run.go(64, |_| 500.0);
        assert!(run.share(8) > 0.95);
    }

    #[test]
    fn disks_that_become_faster_during_a_trial_prove_nothing() {
        let mut run = Run::new();
        let mut sum = 0;
        // All the disks do twice as much after the first trial has begun.
        run.go(1, |_| {
            sum += 1;
            if sum < 100 { 500.0 } else { 1000.0 }
        });
        assert_eq!(run.pace.limits().flying, 8);
    }

    #[test]
    fn little_in_flight_is_never_made_less() {
        let pace = Pace::new(&Shape { depth: 1, spare: 0, ..SHAPE });
        assert_eq!(pace.rungs, [Limits { flying: 1, planned: 1 }]);
        let mut run = Run { pace, ..Run::new() };
        run.go(4, cache);
        assert_eq!(run.share(1), 1.0);
    }

    #[test]
    fn a_slow_disk_is_measured_by_the_second() {
        let mut run = Run::new();
        run.go(1, |flying| flying as f64);
        assert_eq!(run.pace.limits().flying, 16);
    }
}
