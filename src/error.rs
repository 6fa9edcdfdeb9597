// SPDX-License-Identifier: MIT OR Apache-2.0
//! One error type: one sentence for a person, one exit code for a script.
//!
//! The sentence says what was being done, to which device, why it failed, what is left, and what to do
//! now. Each [`Kind`] has its own exit code; the codes are part of the interface and never reused.

use std::fmt;
use std::io;

use crate::disk::Silent;

/// What to do about a disk that does not answer.
pub(crate) const SILENT_NEXT: &str = "see what the kernel says of it (dmesg), and check its cable and power";

/// What a failed run means to the caller; each has an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A fault in dpsr itself or in the system under it.
    Internal = 1,
    /// The command line or the configuration does not make sense.
    Usage = 2,
    /// A precondition does not hold: mounted, held, not the paired disk, not confirmed.
    Refused = 3,
    /// Somebody else holds the lock.
    Busy = 4,
    /// The change set does not fit into the room there is.
    NoRoom = 5,
    /// Data or metadata does not match its checksum.
    Damaged = 6,
    /// A device failed to read, write or flush, or went away.
    Device = 7,
    /// A signal asked dpsr to stop: a sync was rolled back; a restore or export is incomplete.
    Interrupted = 8,
    /// No such pair, generation or volume.
    NotFound = 9,
}

impl Kind {
    /// The process exit code.
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

/// A failed operation, told in one sentence. Boxed, so that results stay small where all goes well.
#[derive(Debug)]
pub struct Error(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: Kind,
    doing: String,
    device: Option<String>,
    why: String,
    left: Option<String>,
    next: Option<String>,
    errno: Option<i32>,
    overflow: bool,
    unanswered: bool,
}

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`: `doing` is a gerund phrase ("reading the primary"), `why` the reason.
    pub fn new(kind: Kind, doing: impl Into<String>, why: impl Into<String>) -> Self {
        let (doing, why) = (doing.into(), why.into());
        Self(Box::new(Parts {
            kind,
            doing,
            device: None,
            why,
            left: None,
            next: None,
            errno: None,
            overflow: false,
            unanswered: false,
        }))
    }

    /// An operating-system error from a device; `doing` is a gerund phrase ("reading 4096 bytes at …").
    pub fn device(doing: impl Into<String>, device: impl Into<String>, error: &io::Error) -> Self {
        let mut told = Self::new(Kind::Device, doing, error.to_string()).on(device);
        told.0.errno = error.raw_os_error();
        if Silent::is(error) { told.next(SILENT_NEXT).of_no_answer() } else { told }
    }

    /// Names the device the sentence is about.
    #[must_use]
    pub fn on(mut self, device: impl Into<String>) -> Self {
        self.0.device.get_or_insert(device.into());
        self
    }

    /// Says what is left: the state after the failure.
    #[must_use]
    pub fn left(mut self, left: impl Into<String>) -> Self {
        self.0.left.get_or_insert(left.into());
        self
    }

    /// Says what is left, whatever was said before: what was true where the error arose need not be true of
    /// the whole run.
    #[must_use]
    pub fn replace_left(mut self, left: impl Into<String>) -> Self {
        self.0.left = Some(left.into());
        self
    }

    /// Says what to do now.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.0.next.get_or_insert(next.into());
        self
    }

    /// Says that it was the room for pre-images of a primary in use that did not do.
    #[must_use]
    pub fn of_overflow(mut self) -> Self {
        self.0.overflow = true;
        self
    }

    /// Whether it was the room for pre-images of a primary in use that did not do.
    pub fn is_overflow(&self) -> bool {
        self.0.overflow
    }

    /// Says that a disk left what it was asked unanswered: whoever asks it once more may wait for ever.
    #[must_use]
    pub fn of_no_answer(mut self) -> Self {
        self.0.unanswered = true;
        self
    }

    /// Whether a disk left what it was asked unanswered. It is not to be asked again: whoever does may wait for ever.
    pub fn is_unanswered(&self) -> bool {
        self.0.unanswered
    }

    /// Whether it is one that `device` gave.
    pub fn is_of_device(&self, device: &str) -> bool {
        self.0.kind == Kind::Device && self.0.device.as_deref() == Some(device)
    }

    /// Says what else to do, beside what was said before.
    #[must_use]
    pub fn or_next(mut self, other: &str) -> Self {
        let before = self.0.next.take().map_or(String::new(), |next| format!("{next}, "));
        self.0.next = Some(format!("{before}{other}"));
        self
    }

    /// What failed and why, without what is left and what to do: the part that another sentence can quote.
    pub fn cause(&self) -> String {
        let device = self.0.device.as_ref().map_or(String::new(), |device| format!(" {device}"));
        format!("{}{device}: {}", self.0.doing, self.0.why)
    }

    /// What is left: the state after the failure; empty where nothing was said of it.
    pub fn what_is_left(&self) -> &str {
        self.0.left.as_deref().unwrap_or_default()
    }

    /// What the failure means.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The operating system's error number, where a device gave one.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause())?;
        for part in [&self.0.left, &self.0.next].into_iter().flatten() {
            write!(f, "; {part}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_the_whole_run_replaces_what_was_said_of_a_part() {
        let error = Error::new(Kind::Device, "flushing", "it is gone").left("nothing was written");
        let error = error.left("ignored").replace_left("the copy is generation 1, intact");
        assert_eq!(error.to_string(), "flushing: it is gone; the copy is generation 1, intact");
    }

    #[test]
    fn one_sentence_in_order() {
        let error = Error::new(Kind::Refused, "opening the DPSR disk", "it carries another store")
            .on("/dev/sdb")
            .left("nothing was written")
            .next("check the cabling");
        assert_eq!(
            error.to_string(),
            "opening the DPSR disk /dev/sdb: it carries another store; nothing was written; check the cabling"
        );
        assert_eq!(error.kind().exit_code(), 3);
    }
}
