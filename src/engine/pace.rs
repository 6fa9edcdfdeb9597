// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much is in flight: found out by trying, because it depends on the disks. One that takes its time to answer
//! wants many transfers at once; where an answer is a copy by a processor, few of them, which stay in its cache, are
//! faster.
//!
//! A rate is what was moved in one window. Disks that others use, too, change theirs from one window to the next, so
//! something is taken only if it was faster twice, before and after what is in use was measured once more.

use std::time::{Duration, Instant};

use super::Shape;
use crate::units::MIB;

/// A window ends once so many bytes were moved, or so much time has passed.
const WINDOW: u64 = 64 * MIB;
const LONGEST: Duration = Duration::from_secs(1);
/// Windows until the neighbours are tried; twice as many each time nothing came of it, up to the most.
const LEAST: u32 = 16;
const MOST: u32 = 64;
/// How much faster something else must be to be taken.
const BETTER: f64 = 1.05;
/// What is slower than this is not followed by the next one in the same direction.
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
    /// The best that is known, and the one in use.
    home: usize,
    at: usize,
    state: State,
    patience: u32,
    window: Window,
    enough: u64,
}

/// What the window that is being measured is for.
#[derive(Clone, Debug, PartialEq)]
enum State {
    /// Nothing is tried for so many windows more.
    Waiting(u32),
    /// One is tried after the other, the last first.
    Trying(Vec<usize>),
    /// What was in use before, once more.
    Back,
    /// The one that was faster, once more.
    Again,
}

/// What is being measured.
#[derive(Default)]
struct Window {
    began: Option<Instant>,
    last: Option<Instant>,
    bytes: u64,
    /// Up to so many batches are still to come that were planned under other limits.
    skip: usize,
}

impl Window {
    /// Counts a batch: what was moved and the time it took, once that is enough.
    fn add(&mut self, bytes: u64, now: Instant, enough: u64) -> Option<(u64, Duration)> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let last = self.last.replace(now);
        let (Some(began), Some(last)) = (self.began, last) else {
            self.began = Some(now);
            return None;
        };
        if bytes == 0 {
            // Holes take time, too, but say nothing about transfers.
            self.began = Some(began + now.duration_since(last));
            return None;
        }
        self.bytes += bytes;
        let taken = now.duration_since(began);
        (self.bytes >= enough || taken >= LONGEST).then_some((self.bytes, taken))
    }
}

impl Pace {
    /// Begins with what `shape` says, and will try less, down to two batches, and twice as much.
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
        let others = (0..rungs.len()).filter(|&rung| rung != home).collect();
        Self::with(rungs, home, State::Trying(others))
    }

    /// Keeps to what `shape` says: for disks that are served one transfer after the other.
    pub(super) fn fixed(shape: &Shape) -> Self {
        let flying = shape.depth.max(1);
        Self::with(vec![Limits { flying, planned: flying + shape.spare }], 0, State::Waiting(MOST))
    }

    fn with(rungs: Vec<Limits>, home: usize, state: State) -> Self {
        let rates = vec![None; rungs.len()];
        Self {
            rungs,
            rates,
            home,
            at: home,
            state,
            patience: LEAST,
            window: Window::default(),
            enough: WINDOW,
        }
    }

    /// Lets each batch be a window.
    #[cfg(test)]
    pub(super) fn hurry(&mut self) {
        self.enough = 1;
    }

    /// The limits to keep to now.
    pub(super) fn limits(&self) -> Limits {
        self.rungs[self.at]
    }

    /// A run begins, of whatever work: neither the time since the last one counts, nor the rates of that one.
    pub(super) fn begin(&mut self) {
        self.window = Window::default();
        self.patience = LEAST;
        if self.rates.iter().any(Option::is_some) {
            self.rates.fill(None);
            self.at = self.home;
            let left = if let State::Waiting(left) = self.state { left.min(LEAST) } else { LEAST };
            self.state = State::Waiting(left);
        }
    }

    /// A batch is done that moved `bytes`.
    pub(super) fn moved(&mut self, bytes: u64, now: Instant) {
        if let Some((bytes, taken)) = self.window.add(bytes, now, self.enough) {
            self.window = Window { began: Some(now), last: Some(now), ..Window::default() };
            self.measured(bytes as f64 / taken.as_secs_f64().max(f64::MIN_POSITIVE));
        }
    }

    fn measured(&mut self, rate: f64) {
        let known = self.rates[self.at].replace(rate);
        match &mut self.state {
            State::Waiting(left) => {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.try_each(&[self.home + 1, self.home.wrapping_sub(1)]);
                }
            }
            State::Trying(left) => {
                let (at, home) = (self.at, self.home);
                if self.rates[home].is_some_and(|usual| rate < usual * HOPELESS) {
                    left.retain(|&next| (next < home) != (at < home));
                }
                match left.pop() {
                    Some(next) => self.use_limits(next),
                    None => {
                        self.state = State::Back;
                        self.use_limits(home);
                    }
                }
            }
            State::Back => {
                // The faster of the two counts, against a trial that met a better moment.
                self.rates[self.home] = Some(known.map_or(rate, |known| known.max(rate)));
                match self.faster() {
                    Some(fastest) => {
                        self.state = State::Again;
                        self.use_limits(fastest);
                    }
                    None => self.stay(rate),
                }
            }
            State::Again => {
                self.rates[self.at] = Some(known.map_or(rate, |known| known.min(rate)));
                match self.faster() {
                    Some(fastest) if fastest == self.at => self.take(fastest),
                    Some(other) => self.use_limits(other),
                    None => self.stay(self.rates[self.home].unwrap_or(rate)),
                }
            }
        }
    }

    fn use_limits(&mut self, rung: usize) {
        if rung != self.at {
            self.window = Window { skip: self.limits().planned, ..Window::default() };
            self.at = rung;
        }
    }

    /// Tries those of `others` that there are, last first.
    fn try_each(&mut self, others: &[usize]) {
        let mut others: Vec<usize> = others.iter().copied().filter(|&rung| rung < self.rungs.len()).collect();
        let usual = self.rates[self.home];
        self.rates.fill(None);
        self.rates[self.home] = usual;
        match others.pop() {
            Some(next) => {
                self.state = State::Trying(others);
                self.use_limits(next);
            }
            None => self.state = State::Waiting(self.patience),
        }
    }

    /// The fastest, if that is not the one in use.
    fn faster(&self) -> Option<usize> {
        let rate = |rung: usize| self.rates[rung].unwrap_or(0.0);
        let fastest = (0..self.rungs.len()).max_by(|&a, &b| rate(a).total_cmp(&rate(b)))?;
        (rate(fastest) > rate(self.home) * BETTER).then_some(fastest)
    }

    /// Changes to `rung`, and tries the next one in the same direction.
    fn take(&mut self, rung: usize) {
        tracing::trace!("{:?} is faster than {:?}", self.rungs[rung], self.rungs[self.home]);
        let next = if rung > self.home { rung + 1 } else { rung.wrapping_sub(1) };
        let tried = self.rates.get(next).is_none_or(Option::is_some);
        (self.home, self.patience) = (rung, LEAST);
        if tried {
            self.state = State::Waiting(self.patience);
        } else {
            self.try_each(&[next]);
        }
    }

    fn stay(&mut self, rate: f64) {
        self.rates[self.home] = Some(rate);
        self.patience = (self.patience * 2).min(MOST);
        self.state = State::Waiting(self.patience);
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
                self.batch(rate(flying));
                match self.moved.iter_mut().find(|(limits, _)| *limits == flying) {
                    Some((_, moved)) => *moved += MIB,
                    None => self.moved.push((flying, MIB)),
                }
            }
        }

        /// Moves 1 MiB.
        fn batch(&mut self, rate: f64) {
            self.now += Duration::from_secs_f64(1.0 / rate);
            self.pace.moved(MIB, self.now);
        }

        /// Moves 1 MiB after the other, of which each takes what `rate` says, until something is so, which must be
        /// before `gib` GiB are moved; how many MiB that were.
        fn until(&mut self, gib: u64, rate: impl Fn(&Pace) -> f64, done: impl Fn(&Pace) -> bool) -> u64 {
            let moved = (0..gib * 1024).find(|_| {
                let is_done = done(&self.pace);
                if !is_done {
                    self.batch(rate(&self.pace));
                }
                is_done
            });
            moved.expect("it does not come about")
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

    fn waits(pace: &Pace) -> bool {
        matches!(pace.state, State::Waiting(_))
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
    fn what_differs_by_chance_is_seldom_taken() {
        let mut run = Run::new();
        let mut seed = 1u32;
        let mut sum = 0;
        let mut noise = 1.0;
        run.go(256, |flying| {
            if sum % 64 == 0 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                noise = 0.8 + 0.4 * f64::from(seed) / f64::from(u32::MAX);
            }
            sum += 1;
            noise * [500.0, 800.0, 1000.0, 1000.0][flying.ilog2() as usize - 1]
        });
        let moved = std::mem::take(&mut run.moved);
        let worse: u64 = moved.iter().filter(|(flying, _)| *flying < 8).map(|(_, moved)| moved).sum();
        assert!(worse < 16 << 30, "{worse} of 256 GiB");
    }

    #[test]
    fn a_run_that_ends_during_a_trial_ends_the_trial() {
        let mut run = Run::new();
        run.until(1, |_| 1000.0, |pace| pace.limits().flying != 8);
        run.pace.begin();
        assert_eq!(run.pace.limits().flying, 8);
        let mut fresh = Pace::new(&SHAPE);
        fresh.begin();
        assert_eq!(fresh.state, Pace::new(&SHAPE).state, "what was never tried still will be");
    }

    #[test]
    fn what_was_planned_under_other_limits_does_not_count() {
        let mut run = Run::new();
        run.until(1, |_| 1000.0, |pace| pace.limits().flying != 8);
        let tried = run.pace.at;
        // The 24 that were on their way then take longer than any window.
        for _ in 0..24 {
            run.batch(0.5);
        }
        assert_eq!((run.pace.at, run.pace.rates[tried]), (tried, None));
        run.until(1, |_| 2000.0, |pace| pace.at != tried);
        let rate = run.pace.rates[tried].unwrap();
        assert!((rate / (2000.0 * MIB as f64) - 1.0).abs() < 0.01, "{rate}");
    }

    #[test]
    fn holes_do_not_count() {
        let mut window = Window::default();
        let at = |ms: u64| Duration::from_millis(ms);
        let start = Instant::now();
        assert_eq!(window.add(MIB, start, 2 * MIB), None);
        assert_eq!(window.add(MIB, start + at(10), 2 * MIB), None);
        assert_eq!(window.add(0, start + at(5000), 2 * MIB), None);
        assert_eq!(window.add(MIB, start + at(5010), 2 * MIB), Some((2 * MIB, at(20))));
    }

    #[test]
    fn a_slow_disk_is_measured_by_the_second() {
        let mut run = Run::new();
        let start = run.now;
        run.until(1, |pace| pace.limits().flying as f64, |pace| pace.rungs[pace.home].flying == 16);
        assert!(run.now - start < Duration::from_secs(30), "{:?}", run.now - start);
    }

    /// Until it waits: with 16 the first window is twice as fast as any later one, with 4 each is as told.
    fn lucky_once(with_4: f64) -> Run {
        let mut run = Run::new();
        let lucky = std::cell::Cell::new(100);
        let rate = |pace: &Pace| match pace.limits().flying {
            16 if lucky.get() > 0 => {
                lucky.set(lucky.get() - 1);
                2000.0
            }
            16 => 900.0,
            4 => with_4,
            _ => 1000.0,
        };
        run.until(4, rate, waits);
        run
    }

    #[test]
    fn what_was_faster_only_once_is_left_for_the_next_best() {
        assert_eq!(lucky_once(1300.0).pace.limits().flying, 4);
        assert_eq!(lucky_once(1000.0).pace.limits().flying, 8);
    }

    #[test]
    fn a_bad_moment_of_what_is_in_use_proves_nothing() {
        let mut run = Run::new();
        run.go(64, |_| 1000.0);
        run.until(8, |_| 1000.0, |pace| !waits(pace));
        run.until(4, |pace| if pace.state == State::Back { 800.0 } else { 1000.0 }, waits);
        assert_eq!(run.pace.limits().flying, 8);
    }

    #[test]
    fn what_is_hardly_faster_is_not_taken() {
        let mut run = Run::new();
        run.go(64, |flying| if flying == 16 { 1030.0 } else { 1000.0 });
        assert_eq!(run.pace.home, Pace::new(&SHAPE).home);
        assert!(run.share(8) > 0.9);
    }

    #[test]
    fn what_is_taken_is_followed_by_the_next_one_at_once() {
        let mut run = Run::new();
        run.go(64, cache);
        assert_eq!((run.pace.home, run.pace.patience), (0, MOST));
        let rate = |pace: &Pace| latency(pace.limits().flying);
        run.until(8, rate, |pace| pace.home != 0);
        assert_eq!(run.pace.patience, LEAST);
        let moved = run.until(8, rate, |pace| pace.home == 3);
        assert!(moved < u64::from(LEAST) * 64, "{moved} MiB until 16 are in flight");
    }

    #[test]
    fn the_time_between_two_runs_does_not_count_nor_what_was_known() {
        let mut run = Run::new();
        run.go(64, |_| 500.0);
        run.pace.begin();
        assert!(matches!(run.pace.state, State::Waiting(left) if left <= LEAST), "{:?}", run.pace.state);
        assert_eq!(run.pace.patience, LEAST);
        run.batch(0.01);
        run.batch(500.0);
        assert_eq!(run.pace.rates, [None; 4]);
    }
}
