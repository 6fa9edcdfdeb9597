// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking the disk that a confirmed plan overwrites.

use super::holder;
use super::inuse::in_use;
use super::lock::{Lock, Mode, lock};
use super::probe::Probe;
use super::sysfs::Roots;
use crate::disk::ReadDisk;
use crate::disk::file::{Access, FileDisk};
use crate::error::{Error, Kind, Result};
use crate::sys::signal;

/// Who takes a disk, for messages.
#[derive(Clone, Copy, Debug)]
pub struct Taker {
    /// A gerund phrase: "preparing the DPSR disk".
    pub doing: &'static str,
    /// The verb that made the plan: "init".
    pub verb: &'static str,
}

/// Opens the disk that was `planned` for writing and locks it. That it still is that disk, and that nobody
/// uses it, is proven on the descriptor; `check` looks at what is on it, under the lock only, because another
/// run of dpsr may just have changed it. Whoever asked to stop until now finds it as it was.
pub fn claim(
    roots: &Roots,
    planned: &Probe,
    taker: Taker,
    check: impl FnOnce(&Probe, &FileDisk) -> Result<()>,
) -> Result<(FileDisk, Option<Lock>)> {
    let refuse = |kind: Kind, why: String| {
        Error::new(kind, taker.doing, why).on(planned.name()).left("nothing was written")
    };
    let disk = holder::open(roots, &planned.path, Access::Write)?;
    let descriptor = disk.descriptor().expect("a file has a descriptor");
    let now = Probe::of_descriptor(roots, &planned.path, descriptor)?;
    if !now.is_still(planned) {
        let why = "it is not the disk any more that the plan was made for".to_owned();
        return Err(refuse(Kind::Refused, why).next(format!("run {} again and read its plan", taker.verb)));
    }
    if let Some(usage) = in_use(roots, &now).first() {
        return Err(refuse(Kind::Refused, usage.to_string()).next("stop that use first"));
    }
    let lock = lock(roots, &disk, Mode::Exclusive)?;
    check(&now, &disk)?;
    if signal::interrupted() {
        return Err(refuse(Kind::Interrupted, "a signal asked to stop".to_owned()));
    }
    Ok((disk, lock))
}
