// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which generation of the copy starts: the one that was named, or what somebody says at the console, for which what ran
//! from the copy may have to be given up.

use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::ask;
use super::cmdline::Pick;
use super::told::{Level, say};
use crate::config::PairConfig;
use crate::error::{Error, Kind, Result};
use crate::failback::put_back;
use crate::failback::target::Target;
use crate::failover;
use crate::failover::decide::is_newer;
use crate::failover::presence::{self, Presence};
use crate::failover::stays::Stays;
use crate::format::index::Record;
use crate::open::{self, OpenStore, owner};
use crate::pair::sysfs::Roots;
use crate::store::Store;
use crate::time::utc;
use crate::units::Generation;

/// How long somebody may look at the store meanwhile.
const BUSY: Duration = Duration::from_secs(15);

/// How long somebody at the console may think about which generation to start.
const THINKING: Duration = Duration::from_secs(900);

const GLANCE: Duration = Duration::from_millis(100);

/// The generation to start; the newest one, or that from which a system goes on, where it is `None`.
pub(super) fn picked(dir: &Path, config: &PairConfig, pick: Option<Pick>) -> Result<Option<Generation>> {
    match pick {
        None => Ok(None),
        Some(Pick::Exactly(generation)) => Ok(Some(generation)),
        Some(Pick::Asked) => asked_for(dir, config),
    }
}

fn asked_for(dir: &Path, config: &PairConfig) -> Result<Option<Generation>> {
    let store = looked(dir, config)?;
    if is_newer(store.contents.superblock.state) {
        return Ok(None);
    }
    let answer = ask::which(complete(&store)?).within(THINKING);
    answer.map(Some).ok_or_else(|| not_asked(&store, "nobody has said one"))
}

/// What is started once what ran from the copy was given up.
pub(super) enum Instead {
    /// A generation of the copy.
    Generation(Generation),
    /// The primary, as it is.
    Primary,
}

/// Gives up what a system wrote that ran from the copy, once somebody has said what to start instead. `None` where no
/// system has run from it.
pub(super) fn given_up(dir: &Path, config: &PairConfig) -> Result<Option<Instead>> {
    let store = looked(dir, config)?;
    if !is_newer(store.contents.superblock.state) {
        return Ok(None);
    }
    if let Some(stays) = Stays::in_store(&store.contents)? {
        let why = format!("volumes stay on the primary ({}), which are newer", stays.disk.name());
        return Err(
            Error::new(Kind::Refused, "giving up what a system wrote", why).left("nothing was written")
        );
    }
    let since = store.contents.live_since().map_or(String::new(), |since| format!(" since {}", utc(since)));
    let lost = format!("WHAT THE SYSTEM HAS WRITTEN{since} IS LOST WITH THAT.");
    let home = Target::home(&store.contents);
    let there = matches!(presence::primary(config, home.as_ref()), Presence::There);
    let answer = ask::instead(complete(&store)?, there, &lost).within(THINKING);
    let answer = answer.ok_or_else(|| not_asked(&store, "nobody has said one"))?;
    drop(store);
    let dpsr = Arc::new(failover::claimed(&Roots::default(), config)?);
    let partition = dpsr.store.range.clone();
    put_back::give_up_all(&mut Store::open(dpsr, partition, owner())?)?;
    say(Level::Warning, "what a system wrote that ran from the copy was given up");
    Ok(Some(answer.map_or(Instead::Primary, Instead::Generation)))
}

fn looked(dir: &Path, config: &PairConfig) -> Result<OpenStore> {
    let deadline = Instant::now() + BUSY;
    loop {
        match open::look(dir, Some(&config.name)) {
            Err(_) if Instant::now() < deadline => sleep(GLANCE),
            looked => return looked,
        }
    }
}

/// The complete generations, each with its time.
fn complete(store: &OpenStore) -> Result<Vec<(Generation, u64)>> {
    // What a sync that was cut off was to make is rolled back.
    let whole = |one: &&Record| store.contents.current().is_some_and(|newest| one.generation <= newest);
    let all = store.contents.index.generations.iter().filter(whole);
    let all: Vec<_> = all.map(|one| (one.generation, one.time)).collect();
    if all.is_empty() { Err(not_asked(store, "it holds no complete generation")) } else { Ok(all) }
}

fn not_asked(store: &OpenStore, why: &str) -> Error {
    Error::new(Kind::Refused, "asking which generation to start", why)
        .on(store.dpsr.probe.name())
        .left("nothing was written")
}
