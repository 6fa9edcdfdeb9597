// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever keeps a primary from being wrapped, it starts all the same.

use std::fs;

use super::failover::{OWN_IMAGE, appended, record_in_initramfs, restarted, stands_on_dpsr};
use super::{Rig, booted, init, is_the_primary};
use crate::Result;
use crate::vm::machine::{Disk, Machine, Start};
use crate::vm::{TWIN, must};

/// Where the primary's root lies where nothing is under it.
pub(super) const PLAIN: &str = "/dev/vd";

/// Without the DPSR disk, by request, with a record that cannot be read.
pub(super) fn not_wrapped(rig: &Rig) -> Result<()> {
    let mut machine = rig.machine(Start::Bios, &[&rig.primary, &rig.dpsr])?;
    booted(&mut machine, "the primary")?;
    init(&mut machine)?;
    record_in_initramfs(&mut machine)?;
    machine.shut_down()?;

    let mut machine = rig.machine(Start::Bios, &[&rig.primary])?;
    booted(&mut machine, "without the DPSR disk, wrapped")?;
    stands_on_dpsr(&mut machine)?;

    with_words(&mut machine, "dpsr.boot=off")?;
    restarted(&mut machine, "by request plain")?;
    stands_on(&mut machine, PLAIN)?;

    with_words(&mut machine, "dpsr.boot=nonsense")?;
    let broken = "mkdir -p /run/broken/etc/dpsr && cd /run/broken && echo 'name = 3' >etc/dpsr/system.toml";
    machine.guest()?.ok(&format!("{broken} && {}", appended("etc", OWN_IMAGE)))?;
    restarted(&mut machine, "with a broken record plain")?;
    stands_on(&mut machine, PLAIN)?;
    is_the_primary(&mut machine)?;
    tells(&mut machine, "system.toml:1")?;
    machine.shut_down()
}

/// Somebody has a partition before dpsr comes, the kernel has no device-mapper, and there is a disk that says of
/// itself what the primary says.
pub(super) fn not_wrapped_either(rig: &Rig) -> Result<()> {
    let mut machine = without_boot(rig)?;

    with_words(&mut machine, "dpsr.boot=auto module_blacklist=dm_mod")?;
    restarted(&mut machine, "without device-mapper plain")?;
    stands_on(&mut machine, PLAIN)?;
    tells(&mut machine, "is not wrapped")?;
    machine.guest()?.ok("sed -i 's/ module_blacklist=dm_mod//' /boot/grub/grub.cfg && sync")?;

    let (images, hooks) = (OWN_IMAGE, "usr/lib/dracut/hooks/pre-udev");
    let held = format!(
        "cp {images} /root/image && mkdir -p /run/held/{hooks} && cd /run/held && \
         echo '(while [ ! -b /dev/vda4 ]; do :; done; exec sleep 30 </dev/vda4) &' >{hooks}/01-held.sh && \
         {}",
        appended("usr", images)
    );
    machine.guest()?.ok(&held)?;
    restarted(&mut machine, "with a partition that somebody has plain")?;
    stands_on(&mut machine, PLAIN)?;
    is_the_primary(&mut machine)?;
    tells(&mut machine, "is not wrapped")?;
    machine.guest()?.ok(&format!("cp /root/image {images} && sync"))?;
    machine.shut_down()?;

    // Both stand on what there is, which neither changes.
    let over = |name: &str| {
        let folder = rig.folder.join(name);
        fs::create_dir(&folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
        rig.primary.tried_out(&folder)
    };
    let (primary, second) = (over("first")?, over("second")?);
    let other = Disk { name: "other", ..second.clone() };
    let mut machine = rig.machine(Start::Bios, &[&primary, &rig.dpsr, &other])?;
    booted(&mut machine, "beside a disk with the same partitions")?;
    is_the_primary(&mut machine)?;
    machine.shut_down()?;

    let twin = Disk { name: TWIN, ..second };
    let mut machine = rig.machine(Start::Bios, &[&primary, &rig.dpsr, &twin])?;
    booted(&mut machine, "beside a disk that says all that it says")?;
    is_the_primary(&mut machine)?;
    stands_on(&mut machine, PLAIN)?;
    tells(&mut machine, "none of them is wrapped")?;
    machine.shut_down()
}

/// A wrapped primary, whose DPSR disk does not boot.
fn without_boot(rig: &Rig) -> Result<Machine> {
    let mut machine = rig.machine(Start::Bios, &[&rig.primary, &rig.dpsr])?;
    booted(&mut machine, "the primary")?;
    init(&mut machine)?;
    record_in_initramfs(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    stands_on_dpsr(&mut machine)?;
    Ok(machine)
}

/// What a wrap has to wait for does not end within its five seconds: before it has begun, and in the middle of it.
pub(super) fn wrapped_too_slowly(rig: &Rig) -> Result<()> {
    let mut machine = without_boot(rig)?;

    let image = OWN_IMAGE;
    machine.guest()?.ok(&format!("cp {image} /root/image"))?;
    for (what, script) in [
        ("before it has begun", "mkdir -p /run/dpsr; flock /run/dpsr/wrap.lock sleep 60 &"),
        (
            "in the middle of it",
            // Nothing but the shell itself is fast enough in emulation.
            "(while :; do for it in /proc/[0-9]*; do \
             line=; read -r line <$it/cmdline; case $line in *wrap-now*) break 2;; esac; done; done 2>/dev/null; \
             while [ -b /dev/vda4 ]; do :; done; \
             kill -STOP ${it#/proc/} && echo \"<4>the wrap was stopped\" >/dev/kmsg) &",
        ),
    ] {
        let hooks = "usr/lib/dracut/hooks/pre-udev";
        let delay = format!(
            "rm -rf /run/slow && mkdir -p /run/slow/{hooks} /run/slow/usr/bin && cd /run/slow && \
             cp /usr/bin/flock usr/bin && echo '{script}' >{hooks}/01-slow.sh && \
             cp /root/image {image} && {}",
            appended("usr", image)
        );
        machine.guest()?.ok(&delay)?;
        restarted(&mut machine, &format!("the primary, whose wrap does not end, {what}"))?;
        is_the_primary(&mut machine)?;
        tells(&mut machine, "it took longer than 5 s")?;
        // Once its partitions are there again, udev comes by a second time.
        let again = machine.guest()?.run("journalctl --boot --grep 'the wrap was stopped'")?.code == 0;
        must(again == what.starts_with("in"), || format!("whether it was stopped: {again}"))?;
        let told = machine.guest()?.run("cat /run/motd.d/10-dpsr")?.output;
        if again {
            stands_on_dpsr(&mut machine)?;
        } else {
            stands_on(&mut machine, PLAIN)?;
        }
        must(told.contains("is not wrapped") != again, || format!("a login is told: {told}"))?;
    }
    machine.shut_down()
}

pub(super) fn tells(machine: &mut Machine, words: &str) -> Result<()> {
    let told = machine.guest()?.run(&format!("journalctl --boot --grep '{words}' --output cat"))?;
    must(told.output.contains(words), || format!("the journal does not say {words:?}: {}", told.output))
}

/// Lets the primary's own loader say `words` from the next start on.
pub(super) fn with_words(machine: &mut Machine, words: &str) -> Result<()> {
    let menu = "/boot/grub/grub.cfg";
    let change = format!("sed -i -e 's/ dpsr[.]boot=[a-z]*//' -e 's/^ *linux .*/& {words}/' {menu} && sync");
    machine.guest()?.ok(&change).map(drop)
}

pub(super) fn stands_on(machine: &mut Machine, device: &str) -> Result<()> {
    let source = machine.guest()?.ok("findmnt --noheadings --output SOURCE /")?;
    must(source.starts_with(device), || format!("the root is {source}"))
}
