// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one loop: plan, read, process in order, write, and use the batch again.

use std::collections::VecDeque;
use std::time::Instant;

use super::batch::{Batch, Phase};
use super::disks::Disks;
use super::pace::{Limits, Pace};
use super::{Backend, Landed, Work};
use crate::error::{Error, Kind, Result};
use crate::units::Bytes;

/// One run of one work.
pub(super) struct Pipeline<'a, W: Work> {
    disks: &'a Disks,
    backend: &'a mut dyn Backend,
    work: &'a mut W,
    stop: fn() -> bool,
    /// Batches without a task.
    free: &'a mut Vec<Batch>,
    /// Slot and tag of the batches that are planned and not processed, in order.
    planned: VecDeque<(usize, W::Tag)>,
    /// By slot: planned batches whose reads are complete.
    ready: Vec<Option<Batch>>,
    /// How many batches the backend has.
    flying: usize,
    pace: &'a mut Pace,
    /// By disk: proven, in this run, to be the one that was opened.
    proven: Vec<bool>,
    more: bool,
}

impl<'a, W: Work> Pipeline<'a, W> {
    pub(super) fn new(
        disks: &'a Disks,
        backend: &'a mut dyn Backend,
        (free, pace): (&'a mut Vec<Batch>, &'a mut Pace),
        work: &'a mut W,
        stop: fn() -> bool,
    ) -> Self {
        pace.begin();
        let ready = free.iter().map(|_| None).collect();
        let (planned, proven) = (VecDeque::with_capacity(free.len()), vec![false; disks.len()]);
        Self { disks, backend, work, stop, free, planned, ready, flying: 0, pace, proven, more: true }
    }

    pub(super) fn run(mut self) -> Result<()> {
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return Err(self.ended(error)),
            }
        }
    }

    /// Does what can be done now, then waits for one batch; false when all is done.
    fn turn(&mut self) -> Result<bool> {
        if (self.stop)() {
            return Err(Error::new(Kind::Interrupted, "moving data", "a signal asked to stop"));
        }
        self.plan()?;
        self.backend.start()?;
        if self.process_first()? {
            return Ok(true);
        }
        if self.flying == 0 {
            return Ok(false);
        }
        if let Some(landed) = self.backend.wait()? {
            self.land(landed)?;
        }
        Ok(true)
    }

    /// Gives free batches a task. The one that was freed last is taken first: it is in the cache.
    fn plan(&mut self) -> Result<()> {
        let Limits { flying, planned } = self.pace.limits();
        while self.more
            && self.flying < flying
            && self.ready.len() - self.free.len() < planned
            && let Some(mut batch) = self.free.pop()
        {
            batch.clear();
            match self.work.next(&mut batch) {
                Ok(Some(tag)) => {
                    self.planned.push_back((batch.slot, tag));
                    self.read(batch);
                }
                stopped => {
                    self.more = false;
                    self.free.push(batch);
                    stopped?;
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, batch: Batch) {
        if batch.reads.is_empty() {
            let slot = batch.slot;
            self.ready[slot] = Some(batch);
        } else {
            self.submit(batch, Phase::Reads);
        }
    }

    fn submit(&mut self, batch: Batch, phase: Phase) {
        self.flying += 1;
        self.backend.submit(batch, phase);
    }

    /// Processes the batch that is next in order; false if it is still being read, or there is none.
    fn process_first(&mut self) -> Result<bool> {
        let first = self.planned.front().and_then(|&(slot, _)| self.ready[slot].take());
        let Some(mut batch) = first else { return Ok(false) };
        let (_, tag) = self.planned.pop_front().expect("there is a first batch");
        let processed = self.work.process(tag, &mut batch).and_then(|()| self.check_writes(&batch));
        if processed.is_err() || batch.writes.is_empty() {
            self.release(batch);
        } else {
            self.submit(batch, Phase::Writes);
        }
        processed.map(|()| true)
    }

    /// Refuses writes past the end of the disk, where a file would grow, and those to a disk that is no
    /// longer the one that was opened.
    fn check_writes(&mut self, batch: &Batch) -> Result<()> {
        for request in &batch.writes {
            let disk = self.disks.write(request.disk);
            if request.at + Bytes(request.range.len() as u64) > disk.size() {
                let doing = format!("writing {} bytes at {} of", request.range.len(), request.at.0);
                return Err(Error::new(Kind::Internal, doing, "they reach past its end").on(disk.name()));
            }
            if !self.proven[request.disk] {
                let refused = |error: std::io::Error| {
                    Error::device("proving the identity of", disk.name(), &error).left("nothing was written")
                };
                disk.prove().map_err(refused)?;
                self.proven[request.disk] = true;
            }
        }
        Ok(())
    }

    fn land(&mut self, landed: Landed) -> Result<()> {
        self.flying -= 1;
        let Landed { batch, phase, result } = landed;
        if phase == Phase::Reads && result.is_ok() {
            let slot = batch.slot;
            self.ready[slot] = Some(batch);
        } else {
            self.release(batch);
        }
        result
    }

    fn release(&mut self, batch: Batch) {
        self.pace.moved(batch.moved(), Instant::now());
        self.free.push(batch);
    }

    /// After `error`: awaits all that is in flight, and what is to be told. That somebody wished to stop is no
    /// answer to why nothing was put in order after it.
    fn ended(&mut self, error: Error) -> Error {
        match self.drain() {
            Err(lost) if lost.is_unanswered() && error.kind() == Kind::Interrupted => lost,
            Err(lost) if lost.is_unanswered() => error.of_no_answer(),
            _ => error,
        }
    }

    /// Awaits all that is in flight, whatever becomes of it. A backend that lost its batches takes the rest
    /// with it.
    fn drain(&mut self) -> Result<()> {
        self.free.extend(self.ready.iter_mut().filter_map(Option::take));
        while self.flying > 0 {
            match self.backend.wait() {
                Ok(Some(landed)) => {
                    self.flying -= 1;
                    self.free.push(landed.batch);
                }
                Ok(None) => {}
                Err(lost) => {
                    self.free.clear();
                    return Err(lost);
                }
            }
        }
        Ok(())
    }
}
