// SPDX-License-Identifier: MIT OR Apache-2.0
//! What brings a generation back, or shows it, is told.

use std::path::PathBuf;

use super::{Common, Source, generation};
use crate::units::Generation;

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

/// Which filesystem of a disk is to be mounted.
#[derive(Debug, clap::Args)]
pub struct Mountable {
    /// Which volume: number, PARTUUID or label; may be left out where only one can be mounted
    #[arg(long, value_name = "V")]
    pub volume: Option<String>,
    /// Open LUKS with what is in this file, instead of asking for the passphrase
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Which logical volume of LVM; may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    pub lv: Option<String>,
}

/// `dpsr mount`
#[derive(Debug, clap::Args)]
pub struct Mount {
    /// The number of the generation
    #[arg(value_name = "N", value_parser = generation)]
    pub generation: Generation,
    /// The directory, which must exist
    pub dir: PathBuf,
    /// What to mount
    #[command(flatten)]
    pub what: Mountable,
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
    /// What to mount
    #[command(flatten)]
    pub what: Mountable,
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
