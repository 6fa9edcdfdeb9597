// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr wrap` and `dpsr unwrap`

use serde::Serialize;

use super::args::Wrap;
use super::{say, say_json};
use crate::config;
use crate::error::Result;
use crate::wrap::{self, Node, Report};

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    wrapped: bool,
    dry_run: bool,
    #[serde(flatten)]
    report: &'a Report,
}

pub(super) fn run(args: &Wrap) -> Result<()> {
    let config = config::choose(&args.common.config_dir, args.common.pair.as_deref())?;
    let report = wrap::wrap(&config, args.dry_run, &wrap::Caller::Command)?;
    if args.json {
        return say_json(&Told {
            wrapped: !args.dry_run || !report.changed,
            dry_run: args.dry_run,
            report: &report,
        });
    }
    let primary = &report.primary;
    match (report.changed, args.dry_run) {
        (false, _) => say(format_args!("{primary} is wrapped already.")),
        (true, false) => say(format_args!("{primary} is wrapped.")),
        (true, true) => say(format_args!("{primary} would be wrapped; nothing was changed.")),
    }
    report.nodes.iter().for_each(node);
    warn(&report);
    Ok(())
}

pub(super) fn run_unwrap(args: &Wrap) -> Result<()> {
    let config = config::choose(&args.common.config_dir, args.common.pair.as_deref())?;
    let report = wrap::unwrap(&config, args.dry_run, &wrap::Caller::Command)?;
    if args.json {
        return say_json(&Told {
            wrapped: args.dry_run && report.changed,
            dry_run: args.dry_run,
            report: &report,
        });
    }
    let primary = &report.primary;
    match (report.changed, args.dry_run) {
        (false, _) => say(format_args!("{primary} is not wrapped.")),
        (true, false) => say(format_args!("{primary} is not wrapped any more.")),
        (true, true) => say(format_args!("{primary} would be unwrapped; nothing was changed.")),
    }
    warn(&report);
    Ok(())
}

fn node(node: &Node) {
    let what = match (node.partition, node.left_out) {
        (None, _) => "the whole disk".to_owned(),
        (Some(number), false) => format!("partition {number}"),
        (Some(number), true) => format!("partition {number}, left out: straight on the raw disk"),
    };
    say(format_args!("  /dev/mapper/{}  {what}", node.name));
}

fn warn(report: &Report) {
    report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}
