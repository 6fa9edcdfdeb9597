// SPDX-License-Identifier: MIT OR Apache-2.0
//! A primary that is an array (MD) of which only a part is there. It is not missing: it is started with what there is,
//! as it would be without dpsr, only sooner, for a copy must not be started while dracut waits for the rest.

use std::ffi::OsStr;

use super::told::{Level, say};
use crate::config::PairConfig;
use crate::mount::tool;
use crate::pair::serial::{array_uuid, named_array};
use crate::pair::sysfs::{BlockNode, DevNum, Roots};

/// The disks there are on which parts of the array lie that is the primary.
pub fn parts(config: &PairConfig) -> Vec<BlockNode> {
    let Some(array) = named_array(config.primary.wwn.as_deref()) else { return Vec::new() };
    let found = || -> std::io::Result<Vec<BlockNode>> {
        let mut members = udev::Enumerator::new()?;
        members.match_subsystem("block")?;
        members.match_property("ID_FS_TYPE", "linux_raid_member")?;
        let roots = Roots::default();
        let of = |device: &udev::Device| {
            device.property_value("ID_FS_UUID").and_then(OsStr::to_str).and_then(array_uuid)
        };
        let ours = members.scan_devices()?.filter(|device| of(device).as_ref() == Some(&array));
        Ok(ours.filter_map(|device| roots.node(DevNum::of(device.devnum()?))).collect())
    };
    found().unwrap_or_default()
}

/// Starts the array of these parts without the others. Where nobody was told to start arrays, nobody has even begun.
pub fn start(parts: &[BlockNode]) {
    for part in parts.iter().filter(|part| part.holders().is_empty()) {
        mdadm(&["--incremental", &part.path().display().to_string()]);
    }
    let mut arrays: Vec<BlockNode> = parts.iter().flat_map(BlockNode::holders).collect();
    arrays.retain(|node| node.name.starts_with("md"));
    arrays.sort_by_key(|node| node.number);
    arrays.dedup_by_key(|node| node.number);
    // With all of its parts it has started by itself.
    arrays.retain(|node| node.attr("md/array_state").is_some_and(|state| state == "inactive"));
    for array in arrays {
        let node = array.path().display().to_string();
        if mdadm(&["--run", &node]) {
            say(Level::Warning, &format!("{node} was started though not all of its disks are there"));
        }
    }
}

fn mdadm(words: &[&str]) -> bool {
    let done = tool::run("mdadm", "mdadm", words);
    if let Err(error) = &done {
        say(Level::Warning, &format!("mdadm {}: {error}", words.join(" ")));
    }
    done.is_ok()
}
