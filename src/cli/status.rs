// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr status`

use super::args::Status as Args;
use super::store::look;
use super::{say, say_json};
use crate::error::Result;
use crate::format::moment::Moment;
use crate::open::now;
use crate::pair::show::printable;
use crate::status::{Status, VolumeStatus, span, status};
use crate::time::utc;
use crate::units::Generation;

pub(super) fn run(args: &Args) -> Result<()> {
    let store = look(&args.store)?;
    let now = now();
    let status = status(&store, &args.state.dir(&args.store.common), now);
    if args.json {
        return say_json(&status);
    }
    tell(&status, now);
    Ok(())
}

fn tell(status: &Status, now: u64) {
    if let Some(why) = &status.red {
        say(format_args!("RED: {why}."));
    }
    say(&status.if_the_disk_died_now);
    say(format_args!(
        "Pair {}: {} is copied to {}, state {}.",
        status.pair, status.primary, status.dpsr, status.state
    ));
    if let (Some(moment), Some(generation)) = (status.moment, status.generation) {
        moment_of(generation, moment);
    }
    if let Some(failed) = &status.failed {
        let ago = span(now.saturating_sub(failed.time));
        say(format_args!("Syncs that failed since: {}, the last {ago} ago: {}.", failed.count, failed.why));
    }
    if let Some(live) = status.live {
        say(format_args!("Room for what the system changes: {} of {} taken.", live.used, live.size));
    }
    if let Some(writer) = &status.writer {
        say(format_args!("Being written now by {writer}."));
    }
    let room = &status.history;
    let generations =
        room.generations.map_or(String::new(), |n| format!(", about {n} generations at the present rate"));
    say(format_args!("Room for history: {} free, {} taken{generations}.", room.free, room.droppable));
    match &status.scrub {
        None => say("Never scrubbed."),
        Some(scrub) => {
            let found = match scrub.damaged {
                0 => "nothing damaged".to_owned(),
                1 => "a block was damaged then".to_owned(),
                damaged => format!("{damaged} blocks were damaged then"),
            };
            say(format_args!("Last scrub {} ago: {found}.", span(now.saturating_sub(scrub.time))));
        }
    }
    if status.stale_superblocks > 0 || status.bad_index_blocks > 0 {
        let (superblocks, blocks) = (status.stale_superblocks, status.bad_index_blocks);
        say(format_args!(
            "{superblocks} superblock copies and {blocks} index blocks have to be repaired: 'dpsr scrub --repair'."
        ));
    }
    say(format_args!(
        "{:>7}  {:16}  {:>10}  {:20}  {}",
        "volume", "label", "size", "stands at", "byte offset on the DPSR disk"
    ));
    status.volumes.iter().for_each(volume);
}

/// Says what is wrong with the moment of the newest generation, if anything is.
fn moment_of(generation: Generation, moment: Moment) {
    if !moment.quiet {
        say(format_args!("Writes were going on when generation {generation} was taken."));
    }
    if !moment.one_instant {
        say(format_args!(
            "Generation {generation} is not one instant: writes went past the snapshot it was taken from."
        ));
    }
}

fn volume(volume: &VolumeStatus) {
    let time = match (volume.left_out, volume.time) {
        (true, _) => "left out".to_owned(),
        (_, Some(time)) => utc(time),
        _ => "-".to_owned(),
    };
    let offset = volume.offset.map_or("-".to_owned(), |offset| offset.0.to_string());
    say(format_args!(
        "{:>7}  {:16}  {:>10}  {time:20}  {offset}",
        volume.name,
        printable(&volume.label),
        volume.size
    ));
}
