// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk is fine, and the system on it is not: an older generation is started, goes on, and replaces it.

use super::failover::{mark, marked, on, record_in_initramfs, restarted, stands_on_dpsr, swaps};
use super::{Rig, dpsr, dpsr_json, init, is_the_primary};
use crate::Result;
use crate::vm::machine::{Machine, Start};
use crate::vm::{PRIMARY, must};

/// What no Debian starts without.
const INIT: &str = "/usr/lib/systemd/systemd";

/// What the kernel is told by the menu's first entry, and by that of the first generation.
const AUTO: &str = "dpsr.boot=auto";
const GENERATION_1: &str = "dpsr.boot=force dpsr.generation=1";

/// A system that no longer starts was copied, too; the generation before it was not.
pub(super) fn system_broken(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not wrapped")?;
    init(&mut machine)?;
    record_in_initramfs(&mut machine)?;
    dpsr_json(&mut machine, "boot install")?;
    entry_of_primary(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    mark(&mut machine, "first")?;
    dpsr(&mut machine, "sync")?;
    mark(&mut machine, "second")?;
    machine.guest()?.ok(&format!("mv {INIT} /root/ && sync"))?;
    dpsr(&mut machine, "sync")?;
    first_entry(&mut machine, AUTO, GENERATION_1)?;
    machine.power_cut();

    let mut machine = on(rig, Start::Uefi, &both, "generation 1 of two, by the primary's own menu")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    swaps(&mut machine)?;
    marked(&mut machine, "first")?;
    let told = machine.guest()?.ok("cat /run/motd.d/*")?;
    must(told.contains("this system is generation 1 of"), || format!("a login is told: {told}"))?;
    let status = dpsr_json(&mut machine, "status")?;
    must(status.text("state")? == "live-aside", || format!("{status:?}"))?;
    let refused = machine.guest()?.run("dpsr boot uninstall")?;
    let said = refused.output.contains("without its loader nothing would start");
    must(refused.code == 3 && said, || format!("{}: {}", refused.code, refused.output))?;
    mark(&mut machine, "third")?;
    first_entry(&mut machine, GENERATION_1, AUTO)?;
    restarted(&mut machine, "the same again")?;
    marked(&mut machine, "third")?;

    let disk = machine.guest()?.ok(&format!("grep -l {PRIMARY} /sys/block/vd*/serial | cut -d/ -f4"))?;
    let to = format!("failback --to /dev/{} --discard-primary --confirm {PRIMARY}", disk.trim());
    dpsr_json(&mut machine, &to)?;
    mark(&mut machine, "fourth")?;
    restarted(&mut machine, "the rest copied, and the primary started")?;
    is_the_primary(&mut machine)?;
    swaps(&mut machine)?;
    marked(&mut machine, "fourth")?;
    let status = dpsr_json(&mut machine, "status")?;
    let clean = status.text("state")? == "clean" && status.number("generation")? == 2;
    must(clean, || format!("{status:?}"))?;
    let synced = dpsr_json(&mut machine, "sync")?;
    must(synced.number("generation")? == 3, || format!("{synced:?}"))?;
    let scrubbed = dpsr_json(&mut machine, "scrub")?;
    must(scrubbed.number("found")? == 0, || format!("{scrubbed:?}"))?;
    machine.shut_down()
}

/// What update-grub does with dpsr's part of the menu; and somebody chooses it at every start.
fn entry_of_primary(machine: &mut Machine) -> Result<()> {
    let menu = "/boot/grub/grub.cfg";
    let script = format!(
        "/etc/grub.d/42_dpsr >/tmp/entry && grep -q '^menuentry .*dpsr' /tmp/entry && cat /tmp/entry >>{menu} && \
         sed --in-place '1i set default=1' {menu} && sync"
    );
    machine.guest()?.ok(&script).map(drop)
}

/// What somebody at the menu of the DPSR disk does: another entry is chosen than the first.
fn first_entry(machine: &mut Machine, from: &str, to: &str) -> Result<()> {
    let menu = "/mnt/dpsr/grub.cfg";
    let script = format!(
        "mount /dev/disk/by-label/DPSR-ESP /mnt && grep -q ' {GENERATION_1} ' {menu} && \
         sed --in-place '0,/ {from} /s// {to} /' {menu} && umount /mnt && sync"
    );
    machine.guest()?.ok(&script).map(drop)
}
