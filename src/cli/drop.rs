// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr drop`

use serde::Serialize;

use super::args::Drop;
use super::pin::rolled_back;
use super::progress::shown;
use super::{end_in_order, say, say_json};
use crate::error::Result;
use crate::history::{self, Dropped};
use crate::open;
use crate::units::{Generation, list};

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    outcome: &'a Dropped,
    rolled_back: Option<Generation>,
}

pub(super) fn run(args: &Drop) -> Result<()> {
    end_in_order()?;
    let mut open = open::history(&args.common.config_dir, args.common.pair.as_deref())?;
    let progress = shown(args.json);
    let outcome = history::drop(&mut open.store, &args.generations, progress.as_ref())?;
    std::mem::drop(progress);
    if args.json {
        return say_json(&Told { outcome: &outcome, rolled_back: open.rolled_back });
    }
    rolled_back(open.rolled_back);
    tell(&outcome);
    Ok(())
}

/// Says what was dropped.
pub(super) fn tell(outcome: &Dropped) {
    if outcome.dropped.is_empty() {
        say("There was nothing to drop.");
    } else {
        say(format_args!("Dropped {}: {} are free again.", list(&outcome.dropped), outcome.freed));
    }
}
