// SPDX-License-Identifier: MIT OR Apache-2.0
//! A snapshot that stands.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use nix::fcntl::Flock;

use super::bypass::Counters;
use super::cow::{Cow, Kept};
use super::inhibit::Inhibitor;
use super::stack::Stack;
use super::usage::{CowUse, State};
use super::window::Link;
use super::writes::Writes;
use crate::dm::Mapped;
use crate::error::{Error, Kind, Result};
use crate::pair::sysfs::{DevNum, Roots};
use crate::units::{Bytes, MIB, SECTOR};

/// What is known of the moment a snapshot stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Whether nobody was writing.
    pub quiet: bool,
    /// How long the primary waited for it: from the first freezing to the last thawing.
    pub pause: Duration,
    /// When it was.
    pub time: SystemTime,
}

/// A read-only snapshot of the whole primary. Taken down when dropped, and by its keeper when this process
/// dies.
///
/// The fields are dropped in this order: first the devices go, then the process that would take them down,
/// then the memory they used; the lock is the last.
pub struct Snapshot {
    pub(super) device: Mapped,
    pub(super) moment: Moment,
    pub(super) before: Option<Counters>,
    pub(super) real: Option<DevNum>,
    pub(super) roots: Roots,
    pub(super) cow: Cow,
    pub(super) stack: Stack,
    #[expect(dead_code, reason = "held for its drop")]
    pub(super) link: Link,
    #[expect(dead_code, reason = "held for its drop")]
    pub(super) kept: Kept,
    #[expect(dead_code, reason = "held for its drop")]
    pub(super) inhibitor: Inhibitor,
    #[expect(dead_code, reason = "held for its drop")]
    pub(super) lock: Flock<File>,
}

impl Snapshot {
    /// The snapshot, of the size of the primary; nobody but dpsr looks at it.
    pub fn device(&self) -> &Mapped {
        &self.device
    }

    /// The moment it stands at.
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// Whether everything read up to now was the moment, and how much room for pre-images is taken. An error
    /// where the snapshot was lost: there was not enough room, or what it lies on failed.
    pub fn check(&self) -> Result<CowUse> {
        if !self.stack.stands()? {
            let why = "somebody else has ended it";
            return Err(Error::new(Kind::Device, "reading the snapshot", why)
                .on(&self.device.name.name)
                .left("the primary goes on")
                .next("sync again"));
        }
        let words = self.stack.state()?;
        match State::parse(&words) {
            State::Stands(taken) => Ok(taken),
            State::Lost if self.cow_fails() => Err(self.failed()),
            State::Lost => Err(self.full()),
            State::Unknown => {
                let why = format!("the kernel says {words:?}");
                Err(Error::new(Kind::Internal, "checking the snapshot", why).on(&self.device.name.name))
            }
        }
    }

    /// Whether something was written to the raw disk since that did not come through device-mapper, so that
    /// the snapshot is not one instant.
    pub fn bypassed(&self) -> Result<bool> {
        let now = Counters::now(&self.roots, self.stack.wrapped(), self.real);
        let both = self.before.as_ref().zip(now);
        // What cannot be counted is not known to be clean.
        Ok(both.is_none_or(|(before, now)| now.past(before) > 0))
    }

    /// How much was written to what is kept of the primary since the moment.
    fn written(&self) -> Option<Bytes> {
        let disk = self.stack.wrapped().disk.number;
        let before = self.before.as_ref()?.through(disk)?;
        let now = Writes::of(&self.roots, disk)?.sectors;
        Some(Bytes(now.saturating_sub(before) * SECTOR))
    }

    /// Takes it down: the disk is plain linear again when this returns.
    pub fn release(self) -> Result<()> {
        self.stack.end()
    }

    /// Whether the device that pre-images go to cannot even be read. Memory cannot fail.
    fn cow_fails(&self) -> bool {
        let readable = || {
            let node = self.stack.cow()?.node();
            let mut buffer = vec![0; 4096];
            File::open(node).ok()?.read_exact_at(&mut buffer, self.cow.size().0.saturating_sub(4096)).ok()
        };
        !matches!(self.cow, Cow::Memory(_)) && readable().is_none()
    }

    fn full(&self) -> Error {
        let size = self.cow.size();
        let mut why = format!("all of the {size} for pre-images was used before it was read");
        let written = self.written().unwrap_or_default();
        if written > size {
            // What is overwritten twice takes room once.
            let missing = written - size;
            why.push_str(&format!("; {written} were written since, so that up to {missing} were missing"));
        }
        let twice = Bytes(size.0.saturating_mul(2)).max(written).round_up(MIB);
        Error::new(Kind::NoRoom, "reading the snapshot", why)
            .on(&self.device.name.name)
            .left("the primary goes on")
            .next(format!("set cow_size to {twice} or more, or sync when less is written"))
            .of_overflow()
    }

    fn failed(&self) -> Error {
        let place = match &self.cow {
            Cow::Path(path, _) => path.display().to_string(),
            Cow::Device(device, _) => self.roots.node(*device).map_or_else(
                || device.to_string(),
                // What lies behind a loop device is what fails.
                |node| node.backing_file().unwrap_or_else(|| node.path()).display().to_string(),
            ),
            Cow::Memory(_) => "memory".to_owned(),
        };
        Error::new(Kind::Device, "keeping pre-images on", "it fails")
            .on(place)
            .left("the primary goes on")
            .next("set cow to memory")
    }
}
