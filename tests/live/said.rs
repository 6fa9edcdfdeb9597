// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run says while it runs, to be there at a moment of it.

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::shell;

/// How long anything may take in emulation, on a machine that is busy with other things too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What `dpsr sync` says, as it says it. It can be made to wait with its next word.
pub struct Said {
    reader: PipeReader,
    writer: Option<PipeWriter>,
    text: String,
}

impl Said {
    /// Nothing yet.
    pub fn new() -> Self {
        let (reader, writer) = pipe().unwrap();
        // One page, so that a page fills it.
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        Self { reader, writer: Some(writer), text: String::new() }
    }

    /// The standard error of who is to say it.
    pub fn stderr(&self) -> Stdio {
        Stdio::from(self.writer.as_ref().unwrap().try_clone().unwrap())
    }

    /// From now on, whoever says something waits until this is read.
    pub fn hold(&mut self) {
        // Opened once more, so that it is not dpsr's end that would rather fail than wait.
        let writer = format!("/proc/self/fd/{}", self.writer.as_ref().unwrap().as_raw_fd());
        let writer = File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(writer);
        writer.unwrap().write_all(&[b'\n'; 4096]).unwrap();
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(got) = self.reader.read(&mut bytes) {
            self.text.push_str(&String::from_utf8_lossy(&bytes[..got]));
            if got == 0 {
                break;
            }
        }
    }

    /// Waits until it said `words`.
    pub fn wait_for(&mut self, words: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.text.contains(words) {
            assert!(Instant::now() < until, "\"{words}\" was not said within {PATIENCE:?}: {}", self.text);
            sleep(Duration::from_millis(20));
            self.read();
        }
    }

    /// Everything, once it has ended.
    pub fn end(mut self, child: &mut Child) -> (Option<i32>, String) {
        drop(self.writer.take());
        let mut code = None;
        shell::wait_for("the end of the sync", PATIENCE, || {
            self.read();
            code = child.try_wait().unwrap();
            code.is_some()
        });
        self.read();
        (code.unwrap().code(), self.text)
    }
}

/// Whether a process waits in a write to its standard error: system call 1, descriptor 2.
pub fn waits_to_speak(pid: u32) -> bool {
    let calls = fs::read_to_string(format!("/proc/{pid}/syscall"));
    calls.is_ok_and(|calls| calls.starts_with("1 0x2 "))
}
