// SPDX-License-Identifier: MIT OR Apache-2.0
//! One wrap or unwrap at a time on a machine. The disk itself cannot be locked for that: udev holds a lock of
//! its own on it while it runs what its rules say, and dpsr is to be run by them at boot.

use std::fs::{self, File};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Kind, Result};

const FILE: &str = "/run/dpsr/wrap.lock";

/// Longer than a wrap takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Held while nodes are made or removed; given back when dropped, and by the kernel when dpsr dies.
pub struct Turn(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Waits for whoever is at it.
pub fn take() -> Result<Turn> {
    let failed = |error: &std::io::Error| Error::device("locking", FILE, error);
    fs::create_dir_all("/run/dpsr").map_err(|error| failed(&error))?;
    let mut file = File::create(FILE).map_err(|error| failed(&error))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Turn(lock)),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => back,
            Err((_, Errno::EWOULDBLOCK)) => {
                let why = "another wrap or unwrap has not ended";
                return Err(Error::new(Kind::Busy, "locking", why).on(FILE).next("wait until it has"));
            }
            Err((_, error)) => return Err(failed(&error.into())),
        };
        sleep(Duration::from_millis(50));
    }
}
