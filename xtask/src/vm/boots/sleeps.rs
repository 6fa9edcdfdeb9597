// SPDX-License-Identifier: MIT OR Apache-2.0
//! A primary that has gone to sleep with its memory on the disk (hibernated). It wakes as long as nothing is newer, and
//! never once something is.

use super::failover::{
    back_over_it, mark, marked, on, restarted, stands_on_dpsr, swaps, two_generations, wrapped,
};
use super::unwrapped::with_words;
use super::{Rig, dpsr, is_the_primary};
use crate::Result;
use crate::vm::installed::SWAP_UUID;
use crate::vm::machine::{Machine, Start};
use crate::vm::must;

/// In memory alone.
const AWAKE: &str = "/run/awake";

pub(super) fn hibernated(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = wrapped(rig, both)?;
    with_words(&mut machine, &format!("resume=UUID={SWAP_UUID}"))?;
    // The agent has said that it is ready before it slept.
    let wakes = "/usr/lib/systemd/system-sleep/agent";
    machine.guest()?.ok(&format!(
        "printf '#!/bin/sh\\n[ \"$1\" = pre ] || systemctl --no-block restart dpsr-agent\\n' >{wakes} && chmod +x {wakes}"
    ))?;
    restarted(&mut machine, "the primary, which can sleep")?;
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
    back_over_it(&mut machine)?;
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
