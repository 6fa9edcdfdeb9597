// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps what preserves the generation from going away under a machine that is being switched off: a shutdown
//! removes every device-mapper device that nobody has open, and what the root filesystem writes last would be
//! kept nowhere. Meanwhile it watches how full that becomes, and says so.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::fill::Fill;
use crate::disk::file::{Access, FileDisk};
use crate::dm::{Mapped, Mapper};
use crate::error::{Error, Kind, Result};

/// Processes of root whose first word begins so are spared when a system is left: the initramfs's and the last
/// one. (systemd.io/ROOT_STORAGE_DAEMONS)
const SPARED: &str = "@dpsr-hold";

/// How often somebody looks how full it is.
const LOOK: Duration = Duration::from_secs(30);

/// Starts a process that has the snapshot `device` open for as long as the machine runs.
pub fn start(device: &Mapped) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(Kind::Internal, "starting the process that holds", error.to_string()).on(&device.name.name)
    };
    let this = env::current_exe().map_err(failed)?;
    let mut holder = Command::new(this);
    holder.arg0(SPARED).arg("hold").arg(device.node()).arg(&device.name.name).process_group(0);
    holder.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    holder.spawn().map(drop).map_err(failed)
}

/// Holds `node`, the snapshot `name`, until the machine is switched off; each step that it fills up to is told.
pub fn forever(node: &Path, name: &str, mut tell: impl FnMut(Fill)) -> Result<()> {
    let _held = FileDisk::open(node, Access::Read)?;
    // Whoever looks for memory finds more elsewhere.
    let _better = fs::write("/proc/self/oom_score_adj", "-1000");
    // Without it nothing is told, and all is held.
    let mapper = Mapper::open().ok();
    let mut told = None;
    loop {
        if let Some(fill) = mapper.as_ref().and_then(|mapper| Fill::told(mapper, name))
            && fill.step() > told
        {
            told = fill.step();
            tell(fill);
        }
        sleep(LOOK);
    }
}
