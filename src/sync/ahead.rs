// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a sync of a live primary does before the moment is taken, so that the moment need not be held for
//! long: an interrupted sync is rolled back, and a copy that has no generation yet is filled from the primary
//! as it changes. What that leaves is no moment of anything; only the pass over the snapshot makes it one, and
//! it reads everything once more, and writes no more than what changed since.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Disks, Report, Request, Session, open};
use crate::engine::digest::DigestKey;
use crate::error::Result;
use crate::format::superblock::State;
use crate::progress::Progress;
use crate::store::recover;
use crate::units::{Bytes, Generation};

/// What was done ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The generation an interrupted sync was rolled back to.
    pub rolled_back: Option<Generation>,
    /// Bytes read from the live primary.
    pub read: Bytes,
    /// Bytes of it written to the image.
    pub written: Bytes,
    /// Whether there was no generation, and so the copy was filled.
    pub filled: bool,
    /// How long that took.
    pub taken: Duration,
    /// Where on the DPSR disk pre-images may go.
    pub pre_images: Vec<Range<Bytes>>,
    /// The generations that made way for them.
    pub dropped: Vec<Generation>,
}

impl Ready {
    /// A report of the whole sync, from that of its part on the snapshot.
    pub fn with(&self, report: Report) -> Report {
        Report {
            rolled_back: self.rolled_back.or(report.rolled_back),
            bytes_read: report.bytes_read + self.read,
            bytes_written_image: report.bytes_written_image + self.written,
            seconds: report.seconds + self.taken.as_secs_f64(),
            dropped: [&self.dropped[..], &report.dropped].concat(),
            ..report
        }
    }
}

/// Does what can be done before the moment is taken; `disks.primary` is the live primary here.
pub fn ahead(disks: &Disks, request: &Request, progress: &dyn Progress) -> Result<Ready> {
    if request.dry_run {
        return Ok(Ready::default());
    }
    let mut store = open(disks, request)?;
    let rolled_back = if request.no_undo { None } else { recover::recover(&mut store)? };
    let key = DigestKey::new(store.contents.index.secret);
    let mut session = Session { disks, request, store, key, progress };
    match session.fill_ahead() {
        Ok(ready) => Ok(Ready { rolled_back, ..ready }),
        Err(error) => Err(session.undo(error)),
    }
}

impl Session<'_> {
    fn fill_ahead(&mut self) -> Result<Ready> {
        let done = match self.store.contents.superblock.state {
            State::Filling { done } | State::NoValid { done, .. } => done,
            State::Clean(from) | State::Updating { from, .. } if self.request.no_undo => {
                self.give_up(from)?;
                0
            }
            _ => {
                let (pre_images, dropped) = self.pre_images()?;
                return Ok(Ready { pre_images, dropped, ..Ready::default() });
            }
        };
        // What there is no room for is not found out after hours of copying.
        self.forget_generations()?;
        let (pre_images, _none) = self.pre_images()?;
        let (generation, started) = (self.coming(), Instant::now());
        let filled = self.copy(done, generation)?;
        let (read, written, taken) = (filled.read, filled.written, started.elapsed());
        Ok(Ready { read, written, filled: true, taken, pre_images, ..Ready::default() })
    }
}
