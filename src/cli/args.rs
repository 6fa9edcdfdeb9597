// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be said on the command line.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::units::{Bytes, Generation};

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
const CONFIG_DIR: &str = "/etc/dpsr";

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

/// `dpsr init`
#[derive(Debug, clap::Args)]
pub struct Init {
    /// The disk to be copied: a block device or an image file
    #[arg(long, value_name = "DEV")]
    pub primary: PathBuf,
    /// The disk to become the DPSR disk; everything on it is lost
    #[arg(long, value_name = "DEV")]
    pub dpsr: PathBuf,
    /// A partition not to copy: number, device, PARTUUID or label; may be repeated. Swap never is copied
    #[arg(long, value_name = "PART")]
    pub leave_out: Vec<String>,
    /// Make no partitions to boot from
    #[arg(long)]
    pub no_boot: bool,
    /// How much room history may take, like 200G; all there is, if not given
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub history: Option<Bytes>,
    /// Make room on a DPSR disk no larger than the primary: an immutable file of this size on a mounted ext4 or
    /// XFS of the primary, which is not copied
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub reserve: Option<Bytes>,
    /// Give up what is on the DPSR disk now
    #[arg(long)]
    pub wipe: bool,
    /// Show the plan and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Go on without asking, if the DPSR disk has this ID
    #[arg(long, value_name = "ID")]
    pub confirm: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// What every verb takes
    #[command(flatten)]
    pub common: Common,
}

/// `dpsr sync`
#[derive(Debug, clap::Args)]
pub struct Sync {
    /// Read an unmounted primary, opened for dpsr alone
    #[arg(long)]
    pub offline: bool,
    /// Move only this volume to the present: number, PARTUUID or label; may be repeated
    #[arg(long, value_name = "V")]
    pub volume: Vec<String>,
    /// Find changes by comparing both disks instead of by digest
    #[arg(long, conflicts_with = "full")]
    pub compare: bool,
    /// Copy everything, changed or not
    #[arg(long)]
    pub full: bool,
    /// Give up all history, and have no valid generation until the copy ends
    #[arg(long, requires = "full", conflicts_with = "volume")]
    pub no_undo: bool,
    /// Find what changed and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Where failed syncs are noted
    #[command(flatten)]
    pub state: State,
    /// What every verb takes
    #[command(flatten)]
    pub common: Common,
}

/// `dpsr wrap` and `dpsr unwrap`
#[derive(Debug, clap::Args)]
pub struct Wrap {
    /// Say what would be done and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// What every verb takes
    #[command(flatten)]
    pub common: Common,
}

/// `dpsr generations`
#[derive(Debug, clap::Args)]
pub struct Generations {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Which store
    #[command(flatten)]
    pub store: Source,
}

/// `dpsr pin` and `dpsr unpin`
#[derive(Debug, clap::Args)]
pub struct Pin {
    /// The number of the generation
    #[arg(value_name = "N", value_parser = generation)]
    pub generation: Generation,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// What every verb takes
    #[command(flatten)]
    pub common: Common,
}

/// `dpsr drop`
#[derive(Debug, clap::Args)]
pub struct Drop {
    /// The numbers of the generations; all of them go or none
    #[arg(value_name = "N", value_parser = generation, required = true)]
    pub generations: Vec<Generation>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// What every verb takes
    #[command(flatten)]
    pub common: Common,
}

/// `dpsr prune`
#[derive(Debug, clap::Args)]
#[command(after_help = PERIODS)]
pub struct Prune {
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    pub keep_last: Option<NonZeroU32>,
    /// Keep the newest of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<NonZeroU32>,
    /// Keep the newest of each of the last N days that have one
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<NonZeroU32>,
    /// Keep the newest of each of the last N weeks that have one
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<NonZeroU32>,
    /// Keep the newest of each of the last N months that have one
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<NonZeroU32>,
    /// Show what would be kept and why, and stop
    #[arg(long)]
    pub simulate: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// What every verb takes
    #[command(flatten)]
    pub common: Common,
}

const PERIODS: &str = "\
Without any rule here, those in [keep] of the pair's record hold; every sync follows them by itself.
Hours, days, ISO weeks and months are those of UTC. The newest generation and pinned ones always stay.";

/// `dpsr export`
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The number of the generation
    #[arg(value_name = "N", value_parser = generation)]
    pub generation: Generation,
    /// The file to make, or - for standard output
    pub file: PathBuf,
    /// Only this volume: number, PARTUUID or label
    #[arg(long, value_name = "V")]
    pub volume: Option<String>,
    /// Compress with zstd
    #[arg(long)]
    pub zstd: bool,
    /// Which store
    #[command(flatten)]
    pub store: Source,
}

/// `dpsr restore`
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The number of the generation
    #[arg(value_name = "N", value_parser = generation)]
    pub generation: Generation,
    /// The disk to overwrite
    #[arg(long, value_name = "DEV")]
    pub to: PathBuf,
    /// Only this volume: number, PARTUUID or label. It goes into the partition with its ID where the target
    /// has a partition table, and to the start of the target where it has none
    #[arg(long, value_name = "V")]
    pub volume: Option<String>,
    /// Show the plan and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Go on without asking, if the target has this ID
    #[arg(long, value_name = "ID")]
    pub confirm: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Which store
    #[command(flatten)]
    pub store: Source,
}

/// `dpsr failback`
#[derive(Debug, clap::Args)]
pub struct Failback {
    /// The disk to go back to; it is overwritten
    #[arg(long, value_name = "DEV")]
    pub to: PathBuf,
    /// Go back to the old primary though it may hold what was written to it after the copy was made
    #[arg(long)]
    pub discard_primary: bool,
    /// Show the plan and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Go on without asking, if the disk has this ID
    #[arg(long, value_name = "ID")]
    pub confirm: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Which pair
    #[command(flatten)]
    pub common: Common,
}

/// `dpsr attach`
#[derive(Debug, clap::Args)]
pub struct Attach {
    /// The number of the generation
    #[arg(value_name = "N", value_parser = generation)]
    pub generation: Generation,
    /// Tell only the device of this volume: number, PARTUUID or label
    #[arg(long, value_name = "V")]
    pub volume: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Which store
    #[command(flatten)]
    pub store: Source,
}

/// `dpsr detach`
#[derive(Debug, clap::Args)]
pub struct Detach {
    /// The number of the generation; may be left out where only one is attached
    #[arg(value_name = "N", value_parser = generation)]
    pub generation: Option<Generation>,
    /// Every generation that is attached
    #[arg(long, conflicts_with = "generation")]
    pub all: bool,
    /// Which store
    #[command(flatten)]
    pub store: Source,
}

/// `dpsr mount`
#[derive(Debug, clap::Args)]
pub struct Mount {
    /// The number of the generation
    #[arg(value_name = "N", value_parser = generation)]
    pub generation: Generation,
    /// The directory, which must exist
    pub dir: PathBuf,
    /// Which volume: number, PARTUUID or label; may be left out where only one can be mounted
    #[arg(long, value_name = "V")]
    pub volume: Option<String>,
    /// Open LUKS with what is in this file, instead of asking for the passphrase
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Which logical volume of LVM; may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    pub lv: Option<String>,
    /// Which store
    #[command(flatten)]
    pub store: Source,
}

/// `dpsr salvage`
#[derive(Debug, clap::Args)]
pub struct Salvage {
    /// The old primary
    pub disk: PathBuf,
    /// The directory, which must exist
    pub dir: PathBuf,
    /// Which volume: number, PARTUUID or label; may be left out where only one can be mounted
    #[arg(long, value_name = "V")]
    pub volume: Option<String>,
    /// Open LUKS with what is in this file, instead of asking for the passphrase
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Which logical volume of LVM; may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    pub lv: Option<String>,
    /// Which pair
    #[command(flatten)]
    pub common: Common,
}

/// `dpsr umount`
#[derive(Debug, clap::Args)]
pub struct Umount {
    /// The directory
    pub dir: PathBuf,
    /// What every verb takes; the devices say the rest
    #[command(flatten)]
    pub common: Common,
}

/// `dpsr scrub`
#[derive(Debug, clap::Args)]
pub struct Scrub {
    /// Repair what can be repaired: metadata from its second copy, the image from an unmounted primary
    #[arg(long, conflicts_with = "dpsr")]
    pub repair: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Which store
    #[command(flatten)]
    pub store: Source,
}

/// `dpsr status`
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Where failed syncs are noted
    #[command(flatten)]
    pub state: State,
    /// Which store
    #[command(flatten)]
    pub store: Source,
}

/// `dpsr boot`
#[derive(Debug, clap::Args)]
pub struct Boot {
    /// What to do
    #[command(subcommand)]
    pub verb: BootVerb,
}

/// The verbs of `dpsr boot`.
#[derive(Debug, Subcommand)]
pub enum BootVerb {
    /// Make the DPSR disk bootable, by BIOS and UEFI; every sync keeps it up to date from then on
    Install(BootDone),
    /// Bring boot loader, kernel and initramfs on the DPSR disk up to date; only what differs is written
    Update(BootDone),
    /// Tell what the DPSR disk boots, and what is in the way of a boot without the primary
    Status(BootDone),
    /// Take everything that makes the DPSR disk boot away again; copy and history stay
    Uninstall(Common),
}

/// What the verbs of `dpsr boot` take.
#[derive(Debug, clap::Args)]
pub struct BootDone {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// What every verb takes
    #[command(flatten)]
    pub common: Common,
}

/// `dpsr internal`: the processes beside one that holds a moment.
#[derive(Debug, clap::Args)]
pub struct Internal {
    /// Which process
    #[command(subcommand)]
    pub process: Process,
}

/// The processes.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Process {
    /// Watch the window, and take the snapshot down when the parent is gone
    Keep {
        /// The descriptor of the held lock
        lock: i32,
    },
    /// Do the steps of the window
    Freeze {
        /// The descriptor of the board
        board: i32,
    },
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
