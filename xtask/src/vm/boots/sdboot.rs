// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine that is started by systemd-boot: its DPSR disk is, too.

use super::failover::{marked, on, restarted, stands_on_dpsr, two_generations};
use super::{PATIENCE, Rig, dpsr_json, init, is_the_primary};
use crate::Result;
use crate::json::Json;
use crate::vm::installed::TOKEN;
use crate::vm::machine::{Machine, Start};
use crate::vm::must;

/// The disk is pulled; it is there again, and an entry of its own menu leads to the copy.
pub(super) fn systemd_boot(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not wrapped")?;
    is_the_primary(&mut machine)?;
    started_by_it(&mut machine)?;
    init(&mut machine)?;
    let add = format!(
        "cd / && find etc/dpsr | cpio --quiet --create --format=newc >>/boot/efi/{TOKEN}/$(uname -r)/initrd && sync"
    );
    machine.guest()?.ok(&add)?;
    let done = dpsr_json(&mut machine, "boot install")?;
    must(done.find("uefi_signed") == Some(&Json::Bool(false)), || format!("{done:?}"))?;
    recovery_entry(&mut machine)?;
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
    must(titles.len() == 4 && entries.contains("dpsr.generation=1 "), || format!("its entries: {entries}"))?;
    machine.guest()?.ok("echo 'default *-dpsr.conf' >>/boot/efi/loader/loader.conf; sync")?;
    restarted(&mut machine, "the copy, chosen in the primary's menu")?;
    runs_from_the_copy(&mut machine)?;
    machine.shut_down()?;

    let mut machine = on(rig, Start::Uefi, &[&rig.dpsr], "from the copy, the primary missing")?;
    started_by_it(&mut machine)?;
    runs_from_the_copy(&mut machine)?;
    let status = dpsr_json(&mut machine, "boot status")?;
    must(status.find("current") == Some(&Json::Bool(true)), || format!("from the copy: {status:?}"))?;
    machine.shut_down()
}

fn runs_from_the_copy(machine: &mut Machine) -> Result<()> {
    is_the_primary(machine)?;
    stands_on_dpsr(machine)?;
    marked(machine, "second")?;
    let status = dpsr_json(machine, "status")?;
    must(status.text("state")? == "live", || format!("{status:?}"))
}

fn started_by_it(machine: &mut Machine) -> Result<()> {
    let told = "tr -d '\\000' </sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let told = machine.guest()?.ok(told)?;
    must(told.contains("systemd-boot"), || format!("the loader is {told:?}"))
}

/// What kernel-install(8) runs makes the entry, and takes it away.
fn recovery_entry(machine: &mut Machine) -> Result<()> {
    let run = |verb: &str| {
        format!(
            "KERNEL_INSTALL_LAYOUT=bls KERNEL_INSTALL_BOOT_ROOT=/boot/efi KERNEL_INSTALL_ENTRY_TOKEN={TOKEN} \
             /usr/lib/kernel/install.d/95-dpsr.install {verb} $(uname -r)"
        )
    };
    let here = format!("/boot/efi/loader/entries/{TOKEN}-$(uname -r)-dpsr.conf");
    let made = machine.run_within(PATIENCE, &format!("{} && cat {here}", run("add")))?;
    let right = ["title Recover", "sort-key debian-dpsr", "rcu_expedited=1 dpsr.boot=force"];
    let all = right.iter().all(|it| made.output.contains(it));
    must(made.code == 0 && all, || format!("the entry: {made:?}"))?;
    let gone = machine.guest()?.run(&format!("{} && test ! -e {here} && {}", run("remove"), run("add")))?;
    must(gone.code == 0, || format!("taking it away: {gone:?}"))
}
