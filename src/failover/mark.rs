// SPDX-License-Identifier: MIT OR Apache-2.0
//! The live mark: from the flip to it on, the store belongs to the machine that runs from it, and nothing
//! that dpsr does on another day may overwrite it.
//!
//! From the newest generation a machine writes to the image itself, and what it overwrites goes into the live
//! store. From an older one it writes to the live store alone: the image stays what it is.

use super::room;
use crate::disk::whole::write_all_at;
use crate::error::{Error, Kind, Result};
use crate::format::index::{Index, LIVE_STORE, Object, PRE_IMAGES, Run};
use crate::format::superblock::State;
use crate::store::contents::{Contents, buffer};
use crate::store::free::Free;
use crate::store::placement::Placement;
use crate::store::{Store, recover};
use crate::swap::{self, Placed, Swap};
use crate::units::{Bytes, CHUNK, Generation};

const DOING: &str = "starting the system from";

/// Header and first area of the live store: what has to be zeros before the kernel sees it.
const FRESH: u64 = 2 * CHUNK;

/// A store from which a machine may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The generation that it started from.
    pub from: Generation,
    /// Whether a machine has run from it before: what it wrote is there still.
    pub resumed: bool,
    /// Whether an interrupted sync had to be rolled back first.
    pub rolled_back: bool,
    /// Whether what is overwritten can be kept.
    pub keeps: bool,
    /// The oldest generations, which made room for what the machine writes.
    pub dropped: Vec<Generation>,
}

/// Makes the store one from which a machine runs: an interrupted sync is rolled back, all free room becomes
/// the live store, and the superblock says so. One that is live already stays as it is, whatever is `wanted`: the
/// newest generation, if not given. `ready` is asked before anything is written whether that can be started: once the mark is there, nothing else is started; what it returns is written down with the mark. `now` in seconds
/// since 1970, UTC.
pub fn go_live(
    store: &mut Store,
    wanted: Option<Generation>,
    now: u64,
    ready: &mut dyn FnMut(&Contents, Generation) -> Result<Vec<Object>>,
) -> Result<Marked> {
    let rolled_back = recover::recover(store)?.is_some();
    let marked = |from, resumed, keeps| Marked { from, resumed, rolled_back, keeps, dropped: Vec::new() };
    match store.contents.superblock.state {
        State::Live(from) if overflowed(store)? => {
            without_history(store, from)?;
            Ok(marked(from, true, false))
        }
        State::Live(from) => Ok(marked(from, true, true)),
        State::LiveNoHistory(from) => Ok(marked(from, true, false)),
        State::Aside(newest) if overflowed(store)? => {
            let why = "the room for what it wrote had run out, so that it cannot go on";
            Err(refused(store, why).next(format!(
                "generation {newest} and all before it are whole: the DPSR disk's menu gives up what was written"
            )))
        }
        State::Aside(newest) => Ok(marked(store.contents.aside().unwrap_or(newest), true, true)),
        State::Returning(_) => Err(refused(store, "it is being made a generation again")
            .next("start again: that brings it in order")),
        State::Clean(newest) => {
            let from = wanted.unwrap_or(newest);
            let with = ready(&store.contents, from)?;
            let dropped = make_room(store, newest, from)?;
            let keeps = begin(store, (newest, from), now, with)?;
            Ok(Marked { dropped, ..marked(from, false, keeps) })
        }
        State::Filling { .. } | State::NoValid { .. } | State::Updating { .. } => {
            let next = "start the primary, or restore from elsewhere";
            Err(refused(store, "it holds no complete generation").next(next))
        }
    }
}

fn refused(store: &Store, why: &str) -> Error {
    Error::new(Kind::Refused, DOING, why).on(store.disk.name()).left("nothing was written")
}

/// The extents of what goes are nobody's only after the flip, so this is one of its own.
fn make_room(store: &mut Store, newest: Generation, from: Generation) -> Result<Vec<Generation>> {
    let geometry = store.contents.superblock.geometry;
    let disk = store.contents.map_of(store.contents.record(from)?).disk;
    let mut index = without_pre_images(store);
    let dropped = room::make(&mut index, geometry, disk, from);
    if !dropped.is_empty() {
        store.prove()?;
        store.change(State::Clean(newest), index)?;
    }
    Ok(dropped)
}

/// Room for pre-images of the primary is for syncs, of which there are none while the machine runs from the copy; the
/// next one takes it anew.
fn without_pre_images(store: &Store) -> Index {
    let mut index = store.contents.index.clone();
    index.objects.retain(|object| object.kind != PRE_IMAGES);
    index
}

/// What a live store is about: when it began, seconds since 1970, UTC, and, where that is not the newest, at which
/// generation. Whether what is overwritten is kept.
fn begin(
    store: &mut Store,
    (newest, from): (Generation, Generation),
    now: u64,
    with: Vec<Object>,
) -> Result<bool> {
    let geometry = store.contents.superblock.geometry;
    let map = store.contents.map_of(store.contents.record(from)?).clone();
    let mut index = without_pre_images(store);
    let mut free = Free::of(&index, &geometry);
    swap::place(&mut index, &map, &mut free, geometry);
    let count = u32::try_from(free.count()).unwrap_or(u32::MAX);
    let runs = free.take(0, count).unwrap_or_default();
    let room = Bytes(u64::from(count) * geometry.extent.0) >= Bytes(FRESH);
    if !room && from != newest {
        let why = "no room is left for what the system would write";
        return Err(Error::new(Kind::NoRoom, DOING, why)
            .on(store.disk.name())
            .left("nothing was written")
            .next("start the newest generation, which needs none"));
    }
    index.objects.extend(with);
    store.prove()?;
    for Placed { swap, runs, .. } in swap::recorded(&index, &map) {
        make_swap(store, &swap, &runs)?;
    }
    if !room {
        store.flush()?;
        store.change(State::LiveNoHistory(from), index)?;
        return Ok(false);
    }
    zero_head(store, &runs)?;
    store.flush()?;
    let mut about = now.to_le_bytes().to_vec();
    let state = match from == newest {
        true => State::Live(from),
        false => {
            about.extend(from.0.to_le_bytes());
            State::Aside(newest)
        }
    };
    index.objects.push(Object { kind: LIVE_STORE, about, runs });
    store.change(state, index)?;
    Ok(true)
}

/// Makes an empty swap space in extents of the store.
fn make_swap(store: &Store, swap: &Swap, runs: &[Run]) -> Result<()> {
    let place = placement(store, runs);
    match place.stretch(Bytes::ZERO).at {
        Some(at) => write_all_at(store.disk.as_ref(), at, &swap.header(place.size())?),
        None => Ok(()),
    }
}

/// The extents held something else before; stale areas behind a fresh header would be believed.
fn zero_head(store: &Store, runs: &[Run]) -> Result<()> {
    let zeros = buffer(CHUNK as usize)?;
    let place = placement(store, runs);
    for chunk in 0..FRESH / CHUNK {
        let at = place.stretch(Bytes(chunk * CHUNK)).at.expect("it has room for more");
        write_all_at(store.disk.as_ref(), at, &zeros)?;
    }
    Ok(())
}

/// Where a live store with these runs lies.
pub fn placement(store: &Store, runs: &[Run]) -> Placement {
    Placement::new(runs, store.contents.superblock.geometry, store.contents.base)
}

/// The kernel clears `valid`, the second word of the header, when a snapshot has no room left.
/// (`struct disk_header` of `dm-snap-persistent.c`)
fn overflowed(store: &Store) -> Result<bool> {
    let Some(object) = store.contents.live_store() else { return Ok(true) };
    let at = placement(store, &object.runs).stretch(Bytes::ZERO).at.expect("it is not empty");
    let mut header = buffer(CHUNK as usize)?;
    crate::disk::whole::read_exact_at(store.reader(), at, &mut header)?;
    let [magic, valid] =
        [0, 4].map(|at| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes")));
    Ok(magic != 0 && valid == 0)
}

/// Older generations were told by the image and the live store together; without that one they are gone.
fn without_history(store: &mut Store, from: Generation) -> Result<()> {
    let index = store.contents.index.clone();
    let objects = index.objects.iter().filter(|object| object.kind != LIVE_STORE).cloned().collect();
    store.change(State::LiveNoHistory(from), Index { objects, ..index })
}
