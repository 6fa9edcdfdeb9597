// SPDX-License-Identifier: MIT OR Apache-2.0
//! A wrapped primary that is written to -> one read-only snapshot of all of it at one instant, and back.
//!
//! The words: the **moment** is the instant the snapshot stands at; the **window** the time in which the
//! primary waits for it ([`window`]); **pre-images** are what was on the primary at the moment and is
//! overwritten since; they go to the [`Cow`]. The [`stack`] has a picture of the devices.
//!
//! [`take`] names the steps in order. Up to the window nothing changes for the primary; after it, whatever
//! goes wrong costs the snapshot and nothing else.

mod bypass;
mod cow;
mod deadline;
mod filesystems;
mod held;
mod hooks;
mod inhibit;
mod lock;
mod quiet;
mod stack;
mod told;
mod usage;
pub mod window;
mod writes;

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::dm::Mapper;
use crate::error::{Error, Kind, Result};
use crate::pair::sysfs::Roots;
use crate::sys::signal;
use crate::units::{Bytes, KIB};
use crate::wrap::Wrapped;

pub use cow::{Cow, SPARE};
pub use held::{Moment, Snapshot};
pub use inhibit::Inhibitor;
pub use usage::{CowUse, State};

use bypass::Counters;
use filesystems::{Filesystem, mounted, write_out};
use hooks::Hooks;
use stack::Stack;
use window::{Link, Plan};
use writes::Writes;

/// How a moment is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where pre-images go.
    pub cow: Cow,
    /// So long without a write is a quiet moment.
    pub quiet_for: Duration,
    /// After so long the moment is taken, quiet or not.
    pub quiet_limit: Duration,
    /// The directory with `pre-freeze.d` and `post-thaw.d`.
    pub hooks: Option<PathBuf>,
    /// The unit in which pre-images are kept: 4, 8 or 16 KiB.
    pub chunk: Bytes,
    /// The dpsr command, which is what the processes of the window run.
    pub program: PathBuf,
}

impl Settings {
    /// The usual ones.
    pub fn new(cow: Cow) -> Self {
        Self {
            cow,
            quiet_for: Duration::from_secs(5),
            quiet_limit: Duration::from_secs(30),
            hooks: None,
            chunk: Bytes(4 * KIB),
            program: "/proc/self/exe".into(),
        }
    }
}

/// What is written out just before the window should take no longer than this: the window lasts as long as
/// what was written since takes.
const BRIEF: Duration = Duration::from_millis(200);

/// How often that is tried under steady writes, before it is gone on with all the same.
const ROUNDS: u32 = 5;

/// Takes a snapshot of all of `wrapped` at one instant.
pub fn take(mapper: &Arc<Mapper>, roots: &Roots, wrapped: &Wrapped, settings: &Settings) -> Result<Snapshot> {
    check(settings)?;
    let lock = lock::take(&wrapped.id)?;
    clean_stale(mapper, wrapped)?;
    let inhibitor = Inhibitor::hold();
    let mut link = Link::start(&settings.program, wrapped, lock.as_raw_fd())?;
    let (place, kept) = settings.cow.prepare(roots, wrapped)?;
    let stack = Stack::new(mapper, wrapped);
    let device = stack.build(&place, settings.chunk)?;
    drop(place);
    write_out(&mounted(roots, wrapped)?)?;
    let wanted = quiet::Wanted { quiet_for: settings.quiet_for, limit: settings.quiet_limit };
    let quiet = quiet::wait(wanted, || Writes::of(roots, wrapped.disk.number))?;
    let hooks = Hooks::before(settings.hooks.as_deref())?;
    let real = stack.real()?;
    let before = Counters::now(roots, wrapped, real);
    let filesystems = written_out(roots, wrapped)?;
    let by_themselves: Vec<_> =
        filesystems.into_iter().filter(|it| !it.with_partition).map(|it| it.file).collect();
    let plan = Plan::of(wrapped, &device, by_themselves.iter().map(AsRawFd::as_raw_fd).collect());
    let outcome = link.hold(plan, &by_themselves);
    drop((by_themselves, hooks));
    let (time, pause) = told::moment(outcome?, wrapped)?;
    let moment = Moment { quiet, pause, time };
    let roots = roots.clone();
    Ok(Snapshot {
        device,
        moment,
        before,
        real,
        roots,
        cow: settings.cow.clone(),
        stack,
        link,
        kept,
        inhibitor,
        lock,
    })
}

/// Takes down what a run that was killed left of a snapshot; whether there was anything. The disk is plain
/// linear afterwards, and nothing waits.
pub fn clean_stale(mapper: &Mapper, wrapped: &Wrapped) -> Result<bool> {
    let cleaned = stack::tear_down(mapper, wrapped)?;
    if cleaned {
        tracing::warn!("a snapshot that a killed run had left was ended");
    }
    Ok(cleaned)
}

/// The same for who is about to write where such a snapshot may keep pre-images. One that is still held is waited
/// for, and not touched.
pub fn end_stale(mapper: &Mapper, wrapped: &Wrapped) -> Result<()> {
    let _lock = lock::take(&wrapped.id)?;
    clean_stale(mapper, wrapped).map(drop)
}

fn check(settings: &Settings) -> Result<()> {
    let chunk = settings.chunk;
    let usage = |why: String| Err(Error::new(Kind::Usage, "taking a snapshot", why));
    if ![4 * KIB, 8 * KIB, 16 * KIB].contains(&chunk.0) {
        return usage(format!("pre-images are kept in units of 4, 8 or 16 KiB, not of {chunk}"));
    }
    let size = settings.cow.size();
    if size < chunk || !size.is_multiple_of(chunk.0) {
        return usage(format!("the room for pre-images, {size}, is no multiple of {chunk}"));
    }
    Ok(())
}

/// Writes out everything until little is left to be written in the window.
fn written_out(roots: &Roots, wrapped: &Wrapped) -> Result<Vec<Filesystem>> {
    let mut filesystems = mounted(roots, wrapped)?;
    for _ in 0..ROUNDS {
        if signal::interrupted() {
            return Err(Error::new(Kind::Interrupted, "taking a snapshot", "a signal asked to stop"));
        }
        if write_out(&filesystems)? < BRIEF {
            break;
        }
        filesystems = mounted(roots, wrapped)?;
    }
    Ok(filesystems)
}
