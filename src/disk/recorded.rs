// SPDX-License-Identifier: MIT OR Apache-2.0
//! The twin that remembers: every change to a disk in order, so that tests can cut the power anywhere.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::{ReadDisk, WriteDisk};
use crate::units::Bytes;

/// One change, as far as the disk below took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes were written.
    Write {
        /// Where they begin.
        at: Bytes,
        /// What was written.
        data: Vec<u8>,
    },
    /// A range was made to read as zeros.
    Zero(Range<Bytes>),
    /// Everything before became durable.
    Flush,
}

/// Events in the order they happened, shared between the disk and the test.
pub type Log = Arc<Mutex<Vec<Event>>>;

/// Logs every write, zero and flush of the disk below. It has no descriptor, so no engine goes around it.
pub struct Recorded<D> {
    disk: D,
    log: Log,
}

impl<D> Recorded<D> {
    /// Records what happens to `disk` in a log of its own.
    pub fn new(disk: D) -> Self {
        Self { disk, log: Log::default() }
    }

    /// The log, which goes on growing.
    pub fn log(&self) -> Log {
        Arc::clone(&self.log)
    }

    /// A copy of the events so far.
    pub fn events(&self) -> Vec<Event> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The disk below.
    pub fn inner(&self) -> &D {
        &self.disk
    }

    fn note(&self, event: Event) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// What a disk that held `initial` holds after `events`; they must lie inside it.
pub fn replay(initial: &[u8], events: &[Event]) -> Vec<u8> {
    let mut bytes = initial.to_vec();
    for event in events {
        match event {
            Event::Write { at, data } => bytes[at.usize()..at.usize() + data.len()].copy_from_slice(data),
            Event::Zero(range) => bytes[range.start.usize()..range.end.usize()].fill(0),
            Event::Flush => {}
        }
    }
    bytes
}

impl<D: WriteDisk> ReadDisk for Recorded<D> {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn size(&self) -> Bytes {
        self.disk.size()
    }

    fn alignment(&self) -> Bytes {
        self.disk.alignment()
    }

    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read_at(at, buffer)
    }

    fn next_data(&self, at: Bytes) -> io::Result<Option<Range<Bytes>>> {
        self.disk.next_data(at)
    }
}

impl<D: WriteDisk> WriteDisk for Recorded<D> {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        let wrote = self.disk.write_at(at, buffer)?;
        self.note(Event::Write { at, data: buffer[..wrote].to_vec() });
        Ok(wrote)
    }

    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        self.disk.zero(range.clone())?;
        self.note(Event::Zero(range.start..range.end.min(self.size())));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()?;
        self.note(Event::Flush);
        Ok(())
    }

    fn prove(&self) -> io::Result<()> {
        self.disk.prove()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;

    #[test]
    fn a_replayed_log_gives_the_disk() {
        let disk = Recorded::new(RamDisk::from_bytes("ram", vec![5; 4096]));
        disk.write_at(Bytes(512), &[1; 512]).unwrap();
        disk.zero(Bytes(768)..Bytes(1024)).unwrap();
        disk.flush().unwrap();
        disk.write_at(Bytes(4000), &[2; 512]).unwrap();
        let events = disk.events();
        assert_eq!(events.len(), 4);
        assert_eq!(events[2], Event::Flush);
        assert_eq!(replay(&[5; 4096], &events), disk.inner().contents());
        assert_eq!(replay(&[5; 4096], &events[..0]), [5; 4096]);
    }
}
