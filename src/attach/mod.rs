// SPDX-License-Identifier: MIT OR Apache-2.0
//! A generation as read-only block devices: the disk, and its partitions.
//!
//! ```text
//! partK        linear over
//!   disk       snapshot of
//!     origin   linear: the image in the store, holes as zeros
//!     cow      linear: header and areas in memory, and the undo stores' own extents
//! ```
//!
//! One snapshot, whatever the age, because the exceptions of all generations in between are composed first.
//! All devices are read-only and private. While they are there, nothing may write to the image; [`attached`]
//! is how everybody else knows.
//!
//! [`attached`]: crate::pair::attached

pub mod base;
mod detach;
pub(crate) mod memory;
mod names;
mod primary;
mod scratch;
pub mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::dm::{Access, Layer, Listed, Mapped, Mapper, Table};
use crate::error::Result;
use crate::format::index::Volume;
use crate::open::OpenStore;
use crate::pair::attached::{Role, ViewId};
use crate::pair::sysfs::{DevNum, Roots};
use crate::pair::volumes::DISK;
use crate::units::{Bytes, Generation};
use crate::view::View;
use crate::view::kernel::CowLayout;
pub use base::Held;
pub use detach::{Devices, choose, detach, found, until_unmounted};
pub use names::name;
pub use primary::{PRIMARY, show as show_primary};
pub use scratch::{Scratch, number};

/// udev makes the links in `/dev/mapper`; where it does not, nobody waits for long.
const LINKS: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(10);

/// How long a generation stays attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until somebody detaches it.
    Detached,
    /// Until its last mount is undone, if it was not attached before.
    Unmounted,
}

/// The devices of one generation.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Which.
    pub id: ViewId,
    /// Size of the disk.
    pub size: Bytes,
    /// The whole disk.
    pub disk: Mapped,
    /// Its partitions that are in the copy.
    pub volumes: Vec<(Volume, Mapped)>,
    /// Whether it was not attached before.
    pub made: bool,
}

/// Attaches `generation`; where it is attached already, tells its devices.
pub fn attach(store: &OpenStore, generation: Generation, until: Until) -> Result<Attached> {
    let roots = Roots::default();
    let view = View::of(&store.contents, generation)?;
    let id = ViewId { store: store.contents.superblock.store, generation };
    let mapper = Mapper::open()?;
    let there = found(&mapper)?.remove(&id).unwrap_or_default();
    if let Some(attached) = complete(&roots, store, &view, id, &there) {
        return Ok(attached);
    }
    if !there.is_empty() {
        // Left by a process that was killed, or over a disk that is gone.
        detach(&roots, &mapper, id, &there)?;
    }
    let layout = CowLayout::of(&store.contents, &view, &store.dpsr)?;
    let held = Held::of(&roots, &store.dpsr)?;
    let origin = tables::origin(&view, held.base);
    let rows = origin.rows() + 1 + layout.saved.len() + view.map.volumes.len();
    memory::check(&roots, generation, memory::needed(&layout, rows))?;
    let areas = Scratch::new(layout.metadata())?;
    layout.write(&view, &store.dpsr, &mut |at, bytes| areas.put(at, bytes))?;
    let areas = areas.sealed()?;
    let cow = tables::cow(&layout, number(&areas)?, held.base);
    let attached = build(&mapper, &view, (id, until), &origin, &cow)?;
    await_links(&attached);
    Ok(attached)
}

/// Makes the devices; if one cannot be made, those below it go away again.
fn build(
    mapper: &Mapper,
    view: &View<'_>,
    (id, until): (ViewId, Until),
    origin: &Table,
    cow: &Table,
) -> Result<Attached> {
    let make = |role, table: &Table| mapper.make(detach::marked(id, role, until), table, Access::ReadOnly);
    let number = |layer: &Layer<'_>| layer.device().number;
    let size = tables::size(view);
    let origin = make(Role::Origin, origin)?;
    let cow = make(Role::Cow, cow)?;
    let disk = make(Role::Disk, &tables::snapshot(size, number(&origin), number(&cow)))?;
    let mut parts = Vec::new();
    for (part, volume) in partitions(view) {
        let table = tables::volume(volume, size, number(&disk));
        parts.push((volume.clone(), make(Role::Part(part), &table)?));
    }
    let volumes = parts.into_iter().map(|(volume, layer)| (volume, layer.keep())).collect();
    let disk = disk.keep();
    for layer in [cow, origin] {
        layer.keep();
    }
    Ok(Attached { id, size, disk, volumes, made: true })
}

/// The partitions of the generation that are in the copy, with their numbers.
fn partitions<'a>(view: &'a View<'_>) -> impl Iterator<Item = (u32, &'a Volume)> {
    let size = tables::size(view);
    let kept = view.map.volumes.iter().filter(move |volume| {
        !volume.left_out && !tables::volume(volume, size, DevNum { major: 0, minor: 0 }).is_empty()
    });
    kept.filter_map(|volume| Some((volume.name.parse().ok()?, volume)))
}

/// The generation, if all its devices are there and read this DPSR disk.
fn complete(
    roots: &Roots,
    store: &OpenStore,
    view: &View<'_>,
    id: ViewId,
    there: &BTreeMap<Role, Listed>,
) -> Option<Attached> {
    let mapped = |role| Some(Mapped { number: there.get(&role)?.number, name: name(id, role) });
    let origin = roots.node(mapped(Role::Origin)?.number)?;
    if !origin.slaves().iter().any(|node| base::reads(roots, &store.dpsr, node)) {
        return None;
    }
    mapped(Role::Cow)?;
    let volumes = partitions(view).map(|(part, volume)| Some((volume.clone(), mapped(Role::Part(part))?)));
    let volumes = volumes.collect::<Option<_>>()?;
    Some(Attached { id, size: tables::size(view), disk: mapped(Role::Disk)?, volumes, made: false })
}

impl Attached {
    /// The disk, then its partitions.
    pub fn all(&self) -> impl Iterator<Item = &Mapped> {
        std::iter::once(&self.disk).chain(self.volumes.iter().map(|(_, device)| device))
    }

    /// What may hold a filesystem: the partitions, or a disk without a table; each with its name.
    pub fn mountable(&self) -> impl Iterator<Item = (Role, &str, &Mapped)> {
        let disk = self.volumes.is_empty().then_some((Role::Disk, DISK, &self.disk));
        let part = |(volume, _): &(Volume, Mapped)| volume.name.parse().ok().map(Role::Part);
        let parts =
            self.volumes.iter().filter_map(move |one| Some((part(one)?, one.0.name.as_str(), &one.1)));
        disk.into_iter().chain(parts)
    }
}

/// What people call a device: its name in `/dev/mapper`, else the kernel's own node.
pub fn path(device: &Mapped) -> PathBuf {
    let link = link(device);
    if link.exists() { link } else { device.node() }
}

fn link(device: &Mapped) -> PathBuf {
    Path::new("/dev/mapper").join(&device.name.name)
}

fn await_links(attached: &Attached) {
    let deadline = Instant::now() + LINKS;
    while attached.all().any(|device| !link(device).exists()) && Instant::now() < deadline {
        sleep(GLANCE);
    }
}
