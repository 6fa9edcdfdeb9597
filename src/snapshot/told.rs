// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a window, as a person is told it.

use std::time::{Duration, SystemTime};

use nix::errno::Errno;

use super::window::{Outcome, Step, Why};
use crate::error::{Error, Kind, Result};
use crate::wrap::Wrapped;

/// When the moment was, and how long the primary waited for it.
pub fn moment(outcome: Outcome, wrapped: &Wrapped) -> Result<(SystemTime, Duration)> {
    match outcome {
        Outcome::Held { moment, pause } => Ok((SystemTime::UNIX_EPOCH + moment, pause)),
        Outcome::GivenUp { at, why, stuck } => Err(given_up(at, why, stuck, wrapped)),
    }
}

fn given_up(at: Option<Step>, why: Why, stuck: usize, wrapped: &Wrapped) -> Error {
    let because = match why {
        Why::Failed(errno) if errno == Errno::EBUSY as i32 => "it is frozen by somebody else".to_owned(),
        Why::Failed(errno) => Errno::from_raw(errno).desc().to_owned(),
        Why::Died => "the process that held it was killed".to_owned(),
        Why::Late => "it took longer than the primary may wait".to_owned(),
        Why::NotStarted => "the process that holds it could not be started".to_owned(),
    };
    let kind = match why {
        Why::Failed(_) | Why::Late => Kind::Device,
        Why::Died | Why::NotStarted => Kind::Internal,
    };
    let doing = at.map_or("holding a moment of", doing);
    let error = Error::new(kind, doing, because).on(device(at, wrapped));
    if stuck > 0 {
        let next = format!(
            "look at `dmsetup info`, and `dmsetup resume` what is suspended of {}",
            wrapped.disk.name.name
        );
        return error.left(format!("{stuck} of what was suspended could not be made to go on")).next(next);
    }
    let error = error.left("the primary goes on, and there is no snapshot");
    match why {
        Why::Failed(_) => error.next("mend that, or unmount it"),
        Why::Late => error.next("run the sync again when less is being written"),
        Why::Died | Why::NotStarted => error.next("run the sync again"),
    }
}

fn doing(step: Step) -> &'static str {
    match step {
        Step::Freeze(_) => "freezing a filesystem of",
        Step::SuspendPartition(_) => "freezing the filesystem on",
        Step::SuspendDisk => "suspending",
        Step::ResumeSnapshot => "starting the snapshot of",
        Step::ResumeDisk | Step::ResumePartition(_) => "resuming",
        Step::Thaw(_) => "thawing a filesystem of",
    }
}

fn device(at: Option<Step>, wrapped: &Wrapped) -> String {
    let partition = match at {
        Some(Step::SuspendPartition(place) | Step::ResumePartition(place)) => wrapped.partitions.get(place),
        _ => None,
    };
    partition.unwrap_or(&wrapped.disk).name.name.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::Mapped;
    use crate::pair::sysfs::DevNum;
    use crate::units::Bytes;
    use crate::wrap::{DiskId, Under};

    fn said(at: Option<Step>, why: Why, stuck: usize) -> String {
        let id = DiskId("0fc63daf-8483-4772-8e79-3d69d8477de4".into());
        let number = DevNum { major: 253, minor: 0 };
        let mapped = |name| Mapped { number, name };
        let (disk, partitions) = (mapped(id.disk()), vec![mapped(id.partition(2))]);
        let wrapped = Wrapped {
            id,
            raw: number,
            size: Bytes(4096),
            disk,
            under: Under::Raw,
            partitions,
            left_out: vec![],
        };
        let outcome = Outcome::GivenUp { at, why, stuck };
        moment(outcome, &wrapped).unwrap_err().to_string()
    }

    #[test]
    fn sentences() {
        let busy = Why::Failed(Errno::EBUSY as i32);
        assert_eq!(
            said(Some(Step::SuspendPartition(0)), busy, 0),
            "freezing the filesystem on dpsr-0fc63daf-part2: it is frozen by somebody else; the primary goes on, \
             and there is no snapshot; mend that, or unmount it"
        );
        assert_eq!(
            said(Some(Step::SuspendDisk), Why::Late, 0),
            "suspending dpsr-0fc63daf: it took longer than the primary may wait; the primary goes on, and there \
             is no snapshot; run the sync again when less is being written"
        );
        assert_eq!(
            said(None, Why::Died, 1),
            "holding a moment of dpsr-0fc63daf: the process that held it was killed; 1 of what was suspended could \
             not be made to go on; look at `dmsetup info`, and `dmsetup resume` what is suspended of dpsr-0fc63daf"
        );
    }
}
