// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the image the generation again that a machine was started from, out of what the kernel kept of it.
//!
//! It may be cut off anywhere: the live store is only read, so it is done again from the start.

use super::kept;
use crate::error::{Error, Kind, Result};
use crate::format::index::{FAILBACK, HOME, Index, LIVE_STORE, Object, STAYS};
use crate::format::superblock::State;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::contents::damaged;
use crate::swap;
use crate::units::Generation;

/// Ends what a machine did to the image, where another disk holds all of it, or nothing was done. Where what it overwrote
/// is not all there, the copy is given up, and the next sync makes a new one; the generation that the store is now, if it
/// is one.
pub fn put_back(store: &mut Store, progress: &dyn Progress) -> Result<Option<Generation>> {
    match put_back_whole(store, progress) {
        Err(error) if error.kind() == Kind::Damaged => {
            let (State::Returning(from) | State::LiveNoHistory(from)) = store.contents.superblock.state
            else {
                return Err(error);
            };
            tracing::warn!("{error}, ignoring: the next sync copies everything");
            give_up(store, from).map(|()| None)
        }
        outcome => outcome,
    }
}

/// The same where nothing else holds what would be lost: a generation that cannot be had whole is an error, and may be
/// had the next time.
pub fn put_back_whole(store: &mut Store, progress: &dyn Progress) -> Result<Option<Generation>> {
    let from = match store.contents.superblock.state {
        State::Live(from) | State::Returning(from) => from,
        State::LiveNoHistory(_) => {
            return Err(damaged(store.reader(), "there was no room to keep what was overwritten"));
        }
        State::Aside(newest) => {
            let index = without_live(&store.contents.index);
            store.change(State::Clean(newest), index)?;
            return Ok(Some(newest));
        }
        _ => return Ok(store.contents.current()),
    };
    // From here on the disk is what counts: it is complete, and whoever starts it may write to it, whatever becomes
    // of the copy.
    if !matches!(store.contents.superblock.state, State::Returning(_)) {
        store.prove()?;
        store.mark(State::Returning(from))?;
    }
    kept::check(store, progress)?;
    written_back(store, from, progress).map(Some)
}

/// Once all that was kept was checked.
fn written_back(store: &mut Store, from: Generation, progress: &dyn Progress) -> Result<Generation> {
    kept::write_back(store, progress)?;
    store.flush()?;
    let index = without_live(&store.contents.index);
    store.change(State::Clean(from), index)?;
    Ok(from)
}

/// Gives up what a machine wrote that ran from an older generation, and with it a way back that was begun: the disk was
/// never its home.
pub fn discard(store: &mut Store) -> Result<()> {
    let State::Aside(newest) = store.contents.superblock.state else { return Ok(()) };
    let mut index = store.contents.index.clone();
    index.objects.retain(|object| object.kind != FAILBACK);
    let index = without_live(&index);
    store.change(State::Clean(newest), index)
}

/// Whether what a machine wrote that ran from the copy can be given up: the error says why not.
pub fn can_be_given_up(store: &Store, progress: &dyn Progress) -> Result<()> {
    match store.contents.superblock.state {
        State::Live(_) => kept::check(store, progress),
        State::Aside(_) => Ok(()),
        State::LiveNoHistory(from) => Err(kept_as_it_is(
            store,
            &format!("there was no room to keep what it overwrote of generation {from}"),
        )),
        _ => Err(kept_as_it_is(store, "no system runs from it")),
    }
}

fn kept_as_it_is(store: &Store, why: &str) -> Error {
    Error::new(Kind::Refused, "giving up what a system wrote", why)
        .on(store.disk.name())
        .left("nothing was written")
        .next("start it without giving that up")
}

/// Gives up whatever a machine wrote that ran from the copy, and with it a way back that was begun. Where the image cannot
/// be made the generation again that it was, nothing is changed.
pub fn give_up_all(store: &mut Store, progress: &dyn Progress) -> Result<()> {
    can_be_given_up(store, progress)?;
    let State::Live(from) = store.contents.superblock.state else { return discard(store) };
    let mut index = store.contents.index.clone();
    index.objects.retain(|object| object.kind != FAILBACK);
    store.prove()?;
    store.change(State::Returning(from), index)?;
    written_back(store, from, progress).map(drop)
}

/// Nothing is left to go back to: the image is the machine's, and of what it was there is not everything, or nobody waits
/// for it any more.
pub fn give_up(store: &mut Store, from: Generation) -> Result<()> {
    let mut index = without_live(&store.contents.index);
    let newest = store.contents.newest_map().id;
    index.generations.clear();
    index.drop_unused_maps(newest);
    store.change(State::NoValid { done: 0, to: from.next() }, index)
}

/// The machine is back: there is no live store any more, and the disk it was to go back to is its home.
fn without_live(index: &Index) -> Index {
    let went_back = index.objects.iter().any(|object| object.kind == FAILBACK);
    let stays = |object: &&Object| match object.kind {
        LIVE_STORE | STAYS => false,
        HOME => !went_back,
        _ => true,
    };
    let mut objects: Vec<Object> = index.objects.iter().filter(stays).cloned().collect();
    for object in objects.iter_mut().filter(|object| object.kind == FAILBACK) {
        object.kind = HOME;
    }
    let mut index = Index { objects, ..index.clone() };
    swap::unplace(&mut index);
    index
}
