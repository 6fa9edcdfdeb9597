// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether an open descriptor is the disk a record speaks of.

use std::path::Path;

use super::holder;
use super::layout::{FoundStore, find_store};
use super::probe::Probe;
use super::sysfs::Roots;
use super::table::Table;
use crate::config::{DpsrRecord, PrimaryRecord};
use crate::disk::ReadDisk;
use crate::disk::file::{Access, FileDisk};
use crate::error::{Error, Kind, Result};
use crate::units::Bytes;

/// What a record says of a disk, and how to read the rest of the proof from it.
pub(super) trait Identity {
    /// What reading the disk gives when the proof holds.
    type Evidence;
    /// `the primary` or `the DPSR disk`.
    fn role(&self) -> &'static str;
    /// Where it was last.
    fn path(&self) -> &Path;
    /// Its size.
    fn size(&self) -> Bytes;
    /// How many bytes of it, from its beginning, the pair is about.
    fn extent(&self) -> Bytes {
        self.size()
    }
    /// The serial number and WWN it reported.
    fn names(&self) -> (Option<&str>, Option<&str>);
    /// The inode of the file it is or lies in, where that must be the recorded one.
    fn inode(&self) -> Option<u64>;
    /// Whether the record tells it from any other disk of its size.
    fn telling(&self) -> bool;
    /// What to do about another inode.
    fn other_inode(&self, found: u64) -> String;
    /// The proof that lies in the disk's own bytes; the error says what is there instead.
    fn read(&self, probe: &Probe, disk: &FileDisk) -> Result<Self::Evidence, String>;
}

impl Identity for PrimaryRecord {
    type Evidence = Table;
    fn role(&self) -> &'static str {
        "the primary"
    }
    fn path(&self) -> &Path {
        &self.path
    }
    fn size(&self) -> Bytes {
        self.whole()
    }
    fn extent(&self) -> Bytes {
        self.size
    }
    fn names(&self) -> (Option<&str>, Option<&str>) {
        (self.serial.as_deref(), self.wwn.as_deref())
    }
    /// An image with a table may be moved and copied back: its table tells it. Without one its size would be
    /// the whole proof, and any file of that size would become the next generation.
    fn inode(&self) -> Option<u64> {
        if self.named() { None } else { self.inode }
    }
    fn telling(&self) -> bool {
        self.named() || self.inode.is_some()
    }
    fn other_inode(&self, found: u64) -> String {
        format!("if it is meant, say 'inode = {found}' under [primary] in the record of the pair")
    }
    fn read(&self, _: &Probe, disk: &FileDisk) -> Result<Table, String> {
        let table = Table::read(disk, self.block).map_err(|error| error.to_string())?;
        let name = |id: &Option<String>| id.clone().unwrap_or_else(|| "none".to_owned());
        match table.id() == self.table {
            true => Ok(table),
            false => Err(format!("its partition table is {}, not {}", name(&table.id()), name(&self.table))),
        }
    }
}

impl PrimaryRecord {
    /// Whether a table or a name tells it from other disks.
    fn named(&self) -> bool {
        self.has_telling_table() || self.serial.is_some() || self.wwn.is_some()
    }
}

impl Identity for DpsrRecord {
    type Evidence = FoundStore;
    fn role(&self) -> &'static str {
        "the DPSR disk"
    }
    fn path(&self) -> &Path {
        &self.path
    }
    fn size(&self) -> Bytes {
        self.size
    }
    fn names(&self) -> (Option<&str>, Option<&str>) {
        (self.serial.as_deref(), self.wwn.as_deref())
    }
    fn inode(&self) -> Option<u64> {
        self.inode
    }
    fn telling(&self) -> bool {
        true
    }
    fn other_inode(&self, _: u64) -> String {
        "a copy of the DPSR disk is not the DPSR disk".to_owned()
    }
    fn read(&self, probe: &Probe, disk: &FileDisk) -> Result<FoundStore, String> {
        match find_store(disk, probe.block) {
            Some(found) if found.disk == self.disk_guid && found.store == self.store => Ok(found),
            Some(found) => Err(format!("it carries the store of another pair (disk GUID {})", found.disk)),
            None => Err("it carries no store".to_owned()),
        }
    }
}

/// A disk whose descriptor was proven to be the recorded one.
pub(super) struct Proven<E> {
    pub disk: FileDisk,
    pub probe: Probe,
    pub evidence: E,
}

/// Opens `path` and proves it on the descriptor; nothing is decided by the path.
pub(super) fn open<I: Identity>(
    roots: &Roots,
    identity: &I,
    path: &Path,
    access: Access,
) -> Result<Proven<I::Evidence>> {
    let disk = holder::open(roots, path, access)?;
    let descriptor = disk.descriptor().expect("a file has a descriptor");
    let probe = Probe::of_descriptor(roots, path, descriptor)?;
    let proven = compare(identity, &probe).and_then(|()| identity.read(&probe, &disk));
    match proven {
        Ok(evidence) => Ok(Proven { disk: disk.first(identity.extent()), probe, evidence }),
        Err(why) => Err(Error::new(Kind::Refused, format!("opening {}", identity.role()), why)
            .on(path.display().to_string())
            .left("nothing was written")),
    }
}

/// A name that is not known now contradicts nothing: udev may be absent. Different ones do.
fn compare<I: Identity>(identity: &I, probe: &Probe) -> Result<(), String> {
    if probe.size != identity.size() {
        return Err(format!("it has {} bytes instead of {}", probe.size.0, identity.size().0));
    }
    let (serial, wwn) = identity.names();
    for (what, wanted, found) in [("serial number", serial, &probe.serial), ("WWN", wwn, &probe.wwn)] {
        if let (Some(wanted), Some(found)) = (wanted, found)
            && wanted != found
        {
            return Err(format!("its {what} is {found}, not {wanted}"));
        }
    }
    match (identity.inode(), probe.inode) {
        (Some(wanted), Some((_, found))) if wanted != found => {
            let next = identity.other_inode(found);
            Err(format!("it is another file (inode {found}, not {wanted}): {next}"))
        }
        (Some(_), None) => Err("it does not lie in the recorded file any more".to_owned()),
        _ => Ok(()),
    }
}
