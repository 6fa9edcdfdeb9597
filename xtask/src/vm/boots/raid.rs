// SPDX-License-Identifier: MIT OR Apache-2.0
//! The primary is an array of two disks. One of them alone is a primary that is there: losing it is what an array is
//! for.

use super::failover::{made_bootable, mark, marked, on, restarted, stands_on_dpsr};
use super::{Rig, booted, dpsr, dpsr_json, init, is_the_primary};
use crate::Result;
use crate::vm::machine::Start;
use crate::vm::must;

/// One of the two disks is pulled: the machine starts from the other one, wrapped, and is synced as ever.
pub(super) fn half_an_array(rig: &Rig) -> Result<()> {
    let mut machine = on(rig, Start::Uefi, &[&rig.primary, &rig.dpsr], "the primary, not wrapped")?;
    is_the_primary(&mut machine)?;
    init(&mut machine)?;
    // Only where its initramfs knows that the DPSR disk boots a copy would be started instead.
    made_bootable(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    stands_on_dpsr(&mut machine)?;
    mark(&mut machine, "first")?;
    dpsr(&mut machine, "sync")?;
    mark(&mut machine, "second")?;
    machine.shut_down()?;

    let mirror = rig.mirror.as_ref().ok_or("the primary is no array")?;
    let mut machine = rig.machine(Start::Uefi, &[mirror, &rig.dpsr])?;
    booted(&mut machine, "the primary, one of its two disks missing")?;
    is_the_primary(&mut machine)?;
    marked(&mut machine, "second")?;
    stands_on_dpsr(&mut machine)?;
    let degraded = machine.guest()?.ok("cat /sys/block/md*/md/degraded")?;
    must(degraded == "1\n", || format!("disks that are missing: {degraded}"))?;
    let synced = dpsr_json(&mut machine, "sync")?;
    must(synced.number("generation")? == 2, || format!("{synced:?}"))?;
    machine.shut_down()
}
