// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which generation of the copy starts: the one that was named, or what somebody says at the console, for which what ran
//! from the copy may have to be given up.

use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::ask;
use super::cmdline::{CmdLine, Pick};
use super::steps::Steps;
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
use crate::format::superblock::State;
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
    let seen = looked(dir, config)?;
    match seen.contents.superblock.state {
        State::Returning(_) => return Ok(None),
        state if !is_newer(state) => return Ok(None),
        _ => {}
    }
    let line = CmdLine::of_kernel();
    if line.pair.is_some_and(|pair| pair != config.name) {
        // The menu was that of another pair, whose copy is not the one that is newer.
        let why = format!("a system has run from the copy of the pair {}, which was not meant", config.name);
        return Err(not_asked(&seen, &why).next("choose that entry in the menu of its DPSR disk"));
    }
    say(Level::Warning, "looking whether the copy can be made a generation again");
    let sequence = {
        let store = claimed(config)?;
        put_back::can_be_given_up(&store, &Steps::default())?;
        store.contents.superblock.sequence
    };
    let way_back = Target::in_store(&seen.contents).is_some();
    // Which disk a way back that was begun has left half written is not told apart here.
    let primary = !way_back && comes(config, Target::home(&seen.contents).as_ref());
    let since = seen.contents.live_since().map_or(String::new(), |since| format!(" since {}", utc(since)));
    let way_back = if way_back { ", AND THE WAY BACK THAT WAS BEGUN," } else { "" };
    let (pair, disk) = (&config.name, seen.dpsr.probe.name());
    let lost =
        format!("pair {pair}, {disk}: WHAT THE SYSTEM HAS WRITTEN{since}{way_back} IS LOST WITH THAT.");
    let answer = ask::instead(complete(&seen)?, primary, &lost).within(THINKING);
    let answer = answer.ok_or_else(|| not_asked(&seen, "nobody has said one"))?;
    drop(seen);
    let mut store = claimed(config)?;
    if store.contents.superblock.sequence != sequence {
        return Err(refused(&store, "it has changed meanwhile"));
    }
    say(Level::Warning, "the copy is made a generation again; leave the machine on until it starts");
    put_back::give_up_all(&mut store, &Steps::default())?;
    say(Level::Warning, "what a system wrote that ran from the copy was given up");
    Ok(Some(answer.map_or(Instead::Primary, Instead::Generation)))
}

/// The store, for oneself; not where volumes stay on the primary, of which the copy has only what they were.
fn claimed(config: &PairConfig) -> Result<Store> {
    let dpsr = Arc::new(failover::claimed(&Roots::default(), config)?);
    let partition = dpsr.store.range.clone();
    let store = Store::open(dpsr, partition, owner())?;
    match Stays::in_store(&store.contents)? {
        None => Ok(store),
        Some(stays) => {
            let why = format!("volumes stay on the primary ({}), which are newer", stays.disk.name());
            Err(refused(&store, &why))
        }
    }
}

fn refused(store: &Store, why: &str) -> Error {
    Error::new(Kind::Refused, "giving up what a system wrote", why)
        .on(store.disk.name())
        .left("nothing was written")
        .next("start it without giving that up")
}

/// Whether the primary is there, or comes while a missing one would be waited for.
fn comes(config: &PairConfig, home: Option<&Target>) -> bool {
    let deadline = Instant::now() + config.failover.wait(CmdLine::of_kernel().wait);
    loop {
        let there = presence::primary(config, home) == Presence::There;
        if there || Instant::now() >= deadline {
            return there;
        }
        sleep(GLANCE);
    }
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
