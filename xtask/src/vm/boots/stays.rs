// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system is broken, and the homes are not: they stay on the primary, in use, while the system comes from its copy
//! and goes back.

use super::broken::{INIT, with_entry};
use super::failover::{mark, marked, on, restarted, stands_on_dpsr, swaps};
use super::{Rig, dpsr, dpsr_json, is_the_primary};
use crate::Result;
use crate::vm::machine::{Machine, Start};
use crate::vm::{PRIMARY, must};

/// What somebody does who presses a key at the entry that the primary's menu leads to, and types a word.
const TYPED: &str = "mount /dev/disk/by-label/DPSR-ESP /mnt && \
    sed --in-place '0,/ dpsr.boot=force dpsr.pair=/s// dpsr.boot=force dpsr.live=homes dpsr.pair=/' /mnt/dpsr/grub.cfg && \
    grep -q dpsr.live=homes /mnt/dpsr/grub.cfg && umount /mnt && sync";

pub(super) fn homes_stay(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = with_entry(rig, "")?;
    mark(&mut machine, "first")?;
    written_at_home(&mut machine, "first")?;
    dpsr(&mut machine, "sync")?;
    machine.guest()?.ok(TYPED)?;
    mark(&mut machine, "second")?;
    written_at_home(&mut machine, "second")?;
    let broken = format!("echo 'set default=dpsr-recover' >>/boot/grub/grub.cfg && mv {INIT} /root/ && sync");
    machine.guest()?.ok(&broken)?;
    machine.power_cut();

    let mut machine = on(rig, Start::Uefi, &both, "the system from its copy, the homes where they are")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    swaps(&mut machine)?;
    marked(&mut machine, "first")?;
    at_home(&mut machine, "second")?;
    homes_on(&mut machine, PRIMARY)?;
    let status = dpsr_json(&mut machine, "status")?;
    must(status.text("state")? == "live" && status.list("stays")?.len() == 1, || format!("{status:?}"))?;
    written_at_home(&mut machine, "third")?;
    mark(&mut machine, "third")?;
    restarted(&mut machine, "the same again")?;
    marked(&mut machine, "third")?;
    at_home(&mut machine, "third")?;
    homes_on(&mut machine, PRIMARY)?;

    let disk = machine.guest()?.ok(&format!("grep -l {PRIMARY} /sys/block/vd*/serial | cut -d/ -f4"))?;
    let disk = disk.trim();
    let script = format!(
        "mkdir -p /run/old && dpsr salvage /dev/{disk} /run/old --volume root >/dev/null && \
         cat /run/old/root/marker; dpsr umount /run/old >/dev/null"
    );
    let old = machine.guest()?.run(&script)?;
    must(old.code == 0 && old.output == "second\n", || format!("the old system: {old:?}"))?;
    // In use all the while, and written to.
    machine.guest()?.ok("(while sleep 0.2; do date >/home/busy; sync /home/busy; done) >/dev/null 2>&1 &")?;
    for refused in ["sync", &format!("restore 1 --to /dev/{disk} --confirm {PRIMARY}")] {
        let done = machine.guest()?.run(&format!("dpsr {refused}"))?;
        must(done.code == 3, || format!("dpsr {refused} ended with {}: {}", done.code, done.output))?;
    }
    let back = format!("failback --to /dev/{disk} --discard-primary --confirm {PRIMARY}");
    let killed =
        machine.guest()?.run(&format!("timeout --signal=KILL 2 dpsr {back}; dmsetup ls | grep fence"))?;
    must(killed.code == 0, || format!("what a killed failback left: {killed:?}"))?;
    dpsr_json(&mut machine, &back)?;
    written_at_home(&mut machine, "fourth")?;
    mark(&mut machine, "fourth")?;
    restarted(&mut machine, "the rest copied, and the primary started")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    marked(&mut machine, "fourth")?;
    at_home(&mut machine, "fourth")?;
    let status = dpsr_json(&mut machine, "status")?;
    let clean = status.text("state")? == "clean" && status.number("generation")? == 1;
    must(clean, || format!("{status:?}"))?;
    let synced = dpsr_json(&mut machine, "sync")?;
    must(synced.number("generation")? == 2, || format!("{synced:?}"))?;
    let kept = "mkdir -p /run/kept && dpsr mount 2 /run/kept --volume homes >/dev/null && cat /run/kept/marker; \
                dpsr umount /run/kept >/dev/null";
    let kept = machine.guest()?.run(kept)?;
    must(kept.output == "fourth\n", || format!("the homes in generation 2: {kept:?}"))?;
    let scrubbed = dpsr_json(&mut machine, "scrub")?;
    must(scrubbed.number("found")? == 0, || format!("{scrubbed:?}"))?;
    machine.shut_down()
}

fn written_at_home(machine: &mut Machine, word: &str) -> Result<()> {
    machine.guest()?.ok(&format!("echo {word} >/home/marker; sync")).map(drop)
}

fn at_home(machine: &mut Machine, word: &str) -> Result<()> {
    let found = machine.guest()?.ok("cat /home/marker")?;
    must(found.trim() == word, || format!("the marker of the homes is {:?}, not {word:?}", found.trim()))
}

/// The homes lie on the disk with this serial number.
fn homes_on(machine: &mut Machine, serial: &str) -> Result<()> {
    let below = "for disk in $(lsblk --noheadings --inverse --list --output NAME \
                 $(findmnt --noheadings --output SOURCE /home)); do cat /sys/block/$disk/serial 2>/dev/null; done";
    let below = machine.guest()?.run(below)?.output;
    must(below.split_whitespace().eq([serial]), || format!("the homes lie on {below:?}"))
}
