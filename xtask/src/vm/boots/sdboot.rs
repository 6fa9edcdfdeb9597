// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine that is started by systemd-boot: its DPSR disk is, too.

use std::fs;

use super::broken::{INIT, NO_INIT, TRIES};
use super::failover::{appended, marked, on, restarted, stands_on_dpsr, two_generations};
use super::lost::KERNEL;
use super::{PATIENCE, Rig, booted, dpsr_json, init, is_the_primary, say};
use crate::Result;
use crate::json::Json;
use crate::vm::installed::TOKEN;
use crate::vm::machine::{Disk, Machine, Start};
use crate::vm::must;
use crate::vm::typist::Answer;

/// The disk is pulled; it is there again, and entries of its own menu lead to the copy: to the newest generation, by choice
/// or after starts that failed, and to the one that is named at the console.
pub(super) fn systemd_boot(rig: &Rig) -> Result<()> {
    prepared(rig)?;
    chosen(rig)?;
    older(rig)?;
    beside_counted(rig)?;
    left_by_itself(rig)?;

    let mut machine = on(rig, Start::Uefi, &[&rig.dpsr], "from the copy, the primary missing")?;
    started_by_it(&mut machine)?;
    runs_from_the_copy(&mut machine, "second", "live")?;
    let status = dpsr_json(&mut machine, "boot status")?;
    must(status.find("current") == Some(&Json::Bool(true)), || format!("from the copy: {status:?}"))?;
    machine.shut_down()
}

fn prepared(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not wrapped")?;
    is_the_primary(&mut machine)?;
    started_by_it(&mut machine)?;
    init(&mut machine)?;
    let add = appended("etc/dpsr", &format!("/boot/efi/{TOKEN}/$(uname -r)/initrd"));
    machine.guest()?.ok(&format!("cd / && {add}"))?;
    let done = dpsr_json(&mut machine, "boot install")?;
    must(done.find("uefi_signed") == Some(&Json::Bool(false)), || format!("{done:?}"))?;
    recovery_entries(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    two_generations(&mut machine)?;
    let status = dpsr_json(&mut machine, "boot status")?;
    must(status.find("current") == Some(&Json::Bool(true)), || format!("{status:?}"))?;
    let entries = "mount -o ro /dev/disk/by-label/DPSR-ESP /mnt && cd /mnt/loader/entries && cat -- *; cd /; umount /mnt";
    let entries = machine.guest()?.ok(entries)?;
    let titles: Vec<&str> = entries.lines().filter(|line| line.starts_with("title ")).collect();
    // The two of the newest generation, the older one, and the one that gives up.
    must(titles.len() == 5 && entries.contains("dpsr.generation=1 "), || format!("its entries: {entries}"))?;
    machine.shut_down()
}

/// Both disks, to be written to while they stay as they are.
fn apart(rig: &Rig, what: &str) -> Result<[Disk; 2]> {
    let folder = rig.folder.join(what);
    fs::create_dir(&folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
    Ok([rig.primary.tried_out(&folder)?, rig.dpsr.tried_out(&folder)?])
}

/// Lets the menu of the primary choose the entry with this name.
fn choose(machine: &mut Machine, entry: &str) -> Result<()> {
    machine.guest()?.ok(&format!("echo 'default {entry}' >>/boot/efi/loader/loader.conf; sync")).map(drop)
}

fn chosen(rig: &Rig) -> Result<()> {
    let [primary, dpsr] = apart(rig, "chosen")?;
    let mut machine = on(rig, Start::Uefi, &[&primary, &dpsr], "the primary")?;
    choose(&mut machine, "*-dpsr.conf")?;
    restarted(&mut machine, "the copy, chosen in the primary's menu")?;
    runs_from_the_copy(&mut machine, "second", "live")?;
    machine.shut_down()
}

/// What the initramfs asks, and the answer.
const FIRST: Answer = Answer::new("Type its number and Enter: ", "1");

fn older(rig: &Rig) -> Result<()> {
    let [primary, dpsr] = apart(rig, "older")?;
    let mut machine = rig.machine(Start::Uefi, &[&primary, &dpsr])?.answered(Some(FIRST));
    booted(&mut machine, "the primary")?;
    choose(&mut machine, "*-dpsr-older.conf")?;
    restarted(&mut machine, "generation 1 of two, named at the console")?;
    runs_from_the_copy(&mut machine, "first", "live-aside")?;
    machine.shut_down()
}

/// Starts of the primary are counted, and none is left: its own entry is first all the same, and the copy can be chosen.
fn beside_counted(rig: &Rig) -> Result<()> {
    let [primary, dpsr] = apart(rig, "counted")?;
    let mut machine = on(rig, Start::Uefi, &[&primary, &dpsr], "the primary")?;
    let entry = format!("/boot/efi/loader/entries/{TOKEN}-$(uname -r)");
    let counted = format!(
        "mv {entry}.conf {entry}+1.conf && cp {entry}+1.conf {entry}+deb13-amd64.conf && {add} && \
         rm {entry}+deb13-amd64.conf && test ! -e {entry}-dpsr.conf && \
         test -e {entry}-dpsr+0.conf && test -e {entry}-dpsr-older+0.conf && sync",
        add = hook("add")
    );
    let done = machine.run_within(PATIENCE, &counted)?;
    must(done.code == 0, || format!("starts are to be counted: {done:?}"))?;
    for left in ["one try", "no try"] {
        machine.power_cut();
        machine = on(rig, Start::Uefi, &[&primary, &dpsr], &format!("the primary, {left} left"))?;
        marked(&mut machine, "third")?;
        machine.guest()?.ok(&format!("test -e {entry}+0-1.conf || test -e {entry}+0-2.conf"))?;
    }
    // Whether counters are part of the name is a matter of its version.
    choose(&mut machine, "*-dpsr[.+]*")?;
    restarted(&mut machine, "the copy, chosen beside it")?;
    runs_from_the_copy(&mut machine, "second", "live")?;
    machine.shut_down()
}

/// Starts are counted, anew after each good one: a system that does not come up is left by itself.
fn left_by_itself(rig: &Rig) -> Result<()> {
    let both = apart(rig, "itself")?;
    let both = [&both[0], &both[1]];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not counted")?;
    let entry = format!("/boot/efi/loader/entries/{TOKEN}-$(uname -r)");
    let counted =
        format!("test ! -e {entry}.conf && test -e {entry}+{TRIES}.conf && test -e {entry}-dpsr.conf");
    let count = format!(
        "printf '\n[failover]\ntries = {TRIES}\n' >>/etc/dpsr/system.toml && \
         systemctl enable --quiet --now dpsr-count-starts.service && {counted} && sync"
    );
    machine.guest()?.ok(&count)?;
    let status = dpsr_json(&mut machine, "boot status")?;
    must(!format!("{status:?}").contains("tries"), || format!("starts are not counted: {status:?}"))?;
    for start in 1..=TRIES + 1 {
        restarted(&mut machine, &format!("the primary, good start {start}"))?;
        marked(&mut machine, "third")?;
        machine.guest()?.ok(&format!("systemctl is-system-running --wait && {counted}"))?;
    }
    machine.power_cut();
    // Somebody switches a system off that would have come up, and the DPSR disk is not there.
    for _ in 0..TRIES {
        rig.machine(Start::Uefi, &both)?.watch(&[KERNEL], PATIENCE)?;
    }
    let mut machine = on(rig, Start::Uefi, &both[..1], "the primary, in place of a copy that is not there")?;
    is_the_primary(&mut machine)?;
    marked(&mut machine, "third")?;
    machine.guest()?.ok(&counted)?;
    machine.shut_down()?;
    let mut machine = on(rig, Start::Uefi, &both, "the primary, as ever")?;
    stands_on_dpsr(&mut machine)?;
    machine
        .guest()?
        .ok(&format!("systemctl is-system-running --wait && {counted} && mv {INIT} /root/ && sync"))?;
    machine.power_cut();
    for _ in 0..TRIES {
        let took = rig.machine(Start::Uefi, &both)?.watch(&[NO_INIT], PATIENCE)?;
        say(format_args!("there is no init, until it gives up: {:.1} s", took.as_secs_f64()));
    }
    let mut machine = on(rig, Start::Uefi, &both, "the copy, chosen by nobody")?;
    runs_from_the_copy(&mut machine, "second", "live")?;
    machine.shut_down()
}

fn runs_from_the_copy(machine: &mut Machine, word: &str, state: &str) -> Result<()> {
    is_the_primary(machine)?;
    stands_on_dpsr(machine)?;
    marked(machine, word)?;
    let status = dpsr_json(machine, "status")?;
    must(status.text("state")? == state, || format!("{status:?}"))
}

fn started_by_it(machine: &mut Machine) -> Result<()> {
    let told = "tr -d '\\000' </sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let told = machine.guest()?.ok(told)?;
    must(told.contains("systemd-boot"), || format!("the loader is {told:?}"))
}

/// What kernel-install(8) runs for the running kernel.
fn hook(verb: &str) -> String {
    format!(
        "KERNEL_INSTALL_LAYOUT=bls KERNEL_INSTALL_BOOT_ROOT=/boot/efi KERNEL_INSTALL_ENTRY_TOKEN={TOKEN} \
         /usr/lib/kernel/install.d/95-dpsr.install {verb} $(uname -r)"
    )
}

/// It makes the entries, and takes them away.
fn recovery_entries(machine: &mut Machine) -> Result<()> {
    let [newest, older] = ["dpsr", "dpsr-older"]
        .map(|kind| format!("/boot/efi/loader/entries/{TOKEN}-$(uname -r)-{kind}.conf"));
    let made = machine.run_within(PATIENCE, &format!("{} && cat {newest} {older}", hook("add")))?;
    let right = [
        "title Recover from",
        "sort-key debian-dpsr\n",
        "rcu_expedited=1 dpsr.boot=force noresume",
        "title Recover an older",
        "sort-key debian-dpsr-older\n",
        "rd.retry=1800 dpsr.generation=ask\n",
    ];
    let all = right.iter().all(|it| made.output.contains(it));
    must(made.code == 0 && all, || format!("the entries: {made:?}"))?;
    let (remove, add) = (hook("remove"), hook("add"));
    let gone = format!("{remove} && test ! -e {newest} && test ! -e {older} && {add}");
    let gone = machine.guest()?.run(&gone)?;
    must(gone.code == 0, || format!("taking them away: {gone:?}"))
}
