// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr generations`

use serde::Serialize;

use super::args::Generations;
use super::store::look;
use super::time::utc;
use super::{say, say_json};
use crate::error::Result;
use crate::status::{GenerationStatus, generations};

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
        let pinned = if one.pinned { "  pinned" } else { "" };
        say(format_args!(
            "{:>10}  {:20}  {:8}  {:7}  {:>10}  {:>10}{pinned}",
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
