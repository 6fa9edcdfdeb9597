// SPDX-License-Identifier: MIT OR Apache-2.0
//! A volume group of a generation, beside the one it is a copy of: other UUIDs, another name, and commands
//! that see its one device alone.

use super::tool;
use crate::error::{Error, Kind, Result};

const PACKAGE: &str = "lvm2";

/// No backup of metadata that nobody will want, no file of known devices.
const CONFIG: &str = "backup { backup = 0 archive = 0 } devices { use_devicesfile = 0 scan_lvs = 0 }";

/// The kernel is not asked: as long as the UUIDs are those of the original, its active volumes would be taken
/// for ours.
const ASLEEP: &str = "backup { backup = 0 archive = 0 } devices { use_devicesfile = 0 scan_lvs = 0 } \
    global { activation = 0 }";

fn lvm(config: &str, node: &str, command: &str, args: &[&str]) -> Result<String> {
    let mut all = vec![command, "--config", config, "--devices", node, "--yes"];
    all.extend(args);
    tool::run("lvm", PACKAGE, &all)
}

/// Gives the group on `node` another name, and new UUIDs to it and to its one device.
pub fn rename(node: &str, group: &str) -> Result<()> {
    let there = lvm(ASLEEP, node, "vgs", &["--noheadings", "--options", "vg_name,pv_count"])?;
    let mut words = there.split_whitespace();
    let (old, devices) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if old.is_empty() || devices != "1" {
        let why =
            if old.is_empty() { "no volume group is on it" } else { "its volume group has other devices" };
        return Err(Error::new(Kind::Refused, "mounting a logical volume", why).on(node));
    }
    lvm(ASLEEP, node, "pvchange", &["--uuid", node])?;
    lvm(ASLEEP, node, "vgchange", &["--uuid", old])?;
    lvm(ASLEEP, node, "vgrename", &[old, group]).map(drop)
}

/// The logical volume that is meant: the one named, else the only one.
pub fn choose(node: &str, group: &str, named: Option<&str>) -> Result<String> {
    let listed = lvm(CONFIG, node, "lvs", &["--noheadings", "--options", "lv_name", group])?;
    let all: Vec<&str> = listed.split_whitespace().collect();
    let doing = "choosing a logical volume";
    match (named, &all[..]) {
        (Some(name), all) if all.contains(&name) => Ok(name.to_owned()),
        (None, [one]) => Ok((*one).to_owned()),
        (Some(_), all) => Err(Error::new(Kind::NotFound, doing, format!("there are {}", all.join(", ")))),
        (None, []) => Err(Error::new(Kind::NotFound, doing, "there is none")),
        (None, all) => Err(Error::new(Kind::Usage, doing, format!("there are {}", all.join(", ")))
            .next("name one with --lv")),
    }
}

/// Makes the device of one logical volume.
pub fn activate(node: &str, group: &str, lv: &str) -> Result<()> {
    let name = format!("{group}/{lv}");
    lvm(CONFIG, node, "lvchange", &["--activate", "y", "--ignoreactivationskip", "--noudevsync", &name])
        .map(drop)
}

/// Takes every device of the group away.
pub fn deactivate(node: &str, group: &str) -> Result<()> {
    lvm(CONFIG, node, "vgchange", &["--activate", "n", "--noudevsync", group]).map(drop)
}
