// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever keeps a primary from being wrapped, it starts all the same.

use super::failover::{record_in_initramfs, restarted, stands_on_dpsr};
use super::{Rig, booted, init, is_the_primary};
use crate::Result;
use crate::vm::machine::{Machine, Start};
use crate::vm::must;

/// Where the primary's root lies where nothing is under it.
const PLAIN: &str = "/dev/vd";

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
    let broken = "mkdir -p /run/broken/etc/dpsr && cd /run/broken && echo 'name = 3' >etc/dpsr/system.toml && \
        find etc | cpio --quiet --create --format=newc >>/boot/initrd.img-$(uname -r) && sync";
    machine.guest()?.ok(broken)?;
    restarted(&mut machine, "with a broken record plain")?;
    stands_on(&mut machine, PLAIN)?;
    is_the_primary(&mut machine)?;
    let told = machine.guest()?.ok("journalctl --boot --grep 'system.toml:1' --output cat")?;
    must(told.contains("system.toml:1"), || format!("the journal says {told}"))?;
    machine.shut_down()
}

/// Lets the primary's own loader say `words` from the next start on.
fn with_words(machine: &mut Machine, words: &str) -> Result<()> {
    let menu = "/boot/grub/grub.cfg";
    let change = format!("sed -i -e 's/ dpsr[.]boot=[a-z]*//' -e 's/^ *linux .*/& {words}/' {menu} && sync");
    machine.guest()?.ok(&change).map(drop)
}

fn stands_on(machine: &mut Machine, device: &str) -> Result<()> {
    let source = machine.guest()?.ok("findmnt --noheadings --output SOURCE /")?;
    must(source.starts_with(device), || format!("the root is {source}"))
}
