// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr prune`

use serde::Serialize;

use super::args::Prune;
use super::drop::tell;
use super::pin::rolled_back;
use super::progress::shown;
use super::{end_in_order, say, say_json};
use crate::config::PairConfig;
use crate::error::Result;
use crate::history::{self, Dropped};
use crate::keep::{Rules, Verdict};
use crate::open;
use crate::time::utc;
use crate::units::Generation;

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    /// What the rules say of each generation there was.
    generations: &'a [Verdict],
    simulated: bool,
    #[serde(flatten)]
    outcome: &'a Dropped,
    rolled_back: Option<Generation>,
}

pub(super) fn run(args: &Prune) -> Result<()> {
    let (dir, pair) = (&args.common.config_dir, args.common.pair.as_deref());
    if args.simulate {
        let store = open::look(dir, pair)?;
        let generations = history::simulate(&store.contents, &rules(args, &store.config))?;
        return show(args, &generations, None);
    }
    end_in_order()?;
    let mut open = open::history(dir, pair)?;
    let rules = rules(args, &open.config);
    let generations = history::simulate(&open.store.contents, &rules)?;
    let progress = shown(args.json);
    let outcome = history::prune(&mut open.store, &rules, progress.as_ref())?;
    drop(progress);
    show(args, &generations, Some((&outcome, open.rolled_back)))
}

/// The rules of the command line; those of the record where it has none.
fn rules(args: &Prune, config: &PairConfig) -> Rules {
    let given = Rules {
        last: args.keep_last,
        hourly: args.keep_hourly,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
    };
    if given.is_empty() { config.keep } else { given }
}

fn show(args: &Prune, generations: &[Verdict], done: Option<(&Dropped, Option<Generation>)>) -> Result<()> {
    if args.json {
        let nothing = Dropped::default();
        let (outcome, rolled_back) = done.unwrap_or((&nothing, None));
        return say_json(&Told { generations, simulated: args.simulate, outcome, rolled_back });
    }
    let Some((outcome, back)) = done else {
        table(generations);
        return Ok(());
    };
    rolled_back(back);
    tell(outcome);
    Ok(())
}

fn table(generations: &[Verdict]) {
    say(format_args!("{:>10}  {:20}  {:5}  {}", "generation", "time", "what", "because"));
    for one in generations {
        let (what, why) = if one.kept() { ("keep", one.kept_as.join(", ")) } else { ("drop", String::new()) };
        let line = format!("{:>10}  {:20}  {what:5}  {why}", one.generation.0, utc(one.time));
        say(line.trim_end());
    }
}
