// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr sync`

use std::path::Path;

use serde::Serialize;

use super::args::Sync;
use super::progress::shown;
use super::{end_in_order, say, say_json};
use crate::boot::{self, Updated};
use crate::changes::Mode;
use crate::changes::source::Moving;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::failures::Notes;
use crate::live::sync_live;
use crate::open::{OpenPair, now, pair_live, pair_offline};
use crate::sync::{Report, Request, sync};
use crate::units::list;
use crate::wrap::Wrapped;

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    report: &'a Report,
    repartitioned: Option<&'a str>,
    /// What was done to the ESP of a DPSR disk that boots; absent where that failed, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<&'a Updated>,
}

pub(super) fn run(args: &Sync) -> Result<()> {
    // Before the disk is locked: from then on a signal ends a sync in order, whatever it is doing.
    end_in_order()?;
    let dir = &args.common.config_dir;
    let (pair, wrapped) = opened(args).inspect_err(|error| note_unopened(args, error))?;
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
        // A live sync takes its own.
        moment: pair.held.clone(),
    };
    let progress = shown(args.json);
    let outcome = match &wrapped {
        Some(wrapped) => sync_live(&pair, wrapped, dir, &request, progress.as_ref()),
        None => sync(&pair.disks, &request, progress.as_ref()),
    };
    drop(progress);
    if !args.dry_run {
        Notes::of(&args.state.dir(&args.common), &pair.config).ended(outcome.as_ref().map(drop), now());
    }
    let report = outcome?;
    if let Some(why) = &report.not_pruned {
        tracing::warn!("{why}, ignoring: the new generation is there, and the next sync tries again");
    }
    let OpenPair { config, repartitioned, disks, held, .. } = pair;
    // What follows opens the DPSR disk anew, and claims it.
    drop((disks, held, request, wrapped));
    // A disk that does not answer would only be waited for once more.
    let refresh = config.boot && !args.dry_run && !report.silent;
    let booted = refresh.then(|| refreshed(dir, &config.name)).flatten();
    if args.json {
        let repartitioned = repartitioned.as_deref();
        return say_json(&Told { report: &report, repartitioned, boot: booted.as_ref() });
    }
    if let Some(changes) = &repartitioned {
        say(format_args!("The primary was repartitioned: {changes}."));
    }
    tell(&report);
    if let Some(booted) = booted.filter(|booted| booted.initramfs.is_some() || !booted.written.is_empty()) {
        say(format_args!("The DPSR disk was brought up to date: it boots kernel {} now.", booted.kernel));
    }
    Ok(())
}

fn opened(args: &Sync) -> Result<(OpenPair, Option<Wrapped>)> {
    let (dir, name, labels) = (&args.common.config_dir, args.common.pair.as_deref(), !args.volume.is_empty());
    match args.offline {
        true => Ok((pair_offline(dir, name, labels)?, None)),
        false => pair_live(dir, name, labels),
    }
}

/// A disk that is missing, or has become another one, is a failed sync as well; not so a sync beside another one.
fn note_unopened(args: &Sync, error: &Error) {
    if args.dry_run || matches!(error.kind(), Kind::Busy | Kind::Usage) {
        return;
    }
    if let Ok(config) = config::choose(&args.common.config_dir, args.common.pair.as_deref()) {
        Notes::of(&args.state.dir(&args.common), &config).ended(Err(error), now());
    }
}

/// Brings what the DPSR disk boots up to date. The new generation is there whether that succeeds or not.
fn refreshed(dir: &Path, pair: &str) -> Option<Updated> {
    let updated = boot::update(dir, Some(pair)).inspect(super::boot::warn);
    updated
        .map_err(|why| {
            tracing::warn!(
                "{why}, ignoring: the generation is there, and what the DPSR disk boots may be older"
            )
        })
        .ok()
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
    pair.volumes.refuse_twins(&pair.primary_probe.name(), |id| ids.iter().any(|one| one == id))?;
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
    if !report.dropped.is_empty() {
        say(format_args!("Dropped to make room: {}.", list(&report.dropped)));
    }
    if !report.pruned.is_empty() {
        say(format_args!("Dropped because no rule keeps them: {}.", list(&report.pruned)));
    }
    if let Some(pause) = report.pause_ms {
        let quiet = if report.moment.quiet { "quiet" } else { "in the middle of writes" };
        say(format_args!("The moment was {quiet}; the primary waited {pause} ms for it."));
    }
    if !report.moment.one_instant {
        say("Writes went past the snapshot: the volumes do not stand at one instant.");
    }
    if report.rotten_chunks > 0 {
        say(format_args!(
            "{} chunks of the copy did not match their digests on the DPSR disk and were put right; older \
             generations keep them damaged. 'dpsr scrub' tells more.",
            report.rotten_chunks
        ));
    }
}
