// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which generations to keep: a pure function of their numbers and times.
//!
//! Each rule looks at the generations from the newest to the oldest by **number**, so that a clock that went
//! back loses nothing new, and keeps the first one it meets in each period, for as many periods as it says.
//! Periods without a generation do not count. Periods are those of **UTC**, weeks those of ISO 8601. The
//! newest generation and pinned ones are always kept.

pub mod calendar;

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::format::index::Record;
use crate::units::Generation;
use calendar::{civil, hour, iso_week};

/// How many to keep of each kind; absent for none because of this rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The newest so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<NonZeroU32>,
    /// The newest of each of the last so many hours that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hourly: Option<NonZeroU32>,
    /// The newest of each of the last so many days that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<NonZeroU32>,
    /// The newest of each of the last so many weeks that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weekly: Option<NonZeroU32>,
    /// The newest of each of the last so many months that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly: Option<NonZeroU32>,
}

/// One generation, as far as rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub generation: Generation,
    /// When it was taken: seconds since 1970, UTC.
    pub time: u64,
    /// Whether it is pinned.
    pub pinned: bool,
}

impl From<&Record> for Candidate {
    fn from(record: &Record) -> Self {
        Self { generation: record.generation, time: record.time, pinned: record.pinned }
    }
}

/// What becomes of one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Its number.
    pub generation: Generation,
    /// When it was taken: seconds since 1970, UTC.
    pub time: u64,
    /// Why it is kept, like `daily 2026-11-19`; nothing keeps it if there is none.
    pub kept_as: Vec<String>,
}

impl Verdict {
    /// Whether it is kept.
    pub fn kept(&self) -> bool {
        !self.kept_as.is_empty()
    }
}

/// The name of the period a time lies in.
type Period = fn(u64) -> String;

impl Rules {
    /// Whether no rule is given, so that everything is kept.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn periods(&self) -> [(Option<NonZeroU32>, &'static str, Period); 4] {
        [
            (self.hourly, "hourly", |time| format!("{} {:02}:00Z", civil(time), hour(time))),
            (self.daily, "daily", |time| civil(time).to_string()),
            (self.weekly, "weekly", |time| iso_week(time).to_string()),
            (self.monthly, "monthly", |time| civil(time).month_name()),
        ]
    }

    /// What becomes of each of `generations`, which must ascend. Without any rule all are kept.
    pub fn judge(&self, generations: &[Candidate]) -> Vec<Verdict> {
        let verdict = |one: &Candidate| Verdict {
            generation: one.generation,
            time: one.time,
            kept_as: if one.pinned { vec!["pinned".to_owned()] } else { vec![] },
        };
        let mut verdicts: Vec<Verdict> = generations.iter().map(verdict).collect();
        if let Some(newest) = verdicts.last_mut() {
            newest.kept_as.push("newest".to_owned());
        }
        if self.is_empty() {
            verdicts.iter_mut().for_each(|one| one.kept_as.push("no rule".to_owned()));
        }
        let last = self.last.map_or(0, |count| count.get() as usize);
        verdicts.iter_mut().rev().take(last).for_each(|one| one.kept_as.push("last".to_owned()));
        for (count, word, period) in self.periods() {
            keep_periods(&mut verdicts, count, word, period);
        }
        verdicts
    }
}

fn keep_periods(verdicts: &mut [Verdict], count: Option<NonZeroU32>, word: &str, period: Period) {
    let count = count.map_or(0, |count| count.get() as usize);
    let mut seen: Vec<String> = Vec::new();
    for one in verdicts.iter_mut().rev() {
        if seen.len() >= count {
            return;
        }
        let name = period(one.time);
        if !seen.contains(&name) {
            one.kept_as.push(format!("{word} {name}"));
            seen.push(name);
        }
    }
}

#[cfg(test)]
mod tests;
