// SPDX-License-Identifier: MIT OR Apache-2.0
//! Long work before any system runs, shown on the console: nobody should switch off a machine that only seems to
//! hang.

use std::sync::Mutex;

use super::told::{Level, say};
use crate::progress::Progress;
use crate::units::Bytes;

/// How many lines a stretch of work is told in, at most.
const LINES: u64 = 10;

/// Tells each stretch of work when it begins, and how far it is.
#[derive(Default)]
pub struct Steps(Mutex<Step>);

#[derive(Default)]
struct Step {
    what: String,
    total: u64,
    done: u64,
    told: u64,
}

impl Progress for Steps {
    fn begin(&self, what: &str, total: Bytes) {
        let size = if total > Bytes::ZERO { format!(": {total} to go through") } else { String::new() };
        say(Level::Warning, &format!("{what}{size}"));
        if let Ok(mut step) = self.0.lock() {
            *step = Step { what: what.to_owned(), total: total.0, ..Step::default() };
        }
    }

    fn advance(&self, bytes: Bytes) {
        let Ok(mut step) = self.0.lock() else { return };
        if let Some(line) = step.advanced(bytes) {
            say(Level::Warning, &line);
        }
    }
}

impl Step {
    /// What is to be told now.
    fn advanced(&mut self, bytes: Bytes) -> Option<String> {
        self.done = (self.done + bytes.0).min(self.total);
        let reached = (u128::from(self.done) * u128::from(LINES)).checked_div(self.total.into())?;
        let reached = u64::try_from(reached).ok().filter(|reached| *reached > self.told)?;
        self.told = reached;
        Some(format!("{}: {} %", self.what, reached * 100 / LINES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_however_it_advances() {
        let mut step = Step { what: "copying".to_owned(), total: 1000, ..Step::default() };
        let told: Vec<_> = (0..1000).filter_map(|_| step.advanced(Bytes(1))).collect();
        assert_eq!((told.len(), told[0].as_str(), told[9].as_str()), (10, "copying: 10 %", "copying: 100 %"));
        let mut step = Step { total: 1000, ..Step::default() };
        assert_eq!(step.advanced(Bytes(555)).as_deref(), Some(": 50 %"));
        assert_eq!(step.advanced(Bytes(5000)).as_deref(), Some(": 100 %"));
        assert_eq!(step.advanced(Bytes(1)), None);
        assert_eq!(Step::default().advanced(Bytes(1)), None);
    }
}
