// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turns the record of a pair into two open, proven, locked disks.
//!
//! The proof is made on the very descriptors that are handed out: size, serial number or WWN, inode, the
//! GUIDs of disk and store, the identity of the primary's table. Names decide nothing.

use std::path::Path;

use super::attached::refuse_attached;
use super::holder;
use super::inuse::{Use, in_use};
use super::larger::refuse_more;
use super::layout::{FoundStore, find_store};
use super::lock::{Lock, Mode, lock};
use super::probe::{Kind as Endpoint, Probe};
use super::proof::{self, Identity, Proven};
use super::scan::{are_several, locate};
use super::sysfs::{BlockNode, Roots};
use super::table::Table;
use crate::config::PairConfig;
use crate::disk::ReadDisk;
use crate::disk::file::{Access, FileDisk};
use crate::error::{Error, Kind, Result};
use crate::units::Bytes;

/// How the primary is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimaryUse {
    /// Nobody else may use it meanwhile.
    Offline,
    /// It is in use; a snapshot makes the reads consistent.
    Live,
}

/// The primary, proven; it can only be read.
pub struct Primary {
    /// The open disk, as much of it as is copied.
    pub disk: FileDisk,
    /// What it is.
    pub probe: Probe,
    /// How all of it is divided now.
    pub table: Table,
    _lock: Option<Lock>,
}

/// The DPSR disk, proven and locked.
pub struct Dpsr {
    /// The open disk.
    pub disk: FileDisk,
    /// What it is.
    pub probe: Probe,
    /// Where the store lies on it.
    pub store: FoundStore,
    _lock: Option<Lock>,
}

/// Two disks that were proven to belong together.
pub struct Pair {
    /// The record the proof was made against.
    pub config: PairConfig,
    /// The disk that is copied.
    pub primary: Primary,
    /// The disk that holds the copy.
    pub dpsr: Dpsr,
}

impl Primary {
    /// Asks what is on the volumes, for the labels by which people name them.
    pub fn probe_contents(&mut self) {
        self.table.probe_contents(&self.disk);
    }
}

/// Opens and proves both disks; the DPSR disk for writing, with the exclusive lock.
pub fn discover(roots: &Roots, config: &PairConfig, primary: PrimaryUse) -> Result<Pair> {
    let dpsr = open_store_only(roots, config, Mode::Exclusive)?;
    let primary = open_primary(roots, config, primary)?;
    if primary.probe.same_storage(&dpsr.probe) {
        let why = format!("{} is the same disk", dpsr.probe.name());
        return Err(Error::new(Kind::Refused, "opening the primary", why).on(primary.probe.name()));
    }
    refuse_more(&config.primary, &primary.table, &primary.disk)
        .map_err(|error| error.on(primary.probe.name()))?;
    Ok(Pair { config: config.clone(), primary, dpsr })
}

/// Opens and proves the primary at its recorded path, for reading only, without a look at any other disk. Where that leads
/// to dpsr's own node over it, the disk itself is meant.
pub fn open_recorded(roots: &Roots, config: &PairConfig) -> Result<Primary> {
    let mut path = config.primary.path.clone();
    while let Some(ours) = path.to_str().and_then(|path| roots.resolve(path)).filter(BlockNode::is_ours)
        && let [below] = &ours.slaves()[..]
    {
        path = below.disk().path();
    }
    let Proven { disk, probe, evidence } = proof::open(roots, &config.primary, &path, Access::Read)?;
    Ok(Primary { disk, probe, table: evidence, _lock: None })
}

/// Opens and proves the primary alone, for reading only.
pub fn open_primary(roots: &Roots, config: &PairConfig, how: PrimaryUse) -> Result<Primary> {
    let path = locate(roots, &config.primary)?;
    let access = match how {
        PrimaryUse::Offline => Access::ReadExclusive,
        PrimaryUse::Live => Access::Read,
    };
    if how == PrimaryUse::Offline {
        refuse_uses(roots, &config.primary, &Probe::open(roots, &path)?, |_| true)?;
    }
    let mut proven = proof::open(roots, &config.primary, &path, access)?;
    if is_ours(roots, &proven.probe) {
        // udev has turned the link to the disk into one to the node over it since it was looked at.
        let path = locate(roots, &config.primary)?;
        proven = proof::open(roots, &config.primary, &path, access)?;
    }
    let Proven { disk, probe, evidence } = proven;
    if is_ours(roots, &probe) {
        return Err(Error::new(Kind::Busy, "opening the primary", "it is being wrapped or unwrapped")
            .on(probe.name())
            .left("nothing was written")
            .next("wait until that has ended"));
    }
    if how == PrimaryUse::Offline {
        refuse_uses(roots, &config.primary, &probe, |_| true)?;
    }
    let held = match probe.kind {
        Endpoint::File => lock(roots, &disk, Mode::Shared)?,
        Endpoint::Block => None,
    };
    Ok(Primary { disk, probe, table: evidence, _lock: held })
}

/// Whether the disk at `path` is the primary. An error where it reports the primary's serial number or WWN,
/// and is not the disk that was recorded all the same.
pub fn is_primary(roots: &Roots, config: &PairConfig, path: &Path) -> Result<bool> {
    let record = &config.primary;
    let Err(error) = proof::open(roots, record, path, Access::Read) else { return Ok(true) };
    let same = |recorded: &Option<String>, found: &Option<String>| recorded.is_some() && recorded == found;
    match Probe::open(roots, path) {
        Ok(probe) if same(&record.serial, &probe.serial) || same(&record.wwn, &probe.wwn) => Err(error),
        _ => Ok(false),
    }
}

/// Whether more than one disk is the primary by all that tells disks apart.
pub fn is_there_twice(roots: &Roots, config: &PairConfig) -> bool {
    are_several(roots, &config.primary)
}

/// Whether a node over a disk was opened, and not the disk.
fn is_ours(roots: &Roots, probe: &Probe) -> bool {
    probe.node(roots).is_some_and(|node| node.is_ours())
}

/// Opens and proves the DPSR disk alone, for the verbs that need no primary. `Exclusive` opens it for
/// writing.
pub fn open_store_only(roots: &Roots, config: &PairConfig, mode: Mode) -> Result<Dpsr> {
    let path = locate(roots, &config.dpsr)?;
    let refuse_others = |probe: &Probe| match mode {
        Mode::Exclusive => {
            refuse_attached(roots, probe)?;
            refuse_uses(roots, &config.dpsr, probe, |usage| !matches!(usage, Use::Held { ours: true, .. }))
        }
        _ => Ok(()),
    };
    refuse_others(&Probe::open(roots, &path)?)?;
    let access = if mode == Mode::Exclusive { Access::Write } else { Access::Read };
    // Locked first through a descriptor for reading: the claim of a writer would say only "busy".
    let _first = lock(roots, &FileDisk::open(&path, Access::Read)?, mode)?;
    drop(_first);
    let Proven { disk, probe, evidence } = proof::open(roots, &config.dpsr, &path, access)?;
    let held = lock(roots, &disk, mode)?;
    // Under the lock: who attaches a generation holds it until the devices are there.
    refuse_others(&probe)?;
    Ok(Dpsr { disk, probe, store: evidence, _lock: held })
}

/// Opens and proves the DPSR disk from which this machine runs, to write what the store says of itself: the
/// image belongs to the machine. It cannot be claimed, because the machine's own devices hold it.
pub fn open_live(roots: &Roots, config: &PairConfig) -> Result<Dpsr> {
    let path = locate(roots, &config.dpsr)?;
    let Proven { disk, probe, evidence } = proof::open(roots, &config.dpsr, &path, Access::WriteBeside)?;
    let held = lock(roots, &disk, Mode::Exclusive)?;
    Ok(Dpsr { disk, probe, store: evidence, _lock: held })
}

/// Opens the DPSR disk at `path` for reading, though no record speaks of it: what it says of itself is all
/// the proof there is. `Exclusive` is no mode for this, because nothing may be written.
pub fn open_unrecorded(roots: &Roots, path: &Path, mode: Mode) -> Result<Dpsr> {
    let disk = holder::open(roots, path, Access::Read)?;
    let probe = Probe::of_descriptor(roots, path, disk.descriptor().expect("a file has a descriptor"))?;
    // An image of a disk does not tell what its blocks were.
    let blocks = [probe.block, Bytes(512), Bytes(4096)];
    let store = blocks.into_iter().find_map(|block| find_store(&disk, block));
    let silent =
        |error| Error::device("opening the DPSR disk", disk.name(), &error).left("nothing was written");
    disk.check_answered().map_err(silent)?;
    let Some(store) = store else {
        return Err(Error::new(Kind::Refused, "opening the DPSR disk", "it carries no store")
            .on(path.display().to_string())
            .left("nothing was written")
            .next("name the whole disk that holds the copy"));
    };
    let held = lock(roots, &disk, mode)?;
    Ok(Dpsr { disk, probe, store, _lock: held })
}

fn refuse_uses<I: Identity>(
    roots: &Roots,
    identity: &I,
    probe: &Probe,
    matters: impl Fn(&Use) -> bool,
) -> Result<()> {
    match in_use(roots, probe).iter().find(|usage| matters(usage)) {
        Some(usage) => {
            let next = match usage {
                Use::Held { ours: true, .. } => "it is wrapped: 'dpsr unwrap' takes that away",
                _ => "stop that use first",
            };
            Err(Error::new(Kind::Refused, format!("opening {}", identity.role()), usage.to_string())
                .on(probe.name())
                .left("nothing was written")
                .next(next))
        }
        None => Ok(()),
    }
}
