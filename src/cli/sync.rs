// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr sync`

use serde::Serialize;

use super::args::Sync;
use super::progress::shown;
use super::{end_in_order, say, say_json};
use crate::changes::Mode;
use crate::changes::source::Moving;
use crate::error::{Error, Kind, Result};
use crate::open::{OpenPair, now, pair_offline};
use crate::sync::{Report, Request, sync};

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    report: &'a Report,
    repartitioned: Option<&'a str>,
}

pub(super) fn run(args: &Sync) -> Result<()> {
    if !args.offline {
        let why = "this version reads only a primary that nobody uses";
        return Err(Error::new(Kind::Usage, "starting a sync", why).next("unmount it and add --offline"));
    }
    // Before the disk is locked: from then on a signal ends a sync in order, whatever it is doing.
    end_in_order()?;
    let pair = pair_offline(&args.common.config_dir, args.common.pair.as_deref(), !args.volume.is_empty())?;
    let mode = match (args.full, args.compare) {
        (true, _) => Mode::Full,
        (_, true) => Mode::Compare,
        _ => Mode::Digest,
    };
    let request = Request {
        mode,
        no_undo: args.no_undo,
        moving: moving(&pair, &args.volume)?,
        dry_run: args.dry_run,
        time: now(),
    };
    let progress = shown(args.json);
    let report = sync(&pair.disks, &request, progress.as_ref())?;
    drop(progress);
    if args.json {
        return say_json(&Told { report: &report, repartitioned: pair.repartitioned.as_deref() });
    }
    if let Some(changes) = &pair.repartitioned {
        say(format_args!("The primary was repartitioned: {changes}."));
    }
    tell(&report);
    Ok(())
}

/// The volumes that move: those named, and their group with them.
fn moving(pair: &OpenPair, names: &[String]) -> Result<Moving> {
    if names.is_empty() {
        return Ok(Moving::All);
    }
    let mut ids = Vec::new();
    for name in names {
        let named = pair.volumes.find(name)?;
        if named.left_out {
            let why = "it is left out of the copy";
            return Err(Error::new(Kind::Usage, "moving volume", why).on(name));
        }
        let together = pair.volumes.iter().filter(|v| v.id == named.id || named.group && v.group);
        ids.extend(together.map(|volume| volume.id.clone()));
    }
    Ok(Moving::Only(ids))
}

fn tell(report: &Report) {
    if let Some(generation) = report.rolled_back {
        say(format_args!("An interrupted sync was rolled back to generation {generation} first."));
    }
    let (read, changed) = (report.bytes_read, report.bytes_changed);
    if report.dry_run {
        say(format_args!("Generation {} would change {changed}; {read} were read.", report.generation));
        return;
    }
    say(format_args!(
        "Generation {} ({}): {read} read, {changed} changed, {} written to the image, {} to the undo store, {:.1} s.",
        report.generation, report.mode, report.bytes_written_image, report.bytes_written_undo, report.seconds
    ));
    if let (Some(first), Some(last)) = (report.dropped.first(), report.dropped.last()) {
        let which = if first == last {
            format!("generation {first}")
        } else {
            format!("generations {first} to {last}")
        };
        say(format_args!("Dropped to make room: {which}."));
    }
    if report.rotten_chunks > 0 {
        say(format_args!(
            "{} chunks of the copy had rotted on the DPSR disk and were replaced; older generations keep them \
             damaged. 'dpsr scrub' tells more.",
            report.rotten_chunks
        ));
    }
}
