// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transfers through pread and pwrite: at once and in order for twins and tests, or by a few threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
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
    /// Present until the pool is dropped.
    tasks: Option<SyncSender<(Batch, Phase)>>,
    workers: Vec<JoinHandle<()>>,
    done: Receiver<Landed>,
    /// By slot: the first transfer of the batch the threads have, to be named if it is never answered.
    out: Vec<Option<(Request, Phase)>>,
    /// By slot: whether a thread is at it. The others wait for one, whatever becomes of their own disk.
    begun: Arc<[AtomicBool]>,
    waited: Duration,
    deadline: Duration,
}

impl Pool {
    pub(super) fn new(disks: &Disks, depth: usize, deadline: Duration) -> Result<Self> {
        let (tasks, queue) = sync_channel(depth);
        let (results, done) = sync_channel(depth);
        let queue = Arc::new(Mutex::new(queue));
        let begun: Arc<[AtomicBool]> = (0..depth).map(|_| AtomicBool::new(false)).collect();
        let start = |_| {
            let (disks, queue, results) = (disks.clone(), Arc::clone(&queue), results.clone());
            let begun = Arc::clone(&begun);
            let worker = move || serve(&disks, &queue, &begun, &results);
            thread::Builder::new().name("dpsr-io".into()).spawn(worker)
        };
        let failed = |error: std::io::Error| {
            Error::new(Kind::Internal, "starting a thread to read and write", error.to_string())
        };
        let workers = (0..depth.min(THREADS)).map(start).collect::<Result<_, _>>().map_err(failed)?;
        let (disks, tasks, out) = (disks.clone(), Some(tasks), vec![None; depth]);
        Ok(Self { disks, tasks, workers, done, out, begun, waited: Duration::ZERO, deadline })
    }
}

/// Waits for the threads, so that no disk stays open behind the pool's back; but not where one of them
/// hangs with its disk: it owns all it touches and may end when it likes.
impl Drop for Pool {
    fn drop(&mut self) {
        self.tasks = None;
        if self.out.iter().all(Option::is_none) {
            self.workers.drain(..).for_each(|worker| drop(worker.join()));
        }
    }
}

/// Performs one batch after the other until the pool is dropped.
fn serve(
    disks: &Disks,
    queue: &Mutex<Receiver<(Batch, Phase)>>,
    begun: &[AtomicBool],
    results: &SyncSender<Landed>,
) {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok((mut batch, phase)) = next() {
        begun[batch.slot].store(true, Ordering::Relaxed);
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
        self.begun[batch.slot].store(false, Ordering::Relaxed);
        let tasks = self.tasks.as_ref().expect("a pool in use has its queue");
        tasks.send((batch, phase)).expect("the threads live as long as the pool");
    }

    fn wait(&mut self) -> Result<Option<Landed>> {
        let begun = Instant::now();
        match self.done.recv_timeout(SLICE.min(self.deadline)) {
            Ok(landed) => {
                self.waited = Duration::ZERO;
                self.out[landed.batch.slot] = None;
                Ok(Some(landed))
            }
            // While this process is stopped no disk can answer.
            Err(RecvTimeoutError::Timeout) if self.waited + begun.elapsed().min(SLICE) < self.deadline => {
                self.waited += begun.elapsed().min(SLICE);
                Ok(None)
            }
            Err(_) => Err(self.unanswered()),
        }
    }
}

impl Pool {
    fn unanswered(&self) -> Error {
        let mut begun = self.out.iter().zip(&*self.begun).filter(|(_, begun)| begun.load(Ordering::Relaxed));
        match begun.find_map(|(out, _)| out.as_ref()).or_else(|| self.out.iter().flatten().next()) {
            Some((request, phase)) => request.unanswered(&self.disks, *phase, self.deadline),
            None => Error::new(Kind::Internal, "moving data", "no thread is left to do it"),
        }
    }
}
