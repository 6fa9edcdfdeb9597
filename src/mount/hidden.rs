// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps udev from looking into devices that programs of others make for us: they cannot be told to.

use std::fs;
use std::io;

use super::tool;
use crate::error::{Error, Kind, Result};

const FOLDER: &str = "/run/udev/rules.d";

/// Behind the rules that tell the name and before those that make links: these are 10-dm.rules and
/// 13-dm-disk.rules, on Debian and its kin 55-dm.rules and 60-persistent-storage-dm.rules.
const FILES: [&str; 2] = ["11-dpsr-view.rules", "55-dpsr-view.rules"];

const RULES: &str = r#"# Devices of generations that dpsr has attached: second filesystems with the UUIDs of mounted ones.
SUBSYSTEM=="block", ENV{DM_NAME}=="dpsr-view-*|dpsr_view_*", ENV{DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG}="1", ENV{DM_UDEV_DISABLE_DISK_RULES_FLAG}="1", ENV{DM_UDEV_DISABLE_OTHER_RULES_FLAG}="1"
"#;

/// Sees to it that no device whose name begins with `dpsr-view-` or `dpsr_view_` is ever probed. Gone with
/// the next boot, like the devices.
pub fn from_udev() -> Result<()> {
    if FILES.iter().all(|file| fs::read_to_string(format!("{FOLDER}/{file}")).is_ok_and(|it| it == RULES)) {
        return Ok(());
    }
    let written = FILES.iter().try_for_each(|file| write(file));
    written.map_err(|error| {
        Error::new(Kind::Internal, "writing udev's rules into", error.to_string()).on(FOLDER)
    })?;
    if let Err(error) = tool::run("udevadm", "udev", &["control", "--reload", "--timeout=10"]) {
        tracing::warn!("{error}, ignoring: without udev nobody probes what is not to be seen");
    }
    Ok(())
}

/// Under its name only when it is whole.
fn write(file: &str) -> io::Result<()> {
    let fresh = format!("{FOLDER}/.{file}");
    fs::create_dir_all(FOLDER)?;
    fs::write(&fresh, RULES)?;
    fs::rename(&fresh, format!("{FOLDER}/{file}"))
}
