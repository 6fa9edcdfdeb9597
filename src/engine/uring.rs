// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transfers through one io_uring. A completion shorter than asked is continued, never trusted.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::batch::{Batch, Phase};
use super::disks::Disks;
use super::{Backend, Landed};
use crate::disk::whole;
use crate::error::{Error, Kind, Result};
use crate::sys::uring::{Completion, Direction, Ring, Transfer};

/// Most transfers the kernel has at a time; a batch may have many small ones, which wait their turn here.
const ENTRIES: u32 = 256;
/// How long one wait may last, so that signals are noticed.
const SLICE: Duration = Duration::from_secs(1);

/// A batch whose transfers are under way; its buffer is lent to the ring.
struct Flight {
    batch: Batch,
    phase: Phase,
    left: usize,
    result: Result<()>,
}

/// The ring, and what is known about the batches it has.
pub(super) struct Uring {
    disks: Disks,
    ring: Ring,
    /// By slot.
    flights: Vec<Option<Flight>>,
    /// Slot and number of the transfers that wait for room in the ring.
    waiting: VecDeque<(usize, usize)>,
    /// Slots whose transfers are all over.
    done: VecDeque<usize>,
    waited: Duration,
    deadline: Duration,
}

impl Uring {
    pub(super) fn new(disks: Disks, batches: &[Batch], deadline: Duration) -> Result<Self> {
        let buffers: Vec<_> = batches.iter().map(|batch| &batch.buffer).collect();
        let refused = |error: io::Error| {
            Error::new(Kind::Refused, "setting up io_uring", error.to_string())
                .next("DPSR_IO=posix does without")
        };
        let ring = Ring::new(disks.descriptors()?, &buffers, ENTRIES).map_err(refused)?;
        let flights = batches.iter().map(|_| None).collect();
        let (waiting, done, waited) = (VecDeque::new(), VecDeque::new(), Duration::ZERO);
        Ok(Self { disks, ring, flights, waiting, done, waited, deadline })
    }

    /// Moves transfers from the queue into the ring while there is room.
    fn feed(&mut self) {
        while self.ring.has_room()
            && let Some((slot, number)) = self.waiting.pop_front()
        {
            let Some(Flight { batch, phase, .. }) = &self.flights[slot] else { continue };
            let request = &batch.requests(*phase)[number];
            self.ring.push(&Transfer {
                direction: direction(*phase),
                file: request.disk,
                at: request.at.0 + request.done as u64,
                slot,
                range: request.range.start + request.done..request.range.end,
                tag: number as u32,
            });
        }
    }

    /// Takes note of all completions that have arrived.
    fn reap(&mut self) {
        while let Some(completion) = self.ring.completion() {
            self.waited = Duration::ZERO;
            self.note(completion);
        }
    }

    fn note(&mut self, completion: Completion) {
        let Completion { slot, tag, moved } = completion;
        let flight = self.flights[slot].as_mut().expect("completions are of batches under way");
        match flight.advance(&self.disks, tag as usize, moved) {
            Ok(false) => return self.waiting.push_back((slot, tag as usize)),
            Ok(true) => {}
            Err(error) => flight.result = std::mem::replace(&mut flight.result, Ok(())).and(Err(error)),
        }
        flight.left -= 1;
        if flight.left == 0 {
            self.done.push_back(slot);
        }
    }

    /// The next batch that is done, with its buffer back.
    fn landed(&mut self) -> Option<Landed> {
        let slot = self.done.pop_front()?;
        let Flight { mut batch, phase, result, .. } = self.flights[slot].take()?;
        batch.buffer = self.ring.take_back(slot);
        if phase == Phase::Reads {
            batch.pad_reads(&self.disks);
        }
        Some(Landed { batch, phase, result })
    }

    fn unanswered(&mut self) -> Error {
        self.ring.abandon();
        let flying = self.flights.iter().flatten().find_map(|flight| {
            let unfinished = |request: &&_| flight.unfinished(&self.disks, request);
            let request = flight.batch.requests(flight.phase).iter().find(unfinished)?;
            Some(request.unanswered(&self.disks, flight.phase, self.deadline))
        });
        flying.unwrap_or_else(|| Error::new(Kind::Internal, "moving data", "the ring lost a completion"))
    }

    fn failed(&mut self, error: &io::Error) -> Error {
        self.ring.abandon();
        Error::new(Kind::Internal, "waiting for io_uring", error.to_string())
    }
}

fn direction(phase: Phase) -> Direction {
    match phase {
        Phase::Reads => Direction::Read,
        Phase::Writes => Direction::Write,
    }
}

impl Flight {
    fn unfinished(&self, disks: &Disks, request: &super::batch::Request) -> bool {
        request.done < request.wanted(disks, self.phase)
    }

    /// Whether transfer `number`, of which the kernel says that it `moved` so much, is complete.
    fn advance(&mut self, disks: &Disks, number: usize, moved: io::Result<usize>) -> Result<bool> {
        let phase = self.phase;
        let request = &mut self.batch.requests_mut(phase)[number];
        let wanted = request.wanted(disks, phase);
        let disk = disks.read(request.disk);
        let alignment = disk.alignment();
        let moved = disk.moved(direction(phase), request.range.len() - request.done, moved);
        let end = if phase == Phase::Reads { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::WriteZero };
        match moved {
            Ok(0) => Err(request.failed(disks, phase, &end.into())),
            Ok(moved) => {
                request.done = whole::resume(request.done, moved, wanted, alignment);
                Ok(request.done >= wanted)
            }
            Err(error) if whole::again(&error) => Ok(false),
            Err(error) => Err(request.failed(disks, phase, &error)),
        }
    }
}

impl Backend for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn submit(&mut self, mut batch: Batch, phase: Phase) {
        let slot = batch.slot;
        self.ring.lend(slot, std::mem::take(&mut batch.buffer));
        let flight = Flight { batch, phase, left: 0, result: Ok(()) };
        let requests = flight.batch.requests(phase).iter().enumerate();
        let moving = requests.filter(|(_, request)| flight.unfinished(&self.disks, request));
        let before = self.waiting.len();
        self.waiting.extend(moving.map(|(number, _)| (slot, number)));
        let left = self.waiting.len() - before;
        self.flights[slot] = Some(Flight { left, ..flight });
        if left == 0 {
            self.done.push_back(slot);
        }
        self.feed();
    }

    fn start(&mut self) -> Result<()> {
        self.ring.submit().map_err(|error| self.failed(&error))
    }

    fn wait(&mut self) -> Result<Option<Landed>> {
        self.reap();
        self.feed();
        if self.done.is_empty() {
            let begun = Instant::now();
            self.ring.wait(SLICE.min(self.deadline)).map_err(|error| self.failed(&error))?;
            // While this process is stopped no disk can answer.
            self.waited += begun.elapsed().min(SLICE);
            self.reap();
            self.feed();
        }
        if self.waited >= self.deadline {
            return Err(self.unanswered());
        }
        Ok(self.landed())
    }
}
