// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wraps the primary in its own udev event: before any of its partitions is told to anybody, so that neither
//! MD nor LVM nor a mount can come first.
//!
//! Whatever goes wrong, the machine boots as it would without dpsr, and is told why.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::cmdline::{Boot, CmdLine};
use super::told::{Level, at_login, no_longer_at_login, say};
use crate::config::{self, PairConfig};
use crate::error::{Error, Kind, Result};
use crate::failover;
use crate::pair::open::is_primary;
use crate::pair::sysfs::{BlockNode, DevNum, Roots};
use crate::units::SECTOR;
use crate::wrap::{self, Caller};

/// How long the event of a disk may take. A wrap takes tenths of a second.
const DEADLINE: Duration = Duration::from_secs(5);

const GLANCE: Duration = Duration::from_millis(5);

/// Takes over from the generators there are. (systemd.generator(7))
const GENERATORS: &str = "/run/systemd/system-generators";

/// Wraps the disk of the udev event in whose environment this runs, where it is a primary.
pub fn event(dir: &Path) {
    let off = matches!(CmdLine::of_kernel().boot, Boot::Plain | Boot::Force);
    if off || failover::is_under_way() {
        return;
    }
    let number = |key: &str| env::var(key).ok().and_then(|value| value.parse().ok());
    let (Some(major), Some(minor)) = (number("MAJOR"), number("MINOR")) else { return };
    let Some(disk) = Roots::default().node(DevNum { major, minor }) else { return };
    for config in fitting(dir, &disk) {
        if let Err(error) = in_time(&["wrap-now", &config.name]) {
            unwrapped(&config, &error);
            // What was stopped may have the disk and have taken its partitions away.
            if let Err(error) = in_time(&["unwrap-now", &config.name]) {
                say(Level::Warning, &error.to_string());
            }
        }
    }
}

/// The pairs whose primary the disk may be: nothing is read of any other.
fn fitting(dir: &Path, disk: &BlockNode) -> Vec<PairConfig> {
    let names = config::list(dir).unwrap_or_default();
    let pairs = names.iter().filter_map(|name| match config::load(dir, name) {
        Ok(config) => Some(config),
        Err(error) => {
            say(Level::Warning, &error.to_string());
            None
        }
    });
    let sectors = disk.attr("size").and_then(|size| size.parse::<u64>().ok());
    let fits = |pair: &PairConfig| sectors == Some(pair.primary.whole().0 / SECTOR);
    pairs.filter(fits).collect()
}

/// Lets another process do it, so that there is an end whatever the disk does.
fn in_time(words: &[&str]) -> Result<()> {
    let failed = |why: String| Error::new(Kind::Internal, words.join(" "), why);
    let this = env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut child = Command::new(this);
    child.args(words).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = child.spawn().map_err(|error| failed(error.to_string()))?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            // It has told why itself.
            Some(status) if status.success() || told(status) => return Ok(()),
            Some(status) => return Err(failed(format!("it ended with {status}"))),
            None if Instant::now() < deadline => sleep(GLANCE),
            None => {
                // One that waits for the disk ends when that answers; nobody waits for it here.
                let _gone = child.kill();
                sleep(GLANCE);
                let _reaped = child.try_wait();
                return Err(failed(format!("it took longer than {} s", DEADLINE.as_secs())));
            }
        }
    }
}

fn told(status: ExitStatus) -> bool {
    status.code() == Some(TOLD.into())
}

/// Exit code of [`now`] where it failed and said so.
pub const TOLD: u8 = 1;

/// Wraps the primary of the pair `name`, if it is the disk of this event.
pub fn now(dir: &Path, name: &str) -> Result<(), u8> {
    let wrapped = config::load(dir, name).and_then(|config| {
        let links = env::var("DEVLINKS").unwrap_or_default();
        wrap_recorded(&config, links).inspect_err(|error| unwrapped(&config, error))
    });
    wrapped.map_err(|_told| TOLD)
}

/// Takes away what a wrap that was stopped has left.
pub fn undo(dir: &Path, name: &str) -> Result<(), u8> {
    let undone = config::load(dir, name)
        .and_then(|config| wrap::unwrap(&config, false, &Caller::Event(String::new())));
    undone.map(drop).map_err(|error| {
        say(Level::Warning, &error.to_string());
        TOLD
    })
}

fn wrap_recorded(config: &PairConfig, links: String) -> Result<()> {
    // Another disk of the same size has an event of its own.
    if !is_primary(&Roots::default(), config, Path::new(&env::var("DEVNAME").unwrap_or_default()))? {
        return Ok(());
    }
    let report = wrap::wrap(config, false, &Caller::Event(links))?;
    if report.changed {
        if let Err(error) = mask_gpt_auto() {
            say(Level::Warning, &format!("{error}, ignoring: it may wait for partitions that have no node"));
        }
        say(Level::Info, &format!("{} is wrapped: moments of it can be held", report.primary));
    }
    // What an event did not bring about a later one may, once its partitions are there again.
    no_longer_at_login(&not_wrapped(&config.name));
    report.warnings.iter().for_each(|warning| say(Level::Warning, warning));
    Ok(())
}

/// The generator would wait for partitions of the disk node, which have no nodes of the kernel's.
/// (systemd-gpt-auto-generator(8))
pub(super) fn mask_gpt_auto() -> Result<()> {
    masked(GENERATORS, "systemd-gpt-auto-generator")
}

/// What is called `name` in `folder` is nothing until the next boot.
pub(super) fn masked(folder: &str, name: &str) -> Result<()> {
    let mask = Path::new(folder).join(name);
    let made = fs::create_dir_all(folder).and_then(|()| match symlink("/dev/null", &mask) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    });
    made.map_err(|error| Error::device("masking", mask.display().to_string(), &error))
}

/// The boot goes on as if dpsr were not there.
pub(super) fn unwrapped(config: &PairConfig, error: &Error) {
    let name = &config.name;
    say(Level::Warning, &format!("the primary of the pair {name} is not wrapped: {error}"));
    at_login(&format!("{}, so it cannot be synced while it is in use:\n  {error}\n", not_wrapped(name)));
}

/// What logins are told first.
fn not_wrapped(name: &str) -> String {
    format!("dpsr: the primary of the pair {name} is not wrapped")
}
