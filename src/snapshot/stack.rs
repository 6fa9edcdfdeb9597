// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices of a snapshot, and how they go away again:
//!
//! ```text
//!   partN    partN              snapshot (read-only)
//!      \      /                  /        \
//!        disk: origin ------> real       cow: linear
//!                               |          |
//!                              raw     loop over memory
//! ```
//!
//! The disk always ends as plain linear: an origin that is live before its next snapshot would lose
//! pre-images.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use super::cow::Place;
use crate::dm::{Access, Mapped, Mapper, Name, Table, Target};
use crate::error::{Error, Kind, Result};
use crate::pair::sysfs::DevNum;
use crate::units::Bytes;
use crate::wrap::Wrapped;

/// The layers, in the order in which they are made.
const REAL: &str = "real";
const COW: &str = "cow";
const SNAPSHOT: &str = "snapshot";

/// How often the disk's table is changed back until it stays.
const TRIES: u32 = 20;
const RETRY: Duration = Duration::from_millis(50);

/// The devices of one snapshot; taken down when dropped.
pub struct Stack {
    mapper: Arc<Mapper>,
    wrapped: Wrapped,
    up: bool,
}

impl Stack {
    /// Nothing yet, but what comes to be is taken down.
    pub fn new(mapper: &Arc<Mapper>, wrapped: &Wrapped) -> Self {
        Self { mapper: Arc::clone(mapper), wrapped: wrapped.clone(), up: true }
    }

    /// Makes the layers. Nothing changes for the primary: the snapshot and the new table of the disk are
    /// loaded and not active. The snapshot.
    pub fn build(&self, cow: &Place, chunk: Bytes) -> Result<Mapped> {
        let (mapper, wrapped) = (&self.mapper, &self.wrapped);
        let name = |what| wrapped.id.private(what);
        let linear = Table::of(wrapped.size, Target::Linear(wrapped.raw, Bytes::ZERO));
        let real = mapper.make(name(REAL), &linear, Access::ReadWrite)?.keep();
        let mut linear = Table::default();
        for part in &cow.parts {
            linear.push(part.end - part.start, Target::Linear(cow.device, part.start));
        }
        let cow = mapper.make(name(COW), &linear, Access::ReadWrite)?.keep();
        let (origin, cow) = (real.number, cow.number);
        let target = Target::Snapshot { origin, cow, persistent: false, chunk };
        let table = Table::of(wrapped.size, target);
        let snapshot = mapper.prepare(name(SNAPSHOT), &table, Access::ReadOnly)?.keep();
        mapper.load(&wrapped.disk, &Table::of(wrapped.size, Target::Origin(origin)), Access::ReadWrite)?;
        Ok(snapshot)
    }

    /// What the kernel says of the snapshot.
    pub fn state(&self) -> Result<String> {
        let rows = self.mapper.status(&self.wrapped.id.private(SNAPSHOT).name)?;
        Ok(rows.into_iter().next().map(|(_, _, _, state)| state).unwrap_or_default())
    }

    /// Whether writes to the primary still go through what keeps pre-images of them: a snapshot without its
    /// origin says that it stands, and does not.
    pub fn stands(&self) -> Result<bool> {
        let real = self.real()?.map(|number| number.to_string());
        let table = self.mapper.table(&self.wrapped.disk.name.name)?;
        Ok(table
            .first()
            .is_some_and(|(_, _, kind, on)| kind == "snapshot-origin" && Some(on.trim()) == real.as_deref()))
    }

    /// The layer between the raw disk and both the disk and its snapshot.
    pub fn real(&self) -> Result<Option<DevNum>> {
        Ok(self.mapper.find(&self.wrapped.id.private(REAL).uuid)?.map(|listed| listed.number))
    }

    /// The layer that pre-images go to.
    pub fn cow(&self) -> Option<Mapped> {
        let name = self.wrapped.id.private(COW);
        let number = self.mapper.find(&name.uuid).ok()??.number;
        Some(Mapped { number, name })
    }

    /// Takes everything down.
    pub fn end(mut self) -> Result<()> {
        self.up = false;
        tear_down(&self.mapper, &self.wrapped).map(drop)
    }

    /// The primary.
    pub fn wrapped(&self) -> &Wrapped {
        &self.wrapped
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.up
            && let Err(error) = tear_down(&self.mapper, &self.wrapped)
        {
            tracing::warn!("{error}, ignoring: the next sync takes it down");
        }
    }
}

/// Whether anything of a snapshot of this primary is there: a layer, a changed disk, anything that waits.
pub fn is_there(mapper: &Mapper, wrapped: &Wrapped) -> Result<bool> {
    for what in [REAL, COW, SNAPSHOT] {
        if mapper.find(&wrapped.id.private(what).uuid)?.is_some() {
            return Ok(true);
        }
    }
    let state = mapper.state(&wrapped.disk)?;
    Ok(state.suspended || state.table_waiting || !is_linear(mapper, wrapped)?)
}

/// Takes down whatever there is: everything that waits goes on, the disk becomes plain linear, the layers go.
/// Whether there was anything. It may be done again at any time, and by two processes at once.
pub fn tear_down(mapper: &Mapper, wrapped: &Wrapped) -> Result<bool> {
    if !is_there(mapper, wrapped)? {
        return Ok(false);
    }
    linear_again(mapper, wrapped).map_err(|error| left(error, wrapped))?;
    for partition in &wrapped.partitions {
        if mapper.state(partition)?.suspended {
            mapper.resume(partition)?;
        }
    }
    for what in [SNAPSHOT, COW, REAL] {
        let Name { name, uuid, udev } = wrapped.id.private(what);
        if let Some(listed) = mapper.find(&uuid)? {
            let device = Mapped { number: listed.number, name: Name { name, uuid, udev } };
            mapper
                .remove(&device)
                .map_err(|error| error.next("close what has it open; the next sync removes it"))?;
        }
    }
    Ok(true)
}

fn linear_again(mapper: &Mapper, wrapped: &Wrapped) -> Result<()> {
    let disk = &wrapped.disk;
    let linear = Table::of(wrapped.size, Target::Linear(wrapped.raw, Bytes::ZERO));
    let mut last = None;
    for _ in 0..TRIES {
        let state = mapper.state(disk)?;
        if state.table_waiting {
            mapper.clear(disk)?;
        }
        if is_linear(mapper, wrapped)? {
            return if state.suspended { mapper.resume(disk) } else { Ok(()) };
        }
        let switched = mapper.load(disk, &linear, Access::ReadWrite).and_then(|()| mapper.switch(disk));
        if let Err(error) = switched {
            last = Some(error);
            sleep(RETRY);
        }
    }
    let why = "its table changes again and again";
    Err(last.unwrap_or_else(|| Error::new(Kind::Internal, "ending a snapshot", why).on(&disk.name.name)))
}

fn is_linear(mapper: &Mapper, wrapped: &Wrapped) -> Result<bool> {
    let table = mapper.table(&wrapped.disk.name.name)?;
    Ok(table.first().is_some_and(|(_, _, kind, _)| kind == "linear"))
}

fn left(error: Error, wrapped: &Wrapped) -> Error {
    let disk = &wrapped.disk.name.name;
    error
        .left(format!("{disk} works, but goes on copying what is overwritten"))
        .next("run the sync again, which ends it first")
}
