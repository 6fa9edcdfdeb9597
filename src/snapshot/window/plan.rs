// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the processes of the window are told, and what they answer: one line of JSON each, through pipes.

use std::os::fd::RawFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::steps::{Step, steps};
use crate::dm::{Mapped, Name};
use crate::pair::sysfs::DevNum;
use crate::sys::dm::{Number, Udev};
use crate::units::Bytes;
use crate::wrap::{DiskId, Under, Wrapped};

/// A wrapped primary, in words for another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    id: String,
    raw: (u64, u64),
    size: Bytes,
    disk: ToldDevice,
    partitions: Vec<ToldDevice>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ToldDevice {
    number: (u64, u64),
    name: String,
    uuid: String,
}

impl Told {
    /// In words.
    pub fn of(wrapped: &Wrapped) -> Self {
        Self {
            id: wrapped.id.0.clone(),
            raw: (wrapped.raw.major, wrapped.raw.minor),
            size: wrapped.size,
            disk: ToldDevice::of(&wrapped.disk),
            partitions: wrapped.partitions.iter().map(ToldDevice::of).collect(),
        }
    }

    /// Back again.
    pub fn wrapped(self) -> Wrapped {
        Wrapped {
            id: DiskId(self.id),
            raw: number(self.raw),
            size: self.size,
            disk: self.disk.mapped(),
            // What a window works on: who takes down a stack does not ask how far it was built.
            under: Under::Raw,
            partitions: self.partitions.into_iter().map(ToldDevice::mapped).collect(),
            left_out: Vec::new(),
        }
    }
}

impl ToldDevice {
    fn of(device: &Mapped) -> Self {
        let DevNum { major, minor } = device.number;
        Self { number: (major, minor), name: device.name.name.clone(), uuid: device.name.uuid.clone() }
    }

    /// The disk and its partitions are what everybody may see.
    fn mapped(self) -> Mapped {
        let name = Name { name: self.name, uuid: self.uuid, udev: Udev::PUBLIC };
        Mapped { number: number(self.number), name }
    }
}

fn number((major, minor): (u64, u64)) -> DevNum {
    DevNum { major, minor }
}

/// What the window is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Descriptors of the filesystems to be frozen, in the process that told the plan.
    pub filesystems: Vec<RawFd>,
    /// The kept partitions: major, minor.
    pub partitions: Vec<(u32, u32)>,
    /// The disk, with the table of an origin loaded.
    pub disk: (u32, u32),
    /// The snapshot, with its table loaded.
    pub snapshot: (u32, u32),
}

impl Plan {
    /// Of a wrapped primary and its snapshot.
    pub fn of(wrapped: &Wrapped, snapshot: &Mapped, filesystems: Vec<RawFd>) -> Self {
        let pair = |device: &Mapped| (device.raw().major, device.raw().minor);
        Self {
            filesystems,
            partitions: wrapped.partitions.iter().map(pair).collect(),
            disk: pair(&wrapped.disk),
            snapshot: pair(snapshot),
        }
    }

    /// Its steps.
    pub fn steps(&self) -> Vec<Step> {
        steps(self.filesystems.len(), self.partitions.len())
    }
}

/// A number as the kernel takes it.
pub fn raw((major, minor): (u32, u32)) -> Number {
    Number { major, minor }
}

/// What the parent asks of the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// When the parent is gone, take down whatever there is of the snapshot of this primary.
    Keep(Told),
    /// Hold the moment. The descriptors of the plan are those of the process with this number.
    Hold(Plan, u32),
}

/// How a window ended. In every case nothing waits any more, unless `stuck` says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The snapshot stands.
    Held {
        /// The moment, since 1970.
        moment: Duration,
        /// From the first step to the end of the last.
        pause: Duration,
    },
    /// There is no snapshot.
    GivenUp {
        /// The step that failed, or at which the freezer was when it was given up.
        at: Option<Step>,
        /// Why.
        why: Why,
        /// How many devices or filesystems could not be made to go on.
        stuck: usize,
    },
}

/// Why a window was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// The step failed with this error number.
    Failed(i32),
    /// The freezer ended before its last step.
    Died,
    /// It took too long.
    Late,
    /// It could not be started, or did not get ready.
    NotStarted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_in_words_and_back() {
        let id = DiskId("0fc63daf-8483-4772-8e79-3d69d8477de4".into());
        let mapped = |minor, name| Mapped { number: DevNum { major: 253, minor }, name };
        let wrapped = Wrapped {
            raw: DevNum { major: 8, minor: 16 },
            size: Bytes(1 << 30),
            disk: mapped(0, id.disk()),
            under: Under::Raw,
            left_out: vec![],
            partitions: vec![mapped(1, id.partition(1)), mapped(2, id.partition(3))],
            id,
        };
        let told = serde_json::to_string(&Told::of(&wrapped)).unwrap();
        let back = serde_json::from_str::<Told>(&told).unwrap().wrapped();
        assert_eq!(format!("{back:?}"), format!("{wrapped:?}"));
    }
}
