// SPDX-License-Identifier: MIT OR Apache-2.0
//! What makes pairs and generations is told.

use std::path::PathBuf;

use super::{Common, State, size};
use crate::units::Bytes;

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
