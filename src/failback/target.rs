// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk to which a machine goes back, known again after a restart by what it says of itself.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::PairConfig;
use crate::disk::ReadDisk;
use crate::disk::file::{Access, FileDisk};
use crate::error::{Error, Kind, Result};
use crate::format::index::{FAILBACK, HOME, Object};
use crate::pair::holder;
use crate::pair::inuse::{Use, in_use};
use crate::pair::lock::{Lock, Mode, lock};
use crate::pair::probe::Probe;
use crate::pair::sysfs::{BlockNode, Roots};
use crate::store::Contents;
use crate::units::Bytes;

/// How often a disk is looked for.
const GLANCE: Duration = Duration::from_millis(100);

/// What it says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its exact size, in bytes.
    pub size: Bytes,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its world-wide name.
    pub wwn: Option<String>,
}

impl Target {
    /// That of a disk.
    pub fn of(probe: &Probe) -> Self {
        Self { size: probe.size, serial: probe.serial.clone(), wwn: probe.wwn.clone() }
    }

    /// Whether it can be told from other disks.
    pub fn is_telling(&self) -> bool {
        self.serial.is_some() || self.wwn.is_some()
    }

    /// The object that keeps it in the store.
    pub fn object(&self) -> Object {
        let about = serde_json::to_vec(self).expect("numbers and texts are always JSON");
        Object { kind: FAILBACK, about, runs: Vec::new() }
    }

    /// The one that a store keeps; `None` where no way back was begun.
    pub fn in_store(contents: &Contents) -> Option<Self> {
        Self::of_kind(contents, FAILBACK)
    }

    /// The one to which the machine went back last; `None` where it never did.
    pub fn home(contents: &Contents) -> Option<Self> {
        Self::of_kind(contents, HOME)
    }

    fn of_kind(contents: &Contents, kind: u16) -> Option<Self> {
        let object = contents.index.objects.iter().find(|object| object.kind == kind)?;
        serde_json::from_slice(&object.about).ok()
    }

    /// The only disk there is that says it is the one; `NotFound` where none does.
    pub fn find(&self, roots: &Roots, doing: &'static str) -> Result<BlockNode> {
        let failed = |kind: Kind, why: &str| {
            Error::new(kind, doing, why).on(self.name()).left("nothing was written to it")
        };
        let mut nodes = roots.all();
        nodes.retain(|node| {
            let says = |probe: Probe| self.is_telling() && Self::of(&probe) == *self;
            !node.is_ours() && node.partition().is_none() && Probe::open(roots, &node.path()).is_ok_and(says)
        });
        match nodes.len() {
            1 => Ok(nodes.remove(0)),
            0 => Err(failed(Kind::NotFound, "it is not there")),
            _ => Err(failed(Kind::Refused, "there are several disks that say they are it")),
        }
    }

    /// The same for a disk that may be slower to appear than the DPSR disk.
    pub fn awaited(&self, roots: &Roots, doing: &'static str, patience: Duration) -> Result<BlockNode> {
        let deadline = Instant::now() + patience;
        loop {
            match self.find(roots, doing) {
                Err(error) if error.kind() == Kind::NotFound && Instant::now() < deadline => sleep(GLANCE),
                outcome => return outcome,
            }
        }
    }

    /// Opens it for writing. That it is the disk, and that nobody uses it, is proven on the descriptor.
    pub fn claim(&self, roots: &Roots, doing: &'static str) -> Result<(FileDisk, Option<Lock>)> {
        let refused = |why: String| Error::new(Kind::Refused, doing, why).left("nothing was written to it");
        let path = self.find(roots, doing)?.path();
        let disk = holder::open(roots, &path, Access::Write)?;
        let now = Probe::of_descriptor(roots, &path, disk.descriptor().expect("a file has a descriptor"))?;
        if Self::of(&now) != *self {
            return Err(refused("it has become another disk".to_owned()).on(now.name()));
        }
        if let Some(usage) = in_use(roots, &now).iter().find(|usage| !matches!(usage, Use::Root { .. })) {
            return Err(refused(usage.to_string()).on(now.name()));
        }
        let held = lock(roots, &disk, Mode::Exclusive)?;
        Ok((disk, held))
    }

    /// What people call it.
    pub fn name(&self) -> String {
        self.serial.as_ref().or(self.wwn.as_ref()).cloned().unwrap_or_default()
    }

    /// Whether it is the primary in the record of a pair.
    pub fn is_recorded(&self, config: &PairConfig) -> bool {
        let primary = &config.primary;
        self.size == primary.whole() && self.serial == primary.serial && self.wwn == primary.wwn
    }

    /// The record of a pair whose primary it has become.
    pub fn becomes_primary(&self, config: &PairConfig, path: std::path::PathBuf) -> PairConfig {
        let mut config = config.clone();
        config.primary.path = path;
        config.primary.disk_size = (self.size > config.primary.size).then_some(self.size);
        config.primary.serial = self.serial.clone();
        config.primary.wwn = self.wwn.clone();
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing;

    #[test]
    fn a_record_names_the_disk_whose_primary_it_is_made_of() {
        let config = testing::sample("system");
        let primary = &config.primary;
        let there =
            Target { size: primary.whole(), serial: primary.serial.clone(), wwn: primary.wwn.clone() };
        let larger = Target { size: there.size + Bytes(512), ..there.clone() };
        let other = Target { serial: Some("another".to_owned()), ..there.clone() };
        assert!(there.is_recorded(&config));
        for disk in [larger, other] {
            assert!(!disk.is_recorded(&config), "{disk:?}");
            assert!(disk.is_recorded(&disk.becomes_primary(&config, primary.path.clone())), "{disk:?}");
        }
    }
}
