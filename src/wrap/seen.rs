// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the devices there are make a wrapped primary, and what differs. Pure: the kernel's answers come
//! in as they are.

use std::fmt;

use super::shape::{Part, Shape};
use crate::dm::{Mapped, Name, Table};
use crate::pair::sysfs::DevNum;
use crate::units::{Bytes, SECTOR};

/// The table of a device as the kernel words it: first sector, sectors, type, parameters.
pub type Rows = Vec<(u64, u64, String, String)>;

/// One device-mapper device, as the kernel tells of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its UUID.
    pub uuid: String,
    /// Its number.
    pub number: DevNum,
    /// Its active table; empty where it has none yet.
    pub rows: Rows,
}

/// What the disk node stands on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// The raw disk, straight.
    Raw,
    /// The private linear device with this number, which stands on the raw disk: a moment is being held.
    Origin(DevNum),
}

/// The partition of a wrapped disk for which there is no node, or a wrong one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It has no node.
    Missing(Part),
    /// It lies elsewhere now, or has become left out or kept.
    Moved(Mapped, Part),
    /// The table knows no partition of this number any more.
    Stray(Mapped, u32),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(part) => write!(f, "partition {} has no node", part.number),
            Self::Moved(device, part) => {
                write!(f, "{} is not where partition {} lies now", device.name.name, part.number)
            }
            Self::Stray(device, number) => {
                write!(f, "{} is there, and there is no partition {number}", device.name.name)
            }
        }
    }
}

/// A primary with a disk node of ours over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The disk node.
    pub disk: Mapped,
    /// What it stands on.
    pub under: Under,
    /// The nodes of partitions that are as they should be.
    pub parts: Vec<(Part, Mapped)>,
    /// Everything else.
    pub differences: Vec<Difference>,
}

/// What there is of a wrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Unwrapped,
    /// A disk node without a table: somebody was stopped while making it.
    Begun(Mapped),
    /// A disk node.
    Wrapped(Found),
}

/// Reads what there is. The error says why it is nothing dpsr makes.
pub fn recognize(shape: &Shape, seen: &[Seen]) -> Result<State, String> {
    let Some(disk) = with_uuid(seen, &shape.id.disk().uuid) else { return unwrapped(shape, seen) };
    let node = mapped(shape.id.disk(), disk);
    if disk.rows.is_empty() {
        return Ok(State::Begun(node));
    }
    let under = under(shape, disk, seen)?;
    let mut found = Found { disk: node, under, parts: Vec::new(), differences: Vec::new() };
    for part in &shape.parts {
        let name = shape.id.partition(part.number);
        let Some(there) = with_uuid(seen, &name.uuid) else {
            found.differences.push(Difference::Missing(part.clone()));
            continue;
        };
        let device = mapped(name, there);
        if same(&there.rows, &shape.part_table(part, disk.number)) {
            found.parts.push((part.clone(), device));
        } else {
            found.differences.push(Difference::Moved(device, part.clone()));
        }
    }
    found.differences.extend(strays(shape, seen));
    Ok(State::Wrapped(found))
}

fn unwrapped(shape: &Shape, seen: &[Seen]) -> Result<State, String> {
    match seen.iter().find_map(|device| shape.id.part_number(&device.uuid)) {
        Some(number) => {
            let name = shape.id.partition(number).name;
            Err(format!("{name} is there without {}", shape.id.disk().name))
        }
        None => Ok(State::Unwrapped),
    }
}

fn strays(shape: &Shape, seen: &[Seen]) -> Vec<Difference> {
    let stray = |device: &Seen| {
        let number = shape.id.part_number(&device.uuid)?;
        let known = shape.parts.iter().any(|part| part.number == number);
        (!known).then(|| Difference::Stray(mapped(shape.id.partition(number), device), number))
    };
    seen.iter().filter_map(stray).collect()
}

/// The disk node maps all of the raw disk, straight or through the private linear device of a live sync.
fn under(shape: &Shape, disk: &Seen, seen: &[Seen]) -> Result<Under, String> {
    if same(&disk.rows, &shape.disk_table()) {
        return Ok(Under::Raw);
    }
    let name = shape.id.disk().name;
    let [(0, sectors, kind, words)] = &disk.rows[..] else {
        return Err(format!("{name} is not one stretch of one device"));
    };
    let whole = Bytes(sectors.saturating_mul(SECTOR)) == shape.size;
    match (kind.as_str(), words.split(' ').next().and_then(DevNum::parse)) {
        ("snapshot-origin", Some(below)) if whole => {
            let real = with_uuid(seen, &shape.id.private("real").uuid).filter(|real| real.number == below);
            match real.is_some_and(|real| same(&real.rows, &shape.disk_table())) {
                true => Ok(Under::Origin(below)),
                false => {
                    Err(format!("{name} is the origin of snapshots over {below}, which is not the raw disk"))
                }
            }
        }
        ("linear", Some(below)) if below != shape.raw => {
            Err(format!("{name} lies over another disk ({below}, not {})", shape.raw))
        }
        _ => Err(format!("{name} has the table '0 {sectors} {kind} {words}'")),
    }
}

fn same(rows: &Rows, table: &Table) -> bool {
    *rows == table.to_kernel()
}

fn with_uuid<'a>(seen: &'a [Seen], uuid: &str) -> Option<&'a Seen> {
    seen.iter().find(|device| device.uuid == uuid)
}

fn mapped(name: Name, seen: &Seen) -> Mapped {
    Mapped { number: seen.number, name }
}

#[cfg(test)]
mod tests;
