// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same for whatever the root stands on: the disk is pulled, the machine comes back from the copy, and goes back.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::failover::{back, mark, marked, on, record_in_initramfs, restarted, stands_on_dpsr, swaps};
use super::{Rig, dpsr, dpsr_json, init, is_the_primary};
use crate::Result;
use crate::vm::machine::Start;
use crate::vm::must;

/// Nobody writes this by chance, and nobody but root may ever read it.
const CANARY: &str = "plaintext-canary-9b1f0c5e5d2f7a07";

pub(super) fn by_bios(rig: &Rig) -> Result<()> {
    gone_and_back(rig, Start::Bios)
}

pub(super) fn by_uefi(rig: &Rig) -> Result<()> {
    gone_and_back(rig, Start::Uefi)
}

fn gone_and_back(rig: &Rig, start: Start) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not wrapped")?;
    is_the_primary(&mut machine)?;
    init(&mut machine)?;
    record_in_initramfs(&mut machine)?;
    dpsr_json(&mut machine, "boot install")?;
    restarted(&mut machine, "the primary, wrapped")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    machine.guest()?.ok(&format!("for n in $(seq 500); do echo {CANARY}; done >/root/canary; sync"))?;
    mark(&mut machine, "first")?;
    dpsr(&mut machine, "sync")?;
    mark(&mut machine, "second")?;
    dpsr(&mut machine, "sync")?;
    mark(&mut machine, "third")?;
    machine.power_cut();
    if rig.layout.is_locked() {
        stays_ciphertext(&rig.dpsr.file)?;
    }

    let mut machine = on(rig, start, &[&rig.dpsr], "from the copy, the primary missing")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    swaps(&mut machine)?;
    marked(&mut machine, "second")?;
    let status = dpsr_json(&mut machine, "status")?;
    must(status.text("state")? == "live", || format!("{status:?}"))?;
    mark(&mut machine, "fifth")?;
    machine.shut_down()?;
    // The old primary is there again: the copy has what is newer.
    back(rig, &rig.primary)?;
    if rig.layout.is_locked() {
        stays_ciphertext(&rig.dpsr.file)?;
    }
    Ok(())
}

/// No sector of the DPSR disk holds what was encrypted.
fn stays_ciphertext(disk: &Path) -> Result<()> {
    let failed = |error| format!("reading {}: {error}", disk.display());
    let mut file = File::open(disk).map_err(failed)?;
    let canary = CANARY.as_bytes();
    let mut buffer = vec![0; 4 << 20];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).map_err(failed)?;
        if read == 0 {
            return Ok(());
        }
        let there = &buffer[..kept + read];
        let zeros = there.iter().all(|byte| *byte == 0);
        let found = !zeros && there.windows(canary.len()).any(|part| part[0] == canary[0] && part == canary);
        must(!found, || format!("{}: plaintext of an encrypted disk", disk.display()))?;
        // What stands across two reads counts, too.
        let (end, rest) = (kept + read, canary.len().min(kept + read));
        buffer.copy_within(end - rest..end, 0);
        kept = rest;
    }
}
