// SPDX-License-Identifier: MIT OR Apache-2.0
//! One io_uring: buffers are lent to it whole, and come back when nothing points into them any more.
//!
//! * **slot**: a place for one lent buffer; the kernel knows the first buffer of each slot beforehand.
//! * **tag**: what the caller recognises a transfer by; it comes back with the completion.

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{Builder, IoUring, opcode, squeue};
use nix::libc::{EAGAIN, EBUSY, EINTR, ETIME, iovec};

use super::buffer::Buffer;

/// How long a ring that is dropped waits for the kernel to let go of its buffers.
const DRAIN: Duration = Duration::from_secs(30);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file into the buffer.
    Read,
    /// From the buffer into the file.
    Write,
}

/// One transfer between a file and part of a lent buffer.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// The number of the file, as given to [`Ring::new`].
    pub file: usize,
    /// Where in the file, in bytes.
    pub at: u64,
    /// The slot of the buffer.
    pub slot: usize,
    /// Which bytes of the buffer.
    pub range: Range<usize>,
    /// What to recognise the completion by.
    pub tag: u32,
}

/// What became of a transfer.
#[derive(Debug)]
pub struct Completion {
    /// The slot of its buffer.
    pub slot: usize,
    /// Its tag.
    pub tag: u32,
    /// How many bytes moved; may be fewer than asked.
    pub moved: io::Result<usize>,
}

#[derive(Default)]
struct Slot {
    buffer: Buffer,
    registered: Option<(usize, usize)>,
    pending: usize,
}

/// A submission and a completion queue, the files it works on, and the buffers lent to it.
pub struct Ring {
    ring: ManuallyDrop<IoUring>,
    files: Vec<OwnedFd>,
    fixed_files: bool,
    slots: Vec<Slot>,
    pending: usize,
    abandoned: bool,
}

impl Ring {
    /// A ring for at most `entries` transfers at a time. The kernel gets to know `files` and `buffers` (one
    /// for each slot) beforehand, where its limits allow; they work otherwise too.
    pub fn new(files: Vec<OwnedFd>, buffers: &[&Buffer], entries: u32) -> io::Result<Self> {
        let ring = set_up(entries)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel is older than 5.11"));
        }
        let numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let fixed_files = ring.submitter().register_files(&numbers).is_ok();
        let fixed = register(&ring, buffers).is_ok();
        let place = |buffer: &&Buffer| (buffer.as_ptr() as usize, buffer.len());
        let slot = |buffer| Slot { registered: fixed.then(|| place(buffer)), ..Slot::default() };
        let slots = buffers.iter().map(slot).collect();
        let ring = ManuallyDrop::new(ring);
        Ok(Self { ring, files, fixed_files, slots, pending: 0, abandoned: false })
    }

    /// Whether one more transfer can be pushed.
    pub fn has_room(&self) -> bool {
        self.pending < self.ring.params().sq_entries() as usize
    }

    /// Lends `buffer` to `slot`, which must be empty.
    pub fn lend(&mut self, slot: usize, buffer: Buffer) {
        assert!(self.slots[slot].buffer.is_empty(), "slot {slot} has a buffer already");
        self.slots[slot].buffer = buffer;
    }

    /// Gives the buffer of `slot` back; no transfer into or out of it may be pending.
    pub fn take_back(&mut self, slot: usize) -> Buffer {
        assert_eq!(self.slots[slot].pending, 0, "the kernel still has the buffer of slot {slot}");
        std::mem::take(&mut self.slots[slot].buffer)
    }

    /// Queues a transfer; [`Ring::submit`] or [`Ring::wait`] starts it.
    pub fn push(&mut self, transfer: &Transfer) {
        assert!(self.has_room(), "the ring is full");
        let entry = self.entry(transfer);
        // SAFETY: the entry points into a lent buffer, which stays mapped, and is touched by nobody else,
        // until its completion was seen; the file number is open as long as the ring.
        unsafe { self.ring.submission().push(&entry) }.expect("a ring with room takes an entry");
        self.slots[transfer.slot].pending += 1;
        self.pending += 1;
    }

    fn entry(&mut self, transfer: &Transfer) -> squeue::Entry {
        let Transfer { direction, file, at, slot, ref range, tag } = *transfer;
        let (fixed, memory) = (self.slots[slot].registered, &mut self.slots[slot].buffer);
        let fixed = fixed == Some((memory.as_ptr() as usize, memory.len()));
        let part = &mut memory[range.clone()];
        let (start, len) = (part.as_mut_ptr(), u32::try_from(part.len()).expect("a transfer is below 4 GiB"));
        let index = u16::try_from(slot).unwrap_or(u16::MAX);
        let fd = if self.fixed_files { Fd(file as i32) } else { Fd(self.files[file].as_raw_fd()) };
        let entry = match (direction, fixed && index < u16::MAX) {
            (Direction::Read, true) => opcode::ReadFixed::new(fd, start, len, index).offset(at).build(),
            (Direction::Read, false) => opcode::Read::new(fd, start, len).offset(at).build(),
            (Direction::Write, true) => opcode::WriteFixed::new(fd, start, len, index).offset(at).build(),
            (Direction::Write, false) => opcode::Write::new(fd, start, len).offset(at).build(),
        };
        let flags = if self.fixed_files { squeue::Flags::FIXED_FILE } else { squeue::Flags::empty() };
        entry.flags(flags).user_data((slot as u64) << 32 | u64::from(tag))
    }

    /// Starts what was pushed, without waiting.
    pub fn submit(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        patient(self.ring.submit())
    }

    /// Starts what was pushed and waits for a completion, a signal, or the end of `patience`.
    pub fn wait(&mut self, patience: Duration) -> io::Result<()> {
        let patience = Timespec::from(patience);
        patient(self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&patience)))
    }

    /// The next completion that has arrived.
    pub fn completion(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        let (slot, tag) = ((entry.user_data() >> 32) as usize, entry.user_data() as u32);
        self.slots[slot].pending -= 1;
        self.pending -= 1;
        let moved =
            usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        Some(Completion { slot, tag, moved })
    }

    /// Gives up on what is pending: the memory is leaked, because the kernel may still write to it.
    pub fn abandon(&mut self) {
        self.abandoned = true;
    }

    fn drain(&mut self) {
        let until = Instant::now() + DRAIN;
        while self.pending > 0 && Instant::now() < until && self.wait(Duration::from_secs(1)).is_ok() {
            while self.completion().is_some() {}
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.abandoned {
            self.drain();
        }
        if self.pending > 0 {
            return self.slots.drain(..).for_each(|slot| std::mem::forget(slot.buffer));
        }
        // Closing a ring lets go of what was registered some time later, and so would keep the claim on an
        // exclusively opened disk; unregistering lets go now. It fails where nothing was registered.
        let submitter = self.ring.submitter();
        let _ = (submitter.unregister_files(), submitter.unregister_buffers());
        // SAFETY: the ring is dropped here only, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.ring) }
    }
}

/// The flags that spare interrupts of this thread came with Linux 6.1 and 5.19.
fn set_up(entries: u32) -> io::Result<IoUring> {
    let deferred = |builder: &mut Builder| builder.setup_single_issuer().setup_defer_taskrun().build(entries);
    let cooperative = |builder: &mut Builder| builder.setup_coop_taskrun().build(entries);
    deferred(&mut IoUring::builder())
        .or_else(|_| cooperative(&mut IoUring::builder()))
        .or_else(|_| IoUring::new(entries))
}

fn register(ring: &IoUring, buffers: &[&Buffer]) -> io::Result<()> {
    let place =
        |buffer: &&Buffer| iovec { iov_base: buffer.as_ptr().cast_mut().cast(), iov_len: buffer.len() };
    let places: Vec<_> = buffers.iter().map(place).collect();
    // SAFETY: the kernel pins the pages, so they outlive even their mapping; only entries made from a lent
    // buffer make it touch them.
    unsafe { ring.submitter().register_buffers(&places) }
}

/// A wait that ends early is no failure: the caller looks at what has arrived and waits again.
fn patient(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(EINTR | ETIME | EAGAIN | EBUSY)) => Ok(()),
        result => result.map(drop),
    }
}
