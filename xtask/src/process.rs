// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running other programs, and saying which one failed and why.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::Result;

/// The setting that marks every process the tests start, so that one left behind is known as theirs. Its value
/// is unlike that of any other run, also one beside this on the same machine.
pub fn mark() -> (&'static str, String) {
    ("DPSR_TEST_RUN", std::process::id().to_string())
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs `command` to its end and returns what it printed; a failure carries its own words.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command.output().map_err(|error| format!("starting `{}`: {error}", shown(command)))?;
    checked(&shown(command), done)
}

/// What a finished command printed, or the sentence about its failure; `line` is what was run.
pub fn checked(line: &str, done: Output) -> Result<String> {
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("`{line}` failed ({}): {}", done.status, said.trim()))
}

/// Runs `command` with its output on the terminal.
pub fn watched(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("starting `{}`: {error}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("`{}` failed ({status})", shown(command))) }
}

/// Where `program` is, looking into the system directories too: they are not on every user's `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
