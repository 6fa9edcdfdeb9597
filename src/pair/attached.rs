// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which generations the kernel shows at the moment, and what their devices are called.
//!
//! That a generation is attached is written nowhere but in the kernel: its devices are the lock. It cannot be
//! lost while they are there, or stay when they are gone, whatever process dies.

use std::collections::BTreeSet;
use std::fmt;

use uuid::Uuid;

use super::inuse::backing_inode;
use super::probe::{Kind as Endpoint, Probe};
use super::sysfs::{BlockNode, Roots};
use crate::error::{Error, Kind, Result};
use crate::units::Generation;

const PREFIX: &str = "DPSR-VIEW-";

/// One generation of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewId {
    /// The store's UUID.
    pub store: Uuid,
    /// The generation.
    pub generation: Generation,
}

/// What a device of an attached generation is for, from the bottom up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The image, with holes.
    Origin,
    /// What differs from it.
    Cow,
    /// The generation, as a disk.
    Disk,
    /// A partition of it.
    Part(u32),
    /// A throw-away layer over a partition, that takes writes.
    Overlay(u32),
}

impl ViewId {
    /// The device-mapper UUID of a device. That of a partition is as libblkid wants it.
    pub fn uuid(&self, role: Role) -> String {
        let Self { store, generation } = self;
        let disk = format!("{PREFIX}{store}-g{generation}");
        match role {
            Role::Disk => disk,
            Role::Part(number) => format!("part{number}-{disk}"),
            Role::Origin => format!("{disk}-origin"),
            Role::Cow => format!("{disk}-cow"),
            Role::Overlay(number) => format!("{disk}-overlay{number}"),
        }
    }

    /// What a device-mapper UUID says; `None` where it is none of ours.
    pub fn parse(uuid: &str) -> Option<(Self, Role)> {
        let (front, back) = uuid.split_once(PREFIX)?;
        let store = Uuid::parse_str(back.get(..36)?).ok()?;
        let rest = back.get(36..)?.strip_prefix("-g")?;
        let (number, suffix) = rest.split_once('-').unwrap_or((rest, ""));
        let generation = Generation(number.parse().ok()?);
        let role = match (front, suffix) {
            ("", "") => Role::Disk,
            ("", "origin") => Role::Origin,
            ("", "cow") => Role::Cow,
            ("", _) => Role::Overlay(suffix.strip_prefix("overlay")?.parse().ok()?),
            (_, "") => Role::Part(front.strip_prefix("part")?.strip_suffix('-')?.parse().ok()?),
            _ => return None,
        };
        Some((Self { store, generation }, role))
    }
}

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            Generation(0) => f.write_str("the old primary"),
            generation => write!(f, "generation {generation}"),
        }
    }
}

/// The generations that are attached of the DPSR disk `probe`, by what is built on it, on its partitions, and
/// on loop devices over it.
fn attached(roots: &Roots, probe: &Probe) -> BTreeSet<ViewId> {
    let below: Vec<BlockNode> = match (probe.kind, probe.node(roots)) {
        (Endpoint::Block, Some(node)) => node.partitions().into_iter().chain([node]).collect(),
        _ => roots.all().into_iter().filter(|node| backing_inode(node) == probe.inode).collect(),
    };
    let above = below.iter().flat_map(BlockNode::holders);
    above.filter_map(|node| Some(ViewId::parse(&node.attr("dm/uuid")?)?.0)).collect()
}

/// Refuses a DPSR disk of which a generation is attached: what is written to the image would show in it.
pub(super) fn refuse_attached(roots: &Roots, probe: &Probe) -> Result<()> {
    let attached = attached(roots, probe);
    let Some(first) = attached.first() else { return Ok(()) };
    let others = if attached.len() > 1 { " (and others are)" } else { "" };
    let why = format!("{first} is attached{others}, and must stay as it is");
    Err(Error::new(Kind::Busy, "opening the DPSR disk", why)
        .on(probe.name())
        .left("nothing was written")
        .next(format!("'dpsr detach {}' first", first.generation)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_read_back() {
        let id = ViewId { store: Uuid::from_u128(7), generation: Generation(12) };
        for role in [Role::Origin, Role::Cow, Role::Disk, Role::Part(3), Role::Overlay(11)] {
            assert_eq!(ViewId::parse(&id.uuid(role)), Some((id, role)));
            assert!(id.uuid(role).len() < 128);
        }
        assert_eq!(id.uuid(Role::Part(3)), "part3-DPSR-VIEW-00000000-0000-0000-0000-000000000007-g12");
        for other in ["", "DPSR-DISK-x", "DPSR-VIEW-x-g1", "mpath-DPSR-VIEW-", "LVM-x"] {
            assert_eq!(ViewId::parse(other), None, "{other}");
        }
        let id = id.uuid(Role::Disk);
        for other in [format!("{id}-x"), format!("x-{id}"), format!("part-{id}"), format!("{id}-overlay")] {
            assert_eq!(ViewId::parse(&other), None, "{other}");
        }
    }
    #[test]
    fn what_is_attached_is_told_by_the_devices_on_the_disk() {
        let golden = |case: &str| {
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/golden");
            let root = root.join(case);
            Roots { sys: root.join("sys"), proc: root.join("proc"), dev: root.join("dev") }
        };
        // 16 is the size, and the minor number with it.
        let disk = super::super::testing::probe("/dev/sdb", 16);
        let error = refuse_attached(&golden("13-attached-generation"), &disk).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        insta::assert_snapshot!(error, @"opening the DPSR disk /dev/sdb: generation 3 is attached, and must stay as it is; nothing was written; 'dpsr detach 3' first");
        assert!(refuse_attached(&golden("10-our-own-hold"), &disk).is_ok());
    }
}
