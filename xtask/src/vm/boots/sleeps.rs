// SPDX-License-Identifier: MIT OR Apache-2.0
//! A primary that has gone to sleep with its memory on the disk (hibernated). It wakes as long as nothing is newer, and
//! never once something is.

use super::failover::{
    mark, marked, on, record_in_initramfs, restarted, stands_on_dpsr, swaps, two_generations,
};
use super::unwrapped::with_words;
use super::{Rig, dpsr, dpsr_json, init, is_the_primary};
use crate::Result;
use crate::vm::installed::SWAP_UUID;
use crate::vm::machine::{Machine, Start};
use crate::vm::{PRIMARY, must};

/// In memory alone.
const AWAKE: &str = "/run/awake";

pub(super) fn hibernated(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not wrapped")?;
    init(&mut machine)?;
    dpsr_json(&mut machine, "boot install")?;
    record_in_initramfs(&mut machine)?;
    with_words(&mut machine, &format!("resume=UUID={SWAP_UUID}"))?;
    // The agent has said that it is ready before it slept.
    let wakes = "/usr/lib/systemd/system-sleep/agent";
    machine.guest()?.ok(&format!(
        "printf '#!/bin/sh\\n[ \"$1\" = pre ] || systemctl --no-block restart dpsr-agent\\n' >{wakes} && chmod +x {wakes}"
    ))?;
    restarted(&mut machine, "the primary, wrapped")?;
    two_generations(&mut machine)?;
    sleep(&mut machine)?;

    let mut machine = on(rig, Start::Uefi, &both, "the primary wakes")?;
    is_awake(&mut machine, true)?;
    stands_on_dpsr(&mut machine)?;
    // Its devices are the ones it slept with.
    mark(&mut machine, "third")?;
    dpsr(&mut machine, "sync")?;
    mark(&mut machine, "fourth")?;
    sleep(&mut machine)?;

    let mut machine = on(rig, Start::Uefi, &[&rig.dpsr], "from the copy, the primary missing")?;
    is_the_primary(&mut machine)?;
    is_awake(&mut machine, false)?;
    swaps(&mut machine)?;
    marked(&mut machine, "third")?;
    mark(&mut machine, "fifth")?;
    machine.shut_down()?;

    let mut machine = on(rig, Start::Uefi, &both, "from the copy, by the loader of a primary that sleeps")?;
    is_awake(&mut machine, false)?;
    marked(&mut machine, "fifth")?;
    let disk = machine.guest()?.ok(&format!("grep -l {PRIMARY} /sys/block/vd*/serial | cut -d/ -f4"))?;
    let to = format!("failback --to /dev/{} --discard-primary --confirm {PRIMARY}", disk.trim());
    dpsr_json(&mut machine, &to)?;
    restarted(&mut machine, "the rest copied, and the primary started")?;
    is_the_primary(&mut machine)?;
    is_awake(&mut machine, false)?;
    swaps(&mut machine)?;
    marked(&mut machine, "fifth")?;
    machine.shut_down()
}

/// Little is kept of its memory, all of which would take long to write in emulation.
fn sleep(machine: &mut Machine) -> Result<()> {
    machine
        .guest()?
        .ok(&format!("systemctl is-system-running --wait; touch {AWAKE}; echo 0 >/sys/power/image_size"))?;
    machine.off_by("systemctl hibernate")
}

fn is_awake(machine: &mut Machine, wanted: bool) -> Result<()> {
    let awake = machine.guest()?.run(&format!("test -e {AWAKE}"))?.code == 0;
    must(awake == wanted, || format!("whether it is awake: {awake}"))
}
