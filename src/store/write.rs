// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing the index and flipping the superblock: everything that changes what the store is.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::whole::write_all_at;
use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Kind, Result};
use crate::format::index::Index;
use crate::format::superblock::{IndexRoot, Owner, State, Superblock};
use crate::store::contents::{self, Contents, buffer};
use crate::units::{Bytes, PAGE};

/// A store that may be written. After a failed flip it must be opened anew: only the disk knows then.
pub struct Store {
    /// The proven DPSR disk.
    pub disk: Arc<dyn WriteDisk>,
    /// What the store says about itself.
    pub contents: Contents,
    partition: Range<Bytes>,
    owner: Owner,
}

impl Store {
    /// Opens the store in `partition` for writing: makes all superblock copies equal to the winner, so that
    /// no stale copy can win later.
    pub fn open(disk: Arc<dyn WriteDisk>, partition: Range<Bytes>, owner: Owner) -> Result<Self> {
        let store = Self::look(disk, partition, owner)?;
        if !store.contents.superblock.is_writable() {
            let why = "a later dpsr wrote it, with features this one does not know";
            return Err(Error::new(Kind::Refused, "opening the store to write it on", why)
                .on(store.disk.name())
                .left("nothing was written")
                .next("use that dpsr; this one can read the store"));
        }
        if store.contents.stale_superblocks > 0 {
            store.prove()?;
            store.write_superblocks(&store.contents.superblock)?;
        }
        Ok(store)
    }

    /// Opens the store in `partition` without writing anything yet.
    pub fn look(disk: Arc<dyn WriteDisk>, partition: Range<Bytes>, owner: Owner) -> Result<Self> {
        let found = contents::read(disk.as_ref(), &partition)?;
        let contents = found.ok_or_else(|| {
            Error::new(Kind::Refused, "opening the store on", "it holds no DPSR store")
                .on(disk.name())
                .left("nothing was written")
                .next(
                    "if it held one, its superblocks are gone: do not initialise it before its data is safe",
                )
        })?;
        Ok(Self { disk, contents, partition, owner })
    }

    /// Opens the same store again, after an error left it in a state only the disk knows.
    pub fn reopen(&self) -> Result<Self> {
        Self::open(self.disk.clone(), self.partition.clone(), self.owner.clone())
    }

    /// Starts a store: `superblock` names the root `index` will get.
    pub(super) fn begin(
        disk: Arc<dyn WriteDisk>,
        partition: Range<Bytes>,
        superblock: Superblock,
        index: Index,
    ) -> Self {
        let owner = superblock.owner.clone();
        let base = partition.start;
        let contents = Contents { base, superblock, index, stale_superblocks: 0, bad_index_blocks: 0 };
        Self { disk, contents, partition, owner }
    }

    /// Proves on the open descriptor that the disk is still the one that was paired.
    pub fn prove(&self) -> Result<()> {
        self.disk.prove().map_err(|error| {
            Error::device("proving the identity of", self.disk.name(), &error)
                .left("nothing more was written")
                .next("check that the DPSR disk is still connected")
        })
    }

    /// Waits until everything written so far is durable; a failure is final, never retried as success.
    pub fn flush(&self) -> Result<()> {
        self.disk.flush().map_err(|error| Error::device("flushing", self.disk.name(), &error))
    }

    /// Room for an index payload.
    pub fn index_capacity(&self) -> Bytes {
        let blocks = self.contents.superblock.geometry.index_slot.0 / PAGE;
        Bytes(blocks * (PAGE - crate::format::block::HEADER as u64))
    }

    /// Writes `index` into the slot that is not in use. Not durable before the next flush.
    pub fn write_index(&self, index: &Index) -> Result<IndexRoot> {
        let superblock = &self.contents.superblock;
        let slot = 1 - superblock.index.slot;
        let payload = index.pack();
        if Bytes(payload.len() as u64) > self.index_capacity() {
            return Err(Error::new(Kind::NoRoom, "writing the index of", "it has outgrown its slot")
                .on(self.disk.name())
                .next("drop some generations"));
        }
        let version = self.newest_index_version() + 1;
        let root = IndexRoot { slot, version, len: payload.len() as u64, crc: crc32c::crc32c(&payload) };
        for copy in 0..2 {
            let location = superblock.geometry.index(slot, copy);
            let blocks = Index::seal(&payload, location, version);
            let mut aligned = buffer(blocks.len())?;
            aligned.copy_from_slice(&blocks);
            write_all_at(self.disk.as_ref(), self.contents.base + location, &aligned)?;
        }
        Ok(root)
    }

    fn newest_index_version(&self) -> u64 {
        let superblock = &self.contents.superblock;
        match superblock.state {
            State::Updating { before, .. } => superblock.index.version.max(before.version),
            _ => superblock.index.version,
        }
    }

    /// Makes `state` with the index at `root` what the store is. Everything it refers to must be durable.
    pub fn flip(&mut self, state: State, root: IndexRoot, index: Index) -> Result<()> {
        self.prove()?;
        let superblock = Superblock {
            sequence: self.contents.superblock.sequence + 1,
            state,
            index: root,
            owner: self.owner.clone(),
            ..self.contents.superblock.clone()
        };
        self.write_superblocks(&superblock)?;
        self.contents.superblock = superblock;
        self.contents.index = index;
        Ok(())
    }

    /// Changes the state alone; the index stays.
    pub fn mark(&mut self, state: State) -> Result<()> {
        self.flip(state, self.contents.superblock.index, self.contents.index.clone())
    }

    /// Writes `index`, flushes, and flips to it: one whole change of the store.
    pub fn change(&mut self, state: State, index: Index) -> Result<()> {
        self.prove()?;
        let root = self.write_index(&index)?;
        self.flush()?;
        self.flip(state, root, index)
    }

    fn write_superblocks(&self, superblock: &Superblock) -> Result<()> {
        let [first, second, third] = superblock.geometry.superblocks();
        self.write_superblock(superblock, first)?;
        self.flush()?;
        self.write_superblock(superblock, second)?;
        self.write_superblock(superblock, third)?;
        self.flush()
    }

    fn write_superblock(&self, superblock: &Superblock, location: Bytes) -> Result<()> {
        let mut block = buffer(crate::format::superblock::SIZE)?;
        block.copy_from_slice(&superblock.pack(location));
        write_all_at(self.disk.as_ref(), self.contents.base + location, &block)
    }

    /// The disk, to read from.
    pub fn reader(&self) -> &dyn ReadDisk {
        self.disk.as_ref()
    }
}
