// SPDX-License-Identifier: MIT OR Apache-2.0
//! A temporary directory that goes away however the task ends.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Result;

/// Waits until the other end of its standard input closes, then removes the directory. It ignores the
/// signals that a terminal sends to the whole group, so an interrupted or killed task leaves nothing.
const REAPER: &str = r#"trap "" HUP INT TERM; cat >/dev/null; rm -rf -- "$1""#;

/// How many this process has made: two threads may want one of the same name at once.
static MADE: AtomicU32 = AtomicU32::new(0);

/// The directory; dropping it, or the death of this process, removes it.
pub struct Scratch {
    path: PathBuf,
    reaper: Child,
}

impl Scratch {
    /// Makes a directory below `parent` that only its owner can enter.
    pub fn new(parent: &Path, name: &str) -> Result<Self> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("dpsr-{name}-{}-{number}", process::id()));
        let failed = |error| format!("making the directory {}: {error}", path.display());
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let reaper = Command::new("sh")
            .args(["-c", REAPER, "reaper"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        Ok(Self { path, reaper })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        if let Err(error) = self.reaper.wait() {
            eprintln!("removing {}: {error}, ignoring: the directory may be left", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_away_with_what_is_in_it() {
        let scratch = Scratch::new(&std::env::temp_dir(), "scratch test").unwrap();
        let path = scratch.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn two_of_one_name_are_two() {
        let [one, other] = [(); 2].map(|()| Scratch::new(&std::env::temp_dir(), "scratch twice").unwrap());
        assert_ne!(one.path(), other.path());
    }
}
