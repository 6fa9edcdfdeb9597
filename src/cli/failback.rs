// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr failback`

use std::path::Path;

use serde::Serialize;

use super::args::Failback;
use super::confirm::confirmation;
use super::progress::shown;
use super::{end_in_order, say, say_json};
use crate::error::Result;
use crate::failback::plan::{Begun, FailbackPlan, Options, Planned, plan};
use crate::open::{self, OpenStore};

/// What `--json` prints, whatever came of the plan.
#[derive(Serialize)]
struct Told<'a> {
    plan: &'a FailbackPlan,
    begun: Option<Begun>,
}

pub(super) fn run(args: &Failback) -> Result<()> {
    let store = open::look(&args.common.config_dir, args.common.pair.as_deref())?;
    let options = Options { to: args.to.clone(), discard_primary: args.discard_primary };
    let planned = plan(&store, &options)?;
    let shown = planned.plan.clone();
    if !args.json {
        say(&shown);
    }
    let outcome = if args.dry_run { Ok(None) } else { act(args, planned, store).map(Some) };
    let begun = outcome.as_ref().ok().copied().flatten();
    if args.json {
        say_json(&Told { plan: &shown, begun })?;
    } else if let Some(begun) = begun {
        tell(&shown, begun);
    }
    outcome.map(drop)
}

fn act(args: &Failback, planned: Planned, store: OpenStore) -> Result<Begun> {
    let given = confirmation(args.confirm.as_deref(), &planned.plan.confirm_kind, !args.json)?;
    planned.check_confirmation(&given)?;
    end_in_order()?;
    planned.act(&args.common.config_dir, store, shown(args.json).as_ref())
}

fn tell(plan: &FailbackPlan, begun: Begun) {
    say(format_args!("Copied to {}; the last pass found {} that had changed.", plan.target, begun.last_pass));
    match (begun.recorded, begun.known) {
        (true, true) => say("The pair's record names this disk now, in each initramfs that has it, too."),
        (true, false) => say(
            "The pair's record names this disk now: rebuild the initramfs ('dracut --force') before the restart.",
        ),
        (false, false) => say(
            "The initramfs may have an older record of the pair: rebuild it ('dracut --force') before the restart.",
        ),
        (false, true) => {}
    }
    say("Restart the machine: the rest is copied before the system starts, and it starts from that disk.");
    if !Path::new("/sys/firmware/efi").exists() {
        say(
            "Until then nothing boots from that disk: if the BIOS tries no other, choose the DPSR disk in its menu.",
        );
    }
}
