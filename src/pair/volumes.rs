// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which parts of the primary are kept.
//!
//! A **volume** is one partition, or the whole device (`disk`) where there is no table. The pseudo volume
//! `table` is everything outside partitions: both tables, gaps, extended boot records. The **group** holds
//! the volumes that always move together, because a root without its `/boot` is of no use.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Serialize;

use super::chain::chain_of;
use super::probe::Probe;
use super::roles::{boots, swaps};
use super::show::printable;
use super::sysfs::{BlockNode, Roots};
use super::table::{Partition, Table, TableKind};
use crate::error::{Error, Kind, Result};
use crate::units::Bytes;

/// The id of the pseudo volume outside all partitions.
pub const TABLE: &str = "table";
/// The id of the only volume of a device without a table.
pub const DISK: &str = "disk";
/// The ids of the parts of a reserve begin so.
const RESERVE: &str = "reserve-";

/// One part of the primary that can be named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// What the configuration and every message call it: PARTUUID, `table` or `disk`.
    pub id: String,
    /// The partition number; 0 for `table` and `disk`.
    pub number: u32,
    /// PARTLABEL; may be empty.
    pub name: String,
    /// The label of the filesystem on it; may be empty.
    pub label: String,
    /// The type of its content; may be empty.
    pub content: String,
    /// Where it lies on the primary; for `table`, the whole disk.
    pub range: Range<Bytes>,
    /// Whether it is left out of the copy.
    pub left_out: bool,
    /// Whether it moves together with the root filesystem.
    pub group: bool,
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = [&self.name, &self.label].into_iter().find(|name| !name.is_empty());
        match (self.number, name) {
            (0, _) => f.write_str(&self.id),
            (number, Some(name)) => write!(f, "{number} ({})", printable(name)),
            (number, None) => write!(f, "{number}"),
        }
    }
}

/// All volumes of a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volumes {
    all: Vec<Volume>,
    size: Bytes,
}

impl Volumes {
    /// The volumes of a primary of `size` bytes with `table`; nothing is left out yet.
    pub fn of(table: &Table, size: Bytes) -> Self {
        let mut all: Vec<_> = table.partitions.iter().map(volume).collect();
        let rest = match table.kind {
            TableKind::Bare => Volume { content: fstype(table.whole.as_ref()), ..pseudo(DISK, size) },
            _ => pseudo(TABLE, size),
        };
        all.insert(0, rest);
        Self { all, size }
    }

    /// Leaves out the swap partitions, as `init` does by default. A partition of the group is never swap.
    pub fn leave_out_swap(&mut self, table: &Table) {
        for partition in table.partitions.iter().filter(|partition| swaps(partition)) {
            self.change(&partition.id, |volume| volume.left_out = !volume.group);
        }
    }

    /// Refuses two partitions that have one unique GUID, where it `matters` to anybody: whatever is said of one by
    /// its id would be said of both, and one that should be copied would be left out with the other.
    pub fn refuse_twins(&self, primary: &str, matters: impl Fn(&str) -> bool) -> Result<()> {
        let same =
            |other: &Volume| self.all.iter().find(|one| one.id == other.id && one.number != other.number);
        let mut named = self.all.iter().filter(|volume| matters(&volume.id));
        let Some((one, other)) = named.find_map(|one| Some((one, same(one)?))) else { return Ok(()) };
        let why = format!("its partitions {one} and {other} have one unique GUID, {}", one.id);
        let number = one.number.max(other.number);
        Err(Error::new(Kind::Refused, "telling apart the partitions of", why)
            .on(primary)
            .left("nothing was written")
            .next(format!(
                "give one of them another with 'sgdisk --partition-guid={number}:R {primary}', and correct what \
                 mounts it by PARTUUID"
            )))
    }

    /// Puts the volumes with these ids into the group; an id that is gone is ignored, so that the record
    /// of a pair survives repartitioning.
    pub fn group_also(&mut self, ids: &[String]) {
        ids.iter().for_each(|id| self.change(id, |volume| volume.group = true));
    }

    /// Leaves out the volumes with these ids, as the record of a pair says; an id that is gone is ignored.
    pub fn leave_out_ids(&mut self, ids: &[String]) {
        let ids = ids.iter().filter(|id| ![TABLE, DISK].contains(&id.as_str()));
        ids.for_each(|id| self.change(id, |volume| volume.left_out = true));
    }

    /// Leaves out these ranges inside kept volumes, as parts of a reserve.
    pub fn leave_out_reserve(&mut self, ranges: &[Range<Bytes>]) {
        let part = |(number, range): (usize, &Range<Bytes>)| Volume {
            range: range.clone(),
            left_out: true,
            ..pseudo(&format!("{RESERVE}{}", number + 1), Bytes::ZERO)
        };
        self.all.extend(ranges.iter().enumerate().map(part));
    }

    /// Puts what the running system booted from into the group, where `primary` is its disk.
    pub fn group_running(&mut self, roots: &Roots, primary: &Probe) {
        for point in ["/", "/usr", "/boot", "/boot/efi", "/efi"] {
            let under = chain_of(roots, point);
            let ours: Vec<_> = under.iter().filter_map(|node| number_of(roots, primary, node)).collect();
            let ids = self.all.iter().filter(|volume| ours.contains(&volume.number)).map(|v| v.id.clone());
            let ids: Vec<_> = ids.collect();
            self.group_also(&ids);
        }
    }

    /// Leaves out what the user named.
    pub fn leave_out(&mut self, roots: &Roots, primary: &Probe, name: &str) -> Result<()> {
        let id = self.find_on(roots, primary, name)?.id.clone();
        if [TABLE, DISK].contains(&id.as_str()) {
            return Err(Error::new(Kind::Usage, "leaving out", "this part is always kept").on(id));
        }
        self.change(&id, |volume| volume.left_out = true);
        Ok(())
    }

    fn change(&mut self, id: &str, change: impl Fn(&mut Volume)) {
        self.all.iter_mut().filter(|volume| volume.id == id).for_each(change);
    }

    /// All volumes: `table` or `disk` first, then the partitions by number.
    pub fn iter(&self) -> impl Iterator<Item = &Volume> {
        self.all.iter()
    }

    /// The volume a user means: partition number, PARTUUID, PARTLABEL, filesystem label, `table`, `disk`.
    pub fn find(&self, name: &str) -> Result<&Volume> {
        let number = name.parse().unwrap_or(0);
        let exact = |v: &&Volume| v.id.eq_ignore_ascii_case(name) || number > 0 && v.number == number;
        if let Some(volume) = self.all.iter().find(exact) {
            return Ok(volume);
        }
        let named: Vec<_> =
            self.all.iter().filter(|v| !name.is_empty() && (v.name == name || v.label == name)).collect();
        match named[..] {
            [volume] => Ok(volume),
            [] => Err(self.unknown(name)),
            _ => Err(self.ambiguous(name, &named)),
        }
    }

    /// Like [`find`](Self::find), and also a device node of a partition of `primary` (`/dev/sda3`).
    pub fn find_on(&self, roots: &Roots, primary: &Probe, name: &str) -> Result<&Volume> {
        if !name.starts_with('/') {
            return self.find(name);
        }
        let node = roots.resolve(name).and_then(|node| number_of(roots, primary, &node));
        let number = node.or_else(|| number_in_name(&primary.canonical, name));
        number.and_then(|n| self.all.iter().find(|v| v.number == n)).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Error {
        let known: Vec<_> = self.all.iter().map(Volume::to_string).collect();
        let next = format!("name one of {}", known.join(", "));
        Error::new(Kind::NotFound, "looking for", "the primary has no such partition").on(name).next(next)
    }

    fn ambiguous(&self, name: &str, named: &[&Volume]) -> Error {
        let numbers: Vec<_> = named.iter().map(|volume| volume.number.to_string()).collect();
        let why = format!("partitions {} have this name", numbers.join(" and "));
        Error::new(Kind::Usage, "looking for", why).on(name).next("name the partition by its number")
    }

    /// What is kept, as sorted ranges that neither touch nor overlap.
    pub fn kept_ranges(&self) -> Vec<Range<Bytes>> {
        let mut gone: Vec<_> = self.all.iter().filter(|v| v.left_out).map(|v| v.range.clone()).collect();
        gone.sort_by_key(|range| range.start);
        let mut kept = Vec::new();
        let mut from = Bytes::ZERO;
        for range in gone.into_iter().chain([self.size..self.size]) {
            if from < range.start {
                kept.push(from..range.start);
            }
            from = from.max(range.end);
        }
        kept
    }

    /// How many bytes are kept.
    pub fn kept(&self) -> Bytes {
        self.kept_ranges().iter().map(|range| range.end - range.start).sum()
    }

    /// The ids of what is left out, for the record of the pair.
    pub fn left_out_ids(&self) -> Vec<String> {
        let left_out = self.all.iter().filter(|volume| volume.left_out && !volume.id.starts_with(RESERVE));
        left_out.map(|volume| volume.id.clone()).collect()
    }
}

fn volume(partition: &Partition) -> Volume {
    let label = partition.content.as_ref().and_then(|content| content.label.clone());
    Volume {
        id: partition.id.clone(),
        number: partition.number,
        name: partition.label.clone(),
        label: label.unwrap_or_default(),
        content: fstype(partition.content.as_ref()),
        range: partition.range.clone(),
        left_out: false,
        group: boots(partition),
    }
}

fn fstype(content: Option<&super::content::Content>) -> String {
    content.map(|content| content.fstype.clone()).unwrap_or_default()
}

fn pseudo(id: &str, size: Bytes) -> Volume {
    Volume {
        id: id.to_owned(),
        number: 0,
        name: String::new(),
        label: String::new(),
        content: String::new(),
        range: Bytes::ZERO..size,
        left_out: false,
        group: true,
    }
}

/// Which partition of `primary` a device is: a kernel partition, or dpsr's `partN-` node over it.
fn number_of(roots: &Roots, primary: &Probe, node: &BlockNode) -> Option<u32> {
    let disk = primary.node(roots)?.disk();
    if node.disk().number == disk.number {
        return node.partition();
    }
    let uuid = node.attr("dm/uuid")?;
    let number = uuid.strip_prefix("part")?.split_once("-DPSR-")?.0.parse().ok()?;
    let wrapped = node.slaves().iter().any(|below| {
        below.number == disk.number || { below.slaves().iter().any(|under| under.number == disk.number) }
    });
    wrapped.then_some(number)
}

/// `/dev/sda3` and `/dev/nvme0n1p3` also where the kernel made no such node.
fn number_in_name(disk: &Path, name: &str) -> Option<u32> {
    let tail = name.strip_prefix(disk.to_str()?)?;
    tail.strip_prefix('p').unwrap_or(tail).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::content::Content;
    use super::super::testing::sample_table;
    use super::*;
    use crate::units::{GIB, MIB};

    #[test]
    fn swap_is_left_out_and_boot_is_grouped() {
        let mut volumes = Volumes::of(&sample_table(), Bytes(100 * GIB));
        volumes.leave_out_swap(&sample_table());
        let shown: Vec<_> = volumes.iter().map(|v| (v.number, v.left_out, v.group)).collect();
        assert_eq!(shown, [(0, false, true), (1, false, true), (2, false, false), (3, true, false)]);
        let kept = volumes.kept_ranges();
        assert_eq!(kept, [Bytes(0)..Bytes(60 * GIB), Bytes(68 * GIB)..Bytes(100 * GIB)]);
        assert_eq!(volumes.kept(), Bytes(92 * GIB));
    }

    #[test]
    fn every_way_to_name_a_partition() {
        let volumes = Volumes::of(&sample_table(), Bytes(100 * GIB));
        let roots = Roots { sys: "/none".into(), proc: "/none".into(), dev: "/none".into() };
        let primary = super::super::testing::probe("/dev/nvme0n1", 100 * GIB);
        for name in ["2", "22222222-0000-0000-0000-00000000000A", "system", "rootfs", "/dev/nvme0n1p2"] {
            assert_eq!(volumes.find_on(&roots, &primary, name).unwrap().number, 2, "{name}");
        }
        assert_eq!(volumes.find("table").unwrap().id, "table");
        insta::assert_snapshot!(volumes.find("home").unwrap_err(), @"looking for home: the primary has no such partition; name one of table, 1 (EFI), 2 (system), 3");
        let mut volumes = volumes;
        insta::assert_snapshot!(volumes.leave_out(&roots, &primary, "table").unwrap_err(), @"leaving out table: this part is always kept");
    }

    #[test]
    fn a_name_that_two_partitions_have_is_ambiguous() {
        let mut table = sample_table();
        table.partitions[1].content =
            Some(Content { fstype: "ext4".into(), label: Some("EFI".into()), uuid: None });
        insta::assert_snapshot!(Volumes::of(&table, Bytes(100 * GIB)).find("EFI").unwrap_err(), @"looking for EFI: partitions 1 and 2 have this name; name the partition by its number");
    }

    #[test]
    fn two_partitions_with_one_guid_are_refused_where_it_matters() {
        let mut table = sample_table();
        table.partitions[2].id = table.partitions[1].id.clone();
        let volumes = Volumes::of(&table, Bytes(100 * GIB));
        let error = volumes.refuse_twins("/dev/sda", |_| true).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        insta::assert_snapshot!(error, @"telling apart the partitions of /dev/sda: its partitions 2 (system) and 3 have one unique GUID, 22222222-0000-0000-0000-00000000000a; nothing was written; give one of them another with 'sgdisk --partition-guid=3:R /dev/sda', and correct what mounts it by PARTUUID");
        let only = |id: &str| volumes.refuse_twins("/dev/sda", |other| other == id);
        assert!(only(&table.partitions[1].id).is_err());
        only(&table.partitions[0].id).unwrap();
        Volumes::of(&sample_table(), Bytes(100 * GIB)).refuse_twins("/dev/sda", |_| true).unwrap();
    }

    #[test]
    fn a_bare_device_is_one_volume() {
        let table = Table { kind: TableKind::Bare, partitions: vec![], whole: None, bad: None };
        let volumes = Volumes::of(&table, Bytes(MIB));
        assert_eq!(volumes.iter().map(|v| v.id.as_str()).collect::<Vec<_>>(), ["disk"]);
        assert_eq!(volumes.kept_ranges(), [Bytes(0)..Bytes(MIB)]);
    }
}
