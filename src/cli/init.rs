// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr init`

use super::args::Init;
use super::confirm::confirmation;
use super::{end_in_order, say, say_json};
use crate::config::DEFAULT_PAIR;
use crate::error::Result;
use crate::init::{Options, plan};
use crate::pair::refuse::check_confirmation;

pub(super) fn run(args: &Init) -> Result<()> {
    let dir = &args.common.config_dir;
    let options = Options {
        primary: args.primary.clone(),
        dpsr: args.dpsr.clone(),
        pair: args.common.pair.clone().unwrap_or_else(|| DEFAULT_PAIR.to_owned()),
        leave_out: args.leave_out.clone(),
        boot: !args.no_boot,
        history: args.history,
        wipe: args.wipe,
    };
    let planned = plan(dir, options)?;
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
    check_confirmation(planned.dpsr(), &given)?;
    end_in_order()?;
    let record = planned.act(dir)?;
    if !args.json {
        let (pair, disk) = (&record.name, record.dpsr.path.display());
        say(format_args!(
            "The pair {pair} is recorded, and {disk} is laid out. 'dpsr sync' makes the first copy."
        ));
    }
    Ok(())
}
