// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the DPSR disk boots: made anew where the system's own initramfs serves this machine alone, and whole again after
//! a power cut while it is written.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::failover::{marked, on, restarted, stands_on_dpsr, two_generations};
use super::lost::KERNEL;
use super::unwrapped::{PLAIN, stands_on, with_words};
use super::{PATIENCE, Rig, dpsr_json, init, is_the_primary, say};
use crate::Result;
use crate::data::MIB;
use crate::json::Json;
use crate::vm::machine::{Disk, Machine, Start};
use crate::vm::{DPSR, PRIMARY, faults, must};

/// The primary's initramfs is made for the disks there are, as Debian makes it where nobody has said otherwise: it wraps the
/// primary, and starts the copy, and the DPSR disk has another one. One that is made where the primary is wrapped serves it
/// where it is not just as well.
pub(super) fn made_for_this_machine(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not wrapped")?;
    init(&mut machine)?;
    let own = "sed -i 's/hostonly=\"no\"/hostonly=\"yes\"/' /etc/dracut.conf.d/*.conf && \
               grep -h '^hostonly=\"yes\"' /etc/dracut.conf.d/*.conf";
    machine.guest()?.ok(own)?;
    let done = dpsr_json(&mut machine, "boot install")?;
    must(done.text("initramfs")? == "built", || format!("{done:?}"))?;
    made_anew(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped by it")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    made_anew(&mut machine)?;
    with_words(&mut machine, "dpsr.boot=off")?;
    restarted(&mut machine, "by request plain, by one that was made where it was wrapped")?;
    stands_on(&mut machine, PLAIN)?;
    is_the_primary(&mut machine)?;
    with_words(&mut machine, "")?;
    restarted(&mut machine, "wrapped by that")?;
    stands_on_dpsr(&mut machine)?;
    two_generations(&mut machine)?;
    machine.shut_down()?;

    let [primary, dpsr] = apart(rig, "dies")?;
    let mut machine = rig.machine(Start::Uefi, &[&primary, &dpsr])?;
    let took = machine.boot_with(faults::fail, PRIMARY, Some(KERNEL))?;
    say(format_args!("from the copy, by that initramfs: {:.1} s", took.as_secs_f64()));
    from_the_copy(&mut machine)?;
    let mut machine = on(rig, Start::Uefi, &[&rig.dpsr], "from the copy, the primary missing")?;
    from_the_copy(&mut machine)
}

fn made_anew(machine: &mut Machine) -> Result<()> {
    let start = Instant::now();
    let made = machine.run_within(PATIENCE, "dracut --force --quiet && sync")?;
    must(made.code == 0, || format!("dracut: {made:?}"))?;
    say(format_args!("an initramfs for this machine: {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

fn from_the_copy(machine: &mut Machine) -> Result<()> {
    is_the_primary(machine)?;
    stands_on_dpsr(machine)?;
    marked(machine, "second")?;
    let status = dpsr_json(machine, "status")?;
    must(status.text("state")? == "live", || format!("{status:?}"))?;
    machine.shut_down()
}

/// Both disks, each in one file, to be written to while they stay as they are.
fn apart(rig: &Rig, what: &str) -> Result<[Disk; 2]> {
    let folder = rig.folder.join(what);
    fs::create_dir(&folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
    let primary = rig.primary.flattened(&folder)?;
    Ok([primary, rig.dpsr.tried_out_raw(&folder)?])
}

/// How much of a new set is written when the power fails: from its beginning to what comes after it.
const CUTS: [u64; 6] = [1, 5, 11, 18, 25, 31];

/// Kernel and records change; whenever the power fails meanwhile, both kinds of firmware start something.
pub(super) fn cut_in_an_update(rig: &Rig) -> Result<()> {
    let mut machine = on(rig, Start::Uefi, &[&rig.primary, &rig.dpsr], "the primary")?;
    init(&mut machine)?;
    dpsr_json(&mut machine, "boot install")?;
    machine.shut_down()?;
    let mut ended = 0;
    for (number, cut) in CUTS.into_iter().enumerate() {
        let [primary, dpsr] = apart(rig, &number.to_string())?;
        let mut machine = on(rig, Start::Uefi, &[&primary, &dpsr], "the primary")?;
        // Another record is another set, with kernel and initramfs in it.
        machine.guest()?.ok("echo '# another' >>/etc/dpsr/system.toml && sync")?;
        let before = machine.written(DPSR)?;
        machine.guest()?.ok("(dpsr boot update >/dev/null 2>&1; touch /run/ended) & true")?;
        let mut over = false;
        while machine.written(DPSR)? < before + cut * MIB && !over {
            over = machine.guest()?.run("test -e /run/ended")?.code == 0;
            sleep(Duration::from_millis(20));
        }
        let written = (machine.written(DPSR)? - before) / MIB;
        machine.power_cut();
        ended += u32::from(over);
        say(format_args!(
            "the power failed after {written} MiB{}",
            if over { ", once it was over" } else { "" }
        ));
        for start in [Start::Bios, Start::Uefi] {
            let words = ["DPSR disk: loading the kernel", "Linux version", "dracut-cmdline"];
            let took = rig.machine(start.clone(), &[&dpsr])?.watch(&words, PATIENCE)?;
            say(format_args!("the DPSR disk alone by {start:?}: {:.1} s", took.as_secs_f64()));
        }
        let mut machine = on(rig, Start::Uefi, &[&primary, &dpsr], "the primary")?;
        let again = dpsr_json(&mut machine, "boot update")?;
        must(again.find("initramfs").is_some(), || format!("{again:?}"))?;
        let status = dpsr_json(&mut machine, "boot status")?;
        must(status.find("current") == Some(&Json::Bool(true)), || format!("{status:?}"))?;
        machine.shut_down()?;
    }
    must(ended < 3, || format!("{ended} of the updates were over before the power failed"))
}
