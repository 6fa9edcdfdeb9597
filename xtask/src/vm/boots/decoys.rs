// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks of the size and model of the DPSR disk that hold all that it holds, and are another one by their serial number.

use std::fs;

use super::failover::{mark, on, record_in_initramfs, restarted, stands_on_dpsr};
use super::{Rig, dpsr, dpsr_json, init};
use crate::Result;
use crate::vm::machine::{Disk, Start};
use crate::vm::{DPSR, must};

/// What the clone is called.
const CLONE: &str = "clone";

/// In its place nothing is written to it, beside it nothing is written to it; QEMU counts.
pub(super) fn clone_of_the_dpsr_disk(rig: &Rig) -> Result<()> {
    let mut machine = on(rig, Start::Bios, &[&rig.primary, &rig.dpsr], "the primary, not wrapped")?;
    init(&mut machine)?;
    record_in_initramfs(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    dpsr(&mut machine, "sync")?;
    machine.shut_down()?;

    let folder = rig.folder.join(CLONE);
    fs::create_dir(&folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
    let clone = Disk { name: CLONE, ..rig.dpsr.tried_out_raw(&folder)? };
    let mut machine = on(rig, Start::Bios, &[&rig.primary, &clone], "with a clone of the DPSR disk")?;
    stands_on_dpsr(&mut machine)?;
    mark(&mut machine, "second")?;
    for words in ["sync", "scrub --repair", "drop 1", "boot install"] {
        let refused = machine.guest()?.run(&format!("dpsr {words}"))?;
        let said = ["nothing was written", "/dev/"].iter().all(|it| refused.output.contains(it));
        must(refused.code != 0 && said, || format!("dpsr {words}: {} {}", refused.code, refused.output))?;
    }
    let written = machine.written(CLONE)?;
    must(written == 0, || format!("{written} bytes were written to the clone"))?;
    machine.shut_down()?;

    let three = [&rig.primary, &clone, &rig.dpsr];
    let mut machine = on(rig, Start::Bios, &three, "with the DPSR disk and a clone of it")?;
    let synced = dpsr_json(&mut machine, "sync")?;
    must(synced.number("generation")? == 2, || format!("{synced:?}"))?;
    let written = [CLONE, DPSR].map(|disk| machine.written(disk));
    must(matches!(written, [Ok(0), Ok(1..)]), || {
        format!("written to the clone, and to the other: {written:?}")
    })?;
    machine.shut_down()
}
