// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr restore`

use serde::Serialize;

use super::args::Restore;
use super::confirm::confirmation;
use super::progress::shown;
use super::store::store;
use super::{end_in_order, say, say_json};
use crate::error::Result;
use crate::export::{Exported, source_name};
use crate::open::OpenStore;
use crate::restore::{Options, Planned, RestorePlan, plan};

/// What `--json` prints, whatever came of the plan.
#[derive(Serialize)]
struct Told<'a> {
    plan: &'a RestorePlan,
    done: bool,
    damaged_chunks: usize,
}

pub(super) fn run(args: &Restore) -> Result<()> {
    let store = store(&args.store)?;
    let options = Options { generation: args.generation, volume: args.volume.clone(), to: args.to.clone() };
    let planned = plan(&store, options)?;
    let shown = planned.plan.clone();
    if !args.json {
        say(&shown);
    }
    let outcome = if args.dry_run { Ok(None) } else { act(args, planned, &store).map(Some) };
    if args.json {
        let restored = outcome.as_ref().ok().and_then(Option::as_ref);
        let damaged_chunks = restored.map_or(0, |restored| restored.damaged.len());
        say_json(&Told { plan: &shown, done: restored.is_some(), damaged_chunks })?;
    } else if let Ok(Some(restored)) = &outcome {
        say(format_args!("Restored generation {}: {}.", args.generation, restored.size));
    }
    outcome?.map_or(Ok(()), |restored| restored.intact(args.generation, &source_name(&store)))
}

fn act(args: &Restore, planned: Planned, store: &OpenStore) -> Result<Exported> {
    let given = confirmation(args.confirm.as_deref(), &planned.plan.confirm_kind, !args.json)?;
    planned.check_confirmation(&given)?;
    end_in_order()?;
    let progress = shown(args.json);
    planned.act(store, progress.as_ref())
}
