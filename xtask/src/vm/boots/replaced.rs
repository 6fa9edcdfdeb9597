// SPDX-License-Identifier: MIT OR Apache-2.0
//! The old disk is dead, and a new and larger one takes its place; the power fails on the way, again and again.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::failover::{made_bootable, mark, marked, on, record_in_initramfs, restarted, stands_on_dpsr};
use super::order::NAMES;
use super::{PATIENCE, Rig, dpsr, dpsr_json, init, is_the_primary, say};
use crate::Result;
use crate::data::{MIB, make_sparse};
use crate::json::Json;
use crate::vm::machine::{Disk, Format, Machine, Start};
use crate::vm::must;

/// Serial number of the new disk.
const FRESH: &str = "fresh";

/// How much larger it is. The end of the copy is none of the disk's.
const LARGER: u64 = 200 * MIB + 512;

/// So much is copied when the power fails first.
const BEGUN: u64 = 16 * MIB;

/// What the console says at the moments at which the power fails: nothing copied yet, in the middle, the copy is being
/// made a generation again.
const MOMENTS: [&str; 3] = ["copying what has changed to", ": 50 %", "making the copy a generation again"];

/// The initramfs, and what is kept of it from before.
const OWN: &str = "/boot/initrd.img-$(uname -r)";
const BEFORE: &str = "/var/tmp/initrd.img";

/// With an initramfs that knows another disk, of another size, the system comes up, and says so.
fn outdated(machine: &mut Machine) -> Result<()> {
    machine.guest()?.ok(&format!("cp {BEFORE} {OWN} && rm {BEFORE} && sync"))?;
    restarted(machine, "the new disk, by an initramfs that knows another")?;
    is_the_primary(machine)?;
    let told = machine.guest()?.ok("cat /run/motd.d/10-dpsr")?;
    let outdated = told.contains("is not wrapped") && told.contains("names another disk");
    must(outdated, || format!("a login is told: {told}"))
}

pub(super) fn onto_a_blank_disk(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not wrapped")?;
    init(&mut machine)?;
    made_bootable(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    mark(&mut machine, "first")?;
    dpsr(&mut machine, "sync")?;
    mark(&mut machine, "second")?;
    dpsr(&mut machine, "sync")?;
    machine.power_cut();

    let file = rig.folder.join("fresh.img");
    make_sparse(&file, rig.layout.size() + LARGER)?;
    let fresh = Disk { name: FRESH, file, format: Format::Raw };
    let disks = [&fresh, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &disks, "from the copy, a blank disk beside it")?;
    is_the_primary(&mut machine)?;
    marked(&mut machine, "second")?;
    mark(&mut machine, "third")?;
    // While it runs: the copying has just begun.
    let disk = machine.guest()?.ok(&format!("grep -l {FRESH} /sys/block/vd*/serial | cut -d/ -f4"))?;
    let to = format!("failback --to /dev/{} --confirm {FRESH}", disk.trim());
    machine.guest()?.ok(&format!("cp --preserve {OWN} {BEFORE} && sync"))?;
    machine.guest()?.ok(&format!("(dpsr {to} >/dev/null 2>&1 &)"))?;
    let start = Instant::now();
    while machine.written(FRESH)? < BEGUN {
        must(start.elapsed() < PATIENCE, || "nothing is copied".to_owned())?;
        sleep(Duration::from_millis(50));
    }
    machine.power_cut();

    let mut machine = on(rig, Start::Uefi, &disks, "after a power cut while it was copied")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    marked(&mut machine, "third")?;
    let begun = dpsr_json(&mut machine, &to)?;
    let unused = begun.find("unused");
    must(unused == Some(&Json::Number(LARGER as f64)), || format!("{begun:?}"))?;
    let recorded = ["recorded", "known"].iter().all(|it| begun.find(it) == Some(&Json::Bool(true)));
    must(recorded, || format!("{begun:?}"))?;
    mark(&mut machine, "fifth")?;
    machine.go_down()?;
    for moment in MOMENTS {
        machine.watch(&[moment], PATIENCE)?;
        say(format_args!("the power failed at {moment:?}"));
    }
    // Whichever of the two it is by now, nothing that was written is lost, and one more start ends it.
    let mut machine = on(rig, Start::Uefi, &disks, "after the last power cut")?;
    marked(&mut machine, "fifth")?;
    is_the_primary(&mut machine)?;
    let status = dpsr_json(&mut machine, "status")?;
    must(status.text("state")? == "clean", || format!("{status:?}"))?;
    stands_on_dpsr(&mut machine)?;
    outdated(&mut machine)?;
    record_in_initramfs(&mut machine)?;
    restarted(&mut machine, "the new disk, wrapped")?;
    stands_on_dpsr(&mut machine)?;
    let synced = dpsr_json(&mut machine, "sync")?;
    must(synced.number("generation")? == 3, || format!("{synced:?}"))?;
    let scrubbed = dpsr_json(&mut machine, "scrub")?;
    must(scrubbed.number("found")? == 0, || format!("{scrubbed:?}"))?;
    machine.shut_down()?;
    let mut machine = on(rig, Start::Bios, &disks, "the new disk, by BIOS")?;
    marked(&mut machine, "fifth")?;
    machine.shut_down()?;
    gone_too(rig, &fresh)
}

/// The new disk is missing as the old one was, and nobody's when it is there again, and the old one with it.
fn gone_too(rig: &Rig, fresh: &Disk) -> Result<()> {
    let mut machine = on(rig, Start::Uefi, &[&rig.dpsr], "from the copy, the new disk missing")?;
    is_the_primary(&mut machine)?;
    mark(&mut machine, "sixth")?;
    machine.shut_down()?;
    let all = [&rig.primary, fresh, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &all, "the new disk is there again, and the old one")?;
    marked(&mut machine, "sixth")?;
    stands_on_dpsr(&mut machine)?;
    let names = machine.guest()?.ok(NAMES)?;
    must(names.lines().all(|line| line.ends_with(" dpsr")), || format!("links to others: {names}"))?;
    machine.shut_down()
}
