// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs of others that know a format dpsr does not.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdout, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Error, Kind, Result};
use crate::pair::run::command;
use crate::sys::signal;

/// Long enough for a slow disk, short enough for a person.
const DEADLINE: Duration = Duration::from_secs(60);

const GLANCE: Duration = Duration::from_millis(100);

/// Runs `program`, which must succeed within a minute; what it printed. `package` is where to get it.
pub fn run(program: &str, package: &str, args: &[&str]) -> Result<String> {
    run_within(DEADLINE, program, package, args)
}

/// The same with another deadline.
pub fn run_within(deadline: Duration, program: &str, package: &str, args: &[&str]) -> Result<String> {
    let mut command = command(program, args);
    // What it starts itself ends with it.
    command.process_group(0);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|error| missing(program, package, &error))?;
    let output = finished(program, child.id(), deadline, || child.wait_with_output())?
        .map_err(|error| failed(program, &error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(program, last(&String::from_utf8_lossy(&output.stderr))))
}

/// What `read` makes of what `program` prints for `input`, within the deadline; the program ends with it, whether it has
/// printed all or not. One that printed less than was expected says why itself, and that is the error.
pub fn read_within<T: Send + 'static>(
    deadline: Duration,
    program: &str,
    package: &str,
    args: &[&str],
    input: File,
    read: impl FnOnce(ChildStdout) -> io::Result<T> + Send + 'static,
) -> Result<io::Result<T>> {
    let told = tempfile::tempfile().map_err(|error| failed(program, &error.to_string()))?;
    let again = told.try_clone().map_err(|error| failed(program, &error.to_string()))?;
    let mut command = command(program, args);
    command.process_group(0);
    let child = command.stdin(input).stdout(Stdio::piped()).stderr(again).spawn();
    let mut child = child.map_err(|error| missing(program, package, &error))?;
    let printed = child.stdout.take().ok_or_else(|| failed(program, "nobody can read what it prints"))?;
    let is_short = |found: &io::Result<T>| {
        found.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
    };
    let (found, ended) = finished(program, child.id(), deadline, move || {
        let found = read(printed);
        if !is_short(&found) {
            child.kill().unwrap_or_default();
        }
        (found, child.wait())
    })?;
    match ended {
        Ok(status) if is_short(&found) && !status.success() => Err(failed(program, last(&all(told)))),
        _ => Ok(found),
    }
}

/// What was written into a file, from its beginning.
fn all(mut told: File) -> String {
    let mut text = Vec::new();
    // What cannot be read is as good as not told.
    let _partly = told.rewind().and_then(|()| told.read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// The last line, which most programs end with when they fail.
fn last(told: &str) -> &str {
    told.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it did not say why").trim()
}

/// Runs `program`, which must succeed, to its end: who stops an installation in the middle leaves neither the old
/// nor the new. It asks nobody anything, and goes on by itself where dpsr does not.
pub fn run_to_its_end(program: &str, package: &str, args: &[&str]) -> Result<()> {
    run_to_its_end_with(&[], program, package, args)
}

/// The same with more in its environment.
pub fn run_to_its_end_with(more: &[(&str, &str)], program: &str, package: &str, args: &[&str]) -> Result<()> {
    let told = tempfile::tempfile().map_err(|error| failed(program, &error.to_string()))?;
    let again = || told.try_clone().map_err(|error| failed(program, &error.to_string()));
    let mut command = command(program, args);
    command.envs(more.iter().copied());
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(again()?).stderr(again()?);
    // Whoever types Ctrl-C means dpsr. Only the program itself is waited for, not what it leaves running.
    let status = command.process_group(0).status().map_err(|error| missing(program, package, &error))?;
    if status.success() {
        return Ok(());
    }
    Err(failed(program, last(&all(told))))
}

/// The same for a program that may ask a person something, and so may take its time.
pub fn converse(program: &str, package: &str, args: &[&str]) -> Result<()> {
    let status = command(program, args).status().map_err(|error| missing(program, package, &error))?;
    if status.success() { Ok(()) } else { Err(failed(program, &format!("it ended with {status}"))) }
}

/// What `wait` returns, once it has waited for a child to end. One that does not is killed, with all it has started; so it
/// is where dpsr itself is to end.
fn finished<T: Send + 'static>(
    program: &str,
    child: u32,
    deadline: Duration,
    wait: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let group = Pid::from_raw(child.cast_signed());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(wait()));
    let until = Instant::now() + deadline;
    // Once dpsr is to end, what it starts is there to clean up.
    let ending = signal::interrupted();
    let why = loop {
        match told.recv_timeout(GLANCE) {
            Ok(waited) => return Ok(waited),
            Err(RecvTimeoutError::Disconnected) => break failed(program, "nobody waits for it"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if signal::interrupted() && !ending {
            break Error::new(Kind::Interrupted, format!("running {program}"), "it was to end, and did");
        }
        if Instant::now() >= until {
            break failed(program, &format!("it has not ended after {deadline:?}"));
        }
    };
    // Not reaped yet, so the number is still its own.
    killpg(group, Signal::SIGKILL).unwrap_or_default();
    Err(why)
}

fn missing(program: &str, package: &str, error: &io::Error) -> Error {
    let next = format!("install it (package {package})");
    Error::new(Kind::Refused, format!("running {program}"), error.to_string()).next(next)
}

fn failed(program: &str, why: &str) -> Error {
    Error::new(Kind::Internal, format!("running {program}"), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_last_is_the_reason() {
        assert_eq!(run("echo", "coreutils", &["x"]).unwrap(), "x\n");
        let error = run("sh", "dash", &["-c", "echo first >&2; echo second >&2; exit 3"]).unwrap_err();
        insta::assert_snapshot!(error, @"running sh: second");
        let error = run("no-such-tool-of-ours", "nothing", &[]).unwrap_err();
        insta::assert_snapshot!(error, @"running no-such-tool-of-ours: No such file or directory (os error 2); install it (package nothing)");
        assert_eq!(error.kind(), Kind::Refused);
    }
    #[test]
    fn what_runs_to_its_end_tells_both_ways() {
        run_to_its_end("true", "coreutils", &[]).unwrap();
        run_to_its_end_with(&[("WORD", "x")], "sh", "dash", &["-c", "test $WORD = x"]).unwrap();
        let error = run_to_its_end("sh", "dash", &["-c", "echo why; sleep 9 & exit 100"]).unwrap_err();
        insta::assert_snapshot!(error, @"running sh: why");
    }

    #[test]
    fn one_that_hangs_ends_with_all_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let alive = folder.path().join("alive");
        let script = format!("(sleep 2; touch {}) & sleep 60", alive.display());
        let start = Instant::now();
        let error = run_within(Duration::from_millis(300), "sh", "dash", &["-c", &script]).unwrap_err();
        insta::assert_snapshot!(error, @"running sh: it has not ended after 300ms");
        assert!(start.elapsed() < Duration::from_secs(2));
        thread::sleep(Duration::from_secs(3));
        assert!(!alive.exists(), "what it had started went on");
    }
}
