// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing to a disk some of whose volumes are in use: it is written through a device that ends in an error wherever
//! one of those lies.

use crate::config::PairConfig;
use crate::disk::ReadDisk;
use crate::disk::file::{Access, FileDisk};
use crate::dm::{Mapped, Mapper, Name, Stack, Table, Target};
use crate::error::{Error, Kind, Result};
use crate::failover::stays::Stays;
use crate::format::index::Volume;
use crate::pair::inuse::{Use, uses_besides};
use crate::pair::lock::{Lock, Mode, lock};
use crate::pair::probe::Probe;
use crate::pair::sysfs::{DevNum, Roots};
use crate::sys::signal;
use crate::units::{Bytes, SECTOR};
use crate::wrap::DiskId;

/// Keeps a fence up, and others from the disk behind it.
pub struct Fence<'a> {
    _stack: Stack<'a>,
    _raw: FileDisk,
    _lock: Option<Lock>,
}

/// Takes the disk that was `planned`, as far as it can be written to. That it still is that one, and that nobody has it
/// in use but for the volumes that stay, is proven on the open descriptor.
pub fn fenced<'a>(
    roots: &Roots,
    mapper: &'a Mapper,
    config: &PairConfig,
    planned: &Probe,
    (stays, volumes): (&Stays, &[Volume]),
) -> Result<(FileDisk, Fence<'a>)> {
    let refuse = |kind: Kind, why: String| {
        Error::new(kind, "going back to", why).on(planned.name()).left("nothing was written")
    };
    let raw = FileDisk::open(&planned.path, Access::Read)?;
    let descriptor = raw.descriptor().expect("a file has a descriptor");
    let now = Probe::of_descriptor(roots, &planned.path, descriptor)?;
    if !now.is_still(planned) {
        let why = "it is not the disk any more that the plan was made for".to_owned();
        return Err(refuse(Kind::Refused, why).next("run failback again and read its plan"));
    }
    if let Some(usage) = other_use(roots, config, &now, (stays, volumes)) {
        return Err(refuse(Kind::Refused, usage.to_string()).next("stop that use first"));
    }
    let number = now.number.ok_or_else(|| refuse(Kind::Refused, "it is no block device".to_owned()))?;
    let lock = lock(roots, &raw, Mode::Exclusive)?;
    if signal::interrupted() {
        return Err(refuse(Kind::Interrupted, "a signal asked to stop".to_owned()));
    }
    let name = name(config);
    // That of a run that was killed; under the lock it is nobody's.
    if let Some(left) = mapper.find(&name.uuid)? {
        mapper.remove(&Mapped { number: left.number, name: name.clone() })?;
    }
    let mut stack = Stack::new(mapper);
    let device = stack.make(name, &table(number, now.size, stays, volumes))?;
    let disk = FileDisk::open(device.node(), Access::Write)?;
    Ok((disk, Fence { _stack: stack, _raw: raw, _lock: lock }))
}

fn name(config: &PairConfig) -> Name {
    DiskId::recorded(config).private("fence")
}

/// What uses the disk besides the volumes that stay, and besides a fence that was left.
pub fn other_use(
    roots: &Roots,
    config: &PairConfig,
    probe: &Probe,
    (stays, volumes): (&Stays, &[Volume]),
) -> Option<Use> {
    let (id, fence) = (DiskId::recorded(config), name(config).uuid);
    uses_besides(roots, &probe.node(roots)?, |holder| {
        let uuid = holder.attr("dm/uuid").unwrap_or_default();
        uuid == fence || stays.is_part(&id, volumes, &uuid)
    })
    .into_iter()
    .next()
}

/// The whole disk, without the volumes that stay. Pure.
fn table(raw: DevNum, size: Bytes, stays: &Stays, volumes: &[Volume]) -> Table {
    let mut fenced: Vec<_> = volumes.iter().filter(|volume| stays.has(volume)).collect();
    fenced.sort_by_key(|volume| volume.start);
    let (mut table, mut at) = (Table::default(), Bytes::ZERO);
    let end = size.round_down(SECTOR);
    for volume in fenced {
        let (start, stop) = (volume.start.round_down(SECTOR), (volume.start + volume.size).round_up(SECTOR));
        let (start, stop) = (start.min(end).max(at), stop.min(end).max(at));
        push(&mut table, start - at, Target::Linear(raw, at));
        push(&mut table, stop - start, Target::Error);
        at = stop;
    }
    push(&mut table, end - at, Target::Linear(raw, at));
    table
}

fn push(table: &mut Table, size: Bytes, target: Target) {
    if size > Bytes::ZERO {
        table.push(size, target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failback::target::Target as Disk;

    #[test]
    fn what_stays_cannot_be_written() {
        let volume = |id: &str, start: u64, size: u64| Volume {
            id: id.into(),
            name: "1".into(),
            label: String::new(),
            start: Bytes(start),
            size: Bytes(size),
            left_out: false,
            group: false,
        };
        let disk = Disk { size: Bytes(1 << 20), serial: Some("a".into()), wwn: None };
        let stays = Stays { disk, volumes: vec!["b".into(), "d".into()] };
        let volumes = [
            volume("d", 8192, 512),
            volume("a", 1024, 1024),
            volume("b", 2048, 1024),
            volume("c", 3072, 512),
        ];
        let raw = DevNum { major: 8, minor: 0 };
        let mut expected = Table::default();
        expected.push(Bytes(2048), Target::Linear(raw, Bytes::ZERO));
        expected.push(Bytes(1024), Target::Error);
        expected.push(Bytes(8192 - 3072), Target::Linear(raw, Bytes(3072)));
        expected.push(Bytes(512), Target::Error);
        expected.push(Bytes((1 << 20) - 8704), Target::Linear(raw, Bytes(8704)));
        assert_eq!(table(raw, Bytes(1 << 20), &stays, &volumes), expected);
    }
}
