// SPDX-License-Identifier: MIT OR Apache-2.0
//! The syncs of a pair that failed since the last one that succeeded: a small file for each pair, beside no
//! disk of it, so that it can be written when the DPSR disk fails. It is written once a sync has ended and
//! everything it held of the primary is free again. Nothing but `dpsr status` depends on it: where it is lost,
//! or cannot be written, failed syncs are not counted, and that is all.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::config::PairConfig;
use crate::error::{Error, Kind};

/// So many syncs in a row that were lost to an overflow are no accident: the next one will be lost, too.
const RED: u32 = 2;

/// Syncs that failed, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// The pair's identity: another pair of its name has failed in nothing yet.
    pub pair: Uuid,
    /// How many.
    pub count: u32,
    /// How many of them because more was overwritten on the primary than there was room for pre-images.
    pub overflows: u32,
    /// When the last one ended: seconds since 1970, UTC.
    pub time: u64,
    /// What the last one said.
    pub why: String,
}

impl Failures {
    /// Why the status is red, if it is.
    pub fn red(&self) -> Option<String> {
        (self.overflows >= RED).then(|| {
            format!(
                "{} syncs since the last generation were lost because more was written to the primary than there \
                 is room for pre-images; until cow_size in [live] is raised, or less is written, there may be no \
                 new generation",
                self.overflows
            )
        })
    }

    fn and(self, error: &Error, time: u64) -> Self {
        Self {
            count: self.count.saturating_add(1),
            overflows: self.overflows.saturating_add(error.is_overflow().into()),
            time,
            why: error.to_string(),
            ..self
        }
    }
}

/// Where the failures of one pair are noted.
pub struct Notes {
    file: PathBuf,
    pair: Uuid,
}

impl Notes {
    /// The notes in `dir` about a pair.
    pub fn of(dir: &Path, config: &PairConfig) -> Self {
        Self { file: dir.join(format!("{}.failures.json", config.name)), pair: config.id }
    }

    /// What is noted; nothing where no sync failed since the last one that succeeded. `newest` is when the
    /// newest generation was taken: what is older was noted before it, and could not be removed.
    pub fn failures(&self, newest: Option<u64>) -> Option<Failures> {
        self.read().filter(|found| newest.is_none_or(|newest| found.time >= newest))
    }

    /// Notes how a sync ended at `time`. What somebody stopped has not failed.
    pub fn ended(&self, outcome: Result<(), &Error>, time: u64) {
        let done = match outcome {
            Ok(()) => match fs::remove_file(&self.file) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Err(error) if error.kind() == Kind::Interrupted => Ok(()),
            Err(error) => {
                let before = self.read().unwrap_or(Failures { pair: self.pair, ..Failures::default() });
                self.write(&before.and(error, time))
            }
        };
        if let Err(error) = done {
            let file = self.file.display();
            tracing::warn!(
                "noting in {file} how the sync ended: {error}, ignoring: failed syncs are not counted"
            );
        }
    }

    /// A file that says nothing sensible is none.
    fn read(&self) -> Option<Failures> {
        let found: Failures = serde_json::from_slice(&fs::read(&self.file).ok()?).ok()?;
        (found.pair == self.pair).then_some(found)
    }

    /// Whole or not at all, but not flushed: it may be lost.
    fn write(&self, failures: &Failures) -> io::Result<()> {
        let dir = self.file.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir)?;
        let mut new = NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&mut new, failures)?;
        new.write_all(b"\n")?;
        new.persist(&self.file).map_err(|failed| failed.error).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(dir: &Path) -> Notes {
        Notes { file: dir.join("state/system.failures.json"), pair: Uuid::from_u128(7) }
    }

    fn overflow() -> Error {
        Error::new(Kind::NoRoom, "reading the snapshot", "all of it was used").of_overflow()
    }

    #[test]
    fn two_overflows_are_red_until_a_sync_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let notes = notes(dir.path());
        assert_eq!(notes.failures(None), None);
        notes.ended(Ok(()), 1);
        notes.ended(Err(&overflow()), 2);
        assert_eq!(notes.failures(None).unwrap().red(), None);
        // Another failure between them gives no generation either.
        notes.ended(Err(&Error::new(Kind::Device, "flushing", "it is gone")), 3);
        notes.ended(Err(&overflow()), 4);
        let found = notes.failures(Some(1)).unwrap();
        assert_eq!((found.count, found.overflows, found.time), (3, 2, 4));
        assert_eq!(found.why, overflow().to_string());
        assert!(found.red().unwrap().starts_with("2 syncs since the last generation"));
        notes.ended(Ok(()), 5);
        assert_eq!(notes.failures(None), None);
    }

    #[test]
    fn what_was_stopped_or_is_older_than_the_generation_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let notes = notes(dir.path());
        notes.ended(Err(&Error::new(Kind::Interrupted, "syncing", "a signal asked to stop")), 1);
        assert_eq!(notes.failures(None), None);
        notes.ended(Err(&overflow()), 2);
        assert!(notes.failures(Some(2)).is_some() && notes.failures(Some(3)).is_none());
    }

    #[test]
    fn a_note_of_another_pair_or_a_torn_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let ours = notes(dir.path());
        ours.ended(Err(&overflow()), 1);
        let other = Notes { pair: Uuid::from_u128(8), ..notes(dir.path()) };
        assert_eq!(other.failures(None), None);
        fs::write(&ours.file, "{\"pair\"").unwrap();
        assert_eq!(ours.failures(None), None);
        ours.ended(Err(&overflow()), 2);
        assert_eq!(ours.failures(None).unwrap().count, 1);
    }

    #[test]
    fn where_nothing_can_be_noted_nothing_else_fails() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state"), "a file").unwrap();
        let notes = notes(dir.path());
        notes.ended(Err(&overflow()), 1);
        assert_eq!(notes.failures(None), None);
        notes.ended(Ok(()), 2);
    }
}
