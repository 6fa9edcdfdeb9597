// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk is fine, and the system on it is not: an older generation is started, goes on, and replaces it.

use std::fs;
use std::time::{Duration, Instant};

use super::failover::{made_bootable, mark, marked, on, restarted, stands_on_dpsr, swaps};
use super::{PATIENCE, Rig, booted, dpsr, dpsr_json, init, is_the_primary, say};
use crate::Result;
use crate::vm::machine::{Disk, Machine, Start};
use crate::vm::typist::Answer;
use crate::vm::{PRIMARY, must};

/// The menu of the primary.
const MENU: &str = "/boot/grub/grub.cfg";

/// What it is made by.
const SETTINGS: &str = "/etc/default/grub";

/// What GRUB says when it starts an entry of it.
const LOADS: &str = "Loading Linux ";

/// What no Debian starts without.
pub(super) const INIT: &str = "/usr/lib/systemd/systemd";

/// What the list of older generations shows; Enter starts the first of them.
const LISTED: Answer = Answer { after: Duration::from_secs(8), ..Answer::new("Generation 1, 20", "") };

/// What would be started by itself before that, and is not in the list.
const LAST: &str = "Last generation, even if";

/// What the kernel is told by the entry of the last generation, and by that of the first one.
const NEWEST: &str = "dpsr.boot=force";
const GENERATION_1: &str = "dpsr.boot=force dpsr.generation=1";

/// A system that no longer starts was copied, too; the generation before it was not.
pub(super) fn system_broken(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = with_entry(rig, "")?;
    mark(&mut machine, "first")?;
    dpsr(&mut machine, "sync")?;
    mark(&mut machine, "second")?;
    // Somebody chooses dpsr's second entry at every start from now on.
    machine.guest()?.ok(&format!("echo GRUB_DEFAULT=dpsr-older >>{SETTINGS}"))?;
    menu_made(&mut machine)?;
    machine.guest()?.ok(&format!("mv {INIT} /root/ && sync"))?;
    dpsr(&mut machine, "sync")?;
    machine.power_cut();

    let mut machine = rig.machine(Start::Uefi, &both)?.answered(Some(LISTED));
    booted(&mut machine, "generation 1 of two, by the primary's own menu")?;
    let said = fs::read(machine.console()).unwrap_or_default();
    must(!String::from_utf8_lossy(&said).contains(LAST), || {
        "the list is that of all generations".to_owned()
    })?;
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
    // Whatever the menu starts.
    other_entry(&mut machine, GENERATION_1, NEWEST)?;
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

/// A wrapped primary whose own menu leads to the DPSR disk; `more` is added to the record.
pub(super) fn with_entry(rig: &Rig, more: &str) -> Result<Machine> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not wrapped")?;
    init(&mut machine)?;
    machine.guest()?.ok(&format!("printf '{more}' >>/etc/dpsr/system.toml"))?;
    made_bootable(&mut machine)?;
    entry_of_primary(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    Ok(machine)
}

/// The menu is the distribution's, with dpsr's part in it.
fn entry_of_primary(machine: &mut Machine) -> Result<()> {
    let settings = format!(
        "printf '%s\\n' GRUB_TIMEOUT=1 'GRUB_TERMINAL=\"console serial\"' GRUB_DISABLE_OS_PROBER=true \
         'GRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"' \
         'GRUB_CMDLINE_LINUX=\"console=ttyS0 systemd.show_status=1 mitigations=off rcupdate.rcu_expedited=1\"' \
         >{SETTINGS}"
    );
    machine.guest()?.ok(&settings)?;
    menu_made(machine)
}

fn menu_made(machine: &mut Machine) -> Result<()> {
    let start = Instant::now();
    let made = format!("update-grub 2>&1 && grep '^menuentry .*dpsr-recover' {MENU} && sync");
    let made = machine.run_within(PATIENCE, &made)?;
    say(format_args!("update-grub: {:.1} s", start.elapsed().as_secs_f64()));
    must(made.code == 0, || format!("update-grub: {}", made.output))
}

/// An entry of the DPSR disk's menu starts something else than it says.
fn other_entry(machine: &mut Machine, from: &str, to: &str) -> Result<()> {
    let menu = "/mnt/dpsr/grub.cfg";
    let script = format!(
        "mount /dev/disk/by-label/DPSR-ESP /mnt && grep -q ' {GENERATION_1} ' {menu} && \
         sed --in-place '0,/ {from} dpsr.pair=/s// {to} dpsr.pair=/' {menu} && umount /mnt && sync"
    );
    machine.guest()?.ok(&script).map(drop)
}

/// How many starts may fail.
pub(super) const TRIES: u32 = 2;

/// What is wrong with a system, how it comes to be, and what the console says last of it.
type Way<'a> = (&'static str, &'a str, &'static str);

/// What is said where there is no init to go on with; the machine stays like that.
pub(super) const NO_INIT: &str = "No /sbin/init, trying fallback";

const OTHER_WAYS: [Way<'static>; 3] = [
    ("no initramfs", "truncate --size 1M /boot/initrd.img-$(uname -r) && sync", "Kernel panic"),
    ("no kernel", "head -c 8192 /dev/urandom >/boot/vmlinuz-$(uname -r) && sync", "invalid magic number"),
    // Its first directory is a file, which no check of the filesystem mends unasked, and which GRUB does not mind.
    (
        "no root",
        "sync; debugfs -w -R 'set_inode_field <2> mode 0100644' $(findmnt --noheadings --output SOURCE /) && sync",
        "Entering emergency mode",
    ),
];

/// Starts are counted: a system that does not come up is left by itself, for the copy of when it did.
pub(super) fn left_by_itself(rig: &Rig) -> Result<()> {
    let way = ("no init", format!("mv {INIT} /root/ && sync"), NO_INIT);
    left(rig, counted(rig)?, [&rig.primary, &rig.dpsr], (way.0, &way.1, way.2))
}

/// The same in three more ways, each from the same state.
pub(super) fn left_in_other_ways(rig: &Rig) -> Result<()> {
    counted(rig)?.shut_down()?;
    for (number, way) in OTHER_WAYS.into_iter().enumerate() {
        let folder = rig.folder.join(number.to_string());
        fs::create_dir(&folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
        let (primary, dpsr) = (rig.primary.tried_out(&folder)?, rig.dpsr.tried_out(&folder)?);
        let both = [&primary, &dpsr];
        let machine = on(rig, Start::Uefi, &both, &format!("the primary, before there is {}", way.0))?;
        left(rig, machine, both, way)?;
    }
    Ok(())
}

/// A wrapped primary whose starts are counted, with one generation.
fn counted(rig: &Rig) -> Result<Machine> {
    let mut machine = with_entry(rig, &format!("\n[failover]\ntries = {TRIES}\n"))?;
    came_up(&mut machine)?;
    mark(&mut machine, "first")?;
    dpsr(&mut machine, "sync")?;
    Ok(machine)
}

fn left(rig: &Rig, mut machine: Machine, both: [&Disk; 2], (what, breaks, says): Way<'_>) -> Result<()> {
    came_up(&mut machine)?;
    machine.guest()?.ok(breaks)?;
    machine.power_cut();
    for _ in 0..TRIES {
        let took = rig.machine(Start::Uefi, &both)?.watch(&[LOADS, says], PATIENCE)?;
        say(format_args!("there is {what}, until it gives up: {:.1} s", took.as_secs_f64()));
    }
    let mut machine = on(rig, Start::Uefi, &both, "the copy, chosen by nobody")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    marked(&mut machine, "first")?;
    let status = dpsr_json(&mut machine, "status")?;
    must(status.text("state")? == "live", || format!("{status:?}"))?;
    machine.shut_down()
}

/// The count of a system that came up is forgotten.
fn came_up(machine: &mut Machine) -> Result<()> {
    let told = machine.guest()?.ok("systemctl is-system-running --wait >/dev/null; grub-editenv - list")?;
    must(!told.contains("dpsr_tries"), || format!("it is counted as failed: {told}"))
}
