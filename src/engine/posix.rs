// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transfers through pread and pwrite: at once and in order for twins and tests, or by a few threads.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::batch::{Batch, Phase, Request};
use super::disks::Disks;
use super::{Backend, Landed};
use crate::error::{Error, Kind, Result};

/// Threads of a pool; more batches than this wait their turn.
const THREADS: usize = 8;
/// How long one wait may last, so that signals are noticed.
const SLICE: Duration = Duration::from_secs(1);

/// Performs every transfer when it is submitted, on the calling thread.
pub(super) struct Inline {
    disks: Disks,
    done: VecDeque<Landed>,
}

impl Inline {
    pub(super) fn new(disks: Disks) -> Self {
        Self { disks, done: VecDeque::new() }
    }
}

impl Backend for Inline {
    fn name(&self) -> &'static str {
        "posix"
    }

    fn submit(&mut self, mut batch: Batch, phase: Phase) {
        let result = batch.perform(&self.disks, phase);
        self.done.push_back(Landed { batch, phase, result });
    }

    fn wait(&mut self) -> Result<Option<Landed>> {
        Ok(self.done.pop_front())
    }
}

/// Performs batches on threads, each of which owns one batch at a time.
pub(super) struct Pool {
    disks: Disks,
    tasks: SyncSender<(Batch, Phase)>,
    done: Receiver<Landed>,
    /// By slot: the first transfer of the batch the threads have, to be named if it is never answered.
    out: Vec<Option<(Request, Phase)>>,
    waited: Duration,
    deadline: Duration,
}

impl Pool {
    pub(super) fn new(disks: &Disks, depth: usize, deadline: Duration) -> Result<Self> {
        let (tasks, queue) = sync_channel(depth);
        let (results, done) = sync_channel(depth);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..depth.min(THREADS) {
            let (disks, queue, results) = (disks.clone(), Arc::clone(&queue), results.clone());
            let worker = move || serve(&disks, &queue, &results);
            let failed = |error: std::io::Error| {
                Error::new(Kind::Internal, "starting a thread to read and write", error.to_string())
            };
            thread::Builder::new().name("dpsr-io".into()).spawn(worker).map_err(failed)?;
        }
        let (disks, out) = (disks.clone(), vec![None; depth]);
        Ok(Self { disks, tasks, done, out, waited: Duration::ZERO, deadline })
    }
}

/// Performs one batch after the other until the pool is dropped. Threads are not joined: one whose disk
/// hangs would hang its pool, and owns all it touches.
fn serve(disks: &Disks, queue: &Mutex<Receiver<(Batch, Phase)>>, results: &SyncSender<Landed>) {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok((mut batch, phase)) = next() {
        let result = batch.perform(disks, phase);
        if results.send(Landed { batch, phase, result }).is_err() {
            return;
        }
    }
}

impl Backend for Pool {
    fn name(&self) -> &'static str {
        "posix"
    }

    fn submit(&mut self, batch: Batch, phase: Phase) {
        self.out[batch.slot] = batch.requests(phase).first().map(|request| (request.clone(), phase));
        self.tasks.send((batch, phase)).expect("the threads live as long as the pool");
    }

    fn wait(&mut self) -> Result<Option<Landed>> {
        let begun = Instant::now();
        match self.done.recv_timeout(SLICE.min(self.deadline)) {
            Ok(landed) => {
                self.waited = Duration::ZERO;
                self.out[landed.batch.slot] = None;
                Ok(Some(landed))
            }
            Err(RecvTimeoutError::Timeout) if self.waited + begun.elapsed() < self.deadline => {
                self.waited += begun.elapsed();
                Ok(None)
            }
            Err(_) => Err(self.unanswered()),
        }
    }
}

impl Pool {
    fn unanswered(&self) -> Error {
        match self.out.iter().flatten().next() {
            Some((request, phase)) => request.unanswered(&self.disks, *phase, self.deadline),
            None => Error::new(Kind::Internal, "moving data", "no thread is left to do it"),
        }
    }
}
