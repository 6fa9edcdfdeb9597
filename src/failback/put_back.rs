// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the image the generation again that a machine was started from, out of what the kernel kept of it.
//!
//! It may be cut off anywhere: the live store is only read, so it is done again from the start.

use crate::disk::whole::{read_exact_at, write_all_at};
use crate::engine::digest::DigestKey;
use crate::error::{Error, Kind, Result};
use crate::format::index::{FAILBACK, HOME, Index, LIVE_STORE, Object, STAYS};
use crate::format::superblock::State;
use crate::store::Store;
use crate::store::contents::{buffer, damaged};
use crate::store::placement::Placement;
use crate::store::table::TableReader;
use crate::swap;
use crate::sys::buffer::Buffer;
use crate::units::{Bytes, CHUNK, Chunk, Generation, SECTOR};

/// Entries in an area: 16 bytes each. (`struct disk_exception` of `dm-snap-persistent.c`)
const PER_AREA: u64 = CHUNK / 16;

/// `SnAp`, little-endian.
const MAGIC: u32 = 0x7041_6e53;

/// Ends what a machine did to the image, where another disk holds all of it, or nothing was done. Where what it overwrote
/// is not all there, the copy is given up, and the next sync makes a new one; the generation that the store is now, if it
/// is one.
pub fn put_back(store: &mut Store) -> Result<Option<Generation>> {
    match put_back_whole(store) {
        Err(error) if error.kind() == Kind::Damaged => {
            let (State::Returning(from) | State::LiveNoHistory(from)) = store.contents.superblock.state
            else {
                return Err(error);
            };
            tracing::warn!("{error}, ignoring: the next sync copies everything");
            give_up(store, from)
        }
        outcome => outcome,
    }
}

/// The same where nothing else holds what would be lost: a generation that cannot be had whole is an error, and may be
/// had the next time.
pub fn put_back_whole(store: &mut Store) -> Result<Option<Generation>> {
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
    check(store)?;
    store.prove()?;
    let disk = store.disk.clone();
    let image = store.contents.image(store.contents.newest_map());
    each_kept(store, |chunk, bytes| {
        let at = image.chunk(chunk).ok_or_else(|| damaged(store.reader(), "a kept chunk has no place"))?;
        write_all_at(disk.as_ref(), at, bytes)
    })?;
    store.flush()?;
    let index = without_live(&store.contents.index);
    store.change(State::Clean(from), index)?;
    Ok(Some(from))
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
pub fn can_be_given_up(store: &Store) -> Result<()> {
    match store.contents.superblock.state {
        State::Live(_) => check(store),
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
pub fn give_up_all(store: &mut Store) -> Result<()> {
    can_be_given_up(store)?;
    let State::Live(from) = store.contents.superblock.state else { return discard(store) };
    let mut index = store.contents.index.clone();
    index.objects.retain(|object| object.kind != FAILBACK);
    store.prove()?;
    store.change(State::Returning(from), index)?;
    put_back_whole(store).map(drop)
}

/// Every chunk that was kept must be what the generation's digest says.
fn check(store: &Store) -> Result<()> {
    each_kept(store, |_, _| Ok(()))
}

/// Hands out each chunk that was kept, up to the end of the disk, once it is what the generation's digest says.
fn each_kept(store: &Store, mut then: impl FnMut(Chunk, &[u8]) -> Result<()>) -> Result<()> {
    let contents = &store.contents;
    let (map, key) = (contents.newest_map(), DigestKey::new(contents.index.secret));
    let mut table = TableReader::new(contents.table(), map.chunks())?;
    let mut kept = Kept::of(store)?;
    while let Some((chunk, bytes)) = kept.next(store)? {
        // Behind the end of the disk the image is zeros, and the kernel keeps nothing.
        let left = map.disk.saturating_sub(chunk.start());
        bytes[left.min(Bytes(CHUNK)).usize()..].fill(0);
        let whole: &[u8; CHUNK as usize] = (&**bytes).try_into().expect("it is one chunk");
        if chunk.0 >= map.chunks() || table.get(store.reader(), chunk)? != key.digest(whole).0 {
            return Err(damaged(store.reader(), &format!("what was kept of chunk {} is not right", chunk.0)));
        }
        then(chunk, &bytes[..left.round_up(SECTOR).min(Bytes(CHUNK)).usize()])?;
    }
    Ok(())
}

/// Nothing is left to go back to: the image is the machine's, and of what it was there is not everything.
fn give_up(store: &mut Store, from: Generation) -> Result<Option<Generation>> {
    let mut index = without_live(&store.contents.index);
    let newest = store.contents.newest_map().id;
    index.generations.clear();
    index.drop_unused_maps(newest);
    store.change(State::NoValid { done: 0, to: from.next() }, index)?;
    Ok(None)
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

/// The exceptions of the live store, one after the other.
struct Kept {
    place: Placement,
    size: Bytes,
    area: Buffer,
    data: Buffer,
    /// Which exception comes next; `None` where nothing was ever kept.
    entry: Option<u64>,
}

impl Kept {
    fn of(store: &Store) -> Result<Self> {
        let live = store.contents.live_store();
        let live = live.ok_or_else(|| damaged(store.reader(), "it is live and has no live store"))?;
        let place = crate::failover::mark::placement(store, &live.runs);
        let mut kept = Self {
            size: place.size(),
            place,
            area: buffer(CHUNK as usize)?,
            data: buffer(CHUNK as usize)?,
            entry: Some(0),
        };
        kept.read(store, 0)?;
        let word = |at: usize| u32::from_le_bytes(kept.data[at..at + 4].try_into().expect("four bytes"));
        match [word(0), word(4), word(8), word(12)] {
            [0, ..] => kept.entry = None,
            [MAGIC, 1, 1, chunk] if u64::from(chunk) == CHUNK / SECTOR => {}
            [MAGIC, 0, ..] => return Err(damaged(store.reader(), "its live store has overflowed")),
            _ => return Err(damaged(store.reader(), "its live store is none")),
        }
        Ok(kept)
    }

    /// The next chunk of the image, and what it held.
    fn next(&mut self, store: &Store) -> Result<Option<(Chunk, &mut Buffer)>> {
        let Some(entry) = self.entry else { return Ok(None) };
        let slot = entry % PER_AREA;
        if slot == 0 {
            let area = 1 + entry / PER_AREA * (PER_AREA + 1);
            if Bytes((area + 1) * CHUNK) > self.size {
                return Ok(None);
            }
            self.read(store, area)?;
            std::mem::swap(&mut self.area, &mut self.data);
        }
        let word = |at: usize| u64::from_le_bytes(self.area[at..at + 8].try_into().expect("eight bytes"));
        let (old, new) = (word(slot as usize * 16), word(slot as usize * 16 + 8));
        if new == 0 {
            return Ok(None);
        }
        if new.checked_add(1).and_then(|end| end.checked_mul(CHUNK)).is_none_or(|end| end > self.size.0) {
            return Err(damaged(store.reader(), "its live store points behind its own end"));
        }
        self.read(store, new)?;
        self.entry = Some(entry + 1);
        Ok(Some((Chunk(old), &mut self.data)))
    }

    fn read(&mut self, store: &Store, chunk: u64) -> Result<()> {
        let at = self.place.chunk(Chunk(chunk));
        let at = at.ok_or_else(|| damaged(store.reader(), "its live store is shorter than it says"))?;
        read_exact_at(store.reader(), at, &mut self.data).map_err(|error| {
            if error.kind() == Kind::Device {
                error
            } else {
                Error::new(Kind::Damaged, "reading", error.cause())
            }
        })
    }
}
