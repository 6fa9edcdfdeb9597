// SPDX-License-Identifier: MIT OR Apache-2.0
//! One buffer on its way: the reads into it, then the writes out of it.

use std::io;
use std::ops::Range;
use std::time::Duration;

use super::disks::{Disks, ReadId, WriteId};
use crate::disk::whole;
use crate::error::{Error, Kind, Result, SILENT_NEXT};
use crate::sys::buffer::Buffer;
use crate::units::{Bytes, PAGE};

/// Which transfers of a batch are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Reads,
    Writes,
}

/// One transfer, and how far it got.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) disk: usize,
    pub(super) at: Bytes,
    pub(super) range: Range<usize>,
    pub(super) done: usize,
}

impl Request {
    /// How many bytes must move: of a read, those that the disk has.
    pub(super) fn wanted(&self, disks: &Disks, phase: Phase) -> usize {
        match phase {
            Phase::Reads => whole::readable(disks.read(self.disk).size(), self.at, self.range.len()),
            Phase::Writes => self.range.len(),
        }
    }

    /// The sentence for its failure.
    pub(super) fn failed(&self, disks: &Disks, phase: Phase, error: &io::Error) -> Error {
        let (name, len) = (disks.read(self.disk).name(), self.range.len());
        match phase {
            Phase::Reads => whole::read_failed(name, self.at, len, error),
            Phase::Writes => whole::write_failed(name, self.at, len, error),
        }
    }

    /// The sentence for a disk that does not answer.
    pub(super) fn unanswered(&self, disks: &Disks, phase: Phase, waited: Duration) -> Error {
        let verb = if phase == Phase::Reads { "reading" } else { "writing" };
        let doing = format!("{verb} {} bytes at {} of", self.range.len(), self.at.0);
        let why = format!("no answer for {} seconds", waited.as_secs());
        Error::new(Kind::Device, doing, why).on(disks.read(self.disk).name()).next(SILENT_NEXT).of_no_answer()
    }
}

/// A buffer with its transfers. Offsets and lengths must suit the alignment of the disks; the buffer itself
/// starts on a page.
pub struct Batch {
    pub(super) slot: usize,
    pub(super) buffer: Buffer,
    pub(super) reads: Vec<Request>,
    pub(super) writes: Vec<Request>,
}

impl Batch {
    /// `count` batches with buffers of `size`.
    pub(super) fn several(count: usize, size: Bytes) -> Result<Vec<Self>> {
        let size = size.max(Bytes(1)).round_up(PAGE);
        let no_memory = |error: io::Error| {
            Error::new(Kind::Internal, format!("reserving {count} buffers of {size}"), error.to_string())
        };
        let buffers = Buffer::several(count, size.usize()).map_err(no_memory)?;
        let batch = |(slot, buffer)| Self { slot, buffer, reads: Vec::new(), writes: Vec::new() };
        Ok(buffers.into_iter().enumerate().map(batch).collect())
    }

    /// Reads from `at` of `disk` into `range` of the buffer. Past the end of the disk there are zeros.
    pub fn read(&mut self, disk: ReadId, at: Bytes, range: Range<usize>) {
        self.reads.push(self.request(disk.0, at, range));
    }

    /// Writes `range` of the buffer at `at` of `disk`, all of it before the end of the disk.
    pub fn write(&mut self, disk: WriteId, at: Bytes, range: Range<usize>) {
        self.writes.push(self.request(disk.0, at, range));
    }

    fn request(&self, disk: usize, at: Bytes, range: Range<usize>) -> Request {
        assert!(range.start <= range.end && range.end <= self.buffer.len(), "a transfer lies in the buffer");
        Request { disk, at, range, done: 0 }
    }

    /// The whole buffer.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// The whole buffer, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Forgets all transfers; the bytes stay as they are.
    pub fn clear(&mut self) {
        self.reads.clear();
        self.writes.clear();
    }

    /// How many bytes its transfers ask for, reads and writes.
    pub(super) fn moved(&self) -> u64 {
        self.reads.iter().chain(&self.writes).map(|request| request.range.len() as u64).sum()
    }

    pub(super) fn requests(&self, phase: Phase) -> &[Request] {
        match phase {
            Phase::Reads => &self.reads,
            Phase::Writes => &self.writes,
        }
    }

    pub(super) fn requests_mut(&mut self, phase: Phase) -> &mut [Request] {
        match phase {
            Phase::Reads => &mut self.reads,
            Phase::Writes => &mut self.writes,
        }
    }

    /// Performs the transfers of `phase` one after the other.
    pub(super) fn perform(&mut self, disks: &Disks, phase: Phase) -> Result<()> {
        let Self { buffer, reads, writes, .. } = self;
        let requests = match phase {
            Phase::Reads => reads,
            Phase::Writes => writes,
        };
        for request in requests {
            let part = &mut buffer[request.range.clone()];
            let moved = match phase {
                Phase::Reads => {
                    let (disk, wanted) = (disks.read(request.disk), request.wanted(disks, phase));
                    let read = |at, part: &mut [u8]| disk.pread(at, part);
                    whole::read_by(read, request.at, part, (wanted, disk.alignment()))
                }
                Phase::Writes => {
                    let disk = disks.write(request.disk);
                    whole::write_by(|at, part| disk.pwrite(at, part), request.at, part, disk.alignment())
                }
            };
            moved.map_err(|error| request.failed(disks, phase, &error))?;
        }
        if phase == Phase::Reads {
            self.pad_reads(disks);
        }
        Ok(())
    }

    /// Zeroes what the reads did not bring because the disk ends before.
    pub(super) fn pad_reads(&mut self, disks: &Disks) {
        for request in &self.reads {
            let wanted = request.wanted(disks, Phase::Reads);
            self.buffer[request.range.start + wanted..request.range.end].fill(0);
        }
    }
}
