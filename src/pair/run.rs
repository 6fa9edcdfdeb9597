// SPDX-License-Identifier: MIT OR Apache-2.0
//! How programs of others are found, and a probing tool of util-linux run with a deadline; a tool that is missing or
//! hangs is no answer.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A failing disk can make a prober hang in the kernel for minutes.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where programs are that need root, on systems where the path of a user, of `su` or of cron has only the others.
const SYSTEM: &str = "/usr/sbin:/sbin";

/// Where they are looked for without any path. (execvp(3))
const USUAL: &str = "/usr/bin:/bin";

/// The tools that tell what is on a disk.
const PROBERS: [&str; 2] = ["blkid", "wipefs"];

/// `program`, found also where not every user looks, and speaking English.
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").env("PATH", search_path(std::env::var_os("PATH")));
    command
}

/// `path` and the folders of the system behind it. An empty one would mean the current directory.
fn search_path(path: Option<OsString>) -> OsString {
    let mut path = path.filter(|path| !path.is_empty()).unwrap_or_else(|| USUAL.into());
    path.push(OsStr::new(":"));
    path.push(OsStr::new(SYSTEM));
    path
}

/// The tools that tell what is on a disk and cannot be run here.
pub fn missing_probers() -> Vec<&'static str> {
    PROBERS.into_iter().filter(|program| output(program, &["--version"]).is_none()).collect()
}

/// What `program` prints, or nothing where it fails, is absent or does not answer in time.
pub(super) fn output(program: &str, args: &[&str]) -> Option<String> {
    let mut command = command(program, args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    answer(command.spawn().ok()?, DEADLINE)
}

fn answer(mut child: Child, deadline: Duration) -> Option<String> {
    let mut stdout = child.stdout.take()?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text);
        tell.send(read.ok().map(|_| text)).unwrap_or_default();
    });
    let text = told.recv_timeout(deadline).ok().flatten();
    if text.is_none() {
        child.kill().unwrap_or_default();
    }
    // Reaped elsewhere: a process stuck in the kernel survives even a kill.
    let reaper = thread::spawn(move || child.wait());
    if text.is_some() { reaper.join().ok()?.ok()?.success().then_some(text?) } else { None }
}

/// How a child process can open what we have open: the very same device, whatever its name is by now.
pub(super) fn path_for_child(descriptor: BorrowedFd<'_>) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_the_system_are_found_whatever_the_path_is() {
        let path = |path: &str| search_path(Some(path.into()));
        assert_eq!(path("/home/me/bin"), "/home/me/bin:/usr/sbin:/sbin");
        assert_eq!(path(""), "/usr/bin:/bin:/usr/sbin:/sbin");
        assert_eq!(search_path(None), "/usr/bin:/bin:/usr/sbin:/sbin");
        assert!(missing_probers().is_empty());
    }

    #[test]
    fn a_hanging_tool_is_no_answer() {
        let start = std::time::Instant::now();
        let child = Command::new("sleep").arg("60").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(answer(child, Duration::from_millis(50)), None);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(output("no-such-tool-of-ours", &[]), None);
        assert_eq!(output("echo", &["x"]), Some("x\n".into()));
    }
}
