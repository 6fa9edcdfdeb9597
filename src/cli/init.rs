// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr init`

use serde::Serialize;

use super::args::Init;
use super::boot::say_findings;
use super::confirm::confirmation;
use super::{end_in_order, say, say_json};
use crate::boot::Finding;
use crate::config::{DEFAULT_PAIR, PairConfig};
use crate::error::Result;
use crate::init::{Options, Planned, plan};
use crate::pair::plan::InitPlan;
use crate::pair::refuse::check_confirmation;

/// What `--json` prints, whatever came of the plan.
#[derive(Serialize)]
struct Told<'a> {
    plan: &'a InitPlan,
    findings: &'a [Finding],
    done: bool,
}

pub(super) fn run(args: &Init) -> Result<()> {
    let options = Options {
        primary: args.primary.clone(),
        dpsr: args.dpsr.clone(),
        pair: args.common.pair.clone().unwrap_or_else(|| DEFAULT_PAIR.to_owned()),
        leave_out: args.leave_out.clone(),
        boot: !args.no_boot,
        history: args.history,
        reserve: args.reserve,
        wipe: args.wipe,
    };
    let planned = plan(&args.common.config_dir, options)?;
    let (shown, findings) = (planned.plan.clone(), planned.findings.clone());
    if !args.json {
        say(&shown);
        say_findings(&findings);
    }
    let outcome = if args.dry_run { Ok(None) } else { act(args, planned).map(Some) };
    if args.json {
        say_json(&Told { plan: &shown, findings: &findings, done: matches!(outcome, Ok(Some(_))) })?;
    } else if let Ok(Some(record)) = &outcome {
        let (pair, disk) = (&record.name, record.dpsr.path.display());
        say(format_args!(
            "The pair {pair} is recorded, and {disk} is laid out. 'dpsr sync' makes the first copy."
        ));
    }
    outcome.map(drop)
}

fn act(args: &Init, planned: Planned) -> Result<PairConfig> {
    let given = confirmation(args.confirm.as_deref(), &planned.plan.confirm_kind, !args.json)?;
    check_confirmation(planned.dpsr(), &given)?;
    end_in_order()?;
    planned.act(&args.common.config_dir)
}
