// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures, as one Markdown table: medians over the rounds.

use std::fmt;
use std::fs;
use std::thread;

use super::measured::Cost;
use crate::data::{GIB, MIB};
use crate::process::output;

/// One run of one tool.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Against fio that took turns with it, where it did: what a bar is held against.
    by_turns: Option<f64>,
    /// Against the best single run of fio's sweep.
    against_best: Option<f64>,
    seconds: f64,
    gigabytes: f64,
    cpu_per_gib: Option<f64>,
    rss_mib: Option<f64>,
    written_mib: Option<f64>,
}

impl Sample {
    /// A tool's run over `size` bytes, against `best`, the seconds fio took at its best in the same round.
    pub fn new(cost: Cost, written: u64, size: u64, best: f64) -> Self {
        Self {
            by_turns: None,
            against_best: Some(cost.seconds / best),
            seconds: cost.seconds,
            gigabytes: size as f64 / 1e9 / cost.seconds,
            cpu_per_gib: Some(cost.cpu_seconds / (size as f64 / GIB as f64)),
            rss_mib: Some(cost.rss_kib as f64 / 1024.0),
            written_mib: Some(written as f64 / MIB as f64),
        }
    }
}

impl Sample {
    /// The same, and against `fio`, the seconds that took by turns with it.
    pub fn by_turns_with(self, fio: f64) -> Self {
        Self { by_turns: Some(self.seconds / fio), ..self }
    }

    /// The same run, as a multiple of something else.
    pub fn with_ratio(self, ratio: f64) -> Self {
        Self { by_turns: Some(ratio), against_best: None, ..self }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s, ", self.seconds)?;
        if let Some(ratio) = self.by_turns {
            write!(f, "{ratio:.2} x fio by turns, ")?;
        }
        if let Some(ratio) = self.against_best {
            write!(f, "{ratio:.2} x best fio, ")?;
        }
        write!(f, "{:.2} GB/s", self.gigabytes)
    }
}

struct Row {
    place: String,
    case: String,
    tool: String,
    bar: Option<f64>,
    samples: Vec<Sample>,
}

/// All rows, in the order in which they first came.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub fn add(&mut self, place: &str, case: &str, tool: &str, bar: Option<f64>, sample: Sample) {
        let same = |row: &&mut Row| row.place == place && row.case == case && row.tool == tool;
        match self.rows.iter_mut().find(same) {
            Some(row) => row.samples.push(sample),
            None => {
                let [place, case, tool] = [place, case, tool].map(str::to_owned);
                self.rows.push(Row { place, case, tool, bar, samples: vec![sample] });
            }
        }
    }

    /// Fio's own time: a figure that ratios stand on.
    pub fn limit(&mut self, place: &str, case: &str, size: u64, seconds: f64) {
        let gigabytes = size as f64 / 1e9 / seconds;
        let sample = Sample {
            by_turns: None,
            against_best: None,
            seconds,
            gigabytes,
            cpu_per_gib: None,
            rss_mib: None,
            written_mib: None,
        };
        self.add(place, case, "fio", None, sample);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| on | case | tool | x fio, by turns | bar | x best fio | s | GB/s | CPU s/GiB | RSS MiB | MiB written |"
        )?;
        writeln!(f, "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        for Row { place, case, tool, bar, samples } in &self.rows {
            let figure = |pick: fn(&Sample) -> f64| median(samples.iter().map(pick));
            let some = |pick: fn(&Sample) -> Option<f64>, digits: usize| {
                let known: Vec<f64> = samples.iter().filter_map(pick).collect();
                if known.is_empty() { String::new() } else { format!("{:.digits$}", median(known)) }
            };
            let turns: Vec<f64> = samples.iter().filter_map(|sample| sample.by_turns).collect();
            let bar = bar.filter(|_| !turns.is_empty()).map_or(String::new(), |bar| {
                format!("{bar:.2} {}", if median(turns) <= bar { "met" } else { "MISSED" })
            });
            writeln!(
                f,
                "| {place} | {case} | {tool} | {} | {bar} | {} | {:.3} | {:.2} | {} | {} | {} |",
                some(|sample| sample.by_turns, 2),
                some(|sample| sample.against_best, 2),
                figure(|sample| sample.seconds),
                figure(|sample| sample.gigabytes),
                some(|sample| sample.cpu_per_gib, 3),
                some(|sample| sample.rss_mib, 0),
                some(|sample| sample.written_mib, 1),
            )?;
        }
        Ok(())
    }
}

/// The middle value, or the mean of the two in the middle; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// One line about the machine the figures are from.
pub fn machine() -> String {
    let kernel = output(std::process::Command::new("uname").args(["-s", "-r", "-m"])).unwrap_or_default();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model =
        model.and_then(|line| line.split_once(':')).map_or("processor unknown", |(_, name)| name.trim());
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = field(&table, "MemTotal:").unwrap_or(0) as f64 / MIB as f64;
    let fio = output(std::process::Command::new("fio").arg("--version")).unwrap_or_default();
    format!("Machine: {}, {cores} cores ({model}), {memory:.0} GiB memory, {}.", kernel.trim(), fio.trim())
}

/// The number after `name` in a /proc table.
pub fn field(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median([7.0]), 7.0);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn rounds_of_one_case_make_one_row() {
        let mut table = Table::default();
        for seconds in [1.2, 1.0, 1.1] {
            let cost = Cost { seconds, cpu_seconds: 0.2, rss_kib: 2048 };
            let sample = Sample::new(cost, 1 << 20, 2 << 30, 1.0);
            table.add("memory", "first copy", "dd", None, sample);
            table.add("memory", "first copy", "dpsr", Some(0.60), sample.by_turns_with(2.0));
        }
        let text = table.to_string();
        let rows = [
            "| memory | first copy | dd |  |  | 1.10 | 1.100 | 1.95 | 0.100 | 2 | 1.0 |",
            "| memory | first copy | dpsr | 0.55 | 0.60 met | 1.10 | 1.100 | 1.95 | 0.100 | 2 | 1.0 |",
        ];
        assert_eq!(text.lines().skip(2).collect::<Vec<_>>(), rows);
    }

    #[test]
    fn a_proc_field() {
        assert_eq!(field("MemTotal:       24 kB\nMemAvailable:   12 kB\n", "MemAvailable:"), Some(12));
        assert_eq!(field("MemTotal: x kB\n", "MemTotal:"), None);
    }
}
