// SPDX-License-Identifier: MIT OR Apache-2.0
//! One undo store out of those of neighbouring generations: of each chunk the oldest saved copy that the
//! oldest of them reads. It is what its view is composed of, written down.

use uuid::Uuid;

use crate::disk::{ReadDisk, WriteDisk};
use crate::engine::{Batch, Disks, Engine, Shape, Work, WriteId};
use crate::error::{Error, Result};
use crate::format::digests;
use crate::format::index::Undo;
use crate::format::undo::{Layout, PER_AREA, Record};
use crate::progress::Progress;
use crate::store::Store;
use crate::store::contents::{Contents, damaged};
use crate::store::free::Free;
use crate::store::room::take_undo;
use crate::store::undo::{UndoReader, UndoWriter};
use crate::units::{Bytes, CHUNK, Chunk, Generation, PageMask};
use crate::view::View;
use crate::view::compose::{Exception, Exceptions, Part};

/// Generations whose undo stores become one: from `kept` to `last`, of which only `kept` stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The generation that stays.
    pub(super) kept: Generation,
    /// The last one that goes.
    pub(super) last: Generation,
}

/// What the undo stores of a span come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing had changed.
    Nothing,
    /// One of them already is what is wanted.
    Same(Undo),
    /// A store that has to be written.
    New {
        /// Exceptions in all.
        entries: u64,
        /// Exceptions of the image.
        image_entries: u64,
    },
}

impl Span {
    fn stores(self, contents: &Contents) -> impl Iterator<Item = (Generation, &Undo)> {
        let within = move |generation| (self.kept..=self.last).contains(&generation);
        let records = contents.index.generations.iter().filter(move |record| within(record.generation));
        records.filter_map(|record| record.undo.as_ref().map(|undo| (record.generation, undo)))
    }

    /// Reads and checks the metadata of its undo stores, and says what they come to.
    pub(super) fn outcome(self, contents: &Contents, disk: &dyn ReadDisk) -> Result<Outcome> {
        for (generation, undo) in self.stores(contents) {
            UndoReader::new(contents.undo(undo), undo, generation).check_frame(disk)?;
        }
        let view = View::through(contents, self.kept, self.last)?;
        let mut taken = vec![0u64; self.stores(contents).count()];
        let (mut entries, mut image_entries) = (0, 0);
        let mut merged = Merged::of(&view, disk)?;
        while let Some(exception) = merged.next()? {
            taken[exception.layer] += 1;
            entries += 1;
            image_entries += u64::from(exception.chunk < digests::BASE);
        }
        let whole = |(taken, (_, undo)): &(u64, (_, &Undo))| *taken == entries && undo.entries == entries;
        let same = taken.into_iter().zip(self.stores(contents)).find(whole);
        Ok(match (entries, same) {
            (0, _) => Outcome::Nothing,
            (_, Some((_, (_, undo)))) => Outcome::Same(undo.clone()),
            _ => Outcome::New { entries, image_entries },
        })
    }

    /// Writes the store of so many exceptions into free extents, and makes it durable. Nothing refers to it
    /// yet.
    pub(super) fn write(
        self,
        store: &Store,
        (entries, image_entries): (u64, u64),
        progress: &dyn Progress,
    ) -> Result<Undo> {
        let contents = &store.contents;
        let geometry = contents.superblock.geometry;
        let mut free = Free::of(&contents.index, &geometry);
        let runs = take_undo(&mut free, &geometry, entries).expect("the room was reckoned with before");
        let undo = Undo { nonce: Uuid::new_v4().as_u64_pair().0, entries, image_entries, runs };
        let mut disks = Disks::default();
        let target = disks.add_write(store.disk.clone());
        let mut engine = Engine::new(disks, Shape::default())?;
        let view = View::through(contents, self.kept, self.last)?;
        let what = format!("merging what generation {} is made of", self.kept);
        progress.begin(&what, Bytes(entries * CHUNK));
        let mut work = Merge {
            merged: Merged::of(&view, store.reader())?,
            planned: 0,
            target,
            disk: store.disk.as_ref(),
            undo: UndoWriter::new(contents.undo(&undo), entries, undo.nonce)?,
            progress,
        };
        store.prove()?;
        engine.run(&mut work)?;
        if work.planned != entries {
            return Err(changed(store.reader()));
        }
        work.undo.finish(store.disk.as_ref())?;
        store.flush()?;
        Ok(undo)
    }
}

fn changed(disk: &dyn ReadDisk) -> Error {
    damaged(disk, "an undo store does not read the same twice")
}

/// The exceptions of the merged store in order: those of the image, then those of the digest table, as chunks
/// of the protected address space.
struct Merged<'a> {
    view: &'a View<'a>,
    disk: &'a dyn ReadDisk,
    part: Part,
    exceptions: Exceptions<'a>,
    last: Option<Chunk>,
}

impl<'a> Merged<'a> {
    fn of(view: &'a View<'a>, disk: &'a dyn ReadDisk) -> Result<Self> {
        let part = Part::Image;
        Ok(Self { view, disk, part, exceptions: Exceptions::of(view, disk, part)?, last: None })
    }

    fn next(&mut self) -> Result<Option<Exception>> {
        let mut found = self.exceptions.advance()?;
        if found.is_none() && self.part == Part::Image {
            self.part = Part::Table;
            self.exceptions = Exceptions::of(self.view, self.disk, Part::Table)?;
            found = self.exceptions.advance()?;
        }
        let Some(mut exception) = found else { return Ok(None) };
        if self.part == Part::Table {
            exception.chunk.0 += digests::BASE.0;
        }
        // Sorted stores merge into a sorted one; whoever reads it relies on that.
        if self.last.is_some_and(|last| last >= exception.chunk) {
            return Err(damaged(self.disk, "the exceptions of an undo store are not in order"));
        }
        self.last = Some(exception.chunk);
        Ok(Some(exception))
    }
}

/// Copies saved chunks, each checked, in the order of their exceptions.
struct Merge<'a> {
    merged: Merged<'a>,
    /// How many exceptions are planned.
    planned: u64,
    target: WriteId,
    disk: &'a dyn WriteDisk,
    undo: UndoWriter,
    progress: &'a dyn Progress,
}

/// Exceptions that travel together, none of them in another area than the first.
struct Group {
    first: u64,
    exceptions: Vec<Exception>,
}

impl Work for Merge<'_> {
    type Tag = Group;

    fn next(&mut self, batch: &mut Batch) -> Result<Option<Group>> {
        let first = self.planned;
        let most = (batch.bytes().len() as u64 / CHUNK).min(PER_AREA - first % PER_AREA);
        let mut exceptions: Vec<Exception> = Vec::with_capacity(most as usize);
        while (exceptions.len() as u64) < most
            && let Some(exception) = self.merged.next()?
        {
            exceptions.push(exception);
        }
        self.planned += exceptions.len() as u64;
        if self.planned > self.undo.layout.entries {
            return Err(changed(self.merged.disk));
        }
        let mut offset = 0;
        for run in exceptions.chunk_by(|a, b| a.at + Bytes(CHUNK) == b.at) {
            let end = offset + run.len() * CHUNK as usize;
            batch.read(self.target.as_read(), run[0].at, offset..end);
            offset = end;
        }
        Ok((!exceptions.is_empty()).then_some(Group { first, exceptions }))
    }

    fn process(&mut self, group: Group, batch: &mut Batch) -> Result<()> {
        let saved: &[[u8; CHUNK as usize]] = batch.bytes().as_chunks().0;
        for (exception, saved) in group.exceptions.iter().zip(saved) {
            if crc32c::crc32c(saved) != exception.crc {
                let why = format!("a saved copy of 64 KiB at {} is damaged", exception.at.0);
                return Err(damaged(self.disk, &why));
            }
            // No sync will ever be rolled back with it: there is no other half to speak of.
            let record = Record { old_crc: exception.crc, new_crc: 0, mask: PageMask::ALL };
            self.undo.push(self.disk, exception.chunk, record)?;
        }
        let (start, len) = (Layout::data(group.first), group.exceptions.len() as u64 * CHUNK);
        for stretch in self.undo.placement.stretches(start..start + Bytes(len)) {
            let range = (stretch.range.start - start).usize()..(stretch.range.end - start).usize();
            let at = stretch.at.expect("the store took whole extents for the undo store");
            batch.write(self.target, at, range);
        }
        self.progress.advance(Bytes(len));
        Ok(())
    }
}
