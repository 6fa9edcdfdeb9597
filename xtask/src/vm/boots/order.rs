// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both disks are there, in whatever order they are found: the system is always the primary, never its copy.

use super::failover::{made_bootable, mark, marked, on, restarted, stands_on_dpsr};
use super::{Rig, dpsr, init, is_the_primary};
use crate::Result;
use crate::vm::machine::{Machine, Start};
use crate::vm::{PRIMARY, must};

/// How many starts.
const STARTS: u32 = 10;

/// Everything by which a filesystem or a partition is found, and on which disk that is in the end.
pub(super) const NAMES: &str = "for link in /dev/disk/by-uuid/* /dev/disk/by-partuuid/*; do \
    disk=$(lsblk --noheadings --inverse --list --output NAME,TYPE $(readlink --canonicalize $link) | \
           awk '$2 == \"disk\" { print $1 }'); echo $link $(cat /sys/block/$disk/serial); done";

/// By both kinds of firmware: BIOS begins with the first disk, so that the copy's own loader starts as well.
pub(super) fn changing_order(rig: &Rig) -> Result<()> {
    let orders = [[&rig.primary, &rig.dpsr], [&rig.dpsr, &rig.primary]];
    let mut machine = on(rig, Start::Uefi, &orders[0], "the primary, not wrapped")?;
    init(&mut machine)?;
    // Only one that knows that the DPSR disk boots could start a copy.
    made_bootable(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    dpsr(&mut machine, "sync")?;
    let names = named(&mut machine)?;
    mark(&mut machine, "0")?;
    machine.shut_down()?;
    for number in 1..=STARTS {
        let start = if number / 2 % 2 == 0 { Start::Uefi } else { Start::Bios };
        let what =
            format!("start {number} by {start:?}, the primary {}", ["first", "second"][number as usize % 2]);
        let mut machine = on(rig, start, &orders[number as usize % 2], &what)?;
        is_the_primary(&mut machine)?;
        stands_on_dpsr(&mut machine)?;
        marked(&mut machine, &(number - 1).to_string())?;
        let now = named(&mut machine)?;
        must(now == names, || format!("before:\n{names}\nnow:\n{now}"))?;
        mark(&mut machine, &number.to_string())?;
        machine.shut_down()?;
    }
    Ok(())
}

/// What the names of the primary's partitions lead to; the DPSR disk has names of its own.
fn named(machine: &mut Machine) -> Result<String> {
    let names = machine.guest()?.ok(NAMES)?;
    let mut names: Vec<&str> = names.lines().filter(|line| line.ends_with(PRIMARY)).collect();
    names.sort_unstable();
    must(names.len() >= 7, || format!("{names:?}"))?;
    Ok(names.join("\n"))
}
