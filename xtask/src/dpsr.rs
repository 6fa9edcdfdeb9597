// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calling dpsr as a user would: the binary, its options, its JSON.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::data;
use crate::json::Json;
use crate::process;

/// One dpsr binary with a configuration directory of its own.
pub struct Dpsr {
    pub binary: PathBuf,
    pub config: PathBuf,
}

impl Dpsr {
    /// `dpsr WORDS --config-dir …`, ready to run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--config-dir").arg(&self.config);
        command
    }

    /// The words of an `init` that pairs two disks without asking.
    pub fn init_words<'a>(primary: &'a Path, dpsr: &'a Path, confirm: &'a str) -> Result<Vec<&'a str>> {
        let mut words = vec!["init", "--primary", text(primary)?, "--dpsr", text(dpsr)?, "--no-boot"];
        words.extend(["--confirm", confirm]);
        Ok(words)
    }

    /// Runs a verb and returns what it printed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        process::output(&mut self.command(words))
    }

    /// Runs a verb with `--json` and returns the document.
    pub fn json(&self, words: &[&str]) -> Result<Json> {
        let mut command = self.command(words);
        command.arg("--json");
        let printed = process::output(&mut command)?;
        Json::parse(&printed).map_err(|why| format!("`{}` printed {why}", process::shown(&command)))
    }

    /// Exports a generation into a pipe and proves that it equals `source`.
    pub fn export_must_equal(&self, generation: u64, source: &Path, size: u64) -> Result<()> {
        let number = generation.to_string();
        let mut command = self.command(&["export", &number, "-"]);
        command.stdout(Stdio::piped());
        let failed = |error| format!("exporting generation {generation}: {error}");
        let mut child = command.spawn().map_err(failed)?;
        let stream = child.stdout.take().expect("the pipe was asked for above");
        let other = data::open(source)?.take(size);
        let equal = data::must_equal(&format!("generation {generation}"), stream, other, size);
        let status = child.wait().map_err(failed)?;
        equal?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("`{}` failed ({status})", process::shown(&command)))
        }
    }
}

/// A path as dpsr takes it on the command line.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{}: the name is not UTF-8", path.display()))
}
