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
    /// Whether the names it reported are what tells it from any other disk of its size, and nothing else does.
    fn only_named(&self) -> bool;
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
    fn only_named(&self) -> bool {
        self.named() && !self.has_telling_table()
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
    fn only_named(&self) -> bool {
        false
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
    // Who does not answer carries something else for all that is known.
    let doing = format!("opening {}", identity.role());
    let silent = |error| Error::device(&doing, disk.name(), &error).left("nothing was written");
    disk.check_answered().map_err(silent)?;
    match proven {
        Ok(evidence) => Ok(Proven { disk: disk.first(identity.extent()), probe, evidence }),
        Err(why) => Err(Error::new(Kind::Refused, doing, why)
            .on(path.display().to_string())
            .left("nothing was written")),
    }
}

/// A name that is not known now contradicts nothing: udev may be absent. Different ones do. Only where a name is all the
/// proof there is, it has to be known: a blank disk of that size would become the next generation.
fn compare<I: Identity>(identity: &I, probe: &Probe) -> Result<(), String> {
    if probe.size != identity.size() {
        return Err(format!("it has {} bytes instead of {}", probe.size.0, identity.size().0));
    }
    let (serial, wwn) = identity.names();
    let mut known = false;
    for (what, wanted, found) in [("serial number", serial, &probe.serial), ("WWN", wwn, &probe.wwn)] {
        if let (Some(wanted), Some(found)) = (wanted, found) {
            if wanted != found {
                return Err(format!("its {what} is {found}, not {wanted}"));
            }
            known = true;
        }
    }
    if identity.only_named() && !known {
        let wanted = serial.or(wwn).unwrap_or_default();
        return Err(format!("it does not report the name {wanted}, and nothing else tells what it is"));
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

#[cfg(test)]
mod tests {
    use super::super::testing::probe;
    use super::*;
    use crate::units::GIB;

    fn record(table: Option<&str>) -> PrimaryRecord {
        PrimaryRecord {
            path: "/dev/sda".into(),
            size: Bytes(GIB),
            disk_size: None,
            block: Bytes(512),
            serial: Some("S3R1AL".into()),
            wwn: Some("naa.5000".into()),
            table: table.map(Into::into),
            inode: None,
        }
    }

    /// A disk of the recorded size with these names.
    fn named(serial: Option<&str>, wwn: Option<&str>) -> Probe {
        Probe { serial: serial.map(Into::into), wwn: wwn.map(Into::into), ..probe("/dev/sdb", GIB) }
    }

    #[test]
    fn a_disk_of_another_name_or_size_is_not_the_recorded_one() {
        for table in [None, Some("99999999-0000-0000-0000-000000000000")] {
            let told = |probe: &Probe| compare(&record(table), probe).unwrap_err();
            insta::allow_duplicates! {
                insta::assert_snapshot!(told(&named(Some("OTHER"), Some("naa.5000"))), @"its serial number is OTHER, not S3R1AL");
                insta::assert_snapshot!(told(&named(Some("S3R1AL"), Some("naa.6000"))), @"its WWN is naa.6000, not naa.5000");
                insta::assert_snapshot!(told(&named(None, Some("naa.6000"))), @"its WWN is naa.6000, not naa.5000");
                insta::assert_snapshot!(told(&probe("/dev/sdb", GIB + 512)), @"it has 1073742336 bytes instead of 1073741824");
            }
        }
    }

    #[test]
    fn a_name_that_is_not_reported_counts_where_nothing_else_does() {
        let (with_table, bare) = (record(Some("99999999-0000-0000-0000-000000000000")), record(None));
        let nameless = named(None, None);
        assert_eq!(compare(&with_table, &nameless), Ok(()), "its table tells it");
        insta::assert_snapshot!(compare(&bare, &nameless).unwrap_err(), @"it does not report the name S3R1AL, and nothing else tells what it is");
        insta::assert_snapshot!(compare(&record(Some("00000000")), &nameless).unwrap_err(), @"it does not report the name S3R1AL, and nothing else tells what it is");
        for one in [named(Some("S3R1AL"), None), named(None, Some("naa.5000"))] {
            assert_eq!(compare(&bare, &one), Ok(()));
        }
        let by_path = PrimaryRecord { serial: None, wwn: None, ..bare };
        assert_eq!(compare(&by_path, &nameless), Ok(()), "there is nothing to go by");
    }
}
