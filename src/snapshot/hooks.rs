// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs of the administrator around the moment: `pre-freeze.d` before anything is frozen, `post-thaw.d`
//! after everything goes on again, executables in the order of their names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Error, Kind, Result};

/// How long one program may take. What it froze waits meanwhile.
const DEADLINE: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(20);

/// The programs that were asked to get ready; the others run when this is dropped, whatever happened.
pub struct Hooks(Option<PathBuf>);

impl Hooks {
    /// Runs `pre-freeze.d` of this directory. One that fails stops everything, before anything was frozen.
    pub fn before(folder: Option<&Path>) -> Result<Self> {
        let hooks = Self(folder.map(Path::to_owned));
        for program in folder.map(|folder| listed(&folder.join("pre-freeze.d"))).unwrap_or_default() {
            run(&program, DEADLINE)?;
        }
        Ok(hooks)
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        let Some(folder) = &self.0 else { return };
        for program in listed(&folder.join("post-thaw.d")) {
            if let Err(error) = run(&program, DEADLINE) {
                tracing::warn!("{error}, ignoring: the moment is past");
            }
        }
    }
}

/// The executables in a directory that may be absent. Names with a dot at their start, or a tilde at their
/// end, are what editors leave.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut programs: Vec<_> = entries.map(|entry| entry.path()).filter(|path| is_program(path)).collect();
    programs.sort();
    programs
}

fn is_program(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let left = name.starts_with('.') || name.ends_with('~');
    !left && fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn run(program: &Path, deadline: Duration) -> Result<()> {
    let failed = |why: String| {
        let doing = "running the hook";
        let error = Error::new(Kind::Refused, doing, why).on(program.display().to_string());
        error.left("nothing was frozen").next("mend it, or make it not executable")
    };
    // A group of its own, so that what it starts can be ended with it.
    let started = Command::new(program).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn();
    let mut child = started.map_err(|error| failed(error.to_string()))?;
    match wait(&mut child, deadline) {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(format!("it failed ({status})"))),
        None => {
            end(child);
            Err(failed(format!("it did not end within {} s", deadline.as_secs())))
        }
    }
}

fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let since = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if since.elapsed() < deadline => sleep(GLANCE),
            _ => return None,
        }
    }
}

/// Reaped elsewhere: a process stuck in the kernel survives even a kill.
fn end(mut child: Child) {
    let group = i32::try_from(child.id()).map(Pid::from_raw);
    if let Ok(Err(error)) = group.map(|group| killpg(group, Signal::SIGKILL)) {
        tracing::warn!("ending a hook: {error}, ignoring: it may go on");
    }
    std::thread::spawn(move || child.wait());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(folder: &Path, name: &str, mode: u32, text: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn executables_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in
            [("20-b", 0o755), ("10-a", 0o700), ("15-not", 0o644), (".x", 0o755), ("30~", 0o755)]
        {
            script(folder.path(), name, mode, "");
        }
        fs::create_dir(folder.path().join("05-folder")).unwrap();
        let names: Vec<_> =
            listed(folder.path()).iter().map(|it| it.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["10-a", "20-b"]);
        assert!(listed(&folder.path().join("absent")).is_empty());
    }

    #[test]
    fn one_that_fails_stops_those_after_it_and_the_last_ones_run() {
        let folder = tempfile::tempdir().unwrap();
        let (at, log) = (folder.path(), folder.path().join("log"));
        let say = |word: &str| format!("echo {word} >>{}", log.display());
        script(&at.join("pre-freeze.d"), "1", 0o755, &say("one"));
        script(&at.join("pre-freeze.d"), "2", 0o755, "exit 3");
        script(&at.join("pre-freeze.d"), "3", 0o755, &say("three"));
        script(&at.join("post-thaw.d"), "1", 0o755, &say("after"));
        let error = Hooks::before(Some(at)).err().unwrap();
        assert!(error.to_string().contains("pre-freeze.d/2"), "{error}");
        assert_eq!(fs::read_to_string(&log).unwrap(), "one\nafter\n");
        drop(Hooks::before(None).unwrap());
    }

    #[test]
    fn one_that_hangs_is_ended_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path(), "1", 0o755, "sleep 600 & wait");
        let start = Instant::now();
        let error = run(&folder.path().join("1"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
