// SPDX-License-Identifier: MIT OR Apache-2.0
//! While the machine runs from its copy, nobody may see a second disk of the same identity: a primary that
//! turns up late, or that was passed over.

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::cmdline::{Boot, CmdLine};
use crate::config::{self, PairConfig};
use crate::error::{Error, Result};
use crate::failover;
use crate::failover::presence::{has_its_table, in_time};
use crate::pair::inuse::device_uses;
use crate::pair::open::is_primary;
use crate::pair::serial::named_array;
use crate::pair::sysfs::{BlockNode, DevNum, Roots};
use crate::units::SECTOR;
use crate::wrap;

/// A disk of another size than the primary's may take as long to say what is on it.
const PATIENCE: Duration = Duration::from_secs(3);

/// The same for one of its size, which may be waking up.
const LONGER: Duration = Duration::from_secs(20);

/// Rules that outlive the initramfs, until the next boot.
const RULES: &str = "/run/udev/rules.d";

/// The file of it.
const NAME: &str = "59-dpsr-hide.rules";

/// There where the primary is started though the copy was asked for.
const NOT_AT_ALL: &str = "/run/dpsr/hides-nothing";

/// The rule that asks [`event`] about each disk, as in the initramfs.
const RULE: &str = include_str!("../../dracut/55dpsr/59-dpsr-hide.rules");

/// What a rule does with a disk, or partition, that is nobody's: no links, no probing, no mount.
const NOBODYS: &str = "UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG=1\nSYSTEMD_READY=0\nUDISKS_IGNORE=1\n\
                       DM_MULTIPATH_DEVICE_PATH=0\nDPSR_HIDDEN=1";

/// Hides the primary of `config`, now and after the initramfs.
pub fn from_now_on(config: &PairConfig) -> Result<()> {
    let write = |path: &Path, text: &str| {
        let directory = path.parent().expect("these paths have one");
        let written = fs::create_dir_all(directory).and_then(|()| fs::write(path, text));
        written.map_err(|error| Error::device("writing", path.display().to_string(), &error))
    };
    write(&Path::new(RULES).join(NAME), RULE)?;
    write(Path::new(failover::PAIR), &config.name)?;
    write(Path::new(failover::FLAG), &format!("the pair {} runs from its copy\n", config.name))
}

/// Hides nothing in this start, whatever the command line says.
pub fn not_at_all(config: &PairConfig) {
    let flag = Path::new(NOT_AT_ALL);
    let written = fs::create_dir_all(flag.parent().expect("it has one")).and_then(|()| fs::write(flag, ""));
    if let Err(error) = written {
        tracing::warn!("writing {NOT_AT_ALL}: {error}, ignoring: the primary stays hidden");
    }
    if failover::is_under_way() { no_longer(config) } else { what_is_there(config) }
}

/// Hides nothing any more: no copy was started, and the primary may come yet. One that came meanwhile is seen anew.
pub fn no_longer(config: &PairConfig) {
    for path in [Path::new(failover::FLAG), Path::new(failover::PAIR), &Path::new(RULES).join(NAME)] {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!("removing {}: {error}, ignoring", path.display());
        }
    }
    what_is_there(config);
}

/// What udev is to know of the disk, or partition, of its event; nothing for all others.
pub fn event(dir: &Path) -> Option<&'static str> {
    let asked = CmdLine::of_kernel().boot == Boot::Force && !Path::new(NOT_AT_ALL).exists();
    if !failover::is_under_way() && !asked {
        return None;
    }
    let number = |key: &str| env::var(key).ok().and_then(|value| value.parse().ok());
    let roots = Roots::default();
    let disk = roots.node(DevNum { major: number("MAJOR")?, minor: number("MINOR")? })?.disk();
    let sectors = disk.attr("size")?.parse::<u64>().ok()?;
    let pairs: Vec<_> =
        config::list(dir).ok()?.iter().filter_map(|name| config::load(dir, name).ok()).collect();
    let named = failover::pair().or_else(|| CmdLine::of_kernel().pair);
    // Of two disks of one size the one that does not answer may be the primary.
    let hides = |pair: &PairConfig| is_hidden(&roots, pair, sectors, &disk.path()).unwrap_or(true);
    hidden_with(&pairs, named.as_deref()).any(hides).then_some(NOBODYS)
}

/// One that only says it is the primary is hidden, too, and one that has only its table: that may be the first primary, or
/// one that took its place. The latter may be larger, and the record that is at hand need not know it: then the table
/// alone decides, where that tells disks apart. A member of an array is larger than that, and begins as it does.
/// `None` where a disk of the primary's size does not answer.
fn is_hidden(roots: &Roots, pair: &PairConfig, sectors: u64, path: &Path) -> Option<bool> {
    let record = &pair.primary;
    let (roots, path, pair) = (roots.clone(), path.to_owned(), pair.clone());
    if [record.size, record.whole()].iter().any(|size| size.0 / SECTOR == sectors) {
        let hides = move || is_primary(&roots, &pair, &path).unwrap_or(true) || has_its_table(&path, &pair);
        return in_time(LONGER, hides);
    }
    let larger = sectors > record.size.0 / SECTOR && named_array(record.wwn.as_deref()).is_none();
    // Whoever does not answer has been in nobody's way so far.
    let hides = larger
        && record.has_telling_table()
        && in_time(PATIENCE, move || has_its_table(&path, &pair)) == Some(true);
    Some(hides)
}

/// What still uses a disk that was to be hidden, if anything does: then it is too late for it to be nobody's.
pub fn still_used(config: &PairConfig) -> Option<String> {
    let roots = Roots::default();
    let uses = hidden(&roots, config).into_iter().flat_map(|disk| device_uses(&roots, &disk)).next();
    uses.map(|usage| usage.to_string())
}

/// The disks that are not to be seen while the machine runs from the copy.
pub(super) fn hidden(roots: &Roots, config: &PairConfig) -> Vec<BlockNode> {
    let mut disks = roots.all();
    disks.retain(|node| {
        let sectors = node.attr("size").and_then(|size| size.parse().ok());
        let hides = |sectors| is_hidden(roots, config, sectors, &node.path()) == Some(true);
        node.partition().is_none() && !node.is_ours() && sectors.is_some_and(hides)
    });
    disks
}

/// Lets udev look anew at a primary that it saw before that was to be hidden, or to be seen again.
pub fn what_is_there(config: &PairConfig) {
    let mut any = false;
    for disk in hidden(&Roots::default(), config) {
        for node in disk.partitions().iter().chain([&disk]) {
            // One that is just going away has no links to take back.
            any |= node.trigger().is_ok();
        }
    }
    if any {
        wrap::idle();
    }
}

/// The pairs whose primary is that of the pair `named`: the disks of all others are what they always were. All,
/// where nobody knows which it is.
fn hidden_with<'a>(pairs: &'a [PairConfig], named: Option<&str>) -> impl Iterator<Item = &'a PairConfig> {
    let one = pairs.iter().find(|pair| Some(pair.name.as_str()) == named);
    let same = move |pair: &&PairConfig| {
        one.is_none_or(|one| {
            let (here, there) = (&pair.primary, &one.primary);
            pair.name == one.name || here.whole() == there.whole() && here.table == there.table
        })
    };
    pairs.iter().filter(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_asks_as_soon_as_there_is_the_flag() {
        assert!(RULE.contains(&format!("TEST==\"{}\"", failover::FLAG)), "{RULE}");
    }
}
