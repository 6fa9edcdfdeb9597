// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine whose initramfs images are made by initramfs-tools, on LVM, as Debian installs it, with a devices file.
//! dracut takes its place only when somebody says so, and it gets it back.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use super::failover::{back, mark, marked, on, restarted, stands_on_dpsr, swaps, two_generations};
use super::roots::{activated, devices_file};
use super::{PATIENCE, Rig, dpsr_json, init, is_the_primary};
use crate::Result;
use crate::vm::PRIMARY;
use crate::vm::machine::{Machine, Start};
use crate::vm::must;

/// How long the switch has gone on when the power fails: packages come and go first, then an image is made.
const CUTS: [u64; 3] = [5, 12, 35];

/// Which of the two is installed, and a sum over each initramfs.
const STATE: &str = "dpkg-query --show --showformat '${Package} ${db:Status-Status}\\n' initramfs-tools dracut 2>/dev/null | \
                     grep ' installed'; cksum /boot/initrd.img-*";

/// Shown, refused, confirmed; gone and back; and taken back.
pub(super) fn initramfs_tools(rig: &Rig) -> Result<()> {
    let mut machine = on(rig, Start::Uefi, &[&rig.primary, &rig.dpsr], "the primary, not wrapped")?;
    is_the_primary(&mut machine)?;
    devices_file(&mut machine)?;
    let before = state(&mut machine, "initramfs-tools installed")?;
    let by_id = "/dev/disk/by-id/virtio-";
    let planned = format!("dpsr init --primary {by_id}{PRIMARY} --dpsr {by_id}dpsr --dry-run");
    let planned = machine.guest()?.ok(&planned)?;
    must(planned.contains("made by initramfs-tools"), || format!("the plan: {planned}"))?;
    init(&mut machine)?;
    for words in ["", " --confirm dracat"] {
        let refused = machine.run_within(PATIENCE, &format!("dpsr boot install{words}"))?;
        let told = refused.output.contains("removed:   initramfs-tools");
        must(refused.code == 3 && told, || format!("{}: {}", refused.code, refused.output))?;
    }
    let after = state(&mut machine, "initramfs-tools installed")?;
    must(before == after, || format!("{before} is now {after}"))?;

    dpsr_json(&mut machine, "boot install --confirm dracut")?;
    state(&mut machine, "dracut installed")?;
    restarted(&mut machine, "the primary, wrapped")?;
    is_the_primary(&mut machine)?;
    activated(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    two_generations(&mut machine)?;
    machine.power_cut();

    let mut machine = on(rig, Start::Bios, &[&rig.dpsr], "from the copy, the primary missing")?;
    is_the_primary(&mut machine)?;
    told_though_quiet(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    swaps(&mut machine)?;
    marked(&mut machine, "second")?;
    let refused = machine.guest()?.run("dpsr boot uninstall")?;
    must(refused.code == 3, || format!("{}: {}", refused.code, refused.output))?;
    mark(&mut machine, "fifth")?;
    machine.shut_down()?;
    if rig.brief {
        return Ok(());
    }
    // Its last step is to take away what boots.
    back(rig, [&rig.primary, &rig.dpsr])?;

    let mut machine = on(rig, Start::Uefi, &[&rig.primary, &rig.dpsr], "the primary, as it was")?;
    is_the_primary(&mut machine)?;
    marked(&mut machine, "sixth")?;
    state(&mut machine, "initramfs-tools installed")?;
    let guest = machine.guest()?;
    let below = guest.ok("findmnt --noheadings --output SOURCE /")?;
    must(!below.contains("dpsr"), || format!("the root is {below}"))?;
    let left = guest.run(
        "find /var/lib/dpsr/initramfs-tools /boot -name '*dpsr*' 2>/dev/null; grep -c dracut /proc/cmdline",
    )?;
    must(left.output == "0\n", || format!("left of the switch: {}", left.output))?;
    // What dracut has left there makes no image: the same is asked again.
    let again = machine.run_within(PATIENCE, "dpsr boot uninstall && dpsr boot install")?;
    let told = again.output.contains("removed:   initramfs-tools");
    must(again.code == 3 && told, || format!("{}: {}", again.code, again.output))?;
    machine.shut_down()
}

/// The kernel was told to be quiet, and whoever stands before the console reads what has happened all the same.
fn told_though_quiet(machine: &mut Machine) -> Result<()> {
    let level = machine
        .guest()?
        .ok("grep --only-matching --word-regexp quiet /proc/cmdline; cat /proc/sys/kernel/printk")?;
    must(level.starts_with("quiet\n4"), || format!("the kernel was not told to be quiet: {level}"))?;
    let said = fs::read(machine.console()).map_err(|error| format!("reading the console: {error}"))?;
    let told = String::from_utf8_lossy(&said).contains("it runs from its copy on ");
    must(told, || "nobody at the console was told".to_owned())
}

/// The power fails in the switch, and in its being taken back: the primary starts each time, and what was begun can be ended.
pub(super) fn switch_cut_short(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not wrapped")?;
    init(&mut machine)?;
    machine.guest()?.ok("sync")?;
    for seconds in CUTS {
        for words in ["install --confirm dracut", "uninstall"] {
            machine.guest()?.ok(&format!("(dpsr boot {words} >/dev/null 2>&1 &)"))?;
            sleep(Duration::from_secs(seconds));
            machine.power_cut();
            machine = on(rig, Start::Uefi, &both, &format!("after {seconds} s of boot {words}"))?;
            is_the_primary(&mut machine)?;
        }
        let done = machine.run_within(PATIENCE, "dpsr boot uninstall")?;
        must(done.code == 0, || format!("taking back what was cut off: {done:?}"))?;
        state(&mut machine, "initramfs-tools installed")?;
    }
    dpsr_json(&mut machine, "boot install --confirm dracut")?;
    state(&mut machine, "dracut installed")?;
    restarted(&mut machine, "the primary, wrapped")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    machine.shut_down()
}

/// What makes the images now, which must be `wanted` alone, and what they are.
fn state(machine: &mut Machine, wanted: &str) -> Result<String> {
    let found = machine.guest()?.ok(STATE)?;
    let (first, rest) = found.split_once('\n').unwrap_or_default();
    must(first == wanted && !rest.contains("installed"), || format!("{wanted} expected: {found}"))?;
    Ok(found)
}
