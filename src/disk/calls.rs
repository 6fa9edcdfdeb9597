// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that end. A thread of their own makes them, so that a disk which does not answer keeps that thread, and not
//! who asked. A disk that was silent once is not asked again: whoever did would wait as long, and for nothing.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::sys::buffer::Buffer;
use crate::units::{Bytes, MIB};

/// What moves in one call at most; whoever asked for more gets a short result and goes on.
const PIECE: usize = MIB as usize;
/// What one wait counts for at most.
const SLICE: Duration = Duration::from_secs(1);
/// What is zeroed in one call at most: a slow disk takes its time for each.
pub(super) const ZEROED: u64 = 16 * MIB;

/// What may keep who asks it waiting.
pub(super) trait Callee: Send + Sync + 'static {
    fn read(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize>;
    fn write(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize>;
    fn zero(&self, range: &Range<Bytes>) -> io::Result<()>;
    fn flush(&self) -> io::Result<()>;
}

/// The reason of a call that was not answered.
#[derive(Debug)]
pub(crate) struct Silent(Duration);

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer for {} seconds", self.0.as_secs())
    }
}

impl std::error::Error for Silent {}

impl Silent {
    /// Whether `error` says that a call was not answered.
    pub(crate) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

enum Call {
    Read { at: Bytes, len: usize },
    Write { at: Bytes, len: usize },
    Zero(Range<Bytes>),
    Flush,
}

/// A thread that makes one call at a time, and the memory that goes to it and comes back.
struct Caller {
    ask: SyncSender<(Call, Buffer)>,
    answer: Receiver<(Buffer, io::Result<usize>)>,
    thread: JoinHandle<()>,
    buffer: Buffer,
}

impl Caller {
    fn start<C: Callee>(callee: Arc<C>) -> io::Result<Self> {
        let buffer = Buffer::new(PIECE)?;
        let (ask, asked) = sync_channel::<(Call, Buffer)>(1);
        let (tell, answer) = sync_channel(1);
        let serve = move || {
            while let Ok((call, mut buffer)) = asked.recv() {
                let result = perform(&*callee, &call, &mut buffer);
                if tell.send((buffer, result)).is_err() {
                    return;
                }
            }
        };
        // The kernel's word for it is the one for a call to be made again.
        let none = |error| io::Error::other(format!("starting a thread that asks the disk: {error}"));
        let thread = thread::Builder::new().name("dpsr-disk".into()).spawn(serve).map_err(none)?;
        Ok(Self { ask, answer, thread, buffer })
    }

    /// The answer, unless there is none in time; then the thread keeps the memory.
    fn call(&mut self, call: Call, deadline: Duration) -> io::Result<usize> {
        let gone = || io::Error::other("the thread that asks the disk has ended");
        self.ask.send((call, std::mem::take(&mut self.buffer))).map_err(|_| gone())?;
        // In slices: while this process is stopped, or its machine, no disk can answer.
        let mut left = deadline;
        loop {
            let slice = left.min(SLICE);
            match self.answer.recv_timeout(slice) {
                Ok((buffer, result)) => {
                    self.buffer = buffer;
                    return result;
                }
                Err(RecvTimeoutError::Timeout) if left > slice => left -= slice,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, Silent(deadline)));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            }
        }
    }
}

fn perform(callee: &impl Callee, call: &Call, buffer: &mut Buffer) -> io::Result<usize> {
    match *call {
        Call::Read { at, len } => callee.read(at, &mut buffer[..len]),
        Call::Write { at, len } => callee.write(at, &buffer[..len]),
        Call::Zero(ref range) => callee.zero(range).map(|()| 0),
        Call::Flush => callee.flush().map(|()| 0),
    }
}

/// The calls to one disk.
pub(super) struct Calls<C> {
    callee: Arc<C>,
    deadline: Duration,
    /// As many as ever were at work at a time.
    idle: Mutex<Vec<Caller>>,
    silent: AtomicBool,
}

impl<C: Callee> Calls<C> {
    pub(super) fn new(callee: Arc<C>, deadline: Duration) -> Self {
        Self { callee, deadline, idle: Mutex::default(), silent: AtomicBool::new(false) }
    }

    /// Why nothing is asked any more, once a call was not answered.
    pub(super) fn silence(&self) -> Option<io::Error> {
        let is_silent = self.silent.load(Ordering::SeqCst);
        is_silent.then(|| io::Error::new(io::ErrorKind::TimedOut, Silent(self.deadline)))
    }

    /// Like `pread(2)`.
    pub(super) fn read(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(PIECE);
        self.with(|caller| {
            let read = caller.call(Call::Read { at, len }, self.deadline)?;
            buffer[..read].copy_from_slice(&caller.buffer[..read]);
            Ok(read)
        })
    }

    /// Like `pwrite(2)`.
    pub(super) fn write(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        let len = buffer.len().min(PIECE);
        self.with(|caller| {
            caller.buffer[..len].copy_from_slice(&buffer[..len]);
            caller.call(Call::Write { at, len }, self.deadline)
        })
    }

    /// Zeroes `range`, which is no longer than [`ZEROED`].
    pub(super) fn zero(&self, range: &Range<Bytes>) -> io::Result<()> {
        // The kernel's own timeout for it is several times that of a write. (`SD_WRITE_SAME_TIMEOUT`)
        self.with(|caller| caller.call(Call::Zero(range.clone()), 2 * self.deadline)).map(drop)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.with(|caller| caller.call(Call::Flush, self.deadline)).map(drop)
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Caller) -> io::Result<T>) -> io::Result<T> {
        self.silence().map_or(Ok(()), Err)?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut caller = match idle {
            Some(caller) => caller,
            None => Caller::start(Arc::clone(&self.callee))?,
        };
        let result = ask(&mut caller);
        if result.as_ref().is_err_and(Silent::is) {
            self.silent.store(true, Ordering::SeqCst);
        } else {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(caller);
        }
        result
    }
}

/// Waits for the threads that wait for a call, so that the disk is closed when its owner is gone; not for one that hangs.
impl<C> Drop for Calls<C> {
    fn drop(&mut self) {
        let idle = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        for Caller { ask, thread, .. } in idle {
            drop(ask);
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Answers each call once it is let, and says what it was asked.
    struct Slow(Mutex<Receiver<()>>);

    impl Slow {
        fn new() -> (Sender<()>, Calls<Self>) {
            let (let_go, held) = channel();
            (let_go, Calls::new(Arc::new(Self(Mutex::new(held))), Duration::from_millis(100)))
        }

        fn wait(&self) -> io::Result<()> {
            self.0.lock().unwrap().recv().map_err(io::Error::other)
        }
    }

    impl Callee for Slow {
        fn read(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
            self.wait()?;
            buffer.fill(at.0 as u8);
            Ok(buffer.len())
        }
        fn write(&self, _: Bytes, buffer: &[u8]) -> io::Result<usize> {
            self.wait()?;
            Ok(buffer.iter().filter(|&&byte| byte == 7).count())
        }
        fn zero(&self, range: &Range<Bytes>) -> io::Result<()> {
            self.wait()?;
            if range.start == range.end { Err(io::Error::other("nothing to zero")) } else { Ok(()) }
        }
        fn flush(&self) -> io::Result<()> {
            self.wait()
        }
    }

    #[test]
    fn what_is_answered_comes_back() {
        let (let_go, calls) = Slow::new();
        (0..6).for_each(|_| let_go.send(()).unwrap());
        let mut bytes = [0; 100];
        assert_eq!(calls.read(Bytes(9), &mut bytes).unwrap(), 100);
        assert_eq!(bytes, [9; 100]);
        assert_eq!(calls.write(Bytes(0), &[7; 300]).unwrap(), 300);
        assert_eq!(
            calls.write(Bytes(0), &vec![7; 2 * PIECE]).unwrap(),
            PIECE,
            "the rest is asked for by itself"
        );
        calls.flush().unwrap();
        let nothing = calls.zero(&(Bytes(5)..Bytes(5))).unwrap_err();
        assert_eq!(nothing.to_string(), "nothing to zero");
        calls.zero(&(Bytes(5)..Bytes(6))).unwrap();
        assert_eq!(calls.idle.lock().unwrap().len(), 1, "one after the other, one thread does");
    }

    #[test]
    fn what_is_not_answered_is_told_once_it_is_late_and_nothing_is_asked_after_it() {
        type Ask = fn(&Calls<Slow>) -> io::Result<()>;
        let asks: [Ask; 4] = [
            |calls| calls.read(Bytes(0), &mut [0; 16]).map(drop),
            |calls| calls.write(Bytes(0), &[0; 16]).map(drop),
            |calls| calls.zero(&(Bytes(0)..Bytes(1))),
            Calls::flush,
        ];
        for ask in asks {
            let (let_go, calls) = Slow::new();
            let error = ask(&calls).unwrap_err();
            assert!(Silent::is(&error), "{error}");
            assert_eq!(error.to_string(), "no answer for 0 seconds");
            let begun = std::time::Instant::now();
            (0..8).for_each(|_| let_go.send(()).unwrap());
            for other in asks {
                assert!(Silent::is(&other(&calls).unwrap_err()));
            }
            assert!(begun.elapsed() < Duration::from_millis(100), "nothing waits any more");
        }
    }

    #[test]
    fn several_ask_at_a_time() {
        let (let_go, calls) = Slow::new();
        (0..64).for_each(|_| let_go.send(()).unwrap());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..16).for_each(|_| calls.flush().unwrap()));
            }
        });
        assert!(calls.idle.lock().unwrap().len() <= 4);
    }
}
