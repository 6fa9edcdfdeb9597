// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing a generation, or one volume of it, back to a disk: plan, show, act. The DPSR disk is only read.

pub mod target;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::disk::file::{Access, FileDisk};
use crate::disk::{ReadDisk, WriteDisk};
use crate::engine::digest::DigestKey;
use crate::engine::{Disks, Engine, Shape};
use crate::error::{Error, Kind, Result};
use crate::export::{Exported, NOT_ADDING_UP, adds_up, find};
use crate::format::index::{Map, Volume};
use crate::open::OpenStore;
use crate::pair::chain::chain_of;
use crate::pair::inuse::{in_use, stands_on};
use crate::pair::layout::find_store;
use crate::pair::probe::{Kind as Endpoint, Probe};
use crate::pair::sysfs::Roots;
use crate::pair::table::{Table, TableKind};
use crate::pair::target::{Taker, claim};
use crate::progress::Progress;
use crate::store::map::left_out;
use crate::units::{Bytes, Chunk, Generation};
use crate::view::View;
use crate::view::read::Reading;
use target::DiskSink;

const RESTORING: &str = "restoring onto";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which generation.
    pub generation: Generation,
    /// Which volume; the whole disk, if not given.
    pub volume: Option<String>,
    /// The disk to be overwritten.
    pub to: PathBuf,
}

/// What will be written where.
#[derive(Clone, Debug, Serialize)]
pub struct RestorePlan {
    /// The generation.
    pub generation: Generation,
    /// The volume, or absent for the whole disk.
    pub volume: Option<String>,
    /// The disk to be overwritten.
    pub target: String,
    /// Its size.
    pub target_size: Bytes,
    /// The first byte of it that is overwritten.
    pub at: Bytes,
    /// How many bytes are, left-out volumes included.
    pub size: Bytes,
    /// The volumes that are left out: what the target holds there stays.
    pub spared: Vec<String>,
    /// What to confirm with.
    pub confirm: String,
    /// What kind of ID that is.
    pub confirm_kind: String,
}

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.volume.as_ref().map_or("the whole disk".to_owned(), |v| format!("volume {v}"));
        writeln!(f, "Restore {what} of generation {} ({})", self.generation, self.size)?;
        let end = self.at + self.size;
        writeln!(f, "onto {} ({}), bytes {} to {}.", self.target, self.target_size, self.at.0, end.0)?;
        writeln!(f, "Everything it holds there is overwritten.")?;
        if !self.spared.is_empty() {
            writeln!(f, "Left out of the copy, so what is there stays: volume {}.", self.spared.join(", "))?;
        }
        if self.volume.is_none() && self.target_size > self.size {
            writeln!(
                f,
                "The target is larger: 'sgdisk -e' moves a GPT's backup header to its end afterwards."
            )?;
        }
        write!(f, "To go on, confirm with its {}: --confirm '{}'", self.confirm_kind, self.confirm)
    }
}

/// A plan, and what it was made from.
pub struct Planned {
    /// What will be done.
    pub plan: RestorePlan,
    options: Options,
    roots: Roots,
    probe: Probe,
    /// Bytes of the image.
    range: Range<Bytes>,
    spared: Vec<Range<Bytes>>,
}

/// What is written back of a generation, and how.
pub struct Part {
    /// Bytes of the image.
    pub range: Range<Bytes>,
    /// Where their first one goes on the target.
    pub at: Bytes,
    /// Bytes of the image that stay as the target has them.
    pub spared: Vec<Range<Bytes>>,
    /// Whether zeros need no room there.
    pub sparse: bool,
    /// How much is in flight.
    pub shape: Shape,
}

impl Part {
    /// Writes it to `target`, and flushes; what is damaged of it. The generation is read from `dpsr`, on which its store
    /// lies.
    pub fn write(
        self,
        view: &View<'_>,
        key: &DigestKey,
        dpsr: Arc<dyn ReadDisk>,
        target: Arc<dyn WriteDisk>,
        progress: &dyn Progress,
    ) -> Result<Vec<Chunk>> {
        let mut disks = Disks::default();
        let id = disks.add_read(dpsr.clone());
        let to = disks.add_write(target.clone());
        let engine = Engine::new(disks, self.shape);
        let mut engine = engine.map_err(|error| error.left("nothing was written"))?;
        let sink = DiskSink::new(target.as_ref(), to, self.range.start).at(self.at).sparing(self.spared);
        let mut sink = if self.sparse { sink.sparse() } else { sink };
        let reading = Reading { view, disk: dpsr.as_ref(), id, range: self.range, key, progress };
        let damaged = reading.run(&mut engine, &mut sink)?;
        target.flush().map_err(|error| Error::device("flushing", target.name(), &error))?;
        Ok(damaged)
    }
}

/// Plans, and refuses whatever must not be done.
pub fn plan(store: &OpenStore, options: Options) -> Result<Planned> {
    let roots = Roots::default();
    let record = store.contents.record(options.generation)?;
    let map = store.contents.map_of(record);
    let probe = Probe::open(&roots, &options.to)?;
    check_target(&roots, store, &probe, map)?;
    check_no_store(&probe, &FileDisk::open(&options.to, Access::Read)?)?;
    let volume = options.volume.as_deref().map(|name| find(&map.volumes, name)).transpose()?;
    let (range, at) = match volume {
        None => (Bytes::ZERO..map.disk, Bytes::ZERO),
        Some(volume) if volume.left_out => return Err(left_out_of_copy(volume)),
        Some(volume) => (volume.start..volume.start + volume.size, place_of(&options.to, &probe, volume)?),
    };
    let size = range.end - range.start;
    if probe.size < at + size {
        let why = format!("it has {} bytes, and {} are needed", probe.size.0, (at + size).0);
        return Err(refuse(&probe, why).next("name a larger disk"));
    }
    let spared = if volume.is_some() { vec![] } else { left_out(&map.volumes, map.disk) };
    let names = map.volumes.iter().filter(|v| v.left_out && volume.is_none()).map(|v| v.name.clone());
    let plan = RestorePlan {
        generation: options.generation,
        volume: volume.map(|volume| volume.name.clone()),
        target: probe.name(),
        target_size: probe.size,
        at,
        size,
        spared: names.collect(),
        confirm: probe.id(),
        confirm_kind: probe.id_kind().to_owned(),
    };
    Ok(Planned { plan, options, roots, probe, range, spared })
}

fn refuse(probe: &Probe, why: impl Into<String>) -> Error {
    Error::new(Kind::Refused, RESTORING, why).on(probe.name()).left("nothing was written")
}

fn left_out_of_copy(volume: &Volume) -> Error {
    Error::new(Kind::NotFound, "restoring volume", "it is left out of the copy").on(&volume.name)
}

fn check_target(roots: &Roots, store: &OpenStore, probe: &Probe, map: &Map) -> Result<()> {
    let dpsr = &store.dpsr.probe;
    let whole = |probe: &Probe| probe.node(roots).map(|node| node.disk().number);
    if probe.same_storage(dpsr) || whole(probe).is_some_and(|number| Some(number) == whole(dpsr)) {
        return Err(refuse(probe, "it is the DPSR disk itself").next("name another disk"));
    }
    if stands_on(roots, probe, dpsr) {
        return Err(
            refuse(probe, format!("it lies on the DPSR disk {}", dpsr.name())).next("name another disk")
        );
    }
    if let Some(usage) = in_use(roots, probe).first() {
        return Err(refuse(probe, usage.to_string()).next("stop that use first, or name another disk"));
    }
    let root = chain_of(roots, "/");
    if root.iter().any(|node| Some(node.number) == probe.number) {
        return Err(
            refuse(probe, "the running system's root lies on it").next("boot from something else first")
        );
    }
    if probe.block > map.block {
        let why =
            format!("its blocks have {} bytes, and those of the primary {}", probe.block.0, map.block.0);
        return Err(
            refuse(probe, why).next(format!("use a disk with logical blocks of {} bytes", map.block.0))
        );
    }
    Ok(())
}

/// Refuses any DPSR disk: a copy with its history would go, and with it perhaps the only one of another disk.
fn check_no_store(probe: &Probe, disk: &FileDisk) -> Result<()> {
    match find_store(disk, probe.block) {
        Some(_) => Err(refuse(probe, "it is a DPSR disk")
            .next("name another disk, or make it none with 'wipefs --all' if its copy and history may go")),
        None => Ok(()),
    }
}

/// Where on the target a volume goes: into the partition with its identity where the target has a table,
/// to the start of it where it has none.
fn place_of(path: &Path, probe: &Probe, volume: &Volume) -> Result<Bytes> {
    let disk = FileDisk::open(path, Access::Read)?;
    let table = match probe.kind {
        Endpoint::File => Table::read_image(&disk)?.0,
        Endpoint::Block => Table::read(&disk, probe.block)?,
    };
    if table.kind == TableKind::Bare {
        return Ok(Bytes::ZERO);
    }
    let same = table.partitions.iter().find(|partition| partition.id == volume.id);
    match same {
        Some(partition) if partition.range.end - partition.range.start == volume.size => {
            Ok(partition.range.start)
        }
        Some(_) => Err(refuse(probe, format!("its partition {} has another size", volume.name))
            .next("restore the whole disk, or onto a device of its own")),
        None => Err(refuse(
            probe,
            format!("it has a partition table, but no partition with the ID {}", volume.id),
        )
        .next("restore the whole disk, or onto a device of its own")),
    }
}

impl Planned {
    /// Whether what the user typed is the target's ID.
    pub fn check_confirmation(&self, given: &str) -> Result<()> {
        if given.trim() == self.plan.confirm {
            return Ok(());
        }
        let why = format!("{:?} is not its {}", given.trim(), self.plan.confirm_kind);
        Err(refuse(&self.probe, why).next("the plan shows the ID to confirm with"))
    }

    /// Does what the plan says. The target is overwritten only with what is vouched for; an export gives the rest.
    pub fn act(self, store: &OpenStore, progress: &dyn Progress) -> Result<Exported> {
        let view = View::of(&store.contents, self.options.generation)?;
        if !adds_up(store, &view) {
            return Err(self.not_vouched_for(store));
        }
        let taker = Taker { doing: RESTORING, verb: "restore" };
        let (disk, _lock) = claim(&self.roots, &self.probe, taker, check_no_store)?;
        let part = Part {
            range: self.range,
            at: self.plan.at,
            spared: self.spared,
            sparse: self.probe.kind == Endpoint::File,
            shape: Shape::default(),
        };
        progress.begin("restoring", self.plan.size);
        let key = DigestKey::new(store.contents.index.secret);
        let damaged =
            part.write(&view, &key, store.dpsr.clone(), Arc::new(disk), progress).map_err(|error| {
                error
                    .left("the target is overwritten in part; the DPSR disk is untouched")
                    .next("run the same restore again")
            })?;
        Ok(Exported { size: self.plan.size, damaged, adds_up: true })
    }

    fn not_vouched_for(&self, store: &OpenStore) -> Error {
        let generation = self.options.generation;
        Error::new(Kind::Damaged, format!("reading generation {generation} from"), NOT_ADDING_UP)
            .on(store.dpsr.name())
            .left("nothing was written")
            .next(format!(
                "'dpsr scrub' tells which generations are intact, and 'dpsr export {generation}' gives what is there"
            ))
    }
}
