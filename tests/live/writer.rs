// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes in the background, as a busy machine has them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A thread that writes 1, 2, 3, … to each of its files in turn, every write flushed before the next one. So
/// at any instant the numbers in two files differ by one at most.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Written>>,
}

/// What a writer did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// The number that is in every file at the end.
    pub last: u64,
    /// How long the longest write with its flush took.
    pub longest: Duration,
}

impl Writer {
    /// Starts writing to new files.
    pub fn start(files: &[PathBuf]) -> Self {
        let files: Vec<File> = files.iter().map(|file| File::create_new(file).unwrap()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut written = Written::default();
            while !stopped.load(Ordering::Relaxed) {
                written.last += 1;
                files.iter().for_each(|file| written.note(file));
            }
            written
        });
        Self { stop, thread: Some(thread) }
    }

    /// Stops after the current round.
    pub fn stop(mut self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("only this takes it").join().unwrap()
    }

    /// The number in a file that a writer wrote, 0 in an empty one.
    pub fn number(file: &Path) -> u64 {
        let bytes = std::fs::read(file).unwrap();
        bytes.try_into().map_or(0, u64::from_le_bytes)
    }
}

impl Written {
    fn note(&mut self, file: &File) {
        let start = Instant::now();
        file.write_all_at(&self.last.to_le_bytes(), 0).unwrap();
        file.sync_data().unwrap();
        self.longest = self.longest.max(start.elapsed());
    }
}

/// A test that fails leaves no writer behind. It is not waited for: what it writes to may hang.
impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
