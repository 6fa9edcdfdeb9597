// SPDX-License-Identifier: MIT OR Apache-2.0
//! What looks after the generations there are is told.

use std::num::NonZeroU32;

use super::{Common, Source, generation};
use crate::units::Generation;

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
