// SPDX-License-Identifier: MIT OR Apache-2.0
//! Volumes that a machine which runs from its copy has on its primary still: its system is broken, and they are not.
//!
//! Which they are is written into the store with the live mark, so that every later boot takes the same ones: of
//! such a volume the copy has only what it was.

use serde::{Deserialize, Serialize};

use crate::config::PairConfig;
use crate::disk::file::{Access, FileDisk};
use crate::dm::{Table, Target as DmTarget};
use crate::error::{Error, Kind, Result};
use crate::failback::target::Target;
use crate::format::index::{Object, STAYS, Volume};
use crate::pair::sysfs::{DevNum, Roots};
use crate::pair::table::Table as Partitions;
use crate::store::Contents;
use crate::units::{Bytes, Generation, SECTOR};

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
    /// Those that a store keeps; `None` where all are in the copy.
    pub fn in_store(contents: &Contents) -> Option<Self> {
        let object = contents.index.objects.iter().find(|object| object.kind == STAYS)?;
        serde_json::from_slice(&object.about).ok()
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
        let chosen = chosen(&contents.map_of(contents.record(from)?).volumes, asked)?;
        let primary = &config.primary;
        let recorded =
            Target { size: primary.size, serial: primary.serial.clone(), wwn: primary.wwn.clone() };
        let disk = Target::home(contents).unwrap_or(recorded);
        let found = disk.find(roots, DOING)?;
        let table = FileDisk::open(found.path(), Access::Read)
            .and_then(|disk| Partitions::read(&disk, primary.block))?;
        for volume in &chosen {
            let place = volume.start..volume.start + volume.size;
            let same = |range: &std::ops::Range<Bytes>| *range == place;
            if !table.partitions.iter().any(|partition| same(&partition.range)) {
                let why = format!("generation {from} has volume {} in another place", volume.name);
                return Err(refused(why).on(found.path().display().to_string()));
            }
        }
        Ok(Self { disk, volumes: chosen.into_iter().map(|volume| volume.id.clone()).collect() })
    }

    /// The number of the disk, where it is there.
    pub fn on(&self, roots: &Roots) -> Option<DevNum> {
        match self.disk.find(roots, DOING) {
            Ok(node) => Some(node.number),
            Err(error) => {
                tracing::warn!("{error}, ignoring: what is on it is not there");
                None
            }
        }
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
    fn only_what_stays_lies_on_the_primary() {
        let disk = Target { size: Bytes(9 << 20), serial: Some("a".into()), wwn: None };
        let stays = Stays { disk, volumes: vec!["id-2".into()] };
        let raw = DevNum { major: 8, minor: 0 };
        let parts = stays.parts(&[volume("1", "root", true), volume("2", "data", false)], raw);
        assert_eq!(parts, [(2, Table::of(Bytes(1 << 20), DmTarget::Linear(raw, Bytes(2 << 20))))]);
    }
}
