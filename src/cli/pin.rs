// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr pin` and `dpsr unpin`

use serde::Serialize;

use super::args::Pin;
use super::{end_in_order, say, say_json};
use crate::error::Result;
use crate::history::{self, Pinned};
use crate::open;
use crate::units::Generation;

/// What `--json` prints.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    outcome: Pinned,
    rolled_back: Option<Generation>,
}

pub(super) fn run(args: &Pin, pinned: bool) -> Result<()> {
    end_in_order()?;
    let mut open = open::history(&args.common.config_dir, args.common.pair.as_deref())?;
    let outcome = history::pin(&mut open.store, args.generation, pinned)?;
    if args.json {
        return say_json(&Told { outcome, rolled_back: open.rolled_back });
    }
    rolled_back(open.rolled_back);
    let now = match (pinned, outcome.changed) {
        (true, true) => "is pinned now: nothing drops it",
        (true, false) => "was pinned already",
        (false, true) => "is not pinned any more",
        (false, false) => "was not pinned",
    };
    say(format_args!("Generation {} {now}.", args.generation));
    Ok(())
}

/// Tells that an interrupted sync was rolled back, if one was.
pub(super) fn rolled_back(generation: Option<Generation>) {
    if let Some(generation) = generation {
        say(format_args!("An interrupted sync was rolled back to generation {generation} first."));
    }
}
