// SPDX-License-Identifier: MIT OR Apache-2.0
//! The twin that fails: at a chosen I/O, in a chosen way, so that tests can try every one in turn.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::libc::{EIO, ENOSPC, ENXIO};

use super::{ReadDisk, WriteDisk};
use crate::sys::uring::Direction;
use crate::units::Bytes;

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read, a write or a zeroing fails with EIO.
    Eio,
    /// A read returns about half of what was asked, aligned; callers must go on where it ended.
    ShortRead,
    /// A write takes about half of what was given, aligned; callers must go on where it ended.
    ShortWrite,
    /// A write or a zeroing fails with ENOSPC.
    Enospc,
    /// Everything fails with ENXIO, and this disk never comes back.
    Gone,
    /// A flush fails with EIO.
    FlushFails,
    /// The device is no longer what it was opened as.
    ProveFails,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    Write,
    Zero,
    Flush,
    Prove,
}

impl Fault {
    fn strikes(self, call: Call, len: usize, alignment: Bytes) -> bool {
        let divisible = Bytes(len as u64) > alignment;
        match self {
            Self::Eio => matches!(call, Call::Read | Call::Write | Call::Zero),
            Self::ShortRead => call == Call::Read && divisible,
            Self::ShortWrite => call == Call::Write && divisible,
            Self::Enospc => matches!(call, Call::Write | Call::Zero),
            Self::Gone => true,
            Self::FlushFails => call == Call::Flush,
            Self::ProveFails => call == Call::Prove,
        }
    }

    fn error(self) -> io::Error {
        match self {
            Self::Gone => io::Error::from_raw_os_error(ENXIO),
            Self::Enospc => io::Error::from_raw_os_error(ENOSPC),
            Self::ProveFails => io::Error::other("it is not the device that was opened"),
            _ => io::Error::from_raw_os_error(EIO),
        }
    }
}

/// When to fail and how; disks that share one count their I/Os together.
#[derive(Debug)]
pub struct Faults {
    count: AtomicU64,
    from: u64,
    fault: Fault,
    sticky: bool,
    struck: AtomicBool,
}

impl Faults {
    /// Strikes the first I/O at or after the one numbered `from` (the first is 0) to which `fault` applies;
    /// a sticky one strikes every such I/O from there on.
    pub fn new(from: u64, fault: Fault, sticky: bool) -> Arc<Self> {
        let (count, struck) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { count, from, fault, sticky, struck })
    }

    /// How many I/Os there were: reads, writes, zeroings, flushes and proofs.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Whether the fault came to pass; where it did not, a test has gone past the last I/O.
    pub fn struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst)
    }

    fn next(&self, call: Call, len: usize, alignment: Bytes) -> Option<Fault> {
        let due = self.count.fetch_add(1, Ordering::SeqCst) >= self.from;
        let strikes = due && self.fault.strikes(call, len, alignment);
        (strikes && (!self.struck.swap(true, Ordering::SeqCst) || self.sticky)).then_some(self.fault)
    }
}

/// Which I/Os of a disk can fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// All that are asked of this twin. It has no descriptor, so no engine goes around it.
    Asked,
    /// Those that the kernel makes by the descriptor of the disk below.
    OfKernel,
}

/// Fails as its [`Faults`] say.
pub struct Faulty<D> {
    disk: D,
    faults: Arc<Faults>,
    gone: AtomicBool,
    which: Which,
}

impl<D: ReadDisk> Faulty<D> {
    /// Puts `faults` over `disk`.
    pub fn new(disk: D, faults: Arc<Faults>) -> Self {
        Self { disk, faults, gone: AtomicBool::new(false), which: Which::Asked }
    }

    /// The same of what the kernel transfers by the descriptor of `disk`: it was done, whatever it is told as. Everything
    /// else fails only once the disk is gone.
    pub fn in_kernel(disk: D, faults: Arc<Faults>) -> Self {
        Self { which: Which::OfKernel, ..Self::new(disk, faults) }
    }

    /// The disk below.
    pub fn inner(&self) -> &D {
        &self.disk
    }

    /// What becomes of an I/O of `len` bytes that was asked of this twin.
    fn admit(&self, call: Call, len: usize) -> io::Result<usize> {
        match self.which {
            Which::Asked => self.counted(call, len),
            Which::OfKernel if self.gone.load(Ordering::SeqCst) => Err(Fault::Gone.error()),
            Which::OfKernel => Ok(len),
        }
    }

    /// Counts one I/O of `len` bytes and answers how many of them to ask of the disk below.
    fn counted(&self, call: Call, len: usize) -> io::Result<usize> {
        let alignment = self.disk.alignment();
        let fault = self.faults.next(call, len, alignment);
        self.gone.fetch_or(fault == Some(Fault::Gone), Ordering::SeqCst);
        match fault {
            _ if self.gone.load(Ordering::SeqCst) => Err(Fault::Gone.error()),
            Some(Fault::ShortRead | Fault::ShortWrite) => {
                Ok(Bytes(len as u64 / 2).round_down(alignment.0).max(alignment).usize())
            }
            Some(fault) => Err(fault.error()),
            None => Ok(len),
        }
    }
}

impl<D: ReadDisk> ReadDisk for Faulty<D> {
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
        let len = self.admit(Call::Read, buffer.len())?;
        self.disk.read_at(at, &mut buffer[..len])
    }

    fn pread(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        match self.which {
            Which::Asked => self.read_at(at, buffer),
            Which::OfKernel => self.moved(Direction::Read, buffer.len(), self.disk.pread(at, buffer)),
        }
    }

    fn next_data(&self, at: Bytes) -> io::Result<Option<Range<Bytes>>> {
        self.disk.next_data(at)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.disk.descriptor().filter(|_| self.which == Which::OfKernel)
    }

    fn moved(&self, direction: Direction, asked: usize, moved: io::Result<usize>) -> io::Result<usize> {
        let call = match direction {
            Direction::Read => Call::Read,
            Direction::Write => Call::Write,
        };
        let most = self.counted(call, asked)?;
        moved.map(|moved| moved.min(most))
    }
}

impl<D: WriteDisk> WriteDisk for Faulty<D> {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        let len = self.admit(Call::Write, buffer.len())?;
        self.disk.write_at(at, &buffer[..len])
    }

    fn pwrite(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        match self.which {
            Which::Asked => self.write_at(at, buffer),
            Which::OfKernel => self.moved(Direction::Write, buffer.len(), self.disk.pwrite(at, buffer)),
        }
    }

    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        self.admit(Call::Zero, 0)?;
        self.disk.zero(range)
    }

    fn flush(&self) -> io::Result<()> {
        self.admit(Call::Flush, 0)?;
        self.disk.flush()
    }

    fn prove(&self) -> io::Result<()> {
        self.admit(Call::Prove, 0)?;
        self.disk.prove()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;

    fn disk(from: u64, fault: Fault, sticky: bool) -> Faulty<RamDisk> {
        Faulty::new(RamDisk::new("ram", 4096), Faults::new(from, fault, sticky))
    }

    #[test]
    fn strikes_once_from_the_chosen_one_on() {
        let disk = disk(1, Fault::Enospc, false);
        disk.write_at(Bytes(0), &[1; 512]).unwrap();
        disk.read_at(Bytes(0), &mut [0; 512]).unwrap();
        let error = disk.write_at(Bytes(0), &[1; 512]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(ENOSPC));
        disk.write_at(Bytes(0), &[1; 512]).unwrap();
        assert_eq!((disk.faults.count(), disk.faults.struck()), (4, true));
    }

    #[test]
    fn gone_stays_gone_and_sticky_stays() {
        let gone = disk(1, Fault::Gone, false);
        gone.flush().unwrap();
        assert_eq!(gone.prove().unwrap_err().raw_os_error(), Some(ENXIO));
        assert_eq!(gone.read_at(Bytes(0), &mut [0; 8]).unwrap_err().raw_os_error(), Some(ENXIO));
        let sticky = disk(0, Fault::FlushFails, true);
        assert!(sticky.flush().is_err() && sticky.flush().is_err() && sticky.prove().is_ok());
    }
}
