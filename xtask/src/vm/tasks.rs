// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest that does not answer any more is doing: its kernel tells that on the console when somebody presses the
//! right keys (the kernel's `admin-guide/sysrq.rst`), whatever everything else waits for.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::guest::Done;
use super::machine::{Machine, device};
use crate::Result;

/// How long the console may be silent before what it had to say is taken to be said, and how long it may take.
const SILENCE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(90);

/// How many lines of it are shown at most.
const MOST: usize = 400;

impl Machine {
    /// Runs a shell command in the guest. Where there was no answer in time, the error says what the guest's tasks wait
    /// for, and the guest is of no use but to be cut off.
    pub fn run_within(&mut self, patience: Duration, command: &str) -> Result<Done> {
        let done = self.guest()?.run_within(patience, command);
        done.map_err(|why| format!("{why}\n{}", self.tasks()))
    }

    /// The tasks that nothing can interrupt, and those of dpsr, with the functions they are in; and which requests of
    /// its disks QEMU knows of (`last-avail-idx`, `used-idx`), and has told the guest that they are done
    /// (`signalled-used`).
    pub(super) fn tasks(&mut self) -> String {
        let tasks = match self.told_tasks() {
            Ok(said) => waiting(&said),
            Err(why) => format!("what it does is not known: {why}"),
        };
        let mut lines = vec![tasks];
        for disk in self.disks() {
            let path = format!("/machine/peripheral/{}/virtio-backend", device(disk));
            let asked = format!("{{\"path\":\"{path}\",\"queue\":0}}");
            let told = self.qmp().and_then(|qmp| qmp.ask("x-query-virtio-queue-status", &asked));
            lines.push(format!("{disk}: {told:?}"));
        }
        lines.join("\n")
    }

    fn told_tasks(&mut self) -> Result<String> {
        let console = self.console();
        let said = || fs::read(&console).unwrap_or_default();
        let before = said().len();
        // All levels on the console, all processors' registers, all tasks.
        for key in ["9", "l", "t"] {
            let keys = ["alt", "sysrq", key].map(|key| format!("{{\"type\":\"qcode\",\"data\":\"{key}\"}}"));
            self.qmp()?.execute("send-key", &format!("{{\"keys\":[{}]}}", keys.join(",")))?;
            thread::sleep(Duration::from_secs(1));
        }
        let (start, mut last) = (Instant::now(), (before, Instant::now()));
        while last.1.elapsed() < SILENCE && start.elapsed() < LONGEST {
            thread::sleep(Duration::from_millis(200));
            let now = said().len();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        Ok(String::from_utf8_lossy(said().get(before..).unwrap_or_default()).into_owned())
    }
}

/// Of what the kernel said of all tasks, the parts about those that matter.
fn waiting(said: &str) -> String {
    let mut shown = Vec::new();
    let mut shows = true;
    for line in said.lines() {
        if let Some((_, task)) = line.split_once("] task:") {
            shows = task.starts_with("dpsr") || task.contains(" state:D ");
        }
        if shows {
            shown.push(line.trim_end());
        }
    }
    if shown.is_empty() {
        return "its kernel says nothing of its tasks".to_owned();
    }
    shown.truncate(MOST);
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_sleeps_as_it_should_is_not_shown() {
        let said = "[ 9.1] sysrq: Show State\n\
                    [ 9.2] task:systemd         state:S stack:0     pid:1\n[ 9.2]  <TASK>\n[ 9.2]  ep_poll+0x1\n\
                    [ 9.3] task:kworker/0:1     state:D stack:0     pid:9\n[ 9.3]  io_schedule+0x1\n\
                    [ 9.4] task:dpsr            state:S stack:0     pid:12\n[ 9.4]  io_cqring_wait+0x1\n";
        let shown = waiting(said);
        assert!(shown.contains("io_schedule") && shown.contains("io_cqring_wait"), "{shown}");
        assert!(!shown.contains("ep_poll"), "{shown}");
        assert_eq!(waiting(""), "its kernel says nothing of its tasks");
    }
}
