// SPDX-License-Identifier: MIT OR Apache-2.0
//! With Secure Boot: what starts from the DPSR disk is signed from the first program to the kernel.

use super::failover::{made_bootable, mark, marked, on, restarted, stands_on_dpsr};
use super::{Rig, dpsr, init, is_the_primary};
use crate::Result;
use crate::json::Json;
use crate::vm::machine::{Machine, Start};
use crate::vm::must;

pub(super) fn secure_boot(rig: &Rig) -> Result<()> {
    let mut machine = on(rig, Start::Secure, &[&rig.primary, &rig.dpsr], "the primary, not wrapped")?;
    is_the_primary(&mut machine)?;
    is_secure(&mut machine)?;
    init(&mut machine)?;
    let done = made_bootable(&mut machine)?;
    must(done.find("uefi_signed") == Some(&Json::Bool(true)), || format!("{done:?}"))?;
    restarted(&mut machine, "the primary, wrapped")?;
    stands_on_dpsr(&mut machine)?;
    mark(&mut machine, "first")?;
    dpsr(&mut machine, "sync")?;
    machine.power_cut();

    let mut machine = on(rig, Start::Secure, &[&rig.dpsr], "from the copy, the primary missing")?;
    is_the_primary(&mut machine)?;
    is_secure(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    marked(&mut machine, "first")?;
    machine.shut_down()
}

/// The firmware says that it checks what it starts, and the kernel that it keeps to that.
fn is_secure(machine: &mut Machine) -> Result<()> {
    let variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let said =
        machine.guest()?.ok(&format!("od -An -tu1 -j4 {variable}; cat /sys/kernel/security/lockdown"))?;
    let secure = said.lines().next().map(str::trim) == Some("1") && said.contains("[integrity]");
    must(secure, || format!("this was no secure boot: {said}"))
}
