// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keeps the copy from being started: nobody has agreed, nobody is to be asked, and a primary that is not missing.

use std::fs;

use super::failover::{made_bootable, marked, on, restarted, stands_on_dpsr, two_generations};
use super::unwrapped::{PLAIN, stands_on, tells};
use super::{PATIENCE, Rig, dpsr_json, init, is_the_primary, say};
use crate::Result;
use crate::vm::machine::{Disk, Machine, Start};
use crate::vm::typist::Answer;
use crate::vm::{PRIMARY, faults, must};

/// The unit that decides has begun; systemd leaves out the middle of long lines.
const DECIDING: &str = "achine is started from its copy";

/// What ends the question, and the answer to it.
const AGREES: Answer = Answer::new("Type yes and Enter: ", "yes");

/// What was written down of the pair.
const RECORD: &str = "/etc/dpsr/system.toml";

/// The copy is older than `max_age` each time.
pub(super) fn not_by_itself(rig: &Rig) -> Result<()> {
    prepared(rig)?;
    slow_controller(rig)?;
    asked(rig)?;
    repartitioned_and_off(rig)?;
    off(rig)
}

/// Where it has a disk of its own to write to.
fn copy_of(rig: &Rig, disk: &Disk, what: &str) -> Result<Disk> {
    let folder = rig.folder.join(what);
    fs::create_dir_all(&folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
    disk.tried_out(&folder)
}

fn prepared(rig: &Rig) -> Result<()> {
    let mut machine = on(rig, Start::Uefi, &[&rig.primary, &rig.dpsr], "the primary, not wrapped")?;
    init(&mut machine)?;
    let ask = format!("printf '\\n[failover]\\npolicy = \"auto\"\\nmax_age = 1\\n' >>{RECORD}");
    machine.guest()?.ok(&ask)?;
    made_bootable(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    two_generations(&mut machine)?;
    machine.shut_down()
}

/// The loader of the DPSR disk was first, and the primary comes ten seconds after somebody has begun to look for it.
fn slow_controller(rig: &Rig) -> Result<()> {
    let [primary, dpsr] = [&rig.primary, &rig.dpsr].map(|disk| copy_of(rig, disk, "slow"));
    let mut machine = rig.machine(Start::Bios, &[&dpsr?])?.expecting(primary?);
    let before = said(&machine, AGREES.question);
    let took = machine.boot_with(faults::come_late, PRIMARY, Some(DECIDING))?;
    say(format_args!("the primary, which came late: {:.1} s", took.as_secs_f64()));
    // Whoever takes it for missing asks.
    must(said(&machine, AGREES.question) == before, || "it was not waited for".to_owned())?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    marked(&mut machine, "third")?;
    machine.shut_down()
}

/// It is too old, and somebody wants it all the same.
fn asked(rig: &Rig) -> Result<()> {
    let dpsr = copy_of(rig, &rig.dpsr, "asked")?;
    let mut machine = rig.machine(Start::Bios, &[&dpsr])?.answered(Some(AGREES));
    let before = said(&machine, AGREES.question);
    let took = machine.boot()?;
    say(format_args!("from the copy, after a question: {:.1} s", took.as_secs_f64()));
    must(said(&machine, AGREES.question) > before, || "nobody was asked".to_owned())?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    marked(&mut machine, "second")?;
    machine.shut_down()
}

/// How often the consoles have said it.
fn said(machine: &Machine, words: &str) -> usize {
    let said = fs::read(machine.console()).unwrap_or_default();
    String::from_utf8_lossy(&said).matches(words).count()
}

/// The primary's own loader starts a disk that is not the recorded one any more: what is on it, without dpsr under it.
fn repartitioned_and_off(rig: &Rig) -> Result<()> {
    let mut machine = on(rig, Start::Uefi, &[&rig.primary, &rig.dpsr], "the primary")?;
    machine.guest()?.ok(&format!("sed -i 's/^policy = \"auto\"$/policy = \"off\"/' {RECORD}"))?;
    dpsr_json(&mut machine, "boot update")?;
    let other = "sfdisk --quiet --no-reread --force --disk-id \
                 /dev/$(grep -l primary /sys/block/vd*/serial | cut -d/ -f4) 6E0F1C3A-94B7-4E0B-8B8E-4E2A7F6D1C55";
    machine.guest()?.ok(&format!("{other} && sync"))?;
    restarted(&mut machine, "the primary with another identity, plain")?;
    is_the_primary(&mut machine)?;
    stands_on(&mut machine, PLAIN)?;
    marked(&mut machine, "third")?;
    tells(&mut machine, "is not wrapped")?;
    machine.shut_down()
}

/// The primary is missing, and stays so.
fn off(rig: &Rig) -> Result<()> {
    let machine = rig.machine(Start::Bios, &[&rig.dpsr])?;
    let took = machine.watch(&["its copy is not started, because policy is off"], PATIENCE)?;
    say(format_args!("the copy was not started: {:.1} s", took.as_secs_f64()));
    Ok(())
}
