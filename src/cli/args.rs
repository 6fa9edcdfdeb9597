// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be said on the command line.

use std::path::PathBuf;

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
    /// List the generations
    Generations(Generations),
    /// Write a generation, or one volume of it, as a raw image
    Export(Export),
    /// Write a generation, or one volume of it, back to a disk
    Restore(Restore),
    /// Read everything the store holds against what was recorded of it
    Scrub(Scrub),
    /// Tell what would happen if the primary died now
    Status(Status),
}

/// What every verb takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Where pairs are recorded
    #[arg(long, value_name = "DIR", default_value = "/etc/dpsr")]
    pub config_dir: PathBuf,
    /// Which pair; may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    pub pair: Option<String>,
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
    /// Which store
    #[command(flatten)]
    pub store: Source,
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
