// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device-mapper under the primary, so that a moment of it can be held later.
//!
//! A **wrapped** primary has one linear device over the whole raw disk, and on it one for each kept
//! partition, under the partition's own identity; left-out partitions lie straight on the raw disk, so that
//! what is written to them never costs anything. The kernel's own partition nodes are gone meanwhile. Nothing
//! of it is written anywhere: after a restart of the machine the primary is as before.
//!
//! * [`Shape`](shape::Shape): what there should be. [`recognize`](seen::recognize): what there is. Both pure.
//! * [`wrap`], [`unwrap`]: from the one to the other, and back. [`find`]: for who builds on it.

mod events;
mod kernel;
mod make;
mod names;
mod remove;
mod seen;
mod shape;
mod turn;

use serde::Serialize;

use crate::config::PairConfig;
use crate::dm::{Mapped, Mapper};
use crate::error::{Error, Kind, Result};
use crate::pair::inuse::Use;
use crate::pair::open::{Primary, PrimaryUse, open_primary};
use crate::pair::probe::Kind as Endpoint;
use crate::pair::sysfs::{BlockNode, DevNum, Roots};
use crate::units::Bytes;

pub use events::{Caller, announce_copy, idle};
pub use make::wrap;
pub use names::DiskId;
pub use remove::unwrap;
pub use seen::Under;
use seen::{Found, Seen, State, recognize};
use shape::Shape;

/// A primary with device-mapper under everything that is kept of it.
#[derive(Clone, Debug)]
pub struct Wrapped {
    /// Its identity.
    pub id: DiskId,
    /// The disk itself. Left-out partitions lie straight on it.
    pub raw: DevNum,
    /// Its size.
    pub size: Bytes,
    /// The linear device over all of it.
    pub disk: Mapped,
    /// What [`disk`](Self::disk) stands on now.
    pub under: Under,
    /// The kept partitions, each a linear device on [`disk`](Self::disk).
    pub partitions: Vec<Mapped>,
    /// The left-out partitions, each a linear device straight on the raw disk.
    pub left_out: Vec<Mapped>,
}

/// A node of a wrapped primary, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// The partition's number; absent for the whole disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Its name below `/dev/mapper`.
    pub name: String,
    /// Whether it lies straight on the raw disk.
    pub left_out: bool,
}

/// What came of a wrap or unwrap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The raw disk, as the pair's record or a search found it.
    pub primary: String,
    /// The nodes of the wrap.
    pub nodes: Vec<Node>,
    /// Whether anything had to be done; in a dry run, nothing was, and this says whether it would be.
    pub changed: bool,
    /// What did not go as it should, and stopped nothing.
    pub warnings: Vec<String>,
}

/// The wrap of a proven primary, as it is now; `None` where there is none.
///
/// # Errors
/// `Refused`, where there are devices of its name that are not as [`wrap`] makes them: another disk under
/// them, a partition missing or elsewhere.
pub fn find(mapper: &Mapper, config: &PairConfig, primary: &Primary) -> Result<Option<Wrapped>> {
    let site = Site::of(mapper, config, primary)?;
    let refused = |why: String| {
        Error::new(Kind::Refused, "looking for the wrap of", why)
            .on(primary.probe.name())
            .next("'dpsr wrap' makes it whole, once nothing on it is in use")
    };
    match site.state()? {
        State::Unwrapped => Ok(None),
        State::Begun(disk) => Err(refused(format!("{} has no table", disk.name.name))),
        State::Wrapped(found) => match found.differences.first() {
            Some(difference) => Err(refused(format!("it is not as dpsr makes it: {difference}"))),
            None => Ok(Some(site.wrapped(found))),
        },
    }
}

/// A proven primary, and the way to what lies over it.
struct Site<'a> {
    mapper: &'a Mapper,
    primary: &'a Primary,
    raw: BlockNode,
    shape: Shape,
}

impl<'a> Site<'a> {
    fn of(mapper: &'a Mapper, config: &PairConfig, primary: &'a Primary) -> Result<Self> {
        let Some(raw) = primary.probe.node(&Roots::default()) else { return Err(no_device(primary)) };
        let shape = Shape::of(config, &primary.table, raw.number);
        Ok(Self { mapper, primary, raw, shape })
    }

    fn state(&self) -> Result<State> {
        let mut seen = Vec::new();
        let ours = |uuid: &str| uuid.contains(&self.shape.id.0);
        for device in self.mapper.list()? {
            let Some(uuid) = device.uuid.filter(|uuid| ours(uuid)) else { continue };
            let rows = self.mapper.table(&device.name)?;
            seen.push(Seen { uuid, number: device.number, rows });
        }
        recognize(&self.shape, &seen).map_err(|why| {
            Error::new(Kind::Refused, "looking for the wrap of", why)
                .on(self.primary.probe.name())
                .left("nothing was changed")
                .next("it is not of this disk: remove those devices, or detach the disk that is a copy")
        })
    }

    fn wrapped(&self, found: Found) -> Wrapped {
        let (left_out, kept): (Vec<_>, Vec<_>) = found.parts.into_iter().partition(|(part, _)| part.left_out);
        let devices =
            |parts: Vec<(shape::Part, Mapped)>| parts.into_iter().map(|(_, device)| device).collect();
        Wrapped {
            id: self.shape.id.clone(),
            raw: self.shape.raw,
            size: self.shape.size,
            disk: found.disk,
            under: found.under,
            partitions: devices(kept),
            left_out: devices(left_out),
        }
    }

    fn report(&self, changed: bool, warnings: Vec<String>) -> Report {
        let id = &self.shape.id;
        let disk = Node { partition: None, name: id.disk().name, left_out: false };
        let part = |part: &shape::Part| Node {
            partition: Some(part.number),
            name: id.partition(part.number).name,
            left_out: part.left_out,
        };
        let nodes = std::iter::once(disk).chain(self.shape.parts.iter().map(part)).collect();
        Report { primary: self.primary.probe.name(), nodes, changed, warnings }
    }
}

/// Opens the primary of a pair beside its users, and refuses an image file.
fn open(config: &PairConfig) -> Result<Primary> {
    let primary = open_primary(&Roots::default(), config, PrimaryUse::Live)?;
    match primary.probe.kind {
        Endpoint::Block => Ok(primary),
        Endpoint::File => Err(no_device(&primary)),
    }
}

fn no_device(primary: &Primary) -> Error {
    let why = "it is an image file, under which no device-mapper can be put";
    Error::new(Kind::Refused, "looking at the primary", why)
        .on(primary.probe.name())
        .left("nothing was changed")
        .next("sync it with --offline")
}

/// The refusal that names who uses the primary; without what to do.
fn in_use(doing: &str, primary: &Primary, usage: &Use) -> Error {
    Error::new(Kind::Refused, doing, usage.to_string()).on(primary.probe.name()).left("nothing was changed")
}
