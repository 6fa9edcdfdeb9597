// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cutting the power: a disk that can be forked at no cost, and the states in which a cut may leave it.
//!
//! What was flushed is there; of what was not, any part may be, sector by sector, in any order.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dpsr::disk::recorded::Event;
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::format::geometry::Geometry;
use dpsr::units::{Bytes, PAGE, SECTOR};

use crate::world::{BASE, mixed, stamped};

type Page = [u8; PAGE as usize];

/// A disk in memory: pages written since, over a base that all forks share; zeros behind the base, which take no
/// memory.
pub struct Overlay {
    name: &'static str,
    size: Bytes,
    base: Arc<Vec<u8>>,
    pages: Mutex<BTreeMap<u64, Arc<Page>>>,
}

impl Overlay {
    /// A disk of `size` bytes that begins with those of `base`.
    pub fn new(name: &'static str, base: Vec<u8>, size: u64) -> Self {
        Self { name, size: Bytes(size), base: Arc::new(base), pages: Mutex::default() }
    }

    /// Another disk that holds the same now.
    pub fn fork(&self) -> Self {
        let pages = Mutex::new(self.pages.lock().unwrap().clone());
        Self { name: self.name, size: self.size, base: self.base.clone(), pages }
    }

    /// Does to this disk what `event` says, but only in the sectors that `kept` chooses.
    pub fn apply(&self, event: &Event, mut kept: impl FnMut(u64) -> bool) {
        let (start, data) = match event {
            Event::Write { at, data } => (at.0, data),
            Event::Zero(range) => {
                for at in self.not_zero(range) {
                    if kept((at - range.start.0) / SECTOR) {
                        self.put(at, &[0; SECTOR as usize]);
                    }
                }
                return;
            }
            Event::Flush => return,
        };
        for (i, sector) in data.chunks(SECTOR as usize).enumerate() {
            if kept(i as u64) {
                self.put(start + i as u64 * SECTOR, sector);
            }
        }
    }

    /// The sectors of a range that may hold something else than zeros.
    fn not_zero(&self, range: &Range<Bytes>) -> Vec<u64> {
        let (start, end) = (range.start.0, range.end.0);
        let below = start..end.min(self.base.len() as u64).max(start);
        let pages = self.pages.lock().unwrap();
        let above = pages
            .range(below.end / PAGE..end.div_ceil(PAGE))
            .flat_map(|(page, _)| (page * PAGE..(page + 1) * PAGE).step_by(SECTOR as usize));
        let above = above.filter(|at| (below.end..end).contains(at));
        below.clone().step_by(SECTOR as usize).chain(above).collect()
    }

    /// Puts noise into a sector that `event` was about to write.
    fn scramble(&self, event: &Event, dice: &mut Dice) {
        let (start, len) = match event {
            Event::Write { at, data } => (at.0, data.len() as u64),
            Event::Zero(range) => (range.start.0, (range.end - range.start).0),
            Event::Flush => return,
        };
        // The first sector most often: it is the one that superblocks stand in.
        let sector = if dice.below(2) == 0 { 0 } else { dice.below(len / SECTOR) };
        self.put(start + sector * SECTOR, &stamped(SECTOR as usize, dice.below(u64::MAX)));
    }

    /// Flips one bit.
    pub fn flip(&self, at: u64, bit: u32) {
        let mut byte = [0];
        self.get(at, &mut byte);
        self.put(at, &[byte[0] ^ 1 << bit]);
    }

    fn get(&self, at: u64, bytes: &mut [u8]) {
        let pages = self.pages.lock().unwrap();
        for (page, within, part) in parts(at, bytes.len()) {
            let into = &mut bytes[part];
            match pages.get(&page) {
                Some(found) => into.copy_from_slice(&found[within]),
                None => self.below(page * PAGE + within.start as u64, into),
            }
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let mut pages = self.pages.lock().unwrap();
        for (page, within, part) in parts(at, bytes.len()) {
            let behind = page * PAGE >= self.base.len() as u64;
            if behind && bytes[part.clone()].iter().all(|byte| *byte == 0) {
                if within.len() == PAGE as usize {
                    pages.remove(&page);
                }
                if !pages.contains_key(&page) {
                    continue;
                }
            }
            let page = pages.entry(page).or_insert_with(|| {
                let mut fresh = [0; PAGE as usize];
                self.below(page * PAGE, &mut fresh);
                Arc::new(fresh)
            });
            Arc::make_mut(page)[within].copy_from_slice(&bytes[part]);
        }
    }

    fn below(&self, at: u64, into: &mut [u8]) {
        let start = (at as usize).min(self.base.len());
        let len = into.len().min(self.base.len() - start);
        into[..len].copy_from_slice(&self.base[start..start + len]);
        into[len..].fill(0);
    }
}

/// The pages that `len` bytes from `at` touch: number, bytes within the page, bytes of the whole.
fn parts(at: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let (page, within) = ((at + done as u64) / PAGE, ((at + done as u64) % PAGE) as usize);
            let part = done..len.min(done + PAGE as usize - within);
            done = part.end;
            (page, within..within + part.len(), part)
        })
    })
}

impl ReadDisk for Overlay {
    fn name(&self) -> &str {
        self.name
    }

    fn size(&self) -> Bytes {
        self.size
    }

    fn alignment(&self) -> Bytes {
        Bytes(SECTOR)
    }

    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.size.saturating_sub(at).usize().min(buffer.len());
        self.get(at.0, &mut buffer[..len]);
        Ok(len)
    }
}

impl WriteDisk for Overlay {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        assert!(at.is_multiple_of(SECTOR) && buffer.len().is_multiple_of(SECTOR as usize));
        assert!(at + Bytes(buffer.len() as u64) <= self.size, "a write past the end");
        self.put(at.0, buffer);
        Ok(buffer.len())
    }

    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        assert!(range.start.is_multiple_of(SECTOR) && range.end.is_multiple_of(SECTOR));
        assert!(range.end <= self.size, "zeros past the end");
        self.apply(&Event::Zero(range), |_| true);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn prove(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Numbers that look random and are the same in every run.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 += 1;
        mixed(self.0) % end.max(1)
    }
}

/// How a cut treats what was not flushed.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// All of it is there.
    Nothing,
    /// Some of the writes are there, whole.
    Writes,
    /// Of some of the writes some sectors are there.
    Sectors,
    /// Like that, and a sector of each of them holds neither what it held nor what was written.
    Garbage,
}

/// A moment at which the power is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// How many events had happened.
    pub after: usize,
    /// What becomes of those behind the last flush.
    pub loss: Loss,
    /// Seed for the choice.
    pub seed: u64,
}

/// Cuts of a log: after every event, the beginning and the end included, and `each` random losses in each epoch
/// between two flushes.
pub fn cuts(events: &[Event], each: usize, seed: u64) -> Vec<Cut> {
    let flushes = events.iter().enumerate().filter(|(_, event)| **event == Event::Flush).map(|(i, _)| i);
    let mut borders: Vec<usize> = std::iter::once(0).chain(flushes.map(|i| i + 1)).collect();
    borders.push(events.len());
    let prefix = |after| Cut { after, loss: Loss::Nothing, seed: 0 };
    let mut cuts: Vec<Cut> = (0..=events.len()).map(prefix).collect();
    let mut dice = Dice(seed << 32);
    for epoch in borders.windows(2) {
        let writes = (epoch[0]..epoch[1]).filter(|i| events[*i] != Event::Flush).count() as u64;
        for i in 0..if writes == 0 { 0 } else { each } {
            let after = epoch[0] + 1 + dice.below(writes) as usize;
            let after = if i % 2 == 0 { epoch[0] + writes as usize } else { after };
            let loss = [Loss::Sectors, Loss::Sectors, Loss::Writes, Loss::Writes, Loss::Garbage][i % 5];
            cuts.push(Cut { after, loss, seed: dice.below(u64::MAX) });
        }
    }
    cuts
}

#[test]
fn every_prefix_of_a_log_is_cut() {
    let write = |at| Event::Write { at: Bytes(at * SECTOR), data: vec![1; SECTOR as usize] };
    for len in 0..50 {
        let events: Vec<_> = (0..len).map(|i| if i % 7 == 6 { Event::Flush } else { write(i) }).collect();
        let whole = cuts(&events, 3, 1).into_iter().filter(|cut| matches!(cut.loss, Loss::Nothing));
        let prefixes: Vec<_> = whole.map(|cut| cut.after as u64).collect();
        assert_eq!(prefixes, (0..=len).collect::<Vec<_>>());
    }
}

/// What `start` holds when the power is cut.
pub fn cut(start: &Overlay, events: &[Event], cut: Cut) -> Overlay {
    let disk = start.fork();
    let done = &events[..cut.after];
    let durable = match cut.loss {
        Loss::Nothing => done.len(),
        _ => done.iter().rposition(|event| *event == Event::Flush).map_or(0, |i| i + 1),
    };
    done[..durable].iter().for_each(|event| disk.apply(event, |_| true));
    let mut dice = Dice(cut.seed);
    let mut volatile: Vec<&Event> = done[durable..].iter().collect();
    for i in (1..volatile.len()).rev() {
        volatile.swap(i, dice.below(i as u64 + 1) as usize);
    }
    for event in volatile {
        match (cut.loss, dice.below(4)) {
            (Loss::Garbage, _) => {
                disk.apply(event, |_| dice.below(2) == 0);
                disk.scramble(event, &mut dice);
            }
            (_, 0) => {}
            (Loss::Sectors, 1) => disk.apply(event, |_| dice.below(2) == 0),
            (Loss::Sectors, 2) => {
                let (first, seed) = (dice.below(2) == 0, dice.below(256));
                disk.apply(event, |sector| (sector < seed) == first);
            }
            (_, choice) if choice % 2 == 1 => disk.apply(event, |_| true),
            _ => {}
        }
    }
    disk
}

/// Flips a random bit in a random superblock copy; where in the store that stands.
pub fn rot_a_superblock(disk: &Overlay, store: u64, dice: &mut Dice) -> Bytes {
    let location = Geometry::superblocks_in(Bytes(store))[dice.below(3) as usize];
    disk.flip(BASE + location.0 + dice.below(PAGE), dice.below(8) as u32);
    location
}

/// Does `work` for every number below `count`, on as many threads as there are processors. All of them are
/// done, whatever fails.
pub fn all(count: usize, work: impl Fn(usize) + Sync) {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(4));
    let serve = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| work(i))).is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(serve))));
    let failed = failed.into_inner();
    assert_eq!(failed, 0, "{failed} of {count} failed");
}

/// Says what was being done, if that fails.
pub struct During(pub String);

impl Drop for During {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("during {}", self.0);
        }
    }
}
