// SPDX-License-Identifier: MIT OR Apache-2.0
//! Moves data between disks: many transfers in flight, results in order, nothing copied in between.
//!
//! * **work**: what is to be done: it plans reads, looks at what they brought, and adds writes.
//! * **batch**: one buffer with the reads into it and the writes out of it.
//! * **shape**: how many batches there are and how large their buffers are.
//! * **pace**: how many of them are in flight, by what was the fastest so far.
//! * **backend**: who performs the transfers: io_uring, or pread and pwrite.

mod batch;
pub mod digest;
mod disks;
mod pace;
mod pipeline;
mod posix;
mod uring;

use std::time::Duration;

pub use batch::Batch;
pub use disks::{Disks, ReadId, WriteId};

use crate::disk::deadline;
use crate::error::{Error, Kind, Result};
use crate::sys::signal;
use crate::units::{Bytes, MIB};
use batch::Phase;
use pace::Pace;

/// What is to be done with the data.
pub trait Work {
    /// Says which batch one is; handed from [`Work::next`] to [`Work::process`].
    type Tag;

    /// Plans the next batch: adds its reads. `None` when there is no more to do.
    ///
    /// Up to a whole shape of batches, the spare ones included, is planned before the first is processed, so a read
    /// must not expect to see a write of a batch planned shortly before.
    fn next(&mut self, batch: &mut Batch) -> Result<Option<Self::Tag>>;

    /// Called for each batch in the order of `next`, once all its reads are complete; may add writes. The
    /// writes of one batch are performed in any order.
    fn process(&mut self, tag: Self::Tag, batch: &mut Batch) -> Result<()>;
}

/// How much is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes in the buffer of one batch.
    pub buffer: Bytes,
    /// How many batches are read or written at a time before the next is begun. With open files it begins so; then
    /// less, and twice as much where there are as many spare ones, are tried.
    pub depth: usize,
    /// How many more there are: what was read waits in them for its turn behind a transfer that takes long, and the
    /// disks have no less to do meanwhile. Not used where less in flight is faster.
    pub spare: usize,
}

impl Default for Shape {
    /// Enough for disks that take a while to answer, in 24 MiB of memory whatever turns out to be fastest.
    fn default() -> Self {
        Self { buffer: Bytes(MIB), depth: 8, spare: 16 }
    }
}

/// Which backend to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// io_uring where it can be had, else pread and pwrite.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// pread and pwrite.
    Posix,
}

impl Io {
    /// What the environment variable `DPSR_IO` asks for.
    pub fn from_environment() -> Result<Self> {
        match std::env::var_os("DPSR_IO") {
            None => Ok(Self::Auto),
            Some(value) if value == "uring" => Ok(Self::Uring),
            Some(value) if value == "posix" => Ok(Self::Posix),
            Some(value) => {
                let why = format!("\"{}\" is neither uring nor posix", value.display());
                Err(Error::new(Kind::Usage, "reading the environment variable DPSR_IO", why))
            }
        }
    }
}

/// Performs the transfers of batches that are moved in and come back when they are done.
trait Backend {
    fn name(&self) -> &'static str;

    /// Takes a batch whose reads or writes are to be performed.
    fn submit(&mut self, batch: Batch, phase: Phase);

    /// Starts what was submitted.
    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    /// The next batch that is done; `None` if a signal or some time came first. An error means that the
    /// backend lost the batches it has, and is of no use any more.
    fn wait(&mut self) -> Result<Option<Landed>>;
}

/// A batch that came back.
struct Landed {
    batch: Batch,
    phase: Phase,
    result: Result<()>,
}

/// Disks, buffers and a backend, to run any number of works one after the other. It stays on the thread
/// that made it, because its ring does.
pub struct Engine {
    disks: Disks,
    backend: Box<dyn Backend>,
    pace: Pace,
    batches: Vec<Batch>,
}

impl Engine {
    /// An engine on `disks`, with the backend that the environment asks for or that suits best.
    pub fn new(disks: Disks, shape: Shape) -> Result<Self> {
        Self::with(disks, shape, Io::from_environment()?)
    }

    /// An engine on `disks` with a chosen backend. Disks that are no open files, as in tests, are always
    /// served in the order of submission, on the calling thread.
    pub fn with(disks: Disks, shape: Shape, io: Io) -> Result<Self> {
        Self::within(disks, shape, io, deadline()?)
    }

    fn within(disks: Disks, shape: Shape, io: Io, deadline: Duration) -> Result<Self> {
        let batches = Batch::several(shape.depth.max(1) + shape.spare, shape.buffer)?;
        let pace = if disks.have_descriptors() { Pace::new(&shape) } else { Pace::fixed(&shape) };
        let backend: Box<dyn Backend> = match io {
            _ if !disks.have_descriptors() => Box::new(posix::Inline::new(disks.clone())),
            Io::Posix => Box::new(posix::Pool::new(&disks, batches.len(), deadline)?),
            Io::Uring => Box::new(uring::Uring::new(disks.clone(), &batches, deadline)?),
            Io::Auto => match uring::Uring::new(disks.clone(), &batches, deadline) {
                Ok(uring) => Box::new(uring),
                Err(error) => {
                    tracing::debug!("{error}, using pread and pwrite");
                    Box::new(posix::Pool::new(&disks, batches.len(), deadline)?)
                }
            },
        };
        Ok(Self { disks, backend, pace, batches })
    }

    /// The backend: "io_uring" or "posix".
    pub fn name(&self) -> &'static str {
        self.backend.name()
    }

    /// Does all of `work`. On the first error, or when a signal asks to stop, what is in flight is awaited
    /// and nothing more is begun. Each disk is proven once more before the first write to it.
    pub fn run<W: Work>(&mut self, work: &mut W) -> Result<()> {
        self.run_until(work, signal::interrupted)
    }

    /// Does all of `work` even if a signal asks to stop: rolling back is how dpsr stops.
    pub fn run_to_end<W: Work>(&mut self, work: &mut W) -> Result<()> {
        self.run_until(work, || false)
    }

    fn run_until<W: Work>(&mut self, work: &mut W, stop: fn() -> bool) -> Result<()> {
        if self.batches.is_empty() {
            return Err(Error::new(Kind::Internal, "moving data", "the engine lost its buffers earlier"));
        }
        let Self { disks, backend, pace, batches } = self;
        pipeline::Pipeline::new(disks, &mut **backend, (batches, pace), work, stop).run()
    }
}

#[cfg(test)]
mod tests;
