// SPDX-License-Identifier: MIT OR Apache-2.0
//! One snapshot of a primary at a time. The lock is shared with the keeper, so that it is free only when the
//! process that reads the snapshot and the one that would take it down are both gone.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Kind, Result};
use crate::wrap::DiskId;

/// Where locks lie, gone with the next boot as the snapshots are.
const FOLDER: &str = "/run/dpsr";

/// How long the keeper of a killed process may take to end the snapshot of that.
const PATIENCE: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(20);

/// Takes the lock; busy where another process keeps it.
pub fn take(id: &DiskId) -> Result<Flock<File>> {
    let path = Path::new(FOLDER).join(format!("moment-{}.lock", id.0));
    let failed = |error: std::io::Error| Error::device("locking", path.display().to_string(), &error);
    DirBuilder::new().recursive(true).mode(0o700).create(FOLDER).map_err(failed)?;
    let mut file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let since = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if since.elapsed() < PATIENCE => {
                file = back;
                sleep(GLANCE);
            }
            Err((_, Errno::EWOULDBLOCK)) => return Err(busy(&path)),
            Err((_, error)) => return Err(failed(error.into())),
        }
    }
}

fn busy(path: &Path) -> Error {
    let why = "another snapshot of the disk is being held or taken down";
    Error::new(Kind::Busy, "locking", why).on(path.display().to_string()).next("wait until it has ended")
}
