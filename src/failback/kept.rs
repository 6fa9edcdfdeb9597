// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel kept of the image in the live store: found, brought into the order of the image, checked against the
//! digests of the generation, and put back.
//!
//! The kernel keeps chunks in the order in which they were overwritten first. In that order each would need another part of
//! the digest table, and the head of a disk would go to and fro; and nobody waits for less here than for a whole machine.

use crate::disk::whole::read_exact_at;
use crate::engine::digest::DigestKey;
use crate::engine::{Batch, Disks, Engine, Shape, Work, WriteId};
use crate::error::{Error, Kind, Result};
use crate::failover::mark::placement;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::contents::{buffer, damaged};
use crate::store::placement::Placement;
use crate::store::table::TableReader;
use crate::sys::buffer::Buffer;
use crate::units::{Bytes, CHUNK, Chunk, SECTOR};

/// Entries in an area: 16 bytes each. (`struct disk_exception` of `dm-snap-persistent.c`)
const PER_AREA: u64 = CHUNK / 16;

/// `SnAp`, little-endian.
const MAGIC: u32 = 0x7041_6e53;

/// How many chunks are brought into order at a time: a MiB of memory for 4 GiB that was kept. The digest table is read once
/// for all of them.
const WINDOW: usize = 1 << 16;

/// A chunk of the image, and where on the disk what it held was kept.
type Entry = (Chunk, Bytes);

/// Whether everything that was kept is there and is what the generation's digests say.
pub(super) fn check(store: &Store, progress: &dyn Progress) -> Result<()> {
    each(store, false, "checking what was kept", progress)
}

/// Puts it back into the image, each chunk once it was checked; not flushed.
pub(super) fn write_back(store: &Store, progress: &dyn Progress) -> Result<()> {
    each(store, true, "making the copy a generation again", progress).map_err(|error| {
        error
            .replace_left(
                "the image is that generation again in part; what was kept of it stays until all of it is",
            )
            .next("restart: it is begun anew then")
    })
}

fn each(store: &Store, write: bool, what: &str, progress: &dyn Progress) -> Result<()> {
    let contents = &store.contents;
    let all = Kept::of(store)?.map(|entry| entry.map(|_| CHUNK)).sum::<Result<u64>>()?;
    progress.begin(what, Bytes(all));
    let mut disks = Disks::default();
    let disk = disks.add_write(store.disk.clone());
    let mut engine = Engine::new(disks, Shape::default())?;
    let map = contents.newest_map();
    let mut work = PutBack {
        store,
        disk,
        image: contents.image(map),
        table: TableReader::new(contents.table(), map.chunks())?,
        key: DigestKey::new(contents.index.secret),
        window: Vec::with_capacity(WINDOW.min((all / CHUNK) as usize)),
        planned: 0,
        write,
        progress,
    };
    let mut kept = Kept::of(store)?;
    while work.fill(&mut kept)? {
        engine.run_to_end(&mut work)?;
    }
    Ok(())
}

struct PutBack<'a> {
    store: &'a Store,
    disk: WriteId,
    image: Placement,
    table: TableReader,
    key: DigestKey,
    /// In the order of the image.
    window: Vec<Entry>,
    /// How many of them are being read, or were.
    planned: usize,
    write: bool,
    progress: &'a dyn Progress,
}

impl PutBack<'_> {
    /// Takes the next entries; false where there are none.
    fn fill(&mut self, kept: &mut Kept<'_>) -> Result<bool> {
        self.window.clear();
        self.planned = 0;
        for entry in kept.take(WINDOW) {
            self.window.push(entry?);
        }
        self.window.sort_unstable();
        Ok(!self.window.is_empty())
    }

    /// Checks a chunk; how much of it is before the end of the disk.
    fn checked(&mut self, chunk: Chunk, bytes: &mut [u8]) -> Result<Bytes> {
        let map = self.store.contents.newest_map();
        // Behind the end of the disk the image is zeros, and the kernel keeps nothing.
        let left = map.disk.saturating_sub(chunk.start());
        bytes[left.min(Bytes(CHUNK)).usize()..].fill(0);
        let whole: &[u8; CHUNK as usize] = (&*bytes).try_into().expect("it is one chunk");
        let reader = self.store.reader();
        if chunk.0 >= map.chunks() || self.table.get(reader, chunk)? != self.key.digest(whole).0 {
            return Err(damaged(reader, &format!("what was kept of chunk {} is not right", chunk.0)));
        }
        Ok(left.round_up(SECTOR).min(Bytes(CHUNK)))
    }
}

impl Work for PutBack<'_> {
    /// The first of the entries in a batch.
    type Tag = usize;

    fn next(&mut self, batch: &mut Batch) -> Result<Option<usize>> {
        let first = self.planned;
        let fit = batch.bytes().len() / CHUNK as usize;
        let entries = &self.window[first..][..fit.min(self.window.len() - first)];
        for ((_, at), slot) in entries.iter().zip(slots()) {
            batch.read(self.disk.as_read(), *at, slot);
        }
        self.planned += entries.len();
        Ok((!entries.is_empty()).then_some(first))
    }

    fn process(&mut self, first: usize, batch: &mut Batch) -> Result<()> {
        let fit = batch.bytes().len() / CHUNK as usize;
        let until = self.window.len().min(first + fit);
        for (entry, slot) in (first..until).zip(slots()) {
            let (chunk, _) = self.window[entry];
            let len = self.checked(chunk, &mut batch.bytes_mut()[slot.clone()])?;
            self.progress.advance(Bytes(CHUNK));
            if self.write {
                let at = self.image.chunk(chunk);
                let at = at.ok_or_else(|| damaged(self.store.reader(), "a kept chunk has no place"))?;
                batch.write(self.disk, at, slot.start..slot.start + len.usize());
            }
        }
        Ok(())
    }
}

/// The parts of a buffer, a chunk each.
fn slots() -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..).step_by(CHUNK as usize).map(|start| start..start + CHUNK as usize)
}

/// The exceptions of the live store, in the order in which the kernel made them.
struct Kept<'a> {
    store: &'a Store,
    place: Placement,
    size: Bytes,
    area: Buffer,
    /// Which exception comes next; `None` where there are no more.
    entry: Option<u64>,
}

impl<'a> Kept<'a> {
    fn of(store: &'a Store) -> Result<Self> {
        let live = store.contents.live_store();
        let live = live.ok_or_else(|| damaged(store.reader(), "it is live and has no live store"))?;
        let place = placement(store, &live.runs);
        let mut kept =
            Self { store, size: place.size(), place, area: buffer(CHUNK as usize)?, entry: Some(0) };
        kept.read(0)?;
        let word = |at: usize| u32::from_le_bytes(kept.area[at..at + 4].try_into().expect("four bytes"));
        match [word(0), word(4), word(8), word(12)] {
            [0, ..] => kept.entry = None,
            [MAGIC, 1, 1, chunk] if u64::from(chunk) == CHUNK / SECTOR => {}
            [MAGIC, 0, ..] => return Err(damaged(store.reader(), "its live store has overflowed")),
            _ => return Err(damaged(store.reader(), "its live store is none")),
        }
        Ok(kept)
    }

    fn entry(&mut self) -> Result<Option<Entry>> {
        let Some(entry) = self.entry else { return Ok(None) };
        let slot = entry % PER_AREA;
        if slot == 0 {
            let area = 1 + entry / PER_AREA * (PER_AREA + 1);
            if Bytes((area + 1) * CHUNK) > self.size {
                return Ok(None);
            }
            self.read(area)?;
        }
        let word = |at: usize| u64::from_le_bytes(self.area[at..at + 8].try_into().expect("eight bytes"));
        let (old, new) = (word(slot as usize * 16), word(slot as usize * 16 + 8));
        if new == 0 {
            return Ok(None);
        }
        if new.checked_add(1).and_then(|end| end.checked_mul(CHUNK)).is_none_or(|end| end > self.size.0) {
            return Err(damaged(self.store.reader(), "its live store points behind its own end"));
        }
        self.entry = Some(entry + 1);
        Ok(Some((Chunk(old), self.placed(new)?)))
    }

    /// Where a chunk of the live store lies on the disk.
    fn placed(&self, chunk: u64) -> Result<Bytes> {
        let at = self.place.chunk(Chunk(chunk));
        at.ok_or_else(|| damaged(self.store.reader(), "its live store is shorter than it says"))
    }

    fn read(&mut self, chunk: u64) -> Result<()> {
        let at = self.placed(chunk)?;
        read_exact_at(self.store.reader(), at, &mut self.area).map_err(|error| {
            if error.kind() == Kind::Device {
                error
            } else {
                Error::new(Kind::Damaged, "reading", error.cause()).on(self.store.disk.name())
            }
        })
    }
}

impl Iterator for Kept<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        let entry = self.entry().transpose();
        // After an error, too, there are no more.
        if !matches!(entry, Some(Ok(_))) {
            self.entry = None;
        }
        entry
    }
}
