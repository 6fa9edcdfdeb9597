// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be said on the command line.

mod copying;
mod history;
mod machine;
mod reading;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::units::{Bytes, Generation};
pub use copying::{Init, Sync, Wrap};
pub use history::{Drop, Generations, Pin, Prune};
pub use machine::{Boot, BootDone, BootInstall, BootVerb, Failback, Internal, Process, Status};
pub use reading::{Attach, Detach, Export, Mount, Mountable, Restore, Salvage, Scrub, Umount};

/// Keeps a hidden, sector-exact copy of a disk on a second disk, with history.
#[derive(Debug, Parser)]
#[command(name = "dpsr", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a fault in dpsr or in the system under it
  2  the command line or the configuration does not make sense
  3  refused: mounted, held, not the paired disk, not confirmed
  4  somebody else holds the lock
  5  not enough room
  6  data or metadata is damaged
  7  a device failed
  8  interrupted by a signal: a sync was rolled back; a restore or export is incomplete
  9  no such pair, generation or volume";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Pair a primary with a DPSR disk, and lay the DPSR disk out
    Init(Init),
    /// Make a new generation: copy what changed since the last one
    Sync(Sync),
    /// Put device-mapper under the primary, so that it can be synced while it is in use
    Wrap(Wrap),
    /// Take device-mapper from under the primary again
    Unwrap(Wrap),
    /// List the generations
    Generations(Generations),
    /// Let nothing drop a generation
    Pin(Pin),
    /// Let a pinned generation go when it is its turn
    Unpin(Pin),
    /// Drop generations, any but the newest and pinned ones
    Drop(Drop),
    /// Drop the generations that no rule keeps
    Prune(Prune),
    /// Write a generation, or one volume of it, as a raw image
    Export(Export),
    /// Write a generation, or one volume of it, back to a disk
    Restore(Restore),
    /// Bring the system, while it runs from its copy, back to a disk of its own
    Failback(Failback),
    /// Show a generation as read-only block devices
    Attach(Attach),
    /// Take the devices of a generation away
    Detach(Detach),
    /// Make the files of a generation readable below a directory
    Mount(Mount),
    /// Undo a mount, and what was attached for it
    Umount(Umount),
    /// Make the files of the old primary readable, while the system runs from its copy
    Salvage(Salvage),
    /// Read everything the store holds against what was recorded of it
    Scrub(Scrub),
    /// Tell what would happen if the primary died now
    Status(Status),
    /// Let the DPSR disk boot by itself
    Boot(Boot),
    /// What dpsr starts by itself; nobody else has a use for it
    #[command(hide = true)]
    Internal(Internal),
}

/// Where pairs are recorded unless told otherwise.
pub const CONFIG_DIR: &str = "/etc/dpsr";

/// Where failed syncs of these are noted.
const STATE_DIR: &str = "/var/lib/dpsr";

/// What every verb takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Where pairs are recorded
    #[arg(long, value_name = "DIR", default_value = CONFIG_DIR)]
    pub config_dir: PathBuf,
    /// Which pair; may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    pub pair: Option<String>,
}

/// What the verbs take that note failed syncs, or tell of them.
#[derive(Clone, Debug, clap::Args)]
pub struct State {
    /// Where failed syncs are noted; /var/lib/dpsr, or `state` in a --config-dir other than /etc/dpsr, if not
    /// given
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl State {
    /// The directory.
    pub fn dir(&self, common: &Common) -> PathBuf {
        // A record elsewhere is somebody's trial, which must not touch the notes of the machine.
        let usual = common.config_dir == Path::new(CONFIG_DIR);
        let dir = || if usual { PathBuf::from(STATE_DIR) } else { common.config_dir.join("state") };
        self.state_dir.clone().unwrap_or_else(dir)
    }
}

/// What every verb takes that only reads the store.
#[derive(Clone, Debug, clap::Args)]
pub struct Source {
    /// Read this DPSR disk without any record of its pair, as from a rescue system
    #[arg(long, value_name = "DEV", conflicts_with = "pair")]
    pub dpsr: Option<PathBuf>,
    /// What every verb takes
    #[command(flatten)]
    pub common: Common,
}

fn generation(text: &str) -> Result<Generation, String> {
    text.parse().ok().filter(|n| *n > 0).map(Generation).ok_or_else(|| "a number from 1 on".into())
}

/// A size: a number with an optional K, M, G, T or P, in powers of 1024.
fn size(text: &str) -> Result<Bytes, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_uppercase();
    let unit = unit.trim_end_matches("IB").trim_end_matches('B');
    let power = ["", "K", "M", "G", "T", "P"].iter().position(|known| *known == unit);
    let value = digits.parse::<u64>().ok();
    let bytes = power.zip(value).and_then(|(power, value)| value.checked_mul(1 << (10 * power)));
    bytes.map(Bytes).ok_or_else(|| "a number with an optional K, M, G, T or P".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::GIB;

    #[test]
    fn sizes() {
        assert_eq!(size("200G"), Ok(Bytes(200 * GIB)));
        assert_eq!(size("3MiB"), Ok(Bytes(3 << 20)));
        assert_eq!(size("17"), Ok(Bytes(17)));
        for wrong in ["", "G", "1X", "-1", "99999999P", "1.5G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_definition_holds_together() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
