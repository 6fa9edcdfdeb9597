// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr detach`

use uuid::Uuid;

use super::args::{Detach, Source};
use super::store::look;
use super::{end_in_order, say};
use crate::attach::{PRIMARY, choose, detach, found};
use crate::dm::Mapper;
use crate::error::Result;
use crate::pair::sysfs::Roots;

pub(super) fn run(args: &Detach) -> Result<()> {
    end_in_order()?;
    let mapper = Mapper::open()?;
    let attached = found(&mapper)?;
    let store = store_of(&args.store)?;
    let chosen: Vec<_> = if args.all {
        attached.keys().filter(|id| store.is_none_or(|store| store == id.store)).copied().collect()
    } else {
        vec![choose(&attached, store, args.generation)?]
    };
    for id in chosen {
        detach(&Roots::default(), &mapper, id, &attached[&id])?;
        match id.generation {
            PRIMARY => say("The old primary is detached."),
            generation => say(format_args!("Generation {generation} is detached.")),
        }
    }
    Ok(())
}

/// The store that was named. Nothing is looked at otherwise: what is to be detached may lie on a disk that
/// is gone.
fn store_of(source: &Source) -> Result<Option<Uuid>> {
    if source.dpsr.is_none() && source.common.pair.is_none() {
        return Ok(None);
    }
    look(source).map(|store| Some(store.contents.superblock.store))
}
