// SPDX-License-Identifier: MIT OR Apache-2.0
//! The old primary as read-only block devices, while the machine runs from its copy: private like those of a
//! generation, and under names of the same kind, as generation 0, which no store has.
//!
//! ```text
//! partK      linear over
//!   disk     linear over the raw disk
//! ```

use super::{Attached, await_links, found, name, tables};
use crate::dm::{Access, Mapped, Mapper, Table, Target};
use crate::error::{Error, Result};
use crate::format::index::Volume;
use crate::pair::attached::{Role, ViewId};
use crate::pair::probe::Probe;
use crate::pair::sysfs::Roots;
use crate::units::{Bytes, Generation, SECTOR};
use uuid::Uuid;

/// What stands for the old primary in the names of devices.
pub const PRIMARY: Generation = Generation(0);

/// Shows the disk `probe` of the pair with `store`, which is divided into `volumes`; where it is shown already, tells
/// its devices.
pub fn show(store: Uuid, probe: &Probe, volumes: &[Volume]) -> Result<Attached> {
    let (roots, mapper) = (Roots::default(), Mapper::open()?);
    let id = ViewId { store, generation: PRIMARY };
    let there = found(&mapper)?.remove(&id).unwrap_or_default();
    let size = probe.size.round_down(SECTOR);
    let parts = volumes.iter().filter_map(|volume| Some((volume.name.parse().ok()?, volume)));
    let parts: Vec<(u32, &Volume)> = parts.filter(|(_, volume)| volume.size > Bytes::ZERO).collect();
    let mapped = |role| Some(Mapped { number: there.get(&role)?.number, name: name(id, role) });
    let on_it = |disk: &Mapped| {
        let below = roots.node(disk.number).map(|node| node.slaves()).unwrap_or_default();
        below.iter().any(|node| Some(node.number) == probe.number)
    };
    let known = || {
        let volumes =
            parts.iter().map(|(part, volume)| Some(((*volume).clone(), mapped(Role::Part(*part))?)));
        Some((mapped(Role::Disk).filter(on_it)?, volumes.collect::<Option<Vec<_>>>()?))
    };
    if let Some((disk, volumes)) = known() {
        return Ok(Attached { id, size, disk, volumes, made: false });
    }
    if !there.is_empty() {
        super::detach(&roots, &mapper, id, &there)?;
    }
    let raw = probe.number.ok_or_else(|| {
        let none = std::io::Error::from(std::io::ErrorKind::InvalidInput);
        Error::device("showing", probe.name(), &none)
    })?;
    let make = |role, table: &Table| mapper.make(name(id, role), table, Access::ReadOnly);
    let disk = make(Role::Disk, &Table::of(size, Target::Linear(raw, Bytes::ZERO)))?;
    let mut made = Vec::new();
    for (part, volume) in parts {
        let table = tables::volume(volume, size, disk.device().number);
        if !table.is_empty() {
            made.push((volume.clone(), make(Role::Part(part), &table)?));
        }
    }
    let volumes = made.into_iter().map(|(volume, layer)| (volume, layer.keep())).collect();
    let attached = Attached { id, size, disk: disk.keep(), volumes, made: true };
    await_links(&attached);
    Ok(attached)
}
