// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the devices under a wrapped primary are called.
//!
//! libblkid and lsblk take a device whose UUID begins with `partN-`, and which lies on one device alone, for
//! partition N of that device; so by-partuuid, by-partlabel and GRUB work without a rule of ours.

use crate::config::PairConfig;
use crate::dm::Name;
use crate::pair::table::Table;
use crate::sys::dm::Udev;

/// The identity of a wrapped disk: the GUID of its GPT, the signature of its MBR, or, where it has no table,
/// the UUID of the pair; in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskId(pub String);

impl DiskId {
    /// The identity of a primary with this table. An MBR signature of zero is none.
    pub fn of(config: &PairConfig, table: &Table) -> Self {
        Self::told(config, table.id())
    }

    /// The identity of a primary that is not there, as the record has it.
    pub fn recorded(config: &PairConfig) -> Self {
        Self::told(config, config.primary.table.clone())
    }

    fn told(config: &PairConfig, table: Option<String>) -> Self {
        let told = table.filter(|id| id.bytes().any(|digit| digit != b'0'));
        Self(told.unwrap_or_else(|| config.id.to_string()))
    }

    /// The number of the partition that a device with this UUID is of this disk.
    pub fn part_number(&self, uuid: &str) -> Option<u32> {
        uuid.strip_prefix("part")?.strip_suffix(&self.disk().uuid)?.strip_suffix('-')?.parse().ok()
    }

    /// The whole disk, as everything sees it once it is wrapped.
    pub fn disk(&self) -> Name {
        self.named("", "DPSR-DISK-", Udev::PUBLIC)
    }

    /// Partition `number` on it.
    pub fn partition(&self, number: u32) -> Name {
        let udev = Udev::PUBLIC;
        self.named(&format!("-part{number}"), &format!("part{number}-DPSR-DISK-"), udev)
    }

    /// A layer that nobody but dpsr may see; `what` is a word like `snapshot`, unique for the disk.
    pub fn private(&self, what: &str) -> Name {
        self.named(&format!("-{what}"), &format!("DPSR-{}-", what.to_uppercase()), Udev::PRIVATE)
    }

    /// The first eight characters are enough for a name; the UUID has them all.
    fn named(&self, suffix: &str, prefix: &str, udev: Udev) -> Name {
        let short: String = self.0.chars().take(8).collect();
        Name { name: format!("dpsr-{short}{suffix}"), uuid: format!("{prefix}{}", self.0), udev }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_libblkid_wants_them() {
        let id = DiskId("0fc63daf-8483-4772-8e79-3d69d8477de4".to_owned());
        assert_eq!(id.disk().uuid, "DPSR-DISK-0fc63daf-8483-4772-8e79-3d69d8477de4");
        assert_eq!(id.disk().name, "dpsr-0fc63daf");
        assert_eq!(id.partition(2).uuid, "part2-DPSR-DISK-0fc63daf-8483-4772-8e79-3d69d8477de4");
        assert_eq!(id.partition(2).name, "dpsr-0fc63daf-part2");
        assert_eq!(id.part_number(&id.partition(12).uuid), Some(12));
        assert_eq!(id.part_number(&id.disk().uuid), None);
        assert_eq!(id.private("snapshot").uuid, "DPSR-SNAPSHOT-0fc63daf-8483-4772-8e79-3d69d8477de4");
        assert_eq!(id.private("snapshot").udev, Udev::PRIVATE);
    }
}
