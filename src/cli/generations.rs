// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr generations`

use serde::Serialize;

use super::args::Generations;
use super::store::look;
use super::{say, say_json};
use crate::error::Result;
use crate::status::{GenerationStatus, generations};
use crate::time::utc;

#[derive(Serialize)]
struct Listed {
    generations: Vec<GenerationStatus>,
}

pub(super) fn run(args: &Generations) -> Result<()> {
    let store = look(&args.store)?;
    let listed = Listed { generations: generations(&store.contents) };
    if args.json {
        return say_json(&listed);
    }
    say(format_args!(
        "{:>10}  {:20}  {:8}  {:7}  {:>10}  {:>10}",
        "generation", "time", "state", "mode", "changed", "undo"
    ));
    for one in &listed.generations {
        let notes: Vec<_> = one.pinned.then_some("pinned").into_iter().chain(one.moment.flaws()).collect();
        let notes = if notes.is_empty() { String::new() } else { format!("  {}", notes.join(", ")) };
        say(format_args!(
            "{:>10}  {:20}  {:8}  {:7}  {:>10}  {:>10}{notes}",
            one.generation.0,
            utc(one.time),
            one.state,
            one.mode,
            one.bytes_changed,
            one.undo_size
        ));
    }
    Ok(())
}
