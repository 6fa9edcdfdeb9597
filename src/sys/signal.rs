// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wish to stop: SIGINT and SIGTERM set a flag that long loops look at.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// From now on SIGINT and SIGTERM only set the flag. System calls are not restarted, so that a wait ends.
pub fn install() -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    [Signal::SIGINT, Signal::SIGTERM].into_iter().try_for_each(|signal| handle(signal, &action))
}

fn handle(signal: Signal, action: &SigAction) -> io::Result<()> {
    // SAFETY: the handler stores to an atomic and does nothing else, which is async-signal-safe.
    unsafe { sigaction(signal, action) }?;
    Ok(())
}

/// Whether a signal asked to stop.
pub fn interrupted() -> bool {
    STOP.load(Ordering::Relaxed)
}
