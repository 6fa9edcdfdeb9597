// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr restore`

use super::args::Restore;
use super::confirm::confirmation;
use super::progress::shown;
use super::{end_in_order, say, say_json};
use crate::error::Result;
use crate::open::store;
use crate::restore::{Options, plan};

pub(super) fn run(args: &Restore) -> Result<()> {
    let store = store(&args.common.config_dir, args.common.pair.as_deref())?;
    let options = Options { generation: args.generation, volume: args.volume.clone(), to: args.to.clone() };
    let planned = plan(&store, options)?;
    if args.json {
        say_json(&planned.plan)?
    } else {
        say(&planned.plan)
    }
    if args.dry_run {
        return Ok(());
    }
    let kind = planned.plan.confirm_kind.clone();
    let given = confirmation(args.confirm.as_deref(), &kind)?;
    planned.check_confirmation(&given)?;
    end_in_order()?;
    let progress = shown(args.json);
    let restored = planned.act(&store, progress.as_ref())?;
    drop(progress);
    if !args.json {
        say(format_args!("Restored generation {}: {}.", args.generation, restored.size));
    }
    restored.intact(args.generation, &crate::export::source_name(&store))
}
