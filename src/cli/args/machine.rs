// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is about the machine as a whole is told.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Common, Source, State};

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
    Install(BootInstall),
    /// Bring boot loader, kernel and initramfs on the DPSR disk up to date; only what differs is written
    Update(BootDone),
    /// Tell what the DPSR disk boots, and what is in the way of a boot without the primary
    Status(BootDone),
    /// Take everything that makes the DPSR disk boot away again; copy and history stay
    Uninstall(BootUninstall),
}

/// `dpsr boot uninstall`
#[derive(Debug, clap::Args)]
pub struct BootUninstall {
    /// The DPSR disk is gone for good: take away only what this machine has of it
    #[arg(long)]
    pub dpsr_lost: bool,
    #[command(flatten)]
    pub common: Common,
}

/// `dpsr boot install`
#[derive(Debug, clap::Args)]
pub struct BootInstall {
    /// Go on without asking, if this is what takes the place of the present initramfs generator: dracut
    #[arg(long, value_name = "GENERATOR")]
    pub confirm: Option<String>,
    /// What the other verbs take
    #[command(flatten)]
    pub done: BootDone,
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

/// `dpsr internal`: what only dpsr's own processes, units and hooks call.
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
    /// The system has come up: let systemd-boot count the starts of the primary's entries anew
    CountStarts {
        /// The machine goes to sleep: let it count none until then
        #[arg(long)]
        pause: bool,
    },
    /// Do the steps of the window
    Freeze {
        /// The descriptor of the board
        board: i32,
    },
}
