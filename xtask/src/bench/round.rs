// SPDX-License-Identifier: MIT OR Apache-2.0
//! One round: fio first, then dpsr's cases, then the other tools, each on cold caches.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::fio::{Limits, Pattern};
use super::measured::{self, Cost};
use super::peers::{PEERS, Peer, Task};
use super::rig::{self, Loop, Rig};
use super::table::{Sample, Table, median};
use crate::Result;
use crate::data::{self, Noise};
use crate::dpsr::Dpsr;
use crate::json::Json;

/// The bars of the design, as multiples of fio's best.
const BAR_READ: f64 = 1.05;
const BAR_COPY: f64 = 1.10;
/// The bar for one changed block in a hundred, as a multiple of dpsr's own time when nothing changed.
const BAR_CHANGED: f64 = 1.10;
/// Each case counts with the median of so many runs in a round, and so does fio, with the setting that won its sweep:
/// on a disk that others use, too, the best of a few runs tells of luck. Odd, so that there is a middle.
const RUNS: usize = 15;

/// Whether `tool` was asked for; all are when none was named.
pub fn wants(tools: &[String], tool: &str) -> bool {
    tools.is_empty() || tools.iter().any(|name| name == tool)
}

/// The rig with what is measured on it.
pub struct Bench<'a> {
    rig: &'a Rig,
    dpsr: Option<Dpsr>,
    peers: Vec<&'static Peer>,
    noise: Noise,
}

/// One dpsr case as the table names it.
struct Case {
    name: String,
    bar: Option<f64>,
    words: &'static [&'static str],
    mode: &'static str,
    changed: u64,
}

/// What the turns of one case took.
struct Runs {
    /// The median run.
    sample: Sample,
    /// Seconds, in the order of the turns.
    turns: Vec<f64>,
}

impl Runs {
    /// How many times as long this took as another case, turn by turn; the median of that. The two of a turn stand side
    /// by side, so that what the disk does from minute to minute counts for both.
    fn against(&self, other: &Self) -> f64 {
        median(self.turns.iter().zip(&other.turns).map(|(this, other)| this / other))
    }
}

impl<'a> Bench<'a> {
    pub fn new(rig: &'a Rig, binary: Option<PathBuf>, tools: &[String]) -> Result<Self> {
        let config = rig.scratch.path().join("config");
        fs::create_dir(&config).map_err(|error| format!("making the configuration directory: {error}"))?;
        let dpsr = binary.map(|binary| Dpsr { binary, config });
        let wanted = PEERS.iter().filter(|peer| wants(tools, peer.tool));
        let (peers, absent): (Vec<_>, Vec<_>) = wanted.partition(|peer| peer.is_present());
        let mut absent: Vec<&str> = absent.iter().map(|peer| peer.tool).collect();
        absent.dedup();
        if !absent.is_empty() {
            println!("not on this machine, left out: {}", absent.join(", "));
        }
        Ok(Self { rig, dpsr, peers, noise: Noise::new(rig.size ^ 1) })
    }

    pub fn round(&mut self, number: u64, table: &mut Table) -> Result<()> {
        let limits = Limits::measure(self.rig)?;
        for pattern in [Pattern::Source, Pattern::Both, Pattern::Copy] {
            let best = limits.of(pattern);
            println!("  {}: {:.3} s ({})", pattern.name(), best.seconds, best.setting);
            table.limit(&self.rig.place, pattern.name(), self.rig.size, best.seconds);
        }
        self.dpsr_cases(number, &limits, table)?;
        self.peer_cases(number, &limits, table)
    }

    fn dpsr_cases(&mut self, number: u64, limits: &Limits, table: &mut Table) -> Result<()> {
        if self.dpsr.is_none() {
            return Ok(());
        }
        let sync: &[&str] = &["sync", "--offline"];
        let compare: &[&str] = &["sync", "--offline", "--compare"];
        let case = |name, bar, words, mode, changed| Case { name, bar, words, mode, changed };
        let (read, one) = (Some(BAR_READ), self.rig.size / 100);
        let first = case("first copy".to_owned(), Some(BAR_COPY), sync, "full", 0);
        self.by_turns(number, Pattern::Copy, [&first], limits, table)?;
        for (name, pattern, words) in [("digest", Pattern::Source, sync), ("compare", Pattern::Both, compare)]
        {
            let unchanged = case(["unchanged, ", name].concat(), read, words, name, 0);
            let changed = case(["1 % changed, ", name].concat(), None, words, name, one);
            let case = format!("{}, against unchanged", changed.name);
            let [unchanged, changed] =
                self.by_turns(number, pattern, [&unchanged, &changed], limits, table)?;
            let ratio = changed.against(&unchanged);
            println!("  dpsr, {case}: {ratio:.2}");
            table.add(&self.rig.place, &case, "dpsr", Some(BAR_CHANGED), changed.sample.with_ratio(ratio));
        }
        Ok(())
    }

    /// Pairs the disks afresh, so that the next sync is a first copy.
    fn pair(&self, dpsr: &Dpsr) -> Result<()> {
        fs::remove_dir_all(&dpsr.config).and_then(|()| fs::create_dir(&dpsr.config)).map_err(|error| {
            format!("emptying the configuration directory {}: {error}", dpsr.config.display())
        })?;
        let confirm = self.rig.disk_size.to_string();
        let mut words = Dpsr::init_words(&self.rig.source.node, &self.rig.disk.node, &confirm)?;
        words.push("--wipe");
        dpsr.run(&words).map(drop)
    }

    /// The median run of each case, against that of fio. All run by turns, fio with the best setting of its sweep
    /// included: a disk that others use, too, changes its rate within a minute. Every other turn goes the other way
    /// round, so that none always follows the same one.
    fn by_turns<const N: usize>(
        &mut self,
        number: u64,
        pattern: Pattern,
        cases: [&Case; N],
        limits: &Limits,
        table: &mut Table,
    ) -> Result<[Runs; N]> {
        let mut fio = Vec::new();
        let mut runs = [(); N].map(|()| Vec::new());
        for turn in 0..RUNS {
            fio.push(limits.of(pattern).setting.run(self.rig, pattern)?);
            let mut order: Vec<usize> = (0..N).collect();
            if turn % 2 == 1 {
                order.reverse();
            }
            for which in order {
                runs[which].push(self.dpsr_case(number == 1 && turn == 0, cases[which])?);
            }
        }
        let fio = median(fio);
        println!("  {}, by turns: {fio:.3} s", pattern.name());
        table.limit(&self.rig.place, &[pattern.name(), ", by turns"].concat(), self.rig.size, fio);
        let mut samples = runs.iter_mut().zip(cases).map(|(runs, case)| {
            let turns = runs.iter().map(|(cost, _)| cost.seconds).collect();
            runs.sort_by(|(one, _), (other, _)| one.seconds.total_cmp(&other.seconds));
            let (cost, written) = runs[RUNS / 2];
            let best = limits.of(pattern).seconds;
            let sample = Sample::new(cost, written, self.rig.size, best).by_turns_with(fio);
            println!("  dpsr, {}: {sample}", case.name);
            table.add(&self.rig.place, &case.name, "dpsr", case.bar, sample);
            Runs { sample, turns }
        });
        Ok([(); N].map(|()| samples.next().expect("each case ran")))
    }

    fn dpsr_case(&mut self, check: bool, case: &Case) -> Result<(Cost, u64)> {
        let dpsr = self.dpsr.as_ref().expect("its cases are only run where it is measured");
        if case.mode == "full" {
            self.pair(dpsr)?;
        }
        let source = data::open(&self.rig.source.node)?;
        let changed = match case.changed {
            0 => 0,
            _ => data::change_blocks(&source, 0, self.rig.size, 100, &mut self.noise)?,
        };
        let mut command = dpsr.command(case.words);
        command.arg("--json");
        let (cost, written, printed) = self.measure(&command, &self.rig.disk, false)?;
        let json = Json::parse(&printed)?;
        let told = |what: &str| format!("dpsr, {}: {what}: {printed}", case.name);
        if json.text("mode")? != case.mode {
            return Err(told(&format!("the mode should be {}", case.mode)));
        }
        if case.mode != "full" && json.number("bytes_changed")? != changed {
            return Err(told(&format!("{changed} bytes were changed")));
        }
        if check {
            dpsr.export_must_equal(json.number("generation")?, &self.rig.source.node, self.rig.size)?;
        }
        Ok((cost, written))
    }

    fn peer_cases(&mut self, number: u64, limits: &Limits, table: &mut Table) -> Result<()> {
        for task in Task::ALL {
            if task != Task::Copy && self.peers.iter().any(|peer| peer.task == task) {
                self.align_peer()?;
            }
            let mut refused = Vec::new();
            for peer in self.peers.clone().into_iter().filter(|peer| peer.task == task) {
                if let Err(why) = self.peer_case(number, peer, limits, table) {
                    println!("  {}, {}: left out: {why}", peer.tool, task.case());
                    refused.push((peer.tool, task));
                    self.align_peer()?;
                }
            }
            self.peers.retain(|peer| !refused.contains(&(peer.tool, peer.task)));
        }
        Ok(())
    }

    fn peer_case(&mut self, number: u64, peer: &Peer, limits: &Limits, table: &mut Table) -> Result<()> {
        let (source, destination) = (&self.rig.source, &self.rig.peer);
        if peer.task != Task::Compare {
            // Also before a plain copy: what the tool before left there was already exact.
            data::change_blocks(&data::open(&destination.node)?, 0, self.rig.size, 100, &mut self.noise)?;
        }
        let words = peer.words(source.name(), destination.name());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let (cost, written, _) = self.measure(&command, destination, true)?;
        if number == 1 {
            let what = format!("the copy by {}", peer.tool);
            data::files_must_equal(&what, &destination.node, &source.node, self.rig.size)?;
        }
        let sample = Sample::new(cost, written, self.rig.size, limits.of(peer.task.limit()).seconds);
        println!("  {}, {}: {sample}", peer.tool, peer.task.case());
        table.add(&self.rig.place, peer.task.case(), peer.tool, None, sample);
        Ok(())
    }

    /// Runs `command` on cold caches, but for the program itself, which no rate of fio counts either; its cost, the bytes it wrote to `target`, what it printed. With
    /// `flush`, the time includes making the copy durable, which dpsr does itself.
    fn measure(&self, command: &Command, target: &Loop, flush: bool) -> Result<(Cost, u64, String)> {
        rig::drop_caches()?;
        // Every tool here knows this word; whatever it answers, its pages are in memory now.
        drop(Command::new(command.get_program()).arg("--version").output());
        let before = target.written()?;
        let (mut cost, printed) = measured::run(command, self.rig.scratch.path())?;
        if flush {
            let start = std::time::Instant::now();
            target.flush()?;
            cost.seconds += start.elapsed().as_secs_f64();
        }
        Ok((cost, target.written()? - before, printed))
    }

    /// Makes the peers' destination equal to the source, unmeasured.
    fn align_peer(&self) -> Result<()> {
        let (source, peer) = (&self.rig.source, &self.rig.peer);
        let copied = std::io::copy(&mut data::open(&source.node)?, &mut data::open(&peer.node)?);
        copied.map_err(|error| format!("copying {} to {}: {error}", source.name(), peer.name()))?;
        peer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_compared_with_each_other() {
        let runs = |turns: &[f64]| {
            let cost = Cost { seconds: 1.0, cpu_seconds: 1.0, rss_kib: 1 };
            Runs { sample: Sample::new(cost, 0, 1, 1.0), turns: turns.to_vec() }
        };
        // A disk that becomes three times as slow meanwhile; one turn was disturbed.
        let (unchanged, changed) = (runs(&[1.0, 1.1, 9.0, 3.0, 3.0]), runs(&[1.1, 1.21, 1.5, 3.3, 3.3]));
        assert!((changed.against(&unchanged) - 1.1).abs() < 1e-9);
    }
}
