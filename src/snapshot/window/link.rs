// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parent's end of the keeper.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::plan::{Ask, Outcome, Plan, Told};
use crate::error::{Error, Kind, Result};
use crate::wrap::Wrapped;

/// How long the window may take with all its preparation: longer than all the limits within it.
const ANSWER: Duration = Duration::from_secs(40);

/// How long the keeper may take to end, which includes waiting for devices that are busy.
const END: Duration = Duration::from_secs(20);

/// A keeper that runs. When this is dropped, or this process dies, the keeper takes down what there is of the
/// snapshot, and ends.
pub struct Link {
    keeper: Child,
    ask: Option<ChildStdin>,
    answers: std::sync::Mutex<Receiver<String>>,
}

impl Link {
    /// Starts one for the snapshot of `wrapped`. `program` is the dpsr command; `lock` is handed over.
    pub fn start(program: &Path, wrapped: &Wrapped, lock: RawFd) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["internal", "keep", &lock.to_string()]);
        // A group of its own: what a terminal sends to ours must not reach it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        crate::sys::process::hand_over(&mut command, vec![lock]);
        let mut keeper = command.spawn().map_err(failed)?;
        let (Some(ask), Some(out)) = (keeper.stdin.take(), keeper.stdout.take()) else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        let (tell, answers) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(io::Result::ok);
            lines.for_each(|line| tell.send(line).unwrap_or_default());
        });
        let mut link = Self { keeper, ask: Some(ask), answers: answers.into() };
        link.ask(&Ask::Keep(Told::of(wrapped)))?;
        Ok(link)
    }

    /// Has it hold the moment. The files are those that `plan` has the numbers of.
    pub fn hold(&mut self, plan: Plan, _filesystems: &[File]) -> Result<Outcome> {
        self.ask(&Ask::Hold(plan, std::process::id()))?;
        let answers = self.answers.lock().map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))?;
        let line = answers.recv_timeout(ANSWER).map_err(|_| silent())?;
        serde_json::from_str(&line).map_err(|error| failed(error.into()))
    }

    fn ask(&mut self, ask: &Ask) -> Result<()> {
        let line = serde_json::to_string(ask).map_err(|error| failed(error.into()))?;
        let pipe = self.ask.as_mut().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        pipe.write_all(format!("{line}\n").as_bytes()).map_err(failed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ask = None;
        let since = Instant::now();
        while matches!(self.keeper.try_wait(), Ok(None)) {
            if since.elapsed() > END {
                tracing::warn!(
                    "the process {} that keeps a snapshot does not end, ignoring: the next sync waits for it",
                    self.keeper.id()
                );
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn failed(error: io::Error) -> Error {
    Error::new(Kind::Internal, "starting the process that holds the moment", error.to_string())
}

fn silent() -> Error {
    Error::new(Kind::Internal, "holding a moment", "the process that does it does not answer")
        .left("whatever waits goes on as soon as the disk answers")
}
