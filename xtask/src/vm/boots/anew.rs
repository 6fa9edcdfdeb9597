// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ran from the copy is given up: a drill ends with the primary; and where that is gone and the copy does not start
//! any more, an older generation takes its place.

use std::fs;

use super::broken::INIT;
use super::failover::{mark, marked, on, restarted, stands_on_dpsr, two_generations, wrapped};
use super::{PATIENCE, Rig, booted, dpsr_json, is_the_primary, say};
use crate::Result;
use crate::vm::machine::{Machine, Start};
use crate::vm::must;
use crate::vm::typist::Answer;

/// The entry of the DPSR disk's menu that leads out.
const ENTRY: &str = "Give up what was written since the copy was started (dpsr)";

/// Somebody at the console wants the first generation.
const FIRST: Answer = Answer::new("Type its number and Enter: ", "1");

/// Somebody there wants the primary.
const PRIMARY_ITSELF: Answer = Answer::new("Type its number and Enter: ", "0");

pub(super) fn copy_given_up(rig: &Rig) -> Result<()> {
    let mut machine = wrapped(rig, [&rig.primary, &rig.dpsr])?;
    two_generations(&mut machine)?;
    machine.power_cut();
    drill(rig)?;

    let mut machine = on(rig, Start::Uefi, &[&rig.dpsr], "from the copy, the primary missing")?;
    marked(&mut machine, "third")?;
    mark(&mut machine, "fourth")?;
    by_itself(&mut machine, "0", &format!("'{ENTRY}'"))?;
    machine.guest()?.ok(&format!("mv {INIT} /root/ && sync"))?;
    machine.power_cut();

    let mut machine = rig.machine(Start::Uefi, &[&rig.dpsr])?.answered(Some(FIRST));
    booted(&mut machine, "generation 1, what was written since given up")?;
    let said = fs::read(machine.console()).unwrap_or_default();
    must(String::from_utf8_lossy(&said).contains("WHAT THE SYSTEM HAS WRITTEN since 20"), || {
        "nobody was told what is lost".to_owned()
    })?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    marked(&mut machine, "first")?;
    let status = dpsr_json(&mut machine, "status")?;
    let aside = status.text("state")? == "live-aside" && status.number("generation")? == 3;
    must(aside, || format!("{status:?}"))?;
    mark(&mut machine, "fifth")?;
    by_itself(&mut machine, &format!("'{ENTRY}'"), "0")?;
    restarted(&mut machine, "the same, by the menu's first entry")?;
    marked(&mut machine, "fifth")?;
    stands_on_dpsr(&mut machine)?;
    machine.shut_down()
}

/// The copy runs for a while without the primary, which then goes on as if nothing had been: the next sync has what is on
/// it.
fn drill(rig: &Rig) -> Result<()> {
    let mut machine = on(rig, Start::Uefi, &[&rig.dpsr], "from the copy, for a drill")?;
    marked(&mut machine, "second")?;
    mark(&mut machine, "drill")?;
    by_itself(&mut machine, "0", &format!("'{ENTRY}'"))?;
    machine.shut_down()?;

    let machine = rig.machine(Start::Bios, &[&rig.dpsr, &rig.primary])?.answered(Some(PRIMARY_ITSELF));
    let words = ["what a system wrote that ran from the copy was given up", "reboot: Restarting system"];
    say(format_args!("the drill given up: {:.1} s", machine.watch(&words, PATIENCE)?.as_secs_f64()));
    let mut machine = on(rig, Start::Uefi, &[&rig.primary, &rig.dpsr], "the primary after it")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    marked(&mut machine, "third")?;
    let status = dpsr_json(&mut machine, "status")?;
    must(status.text("state")? == "clean", || format!("{status:?}"))?;
    let synced = dpsr_json(&mut machine, "sync")?;
    must(synced.number("generation")? == 3, || format!("{synced:?}"))?;
    machine.power_cut();
    Ok(())
}

/// Which entry of the DPSR disk's menu is started by itself.
fn by_itself(machine: &mut Machine, from: &str, to: &str) -> Result<()> {
    let menu = "/mnt/dpsr/grub.cfg";
    let script = format!(
        "mount /dev/disk/by-label/DPSR-ESP /mnt && grep -q \"^menuentry '{ENTRY}'\" {menu} && \
         sed --in-place \"0,/^set default={from}$/s//set default={to}/\" {menu} && \
         grep -q \"^set default={to}$\" {menu} && umount /mnt && sync"
    );
    machine.guest()?.ok(&script).map(drop)
}
