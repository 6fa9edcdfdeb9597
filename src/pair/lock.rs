// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps two runs of dpsr off the same DPSR disk, and says who holds it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{SFlag, fstat, major, minor};

use super::sysfs::{DevNum, Roots};
use crate::disk::ReadDisk;
use crate::error::{Error, Kind, Result};

/// udev locks a block device while it probes it: for a moment, or for many seconds where the machine has just
/// started or the disk is busy. Nobody else's lock is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the kernel may take to finish the transfers of a killed process.
const PATIENCE_WITH_THE_DEAD: Duration = Duration::from_secs(20);

/// How a disk is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Several readers at a time.
    Shared,
    /// One writer alone.
    Exclusive,
    /// None: for a look at metadata that checks itself, while a writer may be at work.
    Unlocked,
}

/// A held lock; given back when dropped.
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<OwnedFd>);

/// Locks an open disk with flock(2), or says which process holds it. A disk in memory has nothing to lock.
pub fn lock(roots: &Roots, disk: &dyn ReadDisk, mode: Mode) -> Result<Option<Lock>> {
    let Some(descriptor) = disk.descriptor().filter(|_| mode != Mode::Unlocked) else { return Ok(None) };
    let owned = lockable(roots, descriptor);
    let mut owned = owned.map_err(|error| Error::device("locking", disk.name(), &error))?;
    let how = match mode {
        Mode::Shared | Mode::Unlocked => FlockArg::LockSharedNonblock,
        Mode::Exclusive => FlockArg::LockExclusiveNonblock,
    };
    let since = Instant::now();
    loop {
        let holder = match Flock::lock(owned, how) {
            Ok(lock) => return Ok(Some(Lock(lock))),
            Err((back, Errno::EWOULDBLOCK)) => {
                owned = back;
                holder(roots, &owned, "")
            }
            Err((_, error)) => return Err(Error::device("locking", disk.name(), &error.into())),
        };
        // A process without a command is dead; the kernel lets its lock go once its last transfers are done.
        let dead = holder.as_ref().is_some_and(|holder| !holder.contains('('));
        let passing = dead || holder.as_ref().is_none_or(|holder| holder.contains("udev"));
        let patience = if dead { PATIENCE_WITH_THE_DEAD } else { PATIENCE };
        if !passing || since.elapsed() >= patience {
            return Err(busy(disk, holder));
        }
        sleep(Duration::from_millis(20));
    }
}

/// What is locked for a disk. A lock belongs to the inode, and a device may have several nodes: it is always
/// the kernel's own node that is locked, whatever name the disk was opened by.
fn lockable(roots: &Roots, descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let stat = fstat(descriptor)?;
    let block = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFBLK.bits();
    let node = block.then(|| roots.node(DevNum::of(stat.st_rdev))?.open()).flatten();
    node.map_or_else(|| descriptor.try_clone_to_owned(), |node| Ok(node.into()))
}

/// The process that has locked the disk to write to it. Nothing is locked to find out, so that looking never
/// disturbs a writer that is about to start.
pub fn writer(roots: &Roots, disk: &dyn ReadDisk) -> Option<String> {
    holder(roots, lockable(roots, disk.descriptor()?).ok()?, "WRITE")
}

fn busy(disk: &dyn ReadDisk, holder: Option<String>) -> Error {
    let why =
        holder.map_or("another process has locked it".to_owned(), |holder| format!("{holder} has locked it"));
    Error::new(Kind::Busy, "locking", why).on(disk.name()).next("wait until it has ended")
}

/// A lock in `/proc/locks`: number, FLOCK, ADVISORY, READ or WRITE, pid, major:minor:inode (major and minor
/// in hex), start, end. (proc_locks(5)) An empty `kind` means either.
fn holder(roots: &Roots, file: impl AsFd, kind: &str) -> Option<String> {
    let stat = fstat(file).ok()?;
    let wanted = format!("{:02x}:{:02x}:{}", major(stat.st_dev), minor(stat.st_dev), stat.st_ino);
    let text = fs::read_to_string(roots.proc.join("locks")).ok()?;
    let pid = text.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let held = fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&wanted.as_str());
        (held && fields[3].starts_with(kind)).then(|| fields[4].to_owned())
    })?;
    Some(told(roots, &pid))
}

/// A process as messages show it: its number and its command.
pub(super) fn told(roots: &Roots, pid: &str) -> String {
    let command = fs::read(roots.proc.join(pid).join("cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    if command.is_empty() { format!("process {pid}") } else { format!("process {pid} ({command})") }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::disk::file::{Access, FileDisk};

    #[test]
    fn the_holder_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let open = || FileDisk::open(file.path(), Access::Read).unwrap();
        let (first, second) = (open(), open());
        let roots = Roots::default();
        let held = lock(&roots, &first, Mode::Shared).unwrap();
        assert!(lock(&roots, &second, Mode::Shared).is_ok());
        let error = lock(&roots, &second, Mode::Exclusive).err().unwrap();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains(&format!("process {} (", std::process::id())), "{error}");
        drop(held);
        assert!(lock(&roots, &second, Mode::Exclusive).is_ok());
    }

    #[test]
    fn udev_is_waited_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let disk = FileDisk::open(file.path(), Access::Read).unwrap();
        let probes = format!("exec -a '(udev-worker)' flock -s {} sleep 2", file.path().display());
        let mut worker = Command::new("bash").args(["-c", &probes]).spawn().unwrap();
        let roots = Roots::default();
        while holder(&roots, file.as_file(), "READ").is_none_or(|holder| !holder.contains("udev")) {
            sleep(Duration::from_millis(5));
        }
        let since = Instant::now();
        assert!(lock(&roots, &disk, Mode::Exclusive).is_ok());
        assert!(since.elapsed() > Duration::from_secs(1), "nobody had to be waited for");
        worker.wait().unwrap();
    }

    #[test]
    fn a_reader_is_no_writer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let open = || FileDisk::open(file.path(), Access::Read).unwrap();
        let (asking, other, roots) = (open(), open(), Roots::default());
        let reading = lock(&roots, &other, Mode::Shared).unwrap();
        assert_eq!(writer(&roots, &asking), None);
        drop(reading);
        let _writing = lock(&roots, &other, Mode::Exclusive).unwrap();
        assert!(writer(&roots, &asking).unwrap().contains(&format!("process {} (", std::process::id())));
    }
}
