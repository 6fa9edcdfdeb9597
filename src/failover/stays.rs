// SPDX-License-Identifier: MIT OR Apache-2.0
//! Volumes that a machine which runs from its copy has on its primary still: its system is broken, and they are not.
//!
//! Which they are is written into the store with the live mark, so that every later boot takes the same ones: of
//! such a volume the copy has only what it was.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::PairConfig;
use crate::disk::ReadDisk;
use crate::disk::file::{Access, FileDisk};
use crate::dm::{Table, Target as DmTarget};
use crate::error::{Error, Kind, Result};
use crate::failback::target::Target;
use crate::format::index::{Object, STAYS, Volume};
use crate::pair::sysfs::{DevNum, Roots};
use crate::pair::table::{Partition, Table as Partitions};
use crate::store::Contents;
use crate::swap;
use crate::units::{Bytes, Generation, SECTOR};
use crate::wrap::DiskId;

const DOING: &str = "leaving volumes on the primary";

/// The disk, and the identities of its volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stays {
    /// The primary.
    pub disk: Target,
    /// The `id` of each volume.
    pub volumes: Vec<String>,
}

impl Stays {
    /// Those that a store keeps; `None` where all are in the copy. An object that says something else is damage, and
    /// never taken for none: the copy would be believed to hold what it does not.
    pub fn in_store(contents: &Contents) -> Result<Option<Self>> {
        let found = contents.index.objects.iter().find(|object| object.kind == STAYS);
        let read = found.map(|object| serde_json::from_slice(&object.about));
        read.transpose().map_err(|error| {
            let why = format!("which volumes stayed on the primary cannot be read: {error}");
            Error::new(Kind::Damaged, "reading the index", why).left("nothing was written")
        })
    }

    /// The object that keeps them in the store.
    pub fn object(&self) -> Object {
        let about = serde_json::to_vec(self).expect("numbers and texts are always JSON");
        Object { kind: STAYS, about, runs: Vec::new() }
    }

    /// Whether a volume is one of them.
    pub fn has(&self, volume: &Volume) -> bool {
        self.volumes.contains(&volume.id)
    }

    /// The volumes that are `asked` for by number, name or label, of a machine that is to run from generation `from`.
    /// The primary must be there, and have them where the generation has them.
    pub fn of(
        roots: &Roots,
        config: &PairConfig,
        contents: &Contents,
        from: Generation,
        asked: &[String],
    ) -> Result<Self> {
        let map = contents.map_of(contents.record(from)?);
        let chosen = chosen(&map.volumes, asked)?;
        let swaps = swap::recorded(&contents.index, map);
        if let Some(swap) = swaps.iter().find(|swap| chosen.iter().any(|one| one.id == swap.volume.id)) {
            return Err(refused(format!("volume {} is swap space", swap.volume.name)));
        }
        let primary = &config.primary;
        let recorded =
            Target { size: primary.whole(), serial: primary.serial.clone(), wwn: primary.wwn.clone() };
        let target = Target::home(contents).unwrap_or(recorded);
        let found = target.awaited(roots, DOING, config.failover.wait(None))?;
        let disk = FileDisk::open(found.path(), Access::Read)?;
        let mut table = Partitions::read(&disk, primary.block)?;
        table.probe_contents(&disk);
        let on_disk = |error: Error| error.on(disk.name());
        if swap::is_asleep(&disk, &contents.index, contents.newest_map())? {
            let why = "its system has gone to sleep (hibernated), and would wake with an old picture of them";
            return Err(on_disk(refused(why.to_owned())));
        }
        for volume in &chosen {
            let Some(partition) = table.partitions.iter().find(|partition| is_same(partition, volume)) else {
                let why = format!("volume {} is not what it was in generation {from}", volume.name);
                return Err(on_disk(refused(why)));
            };
            let others = table.partitions.iter().filter(|other| chosen.iter().all(|one| one.id != other.id));
            if let Some(other) = others.into_iter().find(|other| belongs_with(partition, other)) {
                let why = format!("volumes {} and {} belong together", partition.number, other.number);
                return Err(on_disk(refused(why)));
            }
        }
        Ok(Self { disk: target, volumes: chosen.into_iter().map(|volume| volume.id.clone()).collect() })
    }

    /// The number of the disk, which has these of `volumes`; `NotFound` where it is not there, or was partitioned anew. A
    /// disk without any table has them: the way back takes that away first.
    pub fn on(&self, roots: &Roots, block: Bytes, volumes: &[Volume], patience: Duration) -> Result<DevNum> {
        let node = self.disk.awaited(roots, DOING, patience)?;
        let disk = FileDisk::open(node.path(), Access::Read)?;
        let table = Partitions::read(&disk, block)?;
        let has = |volume: &Volume| table.partitions.iter().any(|partition| is_same(partition, volume));
        let all = volumes.iter().filter(|volume| self.has(volume)).all(has);
        if all || table.partitions.is_empty() {
            return Ok(node.number);
        }
        let why = "it was partitioned anew, and has other volumes now";
        Err(Error::new(Kind::NotFound, DOING, why).on(disk.name()).left("nothing was written to it"))
    }

    /// Whether a device-mapper device with this UUID is one of them, on the disk with this identity.
    pub fn is_part(&self, id: &DiskId, volumes: &[Volume], uuid: &str) -> bool {
        let number = id.part_number(uuid).map(|number| number.to_string());
        volumes.iter().any(|volume| self.has(volume) && Some(&volume.name) == number.as_ref())
    }

    /// The device of each of `volumes` that stays, by its number, on the disk with the number `raw`.
    pub fn parts(&self, volumes: &[Volume], raw: DevNum) -> Vec<(u32, Table)> {
        let part = |volume: &Volume| {
            let size = volume.size.round_down(SECTOR);
            Some((volume.name.parse().ok()?, Table::of(size, DmTarget::Linear(raw, volume.start))))
        };
        volumes.iter().filter(|volume| self.has(volume)).filter_map(part).collect()
    }
}

fn is_same(partition: &Partition, volume: &Volume) -> bool {
    partition.id == volume.id && partition.range == (volume.start..volume.start + volume.size)
}

/// Whether two partitions are, or may be, parts of one thing, of which both halves must be of one time.
fn belongs_with(one: &Partition, other: &Partition) -> bool {
    let (Some(one), Some(other)) = (&one.content, &other.content) else { return false };
    one.fstype == other.fstype
        && match one.fstype.as_str() {
            // Of a volume group they do not tell.
            "LVM2_member" => true,
            "linux_raid_member" | "btrfs" => one.uuid == other.uuid,
            _ => false,
        }
}

fn refused(why: String) -> Error {
    Error::new(Kind::Refused, DOING, why)
        .left("nothing was written")
        .next("take dpsr.live=… from the kernel's command line: the copy has all volumes")
}

/// Those of `volumes` that somebody may have meant.
fn chosen<'a>(volumes: &'a [Volume], asked: &[String]) -> Result<Vec<&'a Volume>> {
    let mut chosen: Vec<&Volume> = Vec::new();
    for word in asked {
        let meant =
            |volume: &&Volume| volume.size > Bytes::ZERO && (volume.name == *word || volume.label == *word);
        let found: Vec<&Volume> = volumes.iter().filter(meant).collect();
        let [volume] = found[..] else {
            let many = if found.is_empty() { "no volume" } else { "more than one volume" };
            return Err(refused(format!("{many} is called {word:?}")));
        };
        if volume.group {
            return Err(refused(format!("volume {word} belongs to the system that is to be replaced")));
        }
        if chosen.iter().all(|known| known.id != volume.id) {
            chosen.push(volume);
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::content::Content;

    fn volume(name: &str, label: &str, group: bool) -> Volume {
        let number: u64 = name.parse().unwrap();
        Volume {
            id: format!("id-{name}"),
            name: name.into(),
            label: label.into(),
            start: Bytes(number << 20),
            size: Bytes(1 << 20),
            left_out: false,
            group,
        }
    }

    #[test]
    fn by_number_or_name_and_nothing_of_the_system() {
        let volumes = [
            volume("1", "root", true),
            volume("2", "data", false),
            volume("3", "x", false),
            volume("4", "x", false),
        ];
        let ask = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            chosen(&volumes, &words).map(|found| found.iter().map(|it| it.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(ask(&["data", "2", "3"]).unwrap(), ["2", "3"]);
        assert!(ask(&["root"]).unwrap_err().to_string().contains("belongs to the system"));
        assert!(ask(&["x"]).unwrap_err().to_string().contains("more than one volume"));
        assert!(ask(&["y"]).unwrap_err().to_string().contains("no volume is called \"y\""));
    }

    #[test]
    fn halves_of_one_thing_stay_together_or_not_at_all() {
        let part = |fstype: &str, uuid: &str| Partition {
            number: 1,
            id: uuid.into(),
            label: String::new(),
            type_id: String::new(),
            active: false,
            range: Bytes(0)..Bytes(1),
            content: Some(Content { fstype: fstype.into(), label: None, uuid: Some(uuid.into()) }),
        };
        assert!(belongs_with(&part("LVM2_member", "a"), &part("LVM2_member", "b")));
        assert!(belongs_with(&part("btrfs", "a"), &part("btrfs", "a")));
        assert!(!belongs_with(&part("btrfs", "a"), &part("btrfs", "b")));
        assert!(!belongs_with(&part("ext4", "a"), &part("ext4", "a")));
        assert!(!belongs_with(&part("LVM2_member", "a"), &part("ext4", "b")));
    }

    #[test]
    fn only_what_stays_lies_on_the_primary() {
        let disk = Target { size: Bytes(9 << 20), serial: Some("a".into()), wwn: None };
        let stays = Stays { disk, volumes: vec!["id-2".into()] };
        let raw = DevNum { major: 8, minor: 0 };
        let parts = stays.parts(&[volume("1", "root", true), volume("2", "data", false)], raw);
        assert_eq!(parts, [(2, Table::of(Bytes(1 << 20), DmTarget::Linear(raw, Bytes(2 << 20))))]);
    }
}
