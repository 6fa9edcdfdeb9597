// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a machine ends by itself. QEMU says why on its control socket, and then ends (`SHUTDOWN` in QEMU's
//! `qapi/run-state.json`).

use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use super::must;
use super::qmp::Qmp;
use crate::Result;

/// How often QEMU is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Why a machine is off that nobody switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off, or sleeps on a disk.
    Off,
    /// It reset itself.
    Reset,
}

impl End {
    fn reason(self) -> &'static str {
        match self {
            Self::Off => "guest-shutdown",
            Self::Reset => "guest-reset",
        }
    }
}

/// Waits until a machine has ended this way, and QEMU with it.
pub fn ends_by(end: End, qemu: &mut Child, qmp: &mut Qmp, patience: Duration) -> Result<()> {
    let start = Instant::now();
    // One that failed says nothing more.
    let reason = qmp.shutdown(patience).or_else(|why| has_ended(qemu).and(Err(why)))?;
    must(reason == end.reason(), || format!("the machine ended by {reason} instead of {}", end.reason()))?;
    // What is still to be written to the files of the disks, it writes now.
    while !has_ended(qemu)? {
        must(start.elapsed() < patience, || format!("QEMU did not end within {patience:?}"))?;
        thread::sleep(GLANCE);
    }
    Ok(())
}

/// Whether QEMU has ended; an error where it failed.
pub fn has_ended(qemu: &mut Child) -> Result<bool> {
    match qemu.try_wait() {
        Ok(None) => Ok(false),
        Ok(Some(status)) => must(status.success(), || format!("QEMU ended ({status})")).map(|()| true),
        Err(error) => Err(format!("waiting for QEMU: {error}")),
    }
}
